"""The simulator against queueing theory: 99 % confidence intervals by batch means, seeds fixed.

Of ten such intervals one would miss in ten sets of seeds; these do not, and `bench/theory.py` looks at longer
runs and more queues.
"""

import pytest

from steelyard.profile.queueing import (
    md1_wait_mean_s,
    mdc_wait_quantile_s,
    mm1_wait_mean_s,
    mmc_wait_mean_s,
    mmc_wait_quantile_s,
)
from steelyard.testing.queue_theory import MEAN_S, Queue, mean_s, quantile_s, waits_s

pytestmark = pytest.mark.long
REQUESTS = 15_000


@pytest.mark.parametrize("rho", [0.5, 0.7])
def test_mm1(rho: float) -> None:
    queue = Queue("exponential", 1, rho)
    waits, _ = waits_s(queue, requests=REQUESTS, seed=1)
    interval = mean_s(waits)
    # M/M/1: rho s / (1 - rho), with s = 10 ms / ln 2 = 14.4 ms: 14.4 ms at rho 0.5, 33.7 at 0.7.
    assert interval.holds(mm1_wait_mean_s(queue.arrival_rate_rps, MEAN_S["exponential"]))
    assert interval.half_width < 0.3 * interval.value


def test_mmc() -> None:
    queue = Queue("exponential", 4, 0.8)
    waits, _ = waits_s(queue, requests=REQUESTS, seed=2)
    asked = (queue.arrival_rate_rps, MEAN_S["exponential"], 4)
    assert mean_s(waits).holds(mmc_wait_mean_s(*asked))
    assert quantile_s(waits, 0.9).holds(mmc_wait_quantile_s(*asked, 0.9))


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_md1(rho: float) -> None:
    queue = Queue("fixed", 1, rho)
    waits, _ = waits_s(queue, requests=REQUESTS, seed=3)
    # M/D/1: rho s / (2 (1 - rho)): 5 ms at rho 0.5, 20 ms at 0.8.
    assert mean_s(waits).holds(md1_wait_mean_s(queue.arrival_rate_rps, MEAN_S["fixed"]))
    assert quantile_s(waits, 0.9).holds(mdc_wait_quantile_s(queue.arrival_rate_rps, MEAN_S["fixed"], 1, 0.9))


def test_mdc() -> None:
    queue = Queue("fixed", 4, 0.85)
    waits, _ = waits_s(queue, requests=REQUESTS, seed=4)
    for quantile in (0.5, 0.9):
        expected_s = mdc_wait_quantile_s(queue.arrival_rate_rps, MEAN_S["fixed"], 4, quantile)
        assert quantile_s(waits, quantile).holds(expected_s), quantile


def test_littles_law_holds_against_theory() -> None:
    """L = lambda T: M/D/1 at rho 0.5 has 0.75 in the system: 100 x 0.5 x (10 + 5 ms)."""
    queue = Queue("fixed", 1, 0.5)
    _, run = waits_s(queue, requests=REQUESTS, seed=5)
    (flow,) = run.flows
    assert flow.number_mean == pytest.approx(0.75, rel=0.05)
    assert flow.number_mean == pytest.approx(flow.arrival_rate_rps * flow.sojourn_mean_s, rel=1e-9)
