"""IPA's program: small cases by hand, and the front against enumeration."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.errors import SpecError
from steelyard.core.types import Objective
from steelyard.plan.accuracy import pick
from steelyard.plan.ipa import IpaProblem, IpaStage, IpaVariant, front
from steelyard.plan.ipa_base import base_cores, powers_of_two, shares_of_slo
from steelyard.plan.ipa_front import Front, Options
from steelyard.plan.ipa_paths import PathFront

LIGHT = IpaVariant("light", 0.5, 1, (0.1, 0.15))
HEAVY = IpaVariant("heavy", 0.8, 2, (0.2, 0.3))
DETECT = IpaStage("detect", (LIGHT, HEAVY), (1, 2))
CLASSIFY = IpaStage("classify", (IpaVariant("only", 0.9, 1, (0.05,)),), (1, 2))


def problem(rate: float, slo_s: float = 1.0, **fields: object) -> IpaProblem:
    return IpaProblem("video", (DETECT, CLASSIFY), rate, slo_s, **fields)  # type: ignore[arg-type]


def points(one: IpaProblem) -> list[tuple[int, float]]:
    return [(point.cores, round(point.accuracy, 9)) for point in front(one).points]


def test_the_front_is_the_cheapest_plan_of_each_accuracy() -> None:
    # 20 a second. classify: ceil(20 x 0.05) = 1 core. detect, single rows: light ceil(2) = 2 replicas, heavy
    # ceil(4) x 2 = 8 cores; pairs wait 1 / 20 s: light ceil(20 x 0.15 / 2) = 2, heavy ceil(3) x 2 = 6 cores.
    found = front(problem(20.0))
    assert points(problem(20.0)) == [(3, 0.45), (7, 0.72)]
    detect, classify = found.plan(found.points[1])
    assert (detect.variant, detect.rows, detect.replicas, detect.cores) == ("heavy", 2, 3, 2)
    assert detect.time_s == pytest.approx(0.3 + 1 / 20)
    assert (classify.variant, classify.rows, classify.replicas) == ("only", 1, 1)


def test_measured_combinations_replace_the_product() -> None:
    # The product of detectors 0.5, 0.8 and classifiers 0.6 (1 core), 0.9 (2 cores) would rank them 0.3 < 0.45
    # < 0.48 < 0.72. As measured a weak detector spoils the good classifier, and the heavy pair gains little.
    stages = (
        IpaStage("detect", (IpaVariant("light", 0.5, 1, (0.1,)), IpaVariant("heavy", 0.8, 2, (0.1,))), (1,)),
        IpaStage("classify", (IpaVariant("poor", 0.6, 1, (0.1,)), IpaVariant("good", 0.9, 2, (0.1,))), (1,)),
    )
    measured = {
        ("light", "poor"): 0.3,
        ("light", "good"): 0.29,
        ("heavy", "poor"): 0.5,
        ("heavy", "good"): 0.55,
    }
    one = IpaProblem("video", stages, 5.0, 1.0)
    found = front(one, accuracy_of=lambda chosen: measured[chosen["detect"], chosen["classify"]])
    assert [(point.cores, point.accuracy) for point in found.points] == [(2, 0.3), (3, 0.5), (4, 0.55)]
    assert [planned.variant for planned in found.plan(found.points[1])] == ["heavy", "poor"]
    assert [point.cores for point in front(one).points] == [2, 3, 4]


def test_of_equal_plans_the_one_with_smaller_batches_is_taken() -> None:
    # two replicas of `light` either way
    found = front(problem(20.0))
    assert found.plan(found.points[0])[0].rows == 1


def test_a_tight_slo_takes_the_batch_away_and_then_the_heavy_variant() -> None:
    # heavy pairs need 0.35 + 0.05 = 0.4 s; heavy single rows 0.25 s; light ones 0.15 s
    assert points(problem(20.0, 0.41)) == [(3, 0.45), (7, 0.72)]
    assert points(problem(20.0, 0.30)) == [(3, 0.45), (9, 0.72)]
    assert points(problem(20.0, 0.20)) == [(3, 0.45)]
    assert points(problem(20.0, 0.14)) == []


def test_latencies_are_rounded_up_to_a_five_hundredth() -> None:
    # Exactly 0.15 s within 0.15 s: 334 + 167 ticks of 500 are one too many.
    assert points(problem(20.0, 0.15)) == []
    assert points(problem(20.0, 0.1515)) == [(3, 0.45)]


def test_cores_are_capped_and_replicas_fixed() -> None:
    assert points(problem(20.0, cores_max=6)) == [(3, 0.45)]
    fixed = IpaProblem("video", (IpaStage("detect", (LIGHT, HEAVY), (1, 2), replicas=3),), 20.0, 1.0)
    # three replicas of `light` or, with pairs, of `heavy` (6.67 a second each)
    assert points(fixed) == [(3, 0.5), (6, 0.8)]
    two = IpaProblem("video", (IpaStage("detect", (LIGHT, HEAVY), (1, 2), replicas=2),), 20.0, 1.0)
    assert points(two) == [(2, 0.5)]


def test_rows_that_fan_out_are_carried_and_fill_batches_sooner() -> None:
    # 40 rows a second at `detect`: light pairs ceil(40 x 0.15 / 2) = 3; pairs wait 1 / 40 s.
    fanned = IpaProblem("video", (IpaStage("detect", (LIGHT,), (1, 2), fan_out=2.0),), 20.0, 1.0)
    found = front(fanned)
    (planned,) = found.plan(found.points[0])
    assert (planned.rows, planned.replicas) == (2, 3)
    assert planned.time_s == pytest.approx(0.15 + 1 / 40)


def test_nothing_to_serve_keeps_one_replica_a_stage() -> None:
    assert points(problem(0.0)) == [(2, 0.45), (3, 0.72)]


def test_busy_replicas_wait_less_the_more_there_are() -> None:
    # 8 a second on `light` alone are 80 % of one replica, too slow for 0.5 s with its tail; two are not.
    one = IpaProblem(
        "video", (IpaStage("detect", (IpaVariant("light", 0.5, 1, (0.1,)),), (1,)),), 8.0, 0.5, wait="tail"
    )
    assert [cores for cores, _ in points(one)] == [2]
    assert [cores for cores, _ in points(IpaProblem("video", one.stages, 8.0, 5.0, wait="tail"))] == [1]


@pytest.mark.parametrize(
    "stage",
    [
        IpaStage("s", (), (1,)),
        IpaStage("s", (LIGHT,), (1,)),
        IpaStage("s", (IpaVariant("v", 0.5, 0, (0.1,)),), (1,)),
        IpaStage("s", (IpaVariant("v", 1.5, 1, (0.1,)),), (1,)),
        IpaStage("s", (IpaVariant("v", 0.5, 1, (0.0,)),), (1,)),
    ],
)
def test_bad_problems_are_refused(stage: IpaStage) -> None:
    with pytest.raises(SpecError, match="stage s"):
        front(IpaProblem("video", (stage,), 1.0, 1.0))


def test_costs_that_span_too_much_are_refused_in_words() -> None:
    one = np.ones(2, np.int64)
    stage = Options(one, np.array([1, 10**9]), np.array([0.5, 0.6]))
    with pytest.raises(SpecError, match="too many"):
        Front([stage])


def test_a_cap_that_only_too_slow_plans_keep_leaves_no_plan() -> None:
    # A stage is slow for 1 core or fast for 10. Even one slow one and three fast ones are beyond 500 ticks,
    # so a plan needs 40 cores, where 7 are allowed and the cheapest options together cost 4.
    stage = Options(np.array([400, 100]), np.array([1, 10]), np.array([0.5, 0.5]))
    assert Front([stage] * 4, cost_max=7).cost.tolist() == []
    assert Front([stage] * 4, cost_max=40).cost.tolist() == [40]


def test_base_cores_carry_the_rate_and_never_fall() -> None:
    # 4 a second within 0.5 s: 0.4 / c s a row needs 2 cores (5 a second), 1.0 / c s 4 cores; the third, which
    # would do with one, is not given fewer than the second.
    def scaled(time_s: float):  # type: ignore[no-untyped-def]
        return lambda rows, cores: time_s * rows / cores

    latencies = [scaled(0.4), scaled(1.0), scaled(0.1)]
    assert base_cores(latencies, [1, 1, 1], [8, 8, 8], rate_rps=4.0, budget_s=0.5) == (2, 4, 4)
    # where no size suffices, all that it can use
    assert base_cores(latencies[1:2], [1], [2], rate_rps=4.0, budget_s=0.5) == (2,)
    # means of 0.5 and 0.1 s share 1.2 s as 1.0 and 0.2
    assert shares_of_slo([[scaled(0.4), scaled(0.6)], [scaled(0.1)]], 1.2) == pytest.approx((1.0, 0.2))
    assert powers_of_two(9) == (1, 2, 4, 8)


def test_the_same_front_serves_every_objective() -> None:
    found = front(problem(20.0)).points  # 3 cores 0.45, 7 cores 0.72

    def cores(objective: Objective | None, most: float = 100.0) -> int:
        point = pick(found, objective, cores_max=most)
        assert point is not None
        return point.cores

    assert cores(None) == 7
    assert cores(None, 6) == 3
    assert cores(Objective(accuracy_floor=0.5)) == 7
    assert cores(Objective(accuracy_floor=0.4)) == 3
    assert cores(Objective(accuracy_floor=0.9)) == 7  # nothing reaches it: the nearest
    assert cores(Objective(cost_max_cores=6)) == 3
    assert cores(Objective(cost_max_cores=1)) == 3  # nothing is below it: the nearest
    assert cores(Objective(weights=(1.0, 0.06, 0.0))) == 7  # 0.27 for 4 cores: up to 0.0675 a core
    assert cores(Objective(weights=(1.0, 0.07, 0.0))) == 3
    assert pick(found, None, cores_max=2) is None


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Options], int]:
    """Up to four stages, and a bound on the ticks that may be too tight."""
    stages = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 6))
        ticks = draw(st.lists(st.integers(0, 12), min_size=count, max_size=count))
        cost = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
        accuracy = draw(st.lists(st.sampled_from((0.2, 0.5, 0.7, 0.9, 1.0)), min_size=count, max_size=count))
        stages.append(Options(np.array(ticks), np.array(cost), np.array(accuracy)))
    return stages, draw(st.integers(0, 30))


@given(chains())
@settings(max_examples=300, deadline=None)
def test_the_front_is_that_of_enumeration(chain: tuple[list[Options], int]) -> None:
    stages, ticks_max = chain
    found = Front(stages, ticks_max=ticks_max)
    highest: dict[int, float] = {}
    for chosen in product(*(range(len(stage.cost)) for stage in stages)):
        taken = list(zip(stages, chosen, strict=True))
        if sum(int(stage.ticks[i]) for stage, i in taken) <= ticks_max:
            cost = sum(int(stage.cost[i]) for stage, i in taken)
            accuracy = float(np.prod([stage.accuracy[i] for stage, i in taken]))
            highest[cost] = max(highest.get(cost, 0.0), accuracy)
    expected: list[tuple[int, float]] = []
    for cost in sorted(highest):
        if not expected or highest[cost] > expected[-1][1] * (1 + 1e-9):
            expected.append((cost, highest[cost]))
    assert found.cost.tolist() == [cost for cost, _ in expected]
    assert found.accuracy.tolist() == pytest.approx([accuracy for _, accuracy in expected])
    for cap in (0, 3, 7, 12):
        capped = Front(stages, ticks_max=ticks_max, cost_max=cap)
        assert capped.cost.tolist() == [cost for cost, _ in expected if cost <= cap]
    # By combinations, with every option a variant of its own, the front is the same.
    numbers = [range(len(stage.cost)) for stage in stages]
    paths = PathFront(
        stages,
        numbers,
        lambda chosen: float(np.prod([s.accuracy[i] for s, i in zip(stages, chosen, strict=True)])),
        ticks_max=ticks_max,
    )
    kept = [cost for cost, _ in expected]
    assert [cost for cost in paths.cost.tolist() if cost in kept] == kept
    for point in range(len(expected)):
        taken = list(zip(stages, found.choices(point), strict=True))
        assert sum(int(stage.ticks[i]) for stage, i in taken) <= ticks_max
        assert sum(int(stage.cost[i]) for stage, i in taken) == expected[point][0]
        assert np.prod([stage.accuracy[i] for stage, i in taken]) == pytest.approx(expected[point][1])
    assert all(a < b for a, b in pairwise(found.cost.tolist()))
