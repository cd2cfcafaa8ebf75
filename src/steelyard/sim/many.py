"""Several simulations at once, one process a core: runs share nothing, so they are sent out whole.

Processes are spawned, not forked: a caller may have threads. A script that calls this must therefore be
importable, with its own work under `if __name__ == "__main__"`.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from steelyard.core.errors import SteelyardError
from steelyard.sim.result import SimulatedRun
from steelyard.sim.run import Progress, simulate
from steelyard.sim.scenario import Scenario

POLL_S = 0.2
AHEAD = 2
"""Runs that are sent out for each process: traces wait in pipes, and results for their turn."""

_seconds_done: MutableSequence[float] = []
"""In a worker: simulated seconds of each run so far, shared with the caller."""


def simulate_many(
    scenarios: Sequence[Scenario], *, processes: int | None = None, on_progress: Progress | None = None
) -> Iterator[SimulatedRun]:
    """Run scenarios and yield their runs in the order given.

    Args:
        scenarios: any number.
        processes: how many at once; None: one for each core that this process may use. 1 runs them here.
        on_progress: told of simulated seconds of all runs together, and how many those will be.

    Raises:
        SteelyardError: a scenario cannot be run; the text names it.
        RuntimeError: a run broke a law, its policy raised, or its process was killed; the text names it.
    """
    workers = min(processes or len(os.sched_getaffinity(0)), len(scenarios))
    lengths_s = [scenario_seconds(scenario) for scenario in scenarios]
    total_s = sum(lengths_s)
    if workers <= 1:
        for index, scenario in enumerate(scenarios):
            yield _run(scenario, _from(sum(lengths_s[:index]), total_s, on_progress))
        return
    context = get_context("spawn")
    done_s = context.RawArray("d", len(scenarios))
    with ProcessPoolExecutor(workers, context, _share, (done_s,)) as pool:
        waiting = deque(enumerate(scenarios))
        sent: deque[tuple[Scenario, Future[SimulatedRun]]] = deque()
        try:
            while waiting or sent:
                while waiting and len(sent) < AHEAD * workers:
                    index, scenario = waiting.popleft()
                    sent.append((scenario, pool.submit(_run_shared, index, scenario)))
                scenario, future = sent.popleft()
                yield _wait(scenario, future, lambda: on_progress and on_progress(sum(done_s), total_s))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def scenario_seconds(scenario: Scenario) -> float:
    """Length of a scenario's longest trace."""
    return float(max((trace.seconds for trace in scenario.traces.values()), default=1))


def _wait(scenario: Scenario, future: Future[SimulatedRun], poll: Callable[[], object]) -> SimulatedRun:
    while True:
        try:
            run = future.result(timeout=POLL_S)
        except NotYet:
            poll()
        except BrokenProcessPool as error:
            raise RuntimeError(f"{_name(scenario)}: a simulating process was killed") from error
        else:
            poll()
            return run


def _share(done_s: MutableSequence[float]) -> None:
    global _seconds_done
    _seconds_done = done_s


def _run_shared(index: int, scenario: Scenario) -> SimulatedRun:
    def on_progress(now_s: float, _: float) -> None:
        _seconds_done[index] = now_s

    return _run(scenario, on_progress)


def _run(scenario: Scenario, on_progress: Progress | None) -> SimulatedRun:
    try:
        return simulate(scenario, on_progress=on_progress)
    except SteelyardError as error:
        raise type(error)(f"{_name(scenario)}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"{_name(scenario)}: {type(error).__name__}: {error}") from error


def _from(before_s: float, total_s: float, on_progress: Progress | None) -> Progress | None:
    if on_progress is None:
        return None
    return lambda now_s, _: on_progress(before_s + now_s, total_s)


def _name(scenario: Scenario) -> str:
    return f"run {scenario.label or scenario.policy}, seed {scenario.seed}"
