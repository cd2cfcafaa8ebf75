from math import inf, log

import numpy as np
import pytest

from steelyard.core.errors import ProfileError
from steelyard.profile import queueing as q


def test_mm1() -> None:
    # rho = 0.8, s = 1: wait 0.8 / 0.2 = 4; latency is exponential with mean 1 / 0.2 = 5
    assert q.mm1_wait_mean_s(0.8, 1) == pytest.approx(4)
    assert q.mm1_latency_quantile_s(0.8, 1, 0.99) == pytest.approx(5 * log(100))


def test_erlang() -> None:
    # a = 2, c = 3: B = (8/6) / (1 + 2 + 2 + 8/6) = 4/19; C = B / (1 - 2/3 (1 - B)) = 4/9
    assert q.erlang_b(3, 2) == pytest.approx(4 / 19)
    assert q.erlang_c(3, 2) == pytest.approx(4 / 9)
    assert q.erlang_c(1, 0.8) == pytest.approx(0.8)  # M/M/1: who finds the server busy waits


def test_mmc() -> None:
    # rate 2, s = 1, c = 3: C s / (c - a) = (4/9) / 1
    assert q.mmc_wait_mean_s(2, 1, 3) == pytest.approx(4 / 9)
    assert q.mmc_wait_quantile_s(2, 1, 3, 0.99) == pytest.approx(log((4 / 9) / 0.01))
    assert q.mmc_wait_quantile_s(2, 1, 3, 0.5) == 0  # 5 of 9 do not wait at all


def test_deterministic_service_halves_the_mean_wait() -> None:
    assert q.md1_wait_mean_s(0.8, 1) == pytest.approx(2)
    assert q.mg1_wait_mean_s(0.8, 1, 1.0) == pytest.approx(q.mm1_wait_mean_s(0.8, 1))
    assert q.ggc_wait_mean_s(0.8, 1, 1, 1.0, 0.0) == pytest.approx(2)


def test_md1_quantile_is_erlangs_formula_within_one_service_time() -> None:
    # For t < s: P(W <= t) = (1 - rho) e^(lambda t). rho = 0.4: reaches 0.75 at ln(0.75 / 0.6) / 0.4 = 0.5579
    assert q.mdc_wait_quantile_s(0.4, 1, 1, 0.75) == pytest.approx(log(0.75 / 0.6) / 0.4)
    assert q.mdc_wait_quantile_s(0.4, 1, 1, 0.5) == 0


@pytest.mark.parametrize(("rate", "servers"), [(0.7, 1), (1.5, 2), (3.2, 4)])
def test_mdc_quantiles_agree_with_a_simulation(rate: float, servers: int) -> None:
    """Lindley's recursion: with fixed service, customers leave in order, so each waits for the one c before
    it."""
    rng = np.random.default_rng(7)
    arrivals = np.cumsum(rng.exponential(1 / rate, 60_000)).tolist()
    ends = [0.0] * servers
    waits = []
    for index, arrived in enumerate(arrivals):
        start = max(arrived, ends[index % servers])
        ends[index % servers] = start + 1
        waits.append(start - arrived)
    for quantile in (0.5, 0.9, 0.95):
        simulated = float(np.quantile(waits, quantile))
        exact = q.mdc_wait_quantile_s(rate, 1, servers, quantile)
        assert exact == pytest.approx(simulated, rel=0.12, abs=0.03)


def test_a_service_time_scales_every_wait() -> None:
    in_seconds = q.mdc_wait_quantile_s(0.8, 1, 1, 0.99)
    assert q.mdc_wait_quantile_s(80, 0.01, 1, 0.99) == pytest.approx(0.01 * in_seconds)


def test_gamma() -> None:
    assert q.gamma_quantile(1, 0.99) == pytest.approx(log(100))  # exponential
    # Half of chi squared with 1 and with 10 degrees of freedom, from tables.
    assert q.gamma_quantile(0.5, 0.95) == pytest.approx(3.841459 / 2, rel=1e-6)
    assert q.gamma_quantile(5, 0.99) == pytest.approx(23.20925 / 2, rel=1e-6)
    assert q.gamma_quantile(1000, 0.5) == pytest.approx(1000 - 1 / 3, rel=1e-5)  # expansion of the median
    assert q.gamma_cdf(3, 0) == 0


def test_a_batch_fills_after_the_gaps_between_its_rows() -> None:
    assert q.fill_wait_mean_s(5, 100) == pytest.approx(0.04)
    assert q.fill_wait_mean_s(1, 100) == 0
    assert q.fill_wait_quantile_s(2, 100, 0.99) == pytest.approx(0.01 * log(100))  # one exponential gap
    assert q.fill_wait_quantile_s(1, 100, 0.99) == 0


def test_at_saturation_waits_are_endless() -> None:
    assert q.mm1_wait_mean_s(1, 1) == inf
    assert q.mm1_latency_quantile_s(2, 1, 0.5) == inf
    assert q.mmc_wait_quantile_s(3, 1, 3, 0.5) == inf
    assert q.md1_wait_mean_s(1.5, 1) == inf
    assert q.mdc_wait_quantile_s(2, 1, 2, 0.5) == inf


@pytest.mark.parametrize(
    "arguments",
    [(0, 1, 1, 0.5), (1, -1, 1, 0.5), (float("nan"), 1, 1, 0.5), (0.5, 1, 0, 0.5), (0.5, 1, 1, 1.0)],
)
def test_nonsense_is_refused(arguments: tuple[float, float, int, float]) -> None:
    with pytest.raises(ProfileError):
        q.mmc_wait_quantile_s(*arguments)
