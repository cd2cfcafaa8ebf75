"""The planners' waits against the exact distribution and against simulation; the factors are those in docs.

The simulation is an event loop of a few lines, so that nothing of the product is checked against itself:
Poisson arrivals, n replicas, the one that is free first takes what waits, at most b rows, for l(rows) s.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np
import pytest
from numpy.typing import NDArray

from steelyard.plan import tight
from steelyard.plan.problem import PlannedService, PlanProblem, PlanStage, tabulate
from steelyard.plan.tails import StageLoad, chain_latency_quantile_s, wait_quantile_s
from steelyard.profile.queueing import mdc_wait_quantile_s

ROWS = 120_000
Floats = NDArray[np.float64]


def finish_s(arrivals_s: Floats, replicas: int, batch_s: Sequence[float]) -> Floats:
    """When each row is done; `batch_s[k - 1]` is for a batch of k."""
    order = np.argsort(arrivals_s, kind="stable")
    waiting = arrivals_s[order].tolist()
    done = np.empty(len(waiting))
    free = [0.0] * replicas
    heapify(free)
    first = 0
    while first < len(waiting):
        start = max(heappop(free), waiting[first])
        last = first + 1
        while last < min(len(waiting), first + len(batch_s)) and waiting[last] <= start:
            last += 1
        end = start + batch_s[last - first - 1]
        done[order[first:last]] = end
        heappush(free, end)
        first = last
    return done


def poisson(rate: float, rng: np.random.Generator, burst: int = 1) -> Floats:
    return np.cumsum(rng.exponential(burst / rate, ROWS // burst)).repeat(burst)


@pytest.mark.long
@pytest.mark.parametrize("replicas", [1, 2, 4, 8, 16, 32, 64])
def test_the_tail_against_the_exact_distribution(replicas: int) -> None:
    # latency is wait plus a service of 1 s; Franx's distribution is exact for single rows
    for rho in (0.05, 0.2, 0.35, 0.5, 0.7, 0.9, 0.94):
        for loss in (0.1, 0.01, 0.001, 0.0001):
            exact_s = 1 + mdc_wait_quantile_s(rho * replicas, 1.0, replicas, 1 - loss)
            ours_s = 1 + float(wait_quantile_s(rho * replicas, 1.0, replicas, loss))
            least = 0.99 if rho >= 0.5 else 0.945
            assert least * exact_s <= ours_s <= 1.185 * exact_s, (rho, loss)


GAINS = {
    "half of a batch is fixed": [0.02 + 0.01 * rows for rows in range(1, 9)],
    "all of a batch is fixed": [0.05 + 0.001 * rows for rows in range(1, 9)],
}


@pytest.mark.long
@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize(
    ("replicas", "rows", "burst"), [(1, 4, 1), (4, 8, 1), (2, 2, 3), (4, 4, 6), (1, 8, 6)]
)
def test_batches_and_bursts_against_simulation(gain: str, replicas: int, rows: int, burst: int) -> None:
    batch_s = GAINS[gain][:rows]
    for rho in (0.3, 0.5, 0.7):
        rate = rho * replicas * rows / batch_s[-1]
        arrivals_s = poisson(rate, np.random.default_rng(5), burst)
        latency_s = (finish_s(arrivals_s, replicas, batch_s) - arrivals_s).reshape(-1, burst).max(axis=1)
        for loss in (0.05, 0.01):
            measured_s = float(np.quantile(latency_s, 1 - loss))
            wait_s = wait_quantile_s(
                rate,
                batch_s[-1],
                replicas,
                loss,
                rows=rows,
                single_s=batch_s[min(burst, rows) - 1],
                burst=burst,
            )
            ours_s = float(wait_s) + batch_s[-1]
            # rows that come one by one are bounded; bursts that do not fill batches are split over two of
            # them
            assert (1.0 if burst == 1 else 0.87) * measured_s <= ours_s, (rho, loss)
            # batches that are hardly ever full are still reckoned full
            assert ours_s <= (2.1 if rho >= 0.5 else 3.1) * measured_s, (rho, loss)


CHAINS = {
    "three alike": [(1, [0.02])] * 3,
    "fast between slow": [(2, [0.04]), (1, [0.02]), (4, [0.1])],
    "with batches": [(10, [0.2]), (3, [0.02 + 0.02 * rows for rows in range(1, 5)])],
}


@pytest.mark.long
@pytest.mark.parametrize("chain", CHAINS)
def test_stages_in_a_row_against_simulation(chain: str) -> None:
    rate = 32.0
    arrivals_s = poisson(rate, np.random.default_rng(6))
    done_s = arrivals_s
    for replicas, batch_s in CHAINS[chain]:
        done_s = finish_s(done_s, replicas, batch_s)
    loads = [
        StageLoad(rate, n, batch_s[-1], len(batch_s), single_s=batch_s[0]) for n, batch_s in CHAINS[chain]
    ]
    for quantile in (0.95, 0.99):
        measured_s = float(np.quantile(done_s - arrivals_s, quantile))
        ours_s = chain_latency_quantile_s(loads, quantile)
        # what one constant service time has spread out hardly queues at the next: our stages are independent
        assert measured_s <= ours_s <= 1.6 * measured_s


@pytest.mark.long
@pytest.mark.parametrize("slo_s", [0.2, 0.3, 0.5])
def test_a_plan_that_counts_the_loss_once_keeps_the_objective(slo_s: float) -> None:
    tables = [
        tabulate(lambda rows, cores, a=a, z=z: a * rows / cores + z, 4, 4)  # type: ignore[misc]
        for a, z in ((0.03, 0.01), (0.05, 0.005), (0.01, 0.02))
    ]
    stages = tuple(
        PlanStage(f"s{i}", table, after=(f"s{i - 1}",) if i else ()) for i, table in enumerate(tables)
    )
    problem = PlanProblem("s", stages, 60.0, slo_s)
    plan = tight.solve(problem)
    assert isinstance(plan, PlannedService)
    arrivals_s = poisson(60.0, np.random.default_rng(7))
    done_s = arrivals_s
    for table, chosen in zip(tables, plan.stages, strict=True):
        batch_s = [table[rows][chosen.cores - 1] for rows in range(chosen.rows)]
        done_s = finish_s(done_s, chosen.replicas, batch_s)
    assert float(np.mean(done_s - arrivals_s > slo_s)) <= 0.01
