"""Replay: tell fresh machines what a journal says they were told, and compare what they answer.

A machine is a function of its events, so a replay gives the same commands byte for byte. Where it does not,
the first difference names the decision that changed; everything after it is a consequence.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from steelyard.core.commands import Command
from steelyard.core.errors import JournalError
from steelyard.journal.codec import encode
from steelyard.journal.records import Record


class Machine(Protocol):
    """Anything that answers events with commands; `event` is one that this machine knows."""

    def handle(self, event: Any, *, now_s: float) -> Sequence[Command]:
        """Take in one fact."""
        ...


class Difference(NamedTuple):
    """A record whose commands did not come out again, and what came instead."""

    record: Record
    commands: tuple[Command, ...]


def replay(records: Iterable[Record], machines: Mapping[str, Machine]) -> Difference | None:
    """The first record that a machine answers otherwise than recorded, or None if there is none.

    Args:
        records: in the order of the journal; those of machines that are not given are passed over.
        machines: fresh ones, by name.

    Raises:
        JournalError: records of a machine are missing or out of order, so it cannot be replayed.
    """
    expected = dict.fromkeys(machines, 0)
    for record in records:
        machine = machines.get(record.machine)
        if machine is None:
            continue
        if record.sequence != expected[record.machine]:
            raise JournalError(
                f"record {record.sequence} of {record.machine} follows {expected[record.machine] - 1}: "
                "a journal with gaps cannot be replayed"
            )
        expected[record.machine] += 1
        commands = tuple(machine.handle(record.event, now_s=record.now_s))
        if [encode(command) for command in commands] != [encode(command) for command in record.commands]:
            return Difference(record, commands)
    return None
