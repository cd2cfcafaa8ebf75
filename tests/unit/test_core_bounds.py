"""A request's own bounds: refused at once if nothing can keep to them, and never overshot by choice.

One row takes 10 ms on one core with `big`, which is right 0.9 of the time, and 2.5 ms with `small`, 0.6; more
rows take as long (a batch of n costs each of them the n-th part), more cores divide the time.
"""

from typing import Any

import pytest

from steelyard.core.commands import Complete, NearestBounds, Reject, RunBatch, Shed
from steelyard.core.events import (
    CapacityChanged,
    PlanPublished,
    ReplicaDraining,
    RequestArrived,
    VariantUnloaded,
)
from steelyard.core.plan import ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.types import PathAccuracy, Request, RequestId, Service, Stage, Variant
from steelyard.testing.bench import ServiceBench, batches, ends, sequences
from steelyard.testing.builders import TableTimes

TIMES = TableTimes({1: 0.010}, factors={"small": 0.25})
BIG = Variant("big", 0.9, batch_rows_max=8, cores_max=4)
SMALL = Variant("small", 0.6, batch_rows_max=8, cores_max=4)
BOTH = ("big", "small")


def plan_of(service: Service, *, mix: str = "big", rules: StageRules | None = None) -> ServicePlan:
    stage = StagePlan((), (VariantShare(mix, 1.0),), batch_rows_max=8, rules=rules or StageRules())
    return ServicePlan(service.name, {each.name: stage for each in service.stages})


def bench_of(
    *stages: str,
    mix: str = "big",
    paths: tuple[PathAccuracy, ...] = (),
    cores: float = 1.0,
    rules: StageRules | None = None,
) -> ServiceBench:
    """A chain of stages with both variants each, and a replica with both of them at each."""
    names = stages or ("main",)
    chain = tuple(
        Stage(name, (BIG, SMALL), names[index - 1 : index] if index else ())
        for index, name in enumerate(names)
    )
    service = Service("ocr", 0.1, chain, reply_s=0.0, path_accuracies=paths)
    bench = ServiceBench(service, TIMES, plan_of(service, mix=mix, rules=rules))
    for replica_id, name in enumerate(names, start=1):
        bench.ready(replica_id, variants=BOTH, stage=name, cores=cores)
    return bench


def arrive(
    bench: ServiceBench,
    sequence: int,
    *,
    slo_s: float = 0.1,
    rows: int = 1,
    min_accuracy: float | None = None,
    max_core_ms: float | None = None,
    elapsed_s: float = 0.0,
) -> list[object]:
    request = Request(
        RequestId(0, sequence),
        "ocr",
        rows,
        "x",
        bench.now_s,
        bench.now_s + slo_s,
        min_accuracy=min_accuracy,
        max_core_ms=max_core_ms,
        elapsed_s=elapsed_s,
    )
    return list(bench.tell(RequestArrived(request)))


def about(value: float) -> Any:
    """Nearly that, wherever a number is wanted."""
    return pytest.approx(value)


def ran(commands: list[object]) -> list[RunBatch]:
    return [command for command in commands if isinstance(command, RunBatch)]


def rejected(bench: ServiceBench) -> Reject:
    end = next(iter(ends(bench.last).values()))
    assert isinstance(end, Reject)
    return end


def completed(bench: ServiceBench, sequence: int = 1) -> Complete:
    end = ends(bench.last)[sequence]
    assert isinstance(end, Complete)
    return end


class TestAccuracy:
    def test_a_variant_that_is_accurate_enough_answers_though_another_is_planned(self) -> None:
        bench = bench_of(mix="small")
        assert ran(arrive(bench, 1, min_accuracy=0.8))[0].variant == "big"
        bench.complete()
        assert completed(bench).accuracy == 0.9
        assert completed(bench).missed == ()

    def test_without_a_bound_the_plan_decides(self) -> None:
        bench = bench_of(mix="small")
        assert ran(arrive(bench, 1))[0].variant == "small"

    def test_more_than_there_is_is_refused_with_what_there_is(self) -> None:
        bench = bench_of()
        arrive(bench, 1, min_accuracy=0.95)
        assert rejected(bench) == Reject(
            RequestId(0, 1), "bounds", None, NearestBounds(None, about(0.9), None)
        )

    def test_what_nobody_has_resident_is_refused(self) -> None:
        bench = bench_of()
        bench.tell(VariantUnloaded(1, "big"))
        arrive(bench, 1, min_accuracy=0.8)
        assert rejected(bench).nearest == NearestBounds(None, about(0.6), None)

    def test_a_pipeline_is_as_accurate_as_its_product(self) -> None:
        # 0.9 * 0.9 = 0.81, 0.9 * 0.6 = 0.54, 0.6 * 0.6 = 0.36. For 0.5 one of the two may be small.
        bench = bench_of("a", "b", mix="small")
        assert ran(arrive(bench, 1, min_accuracy=0.5))[0].variant == "small"
        bench.complete(1)
        assert bench.running(2).variant == "big"
        bench.complete(2)
        assert completed(bench).accuracy == pytest.approx(0.54)
        assert not completed(bench).is_measured
        assert completed(bench).variants == {"a": "small", "b": "big"}

    def test_a_measured_path_counts_more_than_its_product(self) -> None:
        measured = (
            PathAccuracy({"a": "small", "b": "big"}, 0.4),
            PathAccuracy({"a": "big", "b": "small"}, 0.7),
        )
        bench = bench_of("a", "b", mix="small", paths=measured)
        # The product would allow (small, big); as measured only (big, big) and (big, small) reach 0.5.
        assert ran(arrive(bench, 1, min_accuracy=0.5))[0].variant == "big"
        bench.complete(1)
        assert bench.running(2).variant == "small"
        bench.complete(2)
        assert completed(bench).accuracy == 0.7
        assert completed(bench).is_measured

    def test_all_rows_of_a_bounded_request_are_answered_by_one_variant(self) -> None:
        # For 0.3 both would do. 20 rows are three pieces; the second replica has only `big`, the first ran
        # `small`.
        bench = bench_of(mix="small")
        arrive(bench, 1, rows=20, min_accuracy=0.3)
        assert bench.running().variant == "small"
        bench.ready(2, variants=("big",))
        assert 2 not in {batch.replica_id for batch in bench.laws.running.values()}
        bench.complete()
        bench.complete()
        bench.complete()
        assert completed(bench).accuracy == 0.6

    def test_what_is_accurate_enough_no_more_waits_and_is_shed_when_it_is_due(self) -> None:
        bench = bench_of(mix="small")
        arrive(bench, 1)
        arrive(bench, 2, min_accuracy=0.8)
        bench.tell(VariantUnloaded(1, "big"))
        bench.complete()
        assert bench.laws.running == {}
        while not isinstance(ends(bench.last).get(2), Shed):
            bench.wake()
        assert bench.now_s <= 0.102

    def test_bounds_do_not_share_a_batch_with_what_may_be_answered_otherwise(self) -> None:
        bench = bench_of(mix="small")
        arrive(bench, 1)
        arrive(bench, 2)
        arrive(bench, 3, min_accuracy=0.8)
        arrive(bench, 4, min_accuracy=0.85)
        bench.complete()
        assert (sequences(bench.running()), bench.running().variant) == ([2], "small")
        bench.complete()
        assert (sequences(bench.running()), bench.running().variant) == ([3, 4], "big")


class TestCost:
    def test_a_cheap_variant_answers_though_another_is_planned(self) -> None:
        bench = bench_of()
        assert ran(arrive(bench, 1, max_core_ms=5.0))[0].variant == "small"
        bench.complete()
        assert completed(bench).core_ms == pytest.approx(2.5)
        assert completed(bench).missed == ()

    def test_less_than_the_least_is_refused_with_the_least(self) -> None:
        bench = bench_of("a", "b")
        arrive(bench, 1, max_core_ms=4.0)
        assert rejected(bench).nearest == NearestBounds(None, None, about(5.0))

    def test_what_the_stages_behind_cost_at_least_is_kept_back(self) -> None:
        # 13 core-ms: big (10) and small (2.5), or small twice; big at the first leaves 3 for the second.
        bench = bench_of("a", "b")
        assert ran(arrive(bench, 1, max_core_ms=13.0))[0].variant == "big"
        bench.complete(1)
        assert bench.running(2).variant == "small"
        bench.complete(2)
        assert completed(bench).core_ms == pytest.approx(12.5)

    def test_a_larger_batch_costs_each_less(self) -> None:
        # Alone `big` costs 10, too much; `small` costs 2.5. Four together with `big` cost each 2.5.
        bench = bench_of()
        bench.tell(VariantUnloaded(1, "small"))
        arrive(bench, 1)
        bench.ready(2, variants=("small",))
        for sequence in range(2, 7):
            arrive(bench, sequence, max_core_ms=2.6)
        # The first of them ran alone with `small`; the others wait, and are cheap enough together with `big`.
        bench.complete(1)
        assert sequences(bench.running(1)) == [3, 4, 5, 6]
        assert bench.running(1).variant == "big"

    def test_a_replica_of_more_cores_than_pay_is_not_taken(self) -> None:
        # Times that do not fall with cores: four cost four times as much.
        service = Service("ocr", 0.1, (Stage("main", (BIG,)),), reply_s=0.0)

        class Flat(TableTimes):
            def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
                return super().service_time_s(variant, bucket, rows, 1.0)

        bench = ServiceBench(service, Flat({1: 0.010}), plan_of(service))
        bench.ready(1, variants=("big",), cores=4.0)
        bench.ready(2, variants=("big",), cores=1.0)
        arrive(bench, 1, max_core_ms=20.0)
        assert bench.running(2)
        arrive(bench, 2, max_core_ms=20.0)  # waits for the cheap one
        assert len(bench.laws.running) == 1
        bench.complete(2)
        assert sequences(bench.running(2)) == [2]

    def test_what_has_become_dearer_is_finished_and_says_so(self) -> None:
        bench = bench_of("a", "b")
        arrive(bench, 1, max_core_ms=6.0)
        assert bench.running(1).variant == "small"
        bench.tell(VariantUnloaded(2, "small"))
        bench.complete(1)
        assert bench.running(2).variant == "big"
        bench.complete(2)
        assert completed(bench).missed == ("max_core_ms",)


class TestSeveralVariants:
    def test_an_answer_of_two_variants_says_who_gave_how_much(self) -> None:
        # 8 rows of 11 are the most of a batch; one replica has `big` alone, the other `small`.
        bench = bench_of(mix="small")
        bench.tell(VariantUnloaded(1, "small"))
        bench.ready(2, variants=("small",))
        arrive(bench, 1, rows=11)
        assert (bench.running(1).rows, bench.running(2).rows) == (3, 8)  # the faster one was asked first
        bench.complete(2)
        bench.complete(1)
        answer = completed(bench)
        assert answer.variants == {"main": "small"}
        assert answer.rows_by == {"main": {"small": 8, "big": 3}}
        assert answer.accuracy == pytest.approx((3 * 0.9 + 8 * 0.6) / 11)

    def test_one_variant_over_several_batches_is_one(self) -> None:
        bench = bench_of()
        arrive(bench, 1, rows=11)
        bench.complete()
        bench.complete()
        assert (completed(bench).rows_by, completed(bench).accuracy) == ({}, 0.9)


class TestTogether:
    def test_each_nearest_value_takes_the_others_as_asked(self) -> None:
        # big: 10 ms, 10 core-ms, 0.9; small: 2.5 ms, 2.5 core-ms, 0.6.
        bench = bench_of()
        arrive(bench, 1, slo_s=0.005, min_accuracy=0.8, max_core_ms=5.0)
        assert rejected(bench).nearest == NearestBounds(None, about(0.6), None)
        arrive(bench, 2, slo_s=0.005, min_accuracy=0.8)
        assert rejected(bench).nearest == NearestBounds(about(10.0), about(0.6), None)
        arrive(bench, 3, min_accuracy=0.8, max_core_ms=5.0)
        assert rejected(bench).nearest == NearestBounds(None, about(0.6), about(10.0))

    def test_where_no_value_alone_would_help_they_help_together(self) -> None:
        # 0.9 takes `big`: 10 ms and 10 core-ms.
        bench = bench_of()
        arrive(bench, 1, slo_s=0.001, min_accuracy=0.95, max_core_ms=1.0)
        assert rejected(bench).nearest == NearestBounds(about(10.0), about(0.9), about(10.0))
        arrive(bench, 2, slo_s=0.001, min_accuracy=0.8, max_core_ms=20.0)
        assert rejected(bench).nearest == NearestBounds(about(10.0), None, None)
        arrive(bench, 3, slo_s=0.001, min_accuracy=0.8, max_core_ms=1.0)
        assert rejected(bench).nearest == NearestBounds(about(10.0), None, about(10.0))

    def test_no_latency_above_the_objective_is_named(self) -> None:
        # `big` eleven times is 0.314 and takes 110 ms, the objective is 100 ms; nine times leaves 5 ms.
        bench = bench_of(*"abcdefghijk")
        arrive(bench, 1, min_accuracy=0.31)
        assert rejected(bench).nearest == NearestBounds(None, about(0.9**9 * 0.6**2), None)

    def test_a_latency_counts_from_where_the_clients_own_does(self) -> None:
        # The client asked for 60 ms and lost 52 of them on the way; `big` takes 10: 62 would do.
        bench = bench_of()
        arrive(bench, 1, slo_s=0.008, elapsed_s=0.052, min_accuracy=0.8)
        assert rejected(bench).nearest == NearestBounds(about(62.0), about(0.6), None)
        arrive(bench, 2, slo_s=0.001, elapsed_s=0.052)  # `small` would take 2.5 ms, but is not planned
        assert rejected(bench).reason == "deadline"
        assert rejected(bench).nearest == NearestBounds(about(62.0), None, None)

    def test_what_the_way_has_taken_of_the_objective_is_no_bound_of_the_clients(self) -> None:
        # The objective is 100 ms, and 99 are gone: no latency that the client could ask for would help.
        bench = bench_of()
        arrive(bench, 1, slo_s=0.001, elapsed_s=0.099)
        assert rejected(bench).reason == "deadline"
        assert rejected(bench).nearest is None
        arrive(bench, 2, slo_s=0.008, elapsed_s=0.092, min_accuracy=0.8)
        assert rejected(bench).nearest == NearestBounds(None, about(0.6), None)
        arrive(bench, 3, slo_s=0.011, elapsed_s=0.089)
        bench.complete(service_s=0.012)
        assert completed(bench, 3).late
        assert completed(bench, 3).missed == ()

    def test_a_busy_replica_says_when_to_come_again(self) -> None:
        bench = bench_of()
        arrive(bench, 1)  # `big` until 10 ms
        arrive(bench, 2, slo_s=0.015, min_accuracy=0.8)  # would end at 20 ms
        assert rejected(bench).reason == "bounds"
        assert rejected(bench).retry_after_s == pytest.approx(0.005)
        assert rejected(bench).nearest == NearestBounds(about(20.0), about(0.6), None)

    def test_cores_that_could_be_granted_count(self) -> None:
        bench = bench_of()
        bench.tell(CapacityChanged(1.0))
        arrive(bench, 1, slo_s=0.006, min_accuracy=0.8)  # 5 ms on two cores
        assert not ends(bench.last)

    def test_a_slow_variant_early_leaves_time_for_what_follows(self) -> None:
        # 0.54 within 14 ms: big (10) then small (2.5), or the other way round; big twice takes 20.
        bench = bench_of("a", "b")
        assert ran(arrive(bench, 1, slo_s=0.014, min_accuracy=0.5))[0].variant == "big"
        bench.complete(1)
        assert bench.running(2).variant == "small"
        bench.complete(2)
        assert not completed(bench).late

    def test_a_late_answer_misses_its_own_deadline_and_not_the_objective_s(self) -> None:
        bench = bench_of(rules=StageRules(drop="none", admission="open"))
        arrive(bench, 1, slo_s=0.05)
        bench.complete(service_s=0.06)
        assert completed(bench).missed == ("max_latency_ms",)
        arrive(bench, 2)
        bench.complete(service_s=0.2)
        assert completed(bench, 2).late
        assert completed(bench, 2).missed == ()


class TestOtherRules:
    @pytest.mark.parametrize("drop", ["none", "age", "infeasible", "early", "budget"])
    def test_each_drop_rule_keeps_to_bounds(self, drop: str) -> None:
        rules = StageRules(drop=drop, age_s_max=1.0)  # type: ignore[arg-type]
        bench = bench_of(mix="small", rules=rules)
        assert ran(arrive(bench, 1, min_accuracy=0.8))[0].variant == "big"
        bench.complete()
        assert ran(arrive(bench, 2, max_core_ms=3.0))[0].variant == "small"

    def test_a_queue_a_replica_keeps_to_them_as_well(self) -> None:
        bench = bench_of(rules=StageRules(routing="assigned"), mix="small")
        bench.ready(2, variants=("small",))
        for sequence in range(1, 5):
            arrive(bench, sequence, min_accuracy=0.8)
        assert [(batch.replica_id, batch.variant) for batch in bench.laws.running.values()] == [(1, "big")]

    def test_a_plan_may_change_meanwhile(self) -> None:
        bench = bench_of(mix="small")
        arrive(bench, 1)
        arrive(bench, 2, min_accuracy=0.8)
        bench.tell(PlanPublished(plan_of(bench.service, rules=StageRules(routing="assigned"))))
        bench.tell(ReplicaDraining(1))
        bench.complete()
        assert batches(bench.ready(3, variants=BOTH))[0].variant == "big"
