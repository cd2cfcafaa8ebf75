"""A server as the kernel sees it: the processes below one, their CPU time, memory and permitted cores."""

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from steelyard.testing.live import descendants, wait_ended

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_FIELDS_BEFORE_STATE = 2  # pid and name; the name may hold anything, but ends with the last parenthesis
_UTIME, _CSTIME, _START = 13 - _FIELDS_BEFORE_STATE, 16 - _FIELDS_BEFORE_STATE, 21 - _FIELDS_BEFORE_STATE


def family(root: int) -> list[int]:
    """A process and all below it."""
    return [root, *descendants(root)]


def cpu_s(root: int) -> float:
    """CPU seconds of the family, of children it has already reaped too; 10 ms fine."""
    ticks = 0
    for pid in family(root):
        if fields := _stat(pid):
            ticks += sum(map(int, fields[_UTIME : _CSTIME + 1]))
    return ticks / _TICKS_A_SECOND


def pss_bytes(root: int) -> int:
    """Proportional set size of the family: shared pages once, not once a process."""
    total = 0
    for pid in family(root):
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def strays(root: int, core_ids: Iterable[int]) -> list[str]:
    """Threads of the family that may run elsewhere than on `core_ids`, in words."""
    allowed, found = set(core_ids), []
    for pid in family(root):
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):  # it has ended
                status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
                cores = parse_cores(status["Cpus_allowed_list"])
                if not cores <= allowed:
                    found.append(f"{status['Name'].strip()} ({pid}/{task.name}) on {sorted(cores)}")
    return found


def confined(root: int, core_id: int) -> list[int]:
    """Members of the family that may run on this core alone."""
    return [pid for pid in family(root) if os.sched_getaffinity(pid) == {core_id}]


def parse_cores(text: str) -> set[int]:
    """Cores of a list as the kernel writes it: `0-2,5`."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def end(known: dict[int, str], *, seconds_max: float = 3.0) -> None:
    """Wait for what is left of a family whose head was told to end; then end it, by pid.

    Args:
        known: the family as `identities` gave it before: its members may have been orphaned meanwhile.
        seconds_max: how long they may take of their own accord.
    """
    left = [pid for pid, start in known.items() if _start(pid) == start]
    for pid in wait_ended(left, seconds_max=seconds_max):
        if _start(pid) == known[pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def identities(root: int) -> dict[int, str]:
    """The family's pids with their start times, which tell a process from a later one with its number."""
    return {pid: _start(pid) for pid in family(root)}


def _start(pid: int) -> str:
    fields = _stat(pid)
    return fields[_START] if fields else ""


def _stat(pid: int) -> list[str]:
    """The fields of a process's `stat` from the third on; [] if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
