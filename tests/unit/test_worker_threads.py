"""Affinity and niceness reach every thread of a process, whatever threads it makes meanwhile."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.worker import threads

THREADED = """
import sys, threading
for _ in range(5):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def pid() -> Iterator[int]:
    """A process of six threads."""
    command = [sys.executable, "-S", "-c", THREADED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def tids(pid: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


def test_affinity_of_every_thread(pid: int) -> None:
    core_id = min(os.sched_getaffinity(0))
    assert threads.set_affinity(pid, [core_id]) == 6
    assert [os.sched_getaffinity(tid) for tid in tids(pid)] == [{core_id}] * 6


def test_niceness_of_every_thread(pid: int) -> None:
    assert threads.set_nice(pid, 7) == 6
    assert [os.getpriority(os.PRIO_PROCESS, tid) for tid in tids(pid)] == [7] * 6


def test_a_core_that_is_not_there_is_an_error(pid: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        threads.set_affinity(pid, [1023])


def test_a_process_that_is_not_there_is_an_error(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):
        threads.set_affinity(2**22 - 1, [0])


@pytest.mark.parametrize(("cap_eff", "may"), [("0000000000800000", True), ("00000000ff7fffff", False)])
def test_lowering_niceness_takes_a_capability(tmp_path: Path, cap_eff: str, may: bool) -> None:
    # CAP_SYS_NICE is bit 23, 0x800000; this process has no RLIMIT_NICE that would do.
    status = tmp_path / "status"
    status.write_text(f"Name:\tx\nCapEff:\t{cap_eff}\n")
    assert threads.may_set_nice(-20, status=status) is may
