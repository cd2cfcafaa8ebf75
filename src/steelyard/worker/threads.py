"""What Linux lets a process do with each thread of a process: its cores, its niceness, its parent's death.

Affinity and niceness belong to threads, not processes; a new thread inherits them from its maker. So a change
walks `/proc/<pid>/task` until a walk finds no thread that it has not changed: whatever was made meanwhile by
a changed thread has inherited the change, and what was made by an unchanged one is found by the next walk.
"""

import contextlib
import ctypes
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

NICE_STARTING = 10  # more than its parent's
NICE_RUNNING = 5  # so that a doorbell at the front end or the controller pre-empts a batch
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_NAME = 15
_CAP_SYS_NICE = 23  # linux/capability.h
_WALKS_MAX = 100


def set_affinity(pid: int, core_ids: Iterable[int]) -> int:
    """Confine every thread of a process to some cores; returns how many there were.

    Raises:
        ProcessLookupError: no such process.
        OSError: a core does not exist or is not in the process's cpuset.
    """
    ids = frozenset(core_ids)
    return _each_thread(pid, lambda tid: os.sched_setaffinity(tid, ids))


def set_nice(pid: int, nice: int) -> int:
    """Set the niceness of every thread of a process; returns how many there were.

    Raises:
        ProcessLookupError: no such process.
        PermissionError: lowering it needs CAP_SYS_NICE or RLIMIT_NICE; see `may_set_nice`.
    """
    return _each_thread(pid, lambda tid: os.setpriority(os.PRIO_PROCESS, tid, nice))


class Niceness:
    """What a worker is to its parent: nicer while it runs, and nicer still while it starts.

    Where going back is not allowed, it starts as it is to run.
    """

    def __init__(self) -> None:
        parent = os.getpriority(os.PRIO_PROCESS, 0)
        self.running = parent + NICE_RUNNING
        self.starting = parent + NICE_STARTING if may_set_nice(self.running) else self.running

    def start(self) -> None:
        """For every thread of this process."""
        set_nice(os.getpid(), self.starting)

    def start_this_thread(self) -> None:
        """For this thread and those it makes."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.starting)

    def run(self) -> None:
        """For every thread of this process."""
        if self.starting != self.running:
            set_nice(os.getpid(), self.running)


def may_set_nice(nice: int, *, status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process may lower a niceness down to `nice` (setpriority(2)): by limit or capability."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NICE)  # 20 - n allows niceness n
    if limit == resource.RLIM_INFINITY or 20 - limit <= nice:
        return True
    for line in status.read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_NICE & 1)
    return False


def die_with_parent(signal_number: int, parent_pid: int) -> bool:
    """Ask for a signal when the parent's thread ends; False if the parent has gone already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    return os.getppid() == parent_pid


def name_process(name: str) -> None:
    """The name that `top` and `ps -o comm` show, cut to 15 bytes; threads made later inherit it."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def ignore_terminal_signals() -> None:
    """Ignore what is sent to a whole session or service: the server's own drain decides instead.

    SIGTTOU as well, with which a terminal may stop who writes to it from the background (`stty tostop`).
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)


def _each_thread(pid: int, change: Callable[[int], None]) -> int:
    changed: set[int] = set()
    for _ in range(_WALKS_MAX):
        try:
            fresh = {int(name) for name in os.listdir(f"/proc/{pid}/task")} - changed  # noqa: PTH208
        except FileNotFoundError:
            raise ProcessLookupError(f"no process {pid}") from None
        if not fresh:
            break
        for tid in fresh:
            with contextlib.suppress(ProcessLookupError):  # a thread that ended meanwhile
                change(tid)
        changed |= fresh
    return len(changed)
