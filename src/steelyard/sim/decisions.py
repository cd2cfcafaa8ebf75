"""The decisions of simulated runs as records of a journal, so that `steelyard explain` reads them.

Many runs share one file: the machine of a record is `control/<label>/<seed>`, where that of a server is
`control`. Times are those of the run, 0 is the start of its trace.
"""

from collections.abc import Sequence

from steelyard.core.commands import Command, RecordDecision
from steelyard.core.events import Event
from steelyard.journal.codec import encode
from steelyard.journal.records import CONTROL, Record

BYTES_MAX = 64 << 20
"""Of one run's records, as of a server's decisions."""


class DecisionLog:
    """One run's decisions, encoded line by line, each with the event that it answers.

    Args:
        label: what the run is called.
        seed: the run's.
        bytes_max: what is kept; later decisions are counted only.

    Attributes:
        lines: the records, without their lines' ends.
        dropped: decisions that did not fit.
    """

    def __init__(self, label: str, seed: int, *, bytes_max: int = BYTES_MAX) -> None:
        self.lines: list[bytes] = []
        self.dropped = 0
        self._machine = f"{CONTROL}/{label}/{seed}"
        self._bytes_left = bytes_max
        self._calls = 0

    def record(self, machine: str, now_s: float, event: Event, commands: Sequence[Command]) -> None:
        """Take down one call of a machine, if it is the control machine's and decided something."""
        if machine != CONTROL:
            return
        sequence = self._calls
        self._calls += 1
        decisions = tuple(command for command in commands if type(command) is RecordDecision)
        if not decisions:
            return
        line = encode(Record(self._machine, sequence, now_s, event, decisions))
        if len(line) > self._bytes_left:
            self._bytes_left = 0  # no gaps: what comes later does not fit either
            self.dropped += len(decisions)
            return
        self._bytes_left -= len(line)
        self.lines.append(line)


def run_of(machine: str) -> str:
    """Which run a record's machine belongs to, for people: `themis, seed 3`; empty for a server's."""
    control, _, run = machine.partition("/")
    label, _, seed = run.rpartition("/")
    return f"{label}, seed {seed}" if control == CONTROL and label else ""
