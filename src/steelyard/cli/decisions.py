"""The file of `simulate --decisions`: a journal of decisions of many runs, which `explain` reads."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from steelyard import __version__
from steelyard.core.errors import SteelyardError
from steelyard.core.types import Service
from steelyard.journal.codec import encode
from steelyard.journal.records import VERSION, Header
from steelyard.sim.decisions import BYTES_MAX, DecisionLog
from steelyard.sim.many import OnDecisions
from steelyard.sim.scenario import Scenario


@contextmanager
def decisions_file(
    path: Path | None, services: Mapping[str, Service], on_notice: Callable[[str], None]
) -> Iterator[OnDecisions | None]:
    """What takes the decisions of each run as it ends, and writes them; None without a file.

    Args:
        path: created anew, or None.
        services: what is simulated, for the header.
        on_notice: takes a line about decisions that did not fit.

    Raises:
        SteelyardError: the file cannot be written.
    """
    if path is None:
        yield None
        return
    header = Header(VERSION, dict(services), software=f"steelyard {__version__}")
    with _writing(path):
        file = path.open("wb")
    with file:
        with _writing(path):
            file.write(encode(header) + b"\n")
            file.flush()

        def write(scenario: Scenario, log: DecisionLog) -> None:
            with _writing(path):
                file.write(b"".join(line + b"\n" for line in log.lines))
                file.flush()
            if log.dropped:
                run = f"{scenario.label or scenario.policy}, seed {scenario.seed}"
                on_notice(f"{run}: {log.dropped} decisions do not fit into {BYTES_MAX >> 20} MiB a run")

        yield write


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SteelyardError(f"--decisions: cannot write {path}: {error.strerror}") from None
