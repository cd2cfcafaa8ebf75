"""Which variant runs a batch: `fit` lowers accuracy before anything is dropped, and rises without flapping.

One row takes 10 ms with `big` and eight take 40 ms, straight between: l(b) = 10 + 30 (b - 1) / 7 ms;
`small` takes a quarter. So `big` does 200 rows a second at best, `small` 800.
"""

from itertools import pairwise

import pytest

from steelyard.core.commands import Complete
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.testing.bench import ServiceBench, batches, ends, sequences
from steelyard.testing.builders import TableTimes, make_plan, make_request, make_service, times_by_stage
from steelyard.testing.one_machine import GivenReplica, OneMachine

TIMES = TableTimes({1: 0.010, 8: 0.040}, factors={"small": 0.25})
BOTH = ("big", "small")
SERVICE = make_service(variants=BOTH, slo_s=0.4)
FIT = make_plan(SERVICE, rules=StageRules(choice="fit"), shares={"big": 1.0, "small": 0.0})


def bench_with(*, rules: StageRules | None = None) -> ServiceBench:
    plan = FIT if rules is None else make_plan(SERVICE, rules=rules, shares={"big": 1.0, "small": 0.0})
    bench = ServiceBench(SERVICE, TIMES, plan)
    bench.ready(variants=BOTH)
    return bench


def test_the_most_accurate_answers_while_nothing_comes_too_late() -> None:
    bench = bench_with()
    assert batches(bench.arrive(slo_s=0.011))[0].variant == "big"


def test_a_head_that_only_the_fast_variant_can_finish_takes_that_one() -> None:
    bench = bench_with()
    assert batches(bench.arrive(slo_s=0.009))[0].variant == "small"


def test_the_margin_of_the_0_99_quantile_counts() -> None:
    # 10 ms at the median, 15 at the 0.99 quantile: too much for 12 ms.
    bench = ServiceBench(SERVICE, TableTimes({1: 0.010}, tail=1.5, factors={"small": 0.25}), FIT)
    bench.ready(variants=BOTH)
    assert batches(bench.arrive(slo_s=0.012))[0].variant == "small"


def test_what_waits_behind_the_batch_decides() -> None:
    # Free at 10 ms; 24 rows wait, due at 100. `big`: batches of 8 end at 50, 90 and 130. That of `small` ends
    # at 20, then two more with `small` at 30 and 40: in time. So the first is answered by `small`.
    bench = bench_with()
    bench.arrive()
    for _ in range(24):
        bench.arrive(slo_s=0.1)
    bench.complete()
    assert bench.running().variant == "small"
    assert sequences(bench.running()) == list(range(2, 10))


def test_two_batches_that_are_both_in_time_are_answered_by_the_accurate_variant() -> None:
    # 16 rows: `big` ends at 50 and 90 ms; due at 100 the second has 90 ms from now on and may take 0.9 of
    # them: 81.
    bench = bench_with()
    bench.arrive()
    for _ in range(16):
        bench.arrive(slo_s=0.1)
    bench.complete()
    assert bench.running().variant == "big"


def test_it_rises_when_half_of_the_time_of_the_backlog_is_free_again() -> None:
    bench = bench_with()
    bench.arrive()
    for _ in range(24):
        bench.arrive(slo_s=0.1)
    bench.complete()  # now 10 ms, `small` until 20
    # At 20 ms 16 rows wait: `big` would end at 60 and 100, the second's 80 ms of 80. No.
    bench.complete()
    assert bench.running().variant == "small"
    # At 30 ms 8 rows wait, due at 100: `big` would end at 70, nothing is behind it.
    bench.complete()
    assert bench.running().variant == "big"


def test_a_lowered_stage_asks_for_more_room_than_one_that_is_not() -> None:
    # 16 rows with 90 ms: `big` takes 80. Kept (0.9 of 90 = 81), and not risen to (0.5 of 90 = 45).
    for lowered, expected in ((False, "big"), (True, "small")):
        bench = bench_with()
        if lowered:
            bench.arrive(slo_s=0.009)  # `small`, 2.5 ms
        else:
            bench.arrive()  # `big`, 10 ms
        for _ in range(16):
            bench.arrive(slo_s=0.090 + bench.running().expected_s)
        bench.complete()
        assert bench.running().variant == expected


def test_nothing_is_shed_that_the_fast_variant_could_save() -> None:
    # 40 rows due at 110 ms: `small` needs five batches of 10 ms from 10 ms on, `big` 40 ms each.
    bench = bench_with()
    bench.arrive()
    for _ in range(40):
        bench.arrive(slo_s=0.11)
    done = dict(ends(bench.last))
    while bench.laws.running:
        done |= ends(bench.complete())
    assert len(done) == 41
    assert all(isinstance(end, Complete) and not end.late for end in done.values())


@pytest.mark.parametrize("drop", ["none", "infeasible", "early"])
def test_each_drop_rule_asks(drop: str) -> None:
    bench = bench_with(rules=StageRules(choice="fit", drop=drop))  # type: ignore[arg-type]
    assert batches(bench.arrive(slo_s=0.009))[0].variant == "small"


def test_one_replica_counts_on_another_that_has_the_fast_variant_only() -> None:
    # 16 rows due at 65 ms. With `big` on replica 1 until 50 ms, `small` on replica 2 does the other batch
    # from 10 ms on in 10 ms: in time.
    bench = bench_with()
    bench.arrive()
    bench.ready(2, variants=("small",))
    for _ in range(17):
        bench.arrive(slo_s=0.065)
    bench.complete(1)
    assert bench.running(1).variant == "big"


def test_a_load_at_the_threshold_moves_it_seldom() -> None:
    """300 rows a second where `big` does 200 and `small` 800; the backlog has 400 ms.

    Between 0.5 and 0.9 of 400 ms `big` does 32 rows; they collect at 100 rows a second in 320 ms, and go at
    500 a second in 64. So one cycle of two switches takes about 384 ms: about 52 switches in 10 s, and not
    one for every other batch, of which there are several hundred.
    """
    machine = ServiceMachine(SERVICE, times_by_stage(SERVICE, TIMES), FIT)
    arrivals = [make_request(n, n / 300, slo_s=0.4) for n in range(3000)]

    def sample_s(variant: str, bucket: int, rows: int, cores: float) -> float:
        return TIMES.service_time_s(variant, bucket, rows, cores)

    run = OneMachine(machine, [GivenReplica(1.0, BOTH)], arrivals, sample_s)
    outcomes = run.run()
    assert all(isinstance(outcome.end, Complete) and not outcome.end.late for outcome in outcomes.values())
    variants = [batch.variant for _, batch in run.batches]
    switches = sum(before != after for before, after in pairwise(variants))
    assert 20 <= switches <= 80
    assert len(variants) >= 5 * switches
    # By rows, `big` answers x and `small` 300 - x of 300 a second: x / 200 + (300 - x) / 800 = 1: x is 167,
    # 0.56 of them; the backlog of the beginning adds at most 80 of 3000.
    big_rows = sum(batch.rows for _, batch in run.batches if batch.variant == "big")
    assert 0.5 < big_rows / 3000 < 0.59


def test_a_replica_is_counted_with_what_it_ran_last() -> None:
    # At 10 ms 40 rows wait, due at 105: five batches. With `big` two replicas end them at 50, 50, 90, 90 and
    # 130 ms, too late; if the other one is at `small`, it does four of them until 50 ms.
    for second, expected in (("big", "small"), ("small", "big")):
        bench = bench_with()
        bench.arrive()
        bench.ready(2, variants=BOTH)
        bench.arrive(slo_s=0.009 if second == "small" else 0.1)  # a head that only `small` can finish
        assert bench.running(2).variant == second
        for _ in range(40):
            bench.arrive(slo_s=0.105)
        bench.complete(1)
        assert bench.running(1).variant == expected


def test_of_four_replicas_only_as_many_are_lowered_as_the_load_needs() -> None:
    """1,100 rows a second where four do 800 with `big`, and three with one at `small` 600 + 800 = 1,400.

    One is lowered for a part of the time, the others stay: x / 800 + (1100 - x) / 200 = 4 replicas, so x, the
    rows a second of `small`, is 400. If all went down and up together, a cycle would be eight switches.
    """
    machine = ServiceMachine(SERVICE, times_by_stage(SERVICE, TIMES), FIT)
    arrivals = [make_request(n, n / 1100, slo_s=0.4) for n in range(5500)]

    def sample_s(variant: str, bucket: int, rows: int, cores: float) -> float:
        return TIMES.service_time_s(variant, bucket, rows, cores)

    run = OneMachine(machine, [GivenReplica(1.0, BOTH)] * 4, arrivals, sample_s)
    outcomes = run.run()
    assert all(isinstance(outcome.end, Complete) and not outcome.end.late for outcome in outcomes.values())
    by_replica: dict[int, list[str]] = {}
    for _, batch in run.batches:
        by_replica.setdefault(batch.replica_id, []).append(batch.variant)
    switches = sum(
        before != after for variants in by_replica.values() for before, after in pairwise(variants)
    )
    assert switches <= 40
    small_rows = sum(batch.rows for _, batch in run.batches if batch.variant == "small")
    # Of 5500 in 5 s; but the backlog at their end is up to 0.36 s more, with `big`: (27.5 - 21.44) * 800 / 3.
    assert 0.29 < small_rows / 5500 < 0.37
