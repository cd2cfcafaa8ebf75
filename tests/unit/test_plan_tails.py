from math import e, exp, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.plan.tails import (
    StageLoad,
    chain_latency_quantile_s,
    chain_tail,
    decay,
    delay_probability,
    graph_tail,
    wait_quantile_s,
    wait_tail,
)
from steelyard.profile.queueing import erlang_c


def test_erlang_by_broadcasting() -> None:
    # one replica: C = rho; two at a = 1: B = 1 x (1/2) / (1 + 1 + 1/2) = 0.2, C = 0.2 / (1 - 0.5 x 0.8) = 1/3
    assert delay_probability([1, 2], [[0.5], [1.0]]).tolist()[0][0] == pytest.approx(0.5)
    assert float(delay_probability(2, 1.0)) == pytest.approx(1 / 3)
    assert delay_probability(2, [2.0, 3.0]).tolist() == [1.0, 1.0]
    for servers, offered in ((7, 6.5), (100, 80.0), (900, 880.0)):
        assert float(delay_probability(servers, offered)) == pytest.approx(erlang_c(servers, offered))
    assert float(delay_probability(500, 0.001)) == 0.0


def test_the_decay_solves_its_equation() -> None:
    # rho (e^y - 1) = y; y = 1 at rho = 1 / (e - 1)
    assert float(decay(1 / (e - 1))) == pytest.approx(1.0)
    rho = np.array([1e-9, 0.01, 0.3, 0.9, 0.9999])
    assert rho * np.expm1(decay(rho)) == pytest.approx(decay(rho), rel=1e-6)
    assert decay([0.0, 1.0, 1.5]).tolist() == [inf, 0.0, 0.0]


def test_the_tail_of_one_replica() -> None:
    # rho = 1 / (e - 1) = 0.582, y = 1: a = (1 - rho) / (rho e - 1) = 0.418 / 0.582 = e - 2
    rho = 1 / (e - 1)
    found = wait_tail(rho / 0.02, 0.02, 1, [-0.1, 0.0, 0.1])
    assert found.tolist() == pytest.approx([1.0, rho, (e - 2) * exp(-5.0)])
    # and its quantile: (e - 2) exp(-t / s) = 0.01
    assert float(wait_quantile_s(rho / 0.02, 0.02, 1, 0.01)) == pytest.approx(0.02 * log((e - 2) / 0.01))


def test_nobody_waits_where_nothing_comes_and_for_ever_where_too_much_does() -> None:
    assert float(wait_quantile_s(0.0, 0.02, 1, 0.01)) == 0.0
    assert wait_tail(0.0, 0.02, 1, [0.0, 1.0]).tolist() == [0.0, 0.0]
    assert float(wait_quantile_s(48.0, 0.02, 1, 0.01)) == inf  # rho = 0.96
    assert wait_tail(60.0, 0.02, 1, [0.0, 10.0]).tolist() == [1.0, 1.0]


def test_shapes_broadcast() -> None:
    assert wait_tail(40.0, 0.02, np.arange(1, 5), np.linspace(0, 1, 7)).shape == (4, 7)
    assert wait_quantile_s(40.0, [[0.02], [0.01]], np.arange(1, 5), 0.01).shape == (2, 4)


def test_a_row_that_finds_all_busy_waits_for_the_rest_of_a_batch() -> None:
    # Batches of up to 4 take 0.05 s, single rows too. At 30/s a replica is busy for far more than the
    # 30 x 0.05 / 4 = 37 % that full batches say: C(1, 1.5) = 1. Rows wait as for services of 12.5 ms ...
    by_row = float(wait_quantile_s(30.0, 0.0125, 1, 0.01))
    # ... and for the rest of a batch, 50 - 12.5 ms.
    assert float(wait_quantile_s(30.0, 0.05, 1, 0.01, rows=4, single_s=0.05)) == pytest.approx(
        by_row + 0.0375
    )


def test_a_burst_is_one_customer() -> None:
    # Two rows at once on 4 replicas, single rows: 2 bursts at a time in 20 ms each, half as many a second.
    assert float(wait_quantile_s(100.0, 0.02, 4, 0.01, burst=2)) == pytest.approx(
        float(wait_quantile_s(50.0, 0.02, 2, 0.01))
    )
    # Four rows at once on one replica: 80 ms each burst, and the last row waits for the three before it.
    assert float(wait_quantile_s(20.0, 0.02, 1, 0.01, burst=4)) == pytest.approx(
        float(wait_quantile_s(5.0, 0.08, 1, 0.01)) + 0.06
    )


ONE = StageLoad(35.0, 1, 0.02)


def test_a_chain_of_one_stage_is_that_stage() -> None:
    expected = float(wait_tail(35.0, 0.02, 1, 0.1)[0])
    assert chain_tail([ONE], 0.12) == pytest.approx(expected, rel=0.02)
    assert chain_latency_quantile_s([ONE], 0.99) == pytest.approx(
        0.02 + float(wait_quantile_s(35.0, 0.02, 1, 0.01)), rel=0.01
    )


def test_a_chain_is_shorter_than_the_sum_of_its_quantiles_and_longer_than_one_stage() -> None:
    together = chain_latency_quantile_s([ONE] * 3, 0.99)
    assert together < 3 * chain_latency_quantile_s([ONE], 0.99)
    assert together > chain_latency_quantile_s([ONE], 0.99) + 0.04
    assert chain_tail([ONE] * 3, together) == pytest.approx(0.01, rel=0.05)


def test_limits_of_a_chain() -> None:
    assert chain_tail([ONE, ONE], 0.039) == 1.0  # service times alone take 0.04
    assert chain_tail([StageLoad(60.0, 1, 0.02)], 1.0) == 1.0
    assert chain_latency_quantile_s([StageLoad(60.0, 1, 0.02)], 0.99) == inf
    assert chain_latency_quantile_s([StageLoad(0.0, 1, 0.02)] * 2, 0.99) == pytest.approx(0.04)
    assert chain_tail([StageLoad(0.0, 1, 0.02)] * 2, 0.04) == 0.0


def test_branches_are_late_if_either_is() -> None:
    # two alike side by side: 1 - (1 - p)^2
    alone = graph_tail([()], [ONE], 0.1)
    assert graph_tail([(), ()], [ONE, ONE], 0.1) == pytest.approx(1 - (1 - alone) ** 2)
    # a short branch beside a long one is hardly ever late
    quick = StageLoad(1.0, 4, 0.001)
    chain = chain_tail([ONE, ONE], 0.1)
    diamond = graph_tail([(), (0,), (0,)], [ONE, ONE, quick], 0.1)
    assert chain * 0.98 <= diamond <= chain + graph_tail([(), (0,)], [ONE, quick], 0.1) * 1.02


rates = st.floats(1.0, 60.0)


@given(rates, rates, st.integers(1, 12), st.floats(0.001, 0.2))
def test_more_arrivals_wait_longer_and_more_replicas_less(
    one: float, other: float, replicas: int, loss: float
) -> None:
    low, high = sorted((one, other))
    wait_s = [float(wait_quantile_s(rate, 0.02, replicas, loss)) for rate in (low, high)]
    assert wait_s[0] <= wait_s[1] * (1 + 1e-9)
    more = float(wait_quantile_s(high, 0.02, replicas + 1, loss))
    assert more <= wait_s[1] * (1 + 1e-9)


@given(rates, st.integers(1, 12), st.integers(1, 4))
def test_the_quantile_inverts_the_tail(rate: float, replicas: int, rows: int) -> None:
    wait_s = float(wait_quantile_s(rate, 0.05, replicas, 0.01, rows=rows))
    if 0 < wait_s < inf:
        assert float(wait_tail(rate, 0.05, replicas, wait_s * 1.0001, rows=rows)[0]) <= 0.01


def test_loads_of_the_same_replicas_are_reckoned_together() -> None:
    # A row of loads for each of several cases, or replicas repeated for each load: the same numbers.
    servers, loads = np.array([3, 1, 2]), np.array([[1.0, 0.5, 1.9], [2.5, 0.1, 0.0]])
    together = delay_probability(servers, loads)
    assert together.shape == (2, 3)
    assert np.array_equal(together, delay_probability(np.tile(servers, (2, 1)), loads))
    assert delay_probability(np.array([], dtype=np.int64), np.empty((2, 0))).shape == (2, 0)
