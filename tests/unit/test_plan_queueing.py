from heapq import heapreplace
from math import exp, inf, log

import numpy as np
import pytest

from steelyard.plan.queueing import (
    fill_wait_s,
    loss_ratio,
    server_wait_s,
    shedding_quantile,
    stage_latency_s,
    themis_fill_wait_ms,
)
from steelyard.profile.queueing import mdc_wait_quantile_s


def test_themis_waits_for_the_rest_of_the_batch() -> None:
    assert themis_fill_wait_ms(1, 0.0) == 0.0
    assert themis_fill_wait_ms(4, 20.0) == 150.0  # 3 more at one every 50 ms
    assert themis_fill_wait_ms(2, 0.0) == inf


def test_one_gap_of_a_poisson_stream_is_exponential() -> None:
    assert fill_wait_s(2, 10.0, 0.99) == pytest.approx(log(100) / 10)  # -ln(1 - 0.99) / 10
    assert fill_wait_s(1, 10.0, 0.99) == 0.0
    assert fill_wait_s(3, 0.0, 0.99) == inf


@pytest.mark.parametrize(("rate", "servers"), [(30.0, 1), (42.0, 1), (80.0, 2), (170.0, 4)])
def test_the_wait_is_an_upper_bound_of_the_exact_one_and_not_far_above(rate: float, servers: int) -> None:
    bound_s = server_wait_s(rate, 0.02, servers, 0.99)
    exact_s = mdc_wait_quantile_s(rate, 0.02, servers, 0.99)
    assert exact_s <= bound_s * 1.02
    assert bound_s <= 1.5 * exact_s


def test_nobody_waits_where_nothing_arrives_and_for_ever_where_too_much_does() -> None:
    assert server_wait_s(0.0, 0.02, 1, 0.99) == 0.0
    assert server_wait_s(48.0, 0.02, 1, 0.99) == inf  # rho = 0.96


def simulated_loss(rate: float, service_s: float, servers: int, patience_s: float) -> float:
    rng = np.random.default_rng(7)
    free_s, now_s, lost, count = [0.0] * servers, 0.0, 0, 40_000
    for gap_s in rng.exponential(1 / rate, count):
        now_s += gap_s
        start_s = max(now_s, free_s[0])
        if start_s - now_s > patience_s:
            lost += 1
        else:
            heapreplace(free_s, start_s + service_s)
    return lost / count


@pytest.mark.parametrize(
    ("rate", "servers", "patience_s"),
    [(40.0, 1, 0.1), (50.0, 1, 0.1), (70.0, 1, 0.1), (45.0, 1, 0.04), (90.0, 2, 0.1), (105.0, 2, 0.1)],
)
def test_the_loss_is_that_of_a_queue_where_the_impatient_leave(
    rate: float, servers: int, patience_s: float
) -> None:
    # 40 000 arrivals, busy periods correlated: 3 standard errors of a share of 0.1 are about 0.01
    expected = simulated_loss(rate, 0.02, servers, patience_s)
    assert loss_ratio(rate, 0.02, servers, patience_s) == pytest.approx(expected, abs=0.012)


def test_the_loss_has_its_limits() -> None:
    assert loss_ratio(10.0, 0.02, 1, -0.01) == 1.0  # no patience at all
    assert loss_ratio(0.0, 0.02, 1, 0.1) == 0.0
    assert loss_ratio(500.0, 0.02, 1, 10.0) == pytest.approx(0.9)  # 1 - 1 / rho, rho = 10
    assert loss_ratio(50.0, 0.02, 1, 0.1) == pytest.approx(loss_ratio(50.01, 0.02, 1, 0.1), abs=1e-3)


def test_the_shedding_quantile_inverts_the_loss() -> None:
    # at rho = 0.8 a loss of 0.01 means w = 0.01 / (0.2 + 0.008) = 0.048: the 0.952 quantile
    assert shedding_quantile(0.8, 0.01) == pytest.approx(1 - 0.01 / 0.208)
    w = 1 - shedding_quantile(0.8, 0.01)
    assert (1 - 0.8) * w / (1 - 0.8 * w) == pytest.approx(0.01)


def test_a_stage_takes_its_wait_the_rest_of_a_batch_and_its_own() -> None:
    # Single rows at rho = 0.5, 0.5 % lost: w = 0.005 / (0.5 + 0.0025) = 0.00995; M/M/1 waits
    # ln(0.5 / w) x 0.02 / 0.5 = 0.1567 s, half of it 0.0783; the service's tail is 0.025.
    w = 0.005 / (0.5 + 0.5 * 0.005)
    wait_s = log(0.5 / w) * 0.02 / (1 - 0.5) / 2
    assert stage_latency_s(25.0, 1, 0.02, 0.025, 1, 0.005) == pytest.approx(wait_s + 0.025)
    # Batches of 4 in 0.08 s are served at 0.02 s a row: the same wait, and 0.06 s for the rest of a batch.
    assert stage_latency_s(25.0, 4, 0.08, 0.1, 1, 0.005) == pytest.approx(wait_s + 0.06 + 0.1)
    assert stage_latency_s(0.0, 4, 0.08, 0.1, 1, 0.005) == pytest.approx(0.1)


def test_exponent_of_the_tail() -> None:
    # rho = 0.4, one server, 0.06 s of patience: w = 0.4 exp(-2 x 0.6 x 3) and (1 - rho) w / (1 - rho w)
    w = 0.4 * exp(-3.6)
    assert loss_ratio(20.0, 0.02, 1, 0.06) == pytest.approx(0.6 * w / (1 - 0.4 * w))
