"""Runs on disk and runs to do: one JSON line a run, written as soon as it is done.

A line is found again by its key (`Job.key`); of several with one key the last one counts. Interrupting loses
the runs at hand, no more; a line cut off by that is as good as none. A run that fails is written with its
error, listed, and tried again next time.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from signal import SIGKILL
from typing import Any, TextIO

import msgspec
from headlines_cases import Job, least_core_s, scenario

from steelyard.sim.run import simulate
from steelyard.worker.threads import die_with_parent

Line = dict[str, Any]
WAITING_PER_PROCESS = 2


def run(job: Job, key: Line) -> Line:
    """One line; what goes wrong in a run is part of its result."""
    if job.key != key:
        return {**key, "error": "sources or trace have changed since the matrix was started"}
    try:
        simulated = simulate(scenario(job))
    except Exception as error:
        return {**key, "error": f"{type(error).__name__}: {error}"}
    (summary,) = simulated.summaries
    bound = (summary.requests - summary.cancelled) * least_core_s(job.pipeline)
    return {**key, "bound": bound, "summary": msgspec.to_builtins(summary)}


class Store:
    """The lines of one file, by key.

    Args:
        path: made when the first line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, Line] = {}
        if path.exists():
            for text in path.read_text().splitlines():
                try:
                    self._remember(json.loads(text))
                except ValueError:  # cut off when the process was killed; its run is missing
                    continue

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Those without a result, in their order."""
        return [job for job in jobs if "summary" not in self._lines.get(_found_by(job.key), {})]

    def of(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Line]]:
        """Jobs with their lines, those that have one."""
        for job in jobs:
            line = self._lines.get(_found_by(job.key))
            if line is not None:
                yield job, line

    def run(
        self, jobs: Sequence[Job], *, stamp: Line, processes: int, on_done: Callable[[Line], None]
    ) -> None:
        """Run jobs in `processes` processes, each line written (with `stamp`) when it is done."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        todo = iter(jobs)
        with (
            self._appending() as file,
            ProcessPoolExecutor(
                processes, get_context("spawn"), die_with_parent, (SIGKILL, os.getpid())
            ) as pool,
        ):
            waiting: set[Future[Line]] = set()
            while True:
                while len(waiting) < processes * WAITING_PER_PROCESS and (job := next(todo, None)):
                    waiting.add(pool.submit(run, job, job.key))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    line = {**future.result(), **stamp}
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    self._remember(line)
                    on_done(line)

    def _appending(self) -> TextIO:
        """The file at its end, on a line of its own."""
        stored = self.path.read_bytes() if self.path.exists() else b""
        file = self.path.open("a")
        if stored and not stored.endswith(b"\n"):
            file.write("\n")
        return file

    def _remember(self, line: Line) -> None:
        self._lines[_found_by(line)] = line


def _found_by(line: Line) -> str:
    names = ("code", "spec", "pipeline", "policy", "options", "slice", "cold_start_s", "seed")
    return json.dumps([line[name] for name in names])
