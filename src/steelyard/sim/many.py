"""Several simulations at once, one process a core: runs share nothing, so they are sent out whole.

Processes are spawned, not forked: a caller may have threads. A script that calls this must therefore be
importable, with its own work under `if __name__ == "__main__"`. Ctrl-C is the caller's alone: processes are
born deaf to it, and ended by the caller, as they are when a run fails or nobody wants the rest.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from signal import SIG_BLOCK, SIG_SETMASK, SIGINT, SIGKILL, getsignal, pthread_sigmask, signal
from threading import current_thread, main_thread
from typing import NamedTuple

from steelyard.core.errors import SteelyardError, TraceError
from steelyard.sim.decisions import DecisionLog
from steelyard.sim.result import SimulatedRun
from steelyard.sim.run import Progress, simulate
from steelyard.sim.scenario import Scenario
from steelyard.worker.threads import die_with_parent

POLL_S = 0.2
AHEAD = 2
"""Runs that are sent out for each process: traces wait in pipes, and results for their turn."""

REQUEST_BYTES = 51
"""Of a request in its run's account: 17, and twice that again while sums and quantiles are taken."""
SECOND_BYTES = 200
"""Of a second of a service in a run's series, which are kept until the last run has ended."""
MEMORY_SHARE_MAX = 0.5

OnDecisions = Callable[[Scenario, DecisionLog], object]


class _Told(NamedTuple):
    """What a run comes to, and its decisions if somebody wants them."""

    run: SimulatedRun
    decisions: DecisionLog | None


_seconds_done: MutableSequence[float] = []
"""In a worker: simulated seconds of each run so far, shared with the caller."""


def simulate_many(
    scenarios: Sequence[Scenario],
    *,
    processes: int | None = None,
    on_progress: Progress | None = None,
    on_decisions: OnDecisions | None = None,
) -> Iterator[SimulatedRun]:
    """Run scenarios and yield their runs in the order given.

    Args:
        scenarios: any number.
        processes: how many at once; None: one for each core that this process may use. 1 runs them here.
        on_progress: told of simulated seconds of all runs together, and how many those will be.
        on_decisions: given every decision of a run, before the run is yielded.

    Raises:
        TraceError: the runs would need more than `MEMORY_SHARE_MAX` of the machine's memory.
        SteelyardError: a scenario cannot be run; the text names it.
        RuntimeError: a run broke a law, its policy raised, or its process was killed; the text names it.
    """
    workers = min(processes or len(os.sched_getaffinity(0)), len(scenarios))
    _check_memory(scenarios, workers)
    if workers <= 1:
        all_told = _here(scenarios, on_progress, recorded=on_decisions is not None)
    else:
        all_told = _spread(scenarios, workers, on_progress, recorded=on_decisions is not None)
    for scenario, told in zip(scenarios, all_told, strict=True):
        if on_decisions is not None and told.decisions is not None:
            on_decisions(scenario, told.decisions)
        yield told.run


def scenario_seconds(scenario: Scenario) -> float:
    """Length of a scenario's longest trace."""
    return float(max((trace.seconds for trace in scenario.traces.values()), default=1))


def needed_bytes(scenarios: Sequence[Scenario], workers: int) -> int:
    """About the memory that runs take: the largest accounts at once, and the series of all."""
    requests_of = {id(trace): int(trace.counts.sum()) for s in scenarios for trace in s.traces.values()}
    requests = [sum(requests_of[id(trace)] for trace in s.traces.values()) for s in scenarios]
    at_once = sum(sorted(requests)[-max(workers, 1) :])
    seconds = sum(int(scenario_seconds(s)) * len(s.services) for s in scenarios)
    return REQUEST_BYTES * at_once + SECOND_BYTES * seconds


def _check_memory(scenarios: Sequence[Scenario], workers: int) -> None:
    needed, there = needed_bytes(scenarios, workers), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE_MAX * there:
        raise TraceError(
            f"{len(scenarios)} runs, {max(workers, 1)} at once, would take about {needed / 1e9:,.1f} GB, "
            f"more than {MEMORY_SHARE_MAX:.0%} of this machine's {there / 1e9:,.1f} GB: "
            "want a slice, a smaller scale, fewer runs or fewer processes"
        )


def _here(scenarios: Sequence[Scenario], on_progress: Progress | None, *, recorded: bool) -> Iterator[_Told]:
    lengths_s = [scenario_seconds(scenario) for scenario in scenarios]
    for index, scenario in enumerate(scenarios):
        yield _run(scenario, _from(sum(lengths_s[:index]), sum(lengths_s), on_progress), recorded=recorded)


def _spread(
    scenarios: Sequence[Scenario], workers: int, on_progress: Progress | None, *, recorded: bool
) -> Iterator[_Told]:
    total_s = sum(map(scenario_seconds, scenarios))
    context = get_context("spawn")
    done_s = context.RawArray("d", len(scenarios))
    with ProcessPoolExecutor(workers, context, _share, (done_s, os.getpid())) as pool:
        waiting = deque(enumerate(scenarios))
        sent: deque[tuple[Scenario, Future[_Told]]] = deque()
        try:
            while waiting or sent:
                while waiting and len(sent) < AHEAD * workers:
                    index, scenario = waiting.popleft()
                    with _interrupts_held():
                        sent.append((scenario, pool.submit(_run_shared, index, scenario, recorded)))
                scenario, future = sent.popleft()
                yield _wait(scenario, future, lambda: on_progress and on_progress(sum(done_s), total_s))
        except BaseException:  # Ctrl-C and a caller that has left, too
            _end(pool)
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C is heard after this; a process that is started meanwhile inherits the mask and never hears it.

    The mask alone would not hold it here: a numerical library's threads may hear it for the whole process.
    """
    heard: list[int] = []
    handler = getsignal(SIGINT)
    is_held = callable(handler) and current_thread() is main_thread()
    if is_held:
        signal(SIGINT, lambda number, _: heard.append(number))
    mask = pthread_sigmask(SIG_BLOCK, {SIGINT})
    try:
        yield
    finally:
        pthread_sigmask(SIG_SETMASK, mask)
        if is_held:
            signal(SIGINT, handler)
    if heard and callable(handler):
        handler(SIGINT, None)


def _end(pool: ProcessPoolExecutor) -> None:
    """Stop what runs, at once, and wait for the pool's own thread, which reaps the processes.

    Two threads that wait for one process race: the one that comes second takes it for alive.
    """
    for process in list((pool._processes or {}).values()):  # noqa: SLF001
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


def _wait(scenario: Scenario, future: Future[_Told], poll: Callable[[], object]) -> _Told:
    while True:
        try:
            told = future.result(timeout=POLL_S)
        except NotYet:
            poll()
        except BrokenProcessPool as error:
            raise RuntimeError(f"{_name(scenario)}: a simulating process was killed") from error
        else:
            poll()
            return told


def _share(done_s: MutableSequence[float], parent_pid: int) -> None:
    """Begin a process of the pool; it ends with its parent, which may be killed and then ends nobody."""
    if not die_with_parent(SIGKILL, parent_pid):
        raise RuntimeError("nobody waits for this run any more")
    global _seconds_done
    _seconds_done = done_s


def _run_shared(index: int, scenario: Scenario, recorded: bool) -> _Told:
    def on_progress(now_s: float, _: float) -> None:
        _seconds_done[index] = now_s

    return _run(scenario, on_progress, recorded=recorded)


def _run(scenario: Scenario, on_progress: Progress | None, *, recorded: bool) -> _Told:
    log = DecisionLog(scenario.label or scenario.policy, scenario.seed) if recorded else None
    try:
        run = simulate(scenario, on_progress=on_progress, journal=log.record if log else None)
    except SteelyardError as error:
        raise type(error)(f"{_name(scenario)}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"{_name(scenario)}: {type(error).__name__}: {error}") from error
    return _Told(run, log)


def _from(before_s: float, total_s: float, on_progress: Progress | None) -> Progress | None:
    if on_progress is None:
        return None
    return lambda now_s, _: on_progress(before_s + now_s, total_s)


def _name(scenario: Scenario) -> str:
    return f"run {scenario.label or scenario.policy}, seed {scenario.seed}"
