"""When the machine itself stood still: a watcher on each core, and which requests that spoils.

The rule of this file: p99 over a few seconds is worth nothing if the host takes the core away for a hundredth
of them, and no server can do anything about that. A watcher sleeps on each core with real-time priority, so
it wakes late only when the core was not there at all, whatever runs on it; no load of any server looks like a
stall. Time is cut into slices; a slice with a stall, and the one after it, in which the backlog is worked
off, do not count, for any server alike. What share counted is part of every run.

    python -m peers.stalls CORE FILE          appends (end, length) of each stall, seconds, as two doubles
"""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STALL_S = 0.006
"""A quarter of the shortest objective."""
STEP_S = 0.002
SLICE_S = 0.25
PRIORITY = 50
_ENTRY = struct.Struct("dd")


class Stalls:
    """What the watchers have written so far, slice by slice.

    Args:
        files: of the watchers; without any, nothing ever stalls.
        start_s: of the first slice, `time.perf_counter`.
    """

    def __init__(self, files: Sequence[Path], start_s: float) -> None:
        self._files = files
        self._read = [file.stat().st_size for file in files]
        self._start_s = start_s
        self._spoilt: set[int] = set()

    def look(self) -> None:
        """Read what has been written since the last look."""
        for place, file in enumerate(self._files):
            if (size := file.stat().st_size) == self._read[place]:
                continue
            with file.open("rb") as entries:
                entries.seek(self._read[place])
                text = entries.read(size - self._read[place])
            self._read[place] = size
            for end_s, length_s in _ENTRY.iter_unpack(text):
                first, last = (self._slice(at_s) for at_s in (end_s - length_s, end_s))
                self._spoilt.update(range(first, last + 2))

    def share(self, seconds: float) -> float:
        """Of the slices of so many seconds from the start on, those that do not count."""
        slices = max(1, int(seconds // SLICE_S))
        return sum(0 <= index < slices for index in self._spoilt) / slices

    def spoils(self, due_s: float) -> bool:
        """Whether a request that was due then does not count, as far as is known."""
        return self._slice(due_s) in self._spoilt

    def counted(self, due_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which requests count, by when they were due."""
        slices = np.floor((due_s - self._start_s) / SLICE_S).astype(np.int64)
        return ~np.isin(slices, list(self._spoilt))

    def _slice(self, at_s: float) -> int:
        return int((at_s - self._start_s) // SLICE_S)


@contextmanager
def watched(cores: Collection[int], folder: Path) -> Iterator[list[Path]]:
    """Watch these cores; the files that the watchers write, empty where real-time priority is denied."""
    files = [folder / f"stalls-{core}" for core in sorted(cores)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with ExitStack() as stack:
        for core, file in zip(sorted(cores), files, strict=True):
            file.touch()
            command = [sys.executable, "-m", "peers.stalls", str(core), str(file)]
            watcher = stack.enter_context(subprocess.Popen(command, env=environment))
            stack.callback(watcher.kill)
        yield files


def watch(core: int, file: Path) -> None:
    """Write down every stall of a core, until killed or left behind by a parent that was.

    Raises:
        PermissionError: real-time priority is not allowed here.
    """
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    parent = os.getppid()
    with file.open("ab", buffering=0) as entries:
        last_s = time.perf_counter()
        while os.getppid() == parent:
            time.sleep(STEP_S)
            now_s = time.perf_counter()
            length_s = now_s - last_s - STEP_S
            if length_s > STALL_S:
                entries.write(_ENTRY.pack(now_s, length_s))
            last_s = now_s


if __name__ == "__main__":
    try:
        watch(int(sys.argv[1]), Path(sys.argv[2]))
    except PermissionError:
        sys.exit("real-time priority is denied here, so stalls of the machine are counted as anything else")
