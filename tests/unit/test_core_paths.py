"""Variants by the path that a request came, and rerouting: a pipeline of two stages, `a` and then `b`.

One row takes 10 ms with `big`, 2.5 ms with `small`; more rows take as long.
"""

from collections import Counter

from steelyard.core.commands import Complete, Shed
from steelyard.core.events import VariantUnloaded
from steelyard.core.plan import PathShares, ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.types import Service, Stage, Variant
from steelyard.testing.bench import ServiceBench, ends
from steelyard.testing.builders import TableTimes

TIMES = TableTimes({1: 0.010}, factors={"small": 0.25})
BOTH = ("big", "small")
VARIANTS = (Variant("big", 0.9, batch_rows_max=8), Variant("small", 0.6, batch_rows_max=8))
TABLE = StageRules(choice="table", drop="none", admission="open")
LOKI = StageRules(choice="table", drop="budget", admission="open", reroutes=True)


def shares(**of: float) -> tuple[VariantShare, ...]:
    return tuple(VariantShare(variant, share) for variant, share in of.items())


def bench_of(
    paths: tuple[PathShares, ...],
    *,
    rules: StageRules = TABLE,
    mix: tuple[VariantShare, ...] | None = None,
    budgets_s: tuple[float | None, float | None] = (None, None),
) -> ServiceBench:
    service = Service("ocr", 0.1, (Stage("a", VARIANTS), Stage("b", VARIANTS, ("a",))), reply_s=0.0)
    mix = mix or shares(big=0.5, small=0.5)
    replicas: tuple[ReplicaPlan, ...] = ()
    first = StagePlan(replicas, mix, batch_rows_max=8, rules=rules, budget_s=budgets_s[0])
    second = StagePlan(
        replicas, shares(big=1.0), batch_rows_max=8, rules=rules, paths=paths, budget_s=budgets_s[1]
    )
    bench = ServiceBench(service, TIMES, ServicePlan("ocr", {"a": first, "b": second}))
    bench.ready(1, stage="a", variants=("big",))
    bench.ready(2, stage="a", variants=("small",))
    bench.ready(3, stage="b", variants=("big",))
    bench.ready(4, stage="b", variants=("small",))
    return bench


def run(bench: ServiceBench) -> dict[int, Complete]:
    """Run all batches to their ends; returns the answers."""
    done: dict[int, Complete] = {}
    while bench.laws.running:
        first = min(bench.laws.running.values(), key=lambda batch: batch.batch_id)
        bench.complete(first.replica_id)
        done |= {n: end for n, end in ends(bench.last).items() if isinstance(end, Complete)}
    return done


def test_the_path_says_which_variant_follows() -> None:
    bench = bench_of((PathShares(("big",), shares(small=1.0)), PathShares(("small",), shares(big=1.0))))
    for _ in range(6):
        bench.arrive()
    seen = {(end.variants["a"], end.variants["b"]) for end in run(bench).values()}
    assert seen == {("big", "small"), ("small", "big")}


def test_shares_of_a_path_are_kept_in_turn() -> None:
    bench = bench_of((PathShares(("big",), shares(big=0.75, small=0.25)),), mix=shares(big=1.0))
    done: dict[int, Complete] = {}
    for _ in range(8):
        bench.arrive()
        done |= run(bench)
    assert Counter(end.variants["b"] for end in done.values()) == {"big": 6, "small": 2}


def test_a_path_that_is_missing_takes_the_mix() -> None:
    bench = bench_of((PathShares(("small",), shares(small=1.0)),), mix=shares(big=1.0))
    bench.arrive()
    assert run(bench)[1].variants == {"a": "big", "b": "big"}


def test_the_first_stage_keeps_its_mix_by_visit() -> None:
    bench = bench_of((), mix=shares(big=0.5, small=0.5))
    for _ in range(8):
        bench.arrive()
    assert Counter(end.variants["a"] for end in run(bench).values()) == {"big": 4, "small": 4}


def test_a_variant_that_goes_leaves_its_work_to_others() -> None:
    bench = bench_of((), mix=shares(big=1.0))
    bench.arrive()
    bench.arrive()  # waits for `big`
    bench.tell(VariantUnloaded(1, "big"))
    assert bench.running(2).variant == "small"
    assert len(run(bench)) == 2


def test_what_waits_for_its_variant_is_not_taken_by_another() -> None:
    bench = bench_of((), mix=shares(big=1.0))
    bench.arrive()
    bench.arrive()
    assert [batch.replica_id for batch in bench.laws.running.values()] == [1]


def test_budget_sheds_a_head_that_would_overrun_its_part() -> None:
    # 15 ms at the first stage. The second request would end at 20 ms: shed. The third came at 8 and is not.
    rules = StageRules(choice="table", drop="budget", admission="open")
    bench = bench_of((), mix=shares(big=1.0), rules=rules, budgets_s=(0.015, None))
    bench.arrive()
    bench.arrive()
    bench.now_s = 0.008
    bench.arrive()
    bench.now_s = 0.0
    bench.complete(1)
    assert isinstance(ends(bench.last)[2], Shed)
    assert bench.running(1).slices[0].request_id.sequence == 3


def test_without_a_budget_it_is_twice_the_planned_batch() -> None:
    # 20 ms, of which the second request has waited for 15 when the first is done, and would take 10.
    rules = StageRules(choice="table", drop="budget", admission="open")
    bench = bench_of((), mix=shares(big=1.0), rules=rules)
    bench.arrive()
    bench.arrive()
    bench.now_s = 0.005
    bench.complete(1)
    assert isinstance(ends(bench.last)[2], Shed)


def test_a_doomed_request_takes_the_most_accurate_way_that_is_still_in_time() -> None:
    # Overrun at the first stage as above, but due at 100 ms: big and big are still in time, by 30 ms.
    bench = bench_of((), mix=shares(big=1.0), rules=LOKI, budgets_s=(0.015, None))
    bench.arrive()
    bench.arrive()
    bench.complete(1)
    assert not any(isinstance(end, Shed) for end in ends(bench.last).values())
    assert run(bench)[2].variants == {"a": "big", "b": "big"}


def test_it_takes_faster_variants_where_it_must() -> None:
    # Due at 25 ms, overrun at 10. Of the 15 ms left big and small take 12.5, in any order, big twice 20. The
    # first request goes on with `small`, so `big` is free at the second stage.
    table = (PathShares(("big",), shares(small=1.0)), PathShares(("small",), shares(small=1.0)))
    bench = bench_of(table, mix=shares(big=1.0), rules=LOKI, budgets_s=(0.015, None))
    bench.arrive()
    bench.arrive(slo_s=0.025)
    bench.complete(1)
    end = run(bench)[2]
    assert sorted(end.variants.values()) == ["big", "small"]
    assert not end.late


def test_without_a_way_it_is_shed() -> None:
    # Of the 4 ms left small and small take 5.
    bench = bench_of((), mix=shares(big=1.0), rules=LOKI, budgets_s=(0.015, None))
    bench.arrive()
    bench.arrive(slo_s=0.014)
    bench.complete(1)
    assert isinstance(ends(bench.last)[2], Shed)
