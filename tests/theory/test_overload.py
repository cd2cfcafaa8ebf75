"""Overload on the virtual clock, and no waiting for company below it.

The table: a batch of 8 costs twice a batch of 1. So the best batch is 8, and with 10 ms for one row the
capacity of a replica of one core is 8 / 20 ms = 400 rows a second.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from steelyard.core.commands import Complete
from steelyard.core.plan import Admission, Drop, StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request
from steelyard.testing.builders import (
    VARIANT,
    TableTimes,
    make_plan,
    make_request,
    make_service,
    times_by_stage,
)
from steelyard.testing.one_machine import GivenReplica, OneMachine

TABLE = TableTimes({1: 0.010, 8: 0.020})
CAPACITY_RPS = 8 / 0.020
pytestmark = pytest.mark.long
SECONDS = 3.0


def poisson(
    rate_rps: float, *, slo_s: float, keys: tuple[str, ...] = ("x",), rows: tuple[int, ...] = (1,)
) -> Iterator[Request]:
    """Poisson arrivals for `SECONDS` at `rate_rps` rows a second; keys and rows in equal parts."""
    rng = np.random.default_rng(7)
    now_s, sequence = 0.0, 0
    mean_rows = sum(rows) / len(rows)
    while (now_s := now_s + float(rng.exponential(mean_rows / rate_rps))) < SECONDS:
        sequence += 1
        yield make_request(
            sequence, now_s, slo_s=slo_s, batch_key=str(rng.choice(keys)), rows=int(rng.choice(rows))
        )


def run(
    arrivals: Iterator[Request],
    *,
    slo_s: float,
    cores: tuple[float, ...] = (1.0,),
    admission: Admission = "feasible",
    drop: Drop = "early",
) -> OneMachine:
    service = make_service(slo_s=slo_s)
    plan = make_plan(service, rules=StageRules(admission=admission, drop=drop))
    machine = ServiceMachine(service, times_by_stage(service, TABLE), plan)
    replicas = [GivenReplica(share, (VARIANT,)) for share in cores]
    driver = OneMachine(machine, replicas, arrivals, TABLE.service_time_s)
    driver.run()
    return driver


def goodput_rps(driver: OneMachine) -> float:
    """Rows a second that were completed in time."""
    rows = sum(
        outcome.request.rows
        for outcome in driver.outcomes.values()
        if isinstance(outcome.end, Complete) and not outcome.end.late
    )
    return rows / SECONDS


@pytest.mark.parametrize("load", [2.0, 5.0, 10.0])
@pytest.mark.parametrize("admission", ["open", "feasible"])
@pytest.mark.parametrize("slo_s", [0.030, 0.050, 0.100])
def test_goodput_stays_near_capacity_at_the_best_batch(
    load: float, admission: Admission, slo_s: float
) -> None:
    driver = run(poisson(load * CAPACITY_RPS, slo_s=slo_s), slo_s=slo_s, admission=admission)
    assert goodput_rps(driver) >= 0.9 * CAPACITY_RPS


def test_serving_the_head_first_whatever_it_costs_collapses() -> None:
    # Each head that is nearly late allows only a small batch, which makes the next head nearly late.
    arrivals = poisson(2.0 * CAPACITY_RPS, slo_s=0.05)
    driver = run(arrivals, slo_s=0.05, admission="open", drop="infeasible")
    assert goodput_rps(driver) < 0.5 * CAPACITY_RPS


@pytest.mark.parametrize("load", [2.0, 5.0])
def test_unequal_replicas_keep_their_capacity(load: float) -> None:
    cores = (1.0, 2.0, 0.5)
    driver = run(poisson(load * 3.5 * CAPACITY_RPS, slo_s=0.1), slo_s=0.1, cores=cores)
    assert goodput_rps(driver) >= 0.9 * 3.5 * CAPACITY_RPS


@pytest.mark.parametrize("load", [2.0, 5.0])
def test_two_batch_keys_keep_capacity(load: float) -> None:
    driver = run(poisson(load * CAPACITY_RPS, slo_s=0.1, keys=("x", "y")), slo_s=0.1)
    assert goodput_rps(driver) >= 0.9 * CAPACITY_RPS


@pytest.mark.parametrize("load", [2.0, 5.0])
def test_mixed_rows_keep_most_of_capacity(load: float) -> None:
    # Requests of 1 to 4 rows do not always fill a batch of 8: neighbours of 3 + 3 leave two places, say.
    driver = run(poisson(load * CAPACITY_RPS, slo_s=0.1, rows=(1, 2, 3, 4)), slo_s=0.1)
    assert goodput_rps(driver) >= 0.8 * CAPACITY_RPS


@pytest.mark.parametrize("cores", [(1.0,), (1.0, 1.0), (2.0, 0.5)])
def test_at_light_load_nobody_waits_for_company(cores: tuple[float, ...]) -> None:
    driver = run(poisson(0.3 * sum(cores) * CAPACITY_RPS, slo_s=0.2), slo_s=0.2, cores=cores)
    ends_s: dict[int, float] = {}  # replica -> end of the batch it runs
    starts = sorted(driver.batches, key=lambda start: (start[0], start[1].batch_id))
    position = 0
    found_idle = 0
    for outcome in sorted(driver.outcomes.values(), key=lambda outcome: outcome.request.arrived_s):
        arrived_s = outcome.request.arrived_s
        while position < len(starts) and starts[position][0] < arrived_s:
            start_s, batch = starts[position]
            ends_s[batch.replica_id] = start_s + batch.expected_s
            position += 1
        is_any_idle = any(ends_s.get(replica, 0.0) <= arrived_s for replica in range(1, len(cores) + 1))
        assert isinstance(outcome.end, Complete)
        if is_any_idle:
            found_idle += 1
            assert outcome.end.queue_s == 0.0
    assert found_idle >= 50


def test_below_capacity_nobody_is_turned_away() -> None:
    driver = run(poisson(0.8 * CAPACITY_RPS, slo_s=0.1), slo_s=0.1)
    assert all(isinstance(outcome.end, Complete) for outcome in driver.outcomes.values())
