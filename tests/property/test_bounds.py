"""A request's own bounds on random fleets: admitted exactly if some plan of the moment keeps to them all.

Service times are what the profile says. The judge enumerates every plan for one request alone: at each stage
a replica and one of its variants. The objectives are such that no plan takes exactly as long: rounding would
decide about that one.
"""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.core.commands import Complete, NearestBounds, Reject
from steelyard.core.events import RequestArrived
from steelyard.core.plan import ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.types import PathAccuracy, Request, RequestId, Service, Stage, Variant
from steelyard.testing.bench import ServiceBench, ends
from steelyard.testing.builders import TableTimes

VARIANTS = {"big": 0.9, "mid": 0.8, "small": 0.6}
SLOWNESS = {"big": 4.0, "mid": 2.0, "small": 1.0}
NAMES = ("a", "b", "c")
SLO_S = 0.2001
ROUNDING = 1e-9


class OverheadTimes(TableTimes):
    """`c` cores take (1 + 1 / c) / 2 of the time of one, and so more core-time."""

    def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        return super().service_time_s(variant, bucket, rows, 1.0) * (1 + 1 / cores) / 2


TIMES = OverheadTimes({1: 0.004, 4: 0.010}, factors=SLOWNESS)


class Placed(NamedTuple):
    stage: str
    cores: float
    variants: tuple[str, ...]


class Asked(NamedTuple):
    slo_s: float
    min_accuracy: float | None
    max_core_ms: float | None
    rows: int


residents = st.sets(st.sampled_from(sorted(VARIANTS)), min_size=1).map(lambda names: tuple(sorted(names)))
measured = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(NAMES), st.sampled_from(sorted(VARIANTS)), min_size=1),
        st.sampled_from([0.3, 0.5, 0.7]),
    ),
    max_size=2,
)
asked = st.builds(
    Asked,
    st.sampled_from([0.0051, 0.0121, 0.0201, 0.0401, 0.0801, SLO_S]),
    st.sampled_from([None, 0.2, 0.36, 0.5, 0.6, 0.7, 0.8, 0.95]),
    st.sampled_from([None, 3.0, 6.0, 10.0, 20.0, 40.0, 80.0]),
    st.integers(1, 4),
)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Service, ServicePlan, list[Placed]]:
    """A chain, a fork or a join of up to three stages, each with up to three ready replicas."""
    names = NAMES[: draw(st.integers(1, 3))]
    variants = tuple(Variant(name, accuracy, 4, 4) for name, accuracy in VARIANTS.items())
    stages = []
    for index, name in enumerate(names):
        after = draw(st.sets(st.sampled_from(names[:index]))) if index else set()
        stages.append(Stage(name, variants, tuple(sorted(after))))
    paths = tuple(
        PathAccuracy(path, accuracy) for path, accuracy in draw(measured) if path.keys() <= set(names)
    )
    service = Service("ocr", SLO_S, tuple(stages), reply_s=0.0, path_accuracies=paths)
    rules = StageRules(choice=draw(st.sampled_from(["mix", "fit"])))
    mix = tuple(VariantShare(name, share) for name, share in zip(VARIANTS, (0.5, 0.3, 0.2), strict=True))
    plan = ServicePlan("ocr", {name: StagePlan((), mix, 4, rules=rules) for name in names})
    placed = [
        Placed(name, draw(st.sampled_from([1.0, 2.0, 4.0])), draw(residents))
        for name in names
        for _ in range(draw(st.integers(1, 2)))
    ]
    return service, plan, placed


def bench_of(service: Service, plan: ServicePlan, placed: list[Placed]) -> ServiceBench:
    bench = ServiceBench(service, TIMES, plan)
    for replica_id, replica in enumerate(placed, start=1):
        bench.ready(replica_id, cores=replica.cores, variants=replica.variants, stage=replica.stage)
    return bench


def arrive(bench: ServiceBench, sequence: int, want: Asked) -> None:
    request = Request(
        RequestId(0, sequence),
        "ocr",
        want.rows,
        "x",
        bench.now_s,
        bench.now_s + want.slo_s,
        min_accuracy=want.min_accuracy,
        max_core_ms=want.max_core_ms,
    )
    bench.tell(RequestArrived(request))


def accuracy_of(service: Service, chosen: dict[str, str]) -> float:
    """As the rule says it: the measured entry that names most stages, else the product."""
    fitting = [p for p in service.path_accuracies if all(chosen[name] == v for name, v in p.variants.items())]
    if fitting:
        return max(fitting, key=lambda entry: len(entry.variants)).accuracy
    return prod(VARIANTS[variant] for variant in chosen.values())


def plans_of_the_moment(
    service: Service, placed: list[Placed], rows: int
) -> Iterator[tuple[float, float, float]]:
    """(seconds, core-milliseconds, accuracy) of every plan for one request on an idle fleet."""
    choices = [
        [
            (replica.cores, variant)
            for replica in placed
            if replica.stage == stage.name
            for variant in replica.variants
        ]
        for stage in service.stages
    ]
    for plan in product(*choices):
        end_s: dict[str, float] = {}
        core_ms = 0.0
        for stage, (cores, variant) in zip(service.stages, plan, strict=True):
            took_s = TIMES.service_time_s(variant, 0, rows, cores)
            end_s[stage.name] = took_s + max([end_s[name] for name in stage.after], default=0.0)
            core_ms += 1000.0 * took_s * cores
        chosen = {stage.name: variant for stage, (_, variant) in zip(service.stages, plan, strict=True)}
        yield max(end_s.values()), core_ms, accuracy_of(service, chosen)


def keeps(value: float, limit: float) -> bool:
    """Whether a value is within a limit; what meets it exactly is."""
    return value <= limit + ROUNDING


@pytest.mark.long
@given(fleet=fleets(), want=asked)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_alone_it_is_admitted_and_kept_to_exactly_if_some_plan_does(
    fleet: tuple[Service, ServicePlan, list[Placed]], want: Asked
) -> None:
    service, plan, placed = fleet
    bench = bench_of(service, plan, placed)
    arrive(bench, 1, want)
    least_accuracy, most_core_ms = want.min_accuracy or 0.0, want.max_core_ms or float("inf")
    plans = list(plans_of_the_moment(service, placed, want.rows))
    is_feasible = any(
        keeps(took_s, want.slo_s) and keeps(core_ms, most_core_ms) and keeps(least_accuracy, accuracy)
        for took_s, core_ms, accuracy in plans
    )
    is_bounded = want.min_accuracy is not None or want.max_core_ms is not None
    end = ends(bench.last).get(1)
    if not is_feasible:
        if is_bounded:
            assert isinstance(end, Reject)
            assert_nearest(end, plans, want)
        return
    assert end is None, end
    if is_bounded:
        answer = finish(bench)
        assert not answer.late
        assert answer.missed == ()
        assert answer.core_ms <= most_core_ms + ROUNDING
        assert accuracy_of(service, answer.variants) == pytest.approx(answer.accuracy)


def assert_nearest(end: Reject, plans: list[tuple[float, float, float]], want: Asked) -> None:
    """Each of the three is the best that any plan has with the two others as asked.

    Where no plan helps with one of them alone, those that are said can be met together, with the rest as
    asked. No latency is above the objective.
    """
    least_accuracy, most_core_ms = want.min_accuracy or 0.0, want.max_core_ms or float("inf")
    assert end.nearest is not None
    plans = [plan for plan in plans if keeps(plan[0], SLO_S)]
    fast = [s for s, ms, accuracy in plans if keeps(ms, most_core_ms) and keeps(least_accuracy, accuracy)]
    cheap = [ms for s, ms, accuracy in plans if keeps(s, want.slo_s) and keeps(least_accuracy, accuracy)]
    accurate = [accuracy for s, ms, accuracy in plans if keeps(s, want.slo_s) and keeps(ms, most_core_ms)]
    if plans and not (fast or cheap or accurate):
        near = end.nearest
        assert near != NearestBounds()
        within_s = want.slo_s if near.max_latency_ms is None else near.max_latency_ms / 1000
        within_core_ms = most_core_ms if near.max_core_ms is None else near.max_core_ms
        from_accuracy = least_accuracy if near.min_accuracy is None else near.min_accuracy
        assert any(
            keeps(s, within_s) and keeps(ms, within_core_ms) and keeps(from_accuracy, accuracy)
            for s, ms, accuracy in plans
        )
        return
    assert end.nearest.max_latency_ms == (pytest.approx(1000 * min(fast)) if fast else None)
    assert end.nearest.max_core_ms == (pytest.approx(min(cheap)) if cheap else None)
    assert end.nearest.min_accuracy == (pytest.approx(max(accurate)) if accurate else None)


def finish(bench: ServiceBench) -> Complete:
    """Run what was admitted to its end, each batch as long as expected."""
    ends_s: dict[int, float] = {}
    while bench.laws.running:
        for batch in bench.laws.running.values():
            ends_s.setdefault(batch.batch_id, bench.now_s + batch.expected_s)
        first = min(bench.laws.running.values(), key=lambda batch: ends_s[batch.batch_id])
        bench.now_s = ends_s[first.batch_id] - first.expected_s
        bench.complete(first.replica_id)
    answer = ends(bench.last)[1]
    assert isinstance(answer, Complete), answer
    return answer


@pytest.mark.long
@given(fleet=fleets(), wants=st.lists(asked, min_size=2, max_size=12))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_together_no_bound_is_overshot(
    fleet: tuple[Service, ServicePlan, list[Placed]], wants: list[Asked]
) -> None:
    """All at once: whoever is answered is answered within its bounds; the others are shed or refused."""
    service, plan, placed = fleet
    bench = bench_of(service, plan, placed)
    answers: dict[int, object] = {}
    for sequence, want in enumerate(wants, start=1):
        arrive(bench, sequence, want)
        answers |= ends(bench.last)
    ends_s: dict[int, float] = {}
    while bench.laws.open:
        for batch in bench.laws.running.values():
            ends_s.setdefault(batch.batch_id, bench.now_s + batch.expected_s)
        first = min(bench.laws.running.values(), key=lambda batch: ends_s[batch.batch_id], default=None)
        if first is None or (bench.wake_s is not None and bench.wake_s < ends_s[first.batch_id]):
            bench.wake()
        else:
            bench.now_s = ends_s[first.batch_id] - first.expected_s
            bench.complete(first.replica_id)
        answers |= ends(bench.last)
    for sequence, want in enumerate(wants, start=1):
        end = answers[sequence]
        if isinstance(end, Complete):
            assert not end.late
            assert end.missed == (), (want, end)
