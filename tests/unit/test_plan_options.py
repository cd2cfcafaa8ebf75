from math import inf

import pytest
from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.plan.options import capacity_rps, choices, evaluated
from steelyard.plan.problem import PlanProblem, PlanStage, Prices, tabulate

# 100 ms a row on one core, 50 on two; batches of two take 1.5 times as long
STAGE = PlanStage("a", tabulate(lambda rows, cores: 0.05 * (1 + rows) / cores, 2, 2))
PROBLEM = PlanProblem("s", (STAGE,), 30.0, 1.0, wait="fill")


def listed(problem: PlanProblem, cores_max: int | None = None) -> list[tuple[int, int, int, float]]:
    (among,) = choices(problem, cores_max=cores_max)
    columns = (among.replicas, among.cores, among.rows, among.cost)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_as_few_replicas_as_carry_the_rate() -> None:
    # 10, 2 / 0.15 = 13.3, 20 and 26.7 rows a second: 3, 3, 2 and 2 replicas for 30
    assert listed(PROBLEM) == [(3, 1, 1, 3.0), (3, 1, 2, 3.0), (2, 2, 1, 4.0), (2, 2, 2, 4.0)]
    (among,) = choices(PROBLEM)
    # batches of two wait for one gap of 1/30 s
    assert among.time_s.tolist() == pytest.approx([0.1, 0.15 + 1 / 30, 0.05, 0.075 + 1 / 30])


def test_a_capacity_that_is_just_enough_is_enough() -> None:
    assert listed(replace(PROBLEM, arrival_rate_rps=10.0))[0] == (1, 1, 1, 1.0)
    assert capacity_rps(STAGE, 2, 2) == pytest.approx(2 / 0.075)


def test_limits() -> None:
    assert {cores for _, cores, _, _ in listed(PROBLEM, cores_max=1)} == {1}
    assert {cores for _, cores, _, _ in listed(replace(PROBLEM, nodes=(1, 1, 1)))} == {1}
    few = replace(PROBLEM, stages=(replace(STAGE, replicas_max=2),))
    assert {cores for _, cores, _, _ in listed(few)} == {2}


def test_a_fixed_number_of_replicas() -> None:
    (among,) = choices(PROBLEM, replicas=(2,))
    assert among.cores.tolist() == [2, 2]
    assert not len(choices(PROBLEM, replicas=(1,))[0].cost)


def test_more_replicas_where_they_shorten_the_wait() -> None:
    found = listed(replace(PROBLEM, wait="tail", extra_replicas_max=2))
    # 30/s on one core is 3 replicas at full use, too near 1: from 4 on (0.75)
    assert [n for n, c, b, _ in found if (c, b) == (1, 1)] == [4, 5, 6]


def test_at_no_rate_one_replica_of_single_rows() -> None:
    assert listed(replace(PROBLEM, arrival_rate_rps=0.0)) == [(1, 1, 1, 1.0), (1, 2, 1, 2.0)]


def test_the_fan_out_multiplies_the_rate() -> None:
    tripled = replace(PROBLEM, arrival_rate_rps=10.0, stages=(replace(STAGE, fan_out=3.0),))
    assert listed(tripled) == listed(PROBLEM)


def test_the_price_of_switching() -> None:
    # There are one replica of 2 cores and one of 1. Wanted are 3 of 1 core, 0.5 each for memory: 3 x 1.5. One
    # stays as it is, one is resized (0.1), one is started (2).
    stage = replace(STAGE, present=(2, 1), replica_price=0.5)
    problem = replace(PROBLEM, stages=(stage,), prices=Prices(core=1.0, start=2.0, resize=0.1))
    assert evaluated(problem, stage, 3, 1, 1)[1] == pytest.approx(4.5 + 2.0 + 0.1)
    # Wanted is one of 2 cores: the one that has them stays, and nothing is paid for the other one.
    assert evaluated(problem, stage, 1, 2, 1)[1] == pytest.approx(2.5)


def test_a_choice_that_never_serves_takes_for_ever() -> None:
    assert evaluated(replace(PROBLEM, arrival_rate_rps=0.0), STAGE, 1, 1, 2)[0] == inf


def test_latency_has_a_table_of_its_own() -> None:
    high = tabulate(lambda rows, cores: 0.2, 2, 2)
    (among,) = choices(replace(PROBLEM, wait="none", stages=(replace(STAGE, latency_s=high),)))
    assert among.time_s.tolist() == [0.2] * 4


def test_the_loss_is_divided_among_stages_where_replicas_may_be_busy() -> None:
    other = replace(STAGE, name="b")
    both = replace(PROBLEM, stages=(STAGE, other), wait="tail", quantile=0.98)
    alone = replace(PROBLEM, wait="tail", quantile=0.99)
    assert choices(both)[0].time_s.tolist() == choices(alone)[0].time_s.tolist()
    assert (
        choices(replace(both, loss_scale=2.0))[0].time_s.tolist()
        == choices(replace(alone, quantile=0.98))[0].time_s.tolist()
    )


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(SpecError, match=f"want an arrival rate >= 0, not {rate}"):
        choices(replace(PROBLEM, arrival_rate_rps=rate))
