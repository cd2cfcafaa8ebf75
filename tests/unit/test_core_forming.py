"""When a batch that is not full leaves: hold, full, timeout. Times as in `test_core_assembly`."""

import pytest

from steelyard.core.events import ServiceDraining
from steelyard.core.plan import StageRules
from steelyard.testing.bench import ServiceBench, batches, sequences
from steelyard.testing.builders import TableTimes, make_plan, make_service


def bench_with(rules: StageRules, *, hold_s_max: float = 0.0, tail: float = 1.0) -> ServiceBench:
    service = make_service()
    plan = make_plan(service, rules=rules, hold_s_max=hold_s_max)
    bench = ServiceBench(service, TableTimes({1: 0.010, 8: 0.020}, tail=tail), plan)
    bench.ready()
    return bench


def test_an_idle_replica_takes_what_is_queued_at_once() -> None:
    bench = bench_with(StageRules())
    assert sequences(batches(bench.arrive())[0]) == [1]
    assert bench.wake_s is None


def test_hold_leaves_after_hold_s_max() -> None:
    bench = bench_with(StageRules(), hold_s_max=0.015)
    assert batches(bench.arrive()) == []
    assert bench.wake_s == pytest.approx(0.015)
    bench.now_s = 0.004
    assert batches(bench.arrive()) == []
    assert sequences(batches(bench.wake())[0]) == [1, 2]


def test_hold_leaves_when_full() -> None:
    bench = bench_with(StageRules(), hold_s_max=0.05)
    for _ in range(7):
        assert batches(bench.arrive()) == []
    assert len(sequences(batches(bench.arrive())[0])) == 8


def test_hold_leaves_at_the_latest_start_for_one_more_row_less_the_margin() -> None:
    # Due at 40 ms. One more row: l(2) = 11.43 ms; its 0.99 quantile is 1.5 times that, so the margin is 5.71.
    # 40 - 11.43 - 5.71 = 22.86 ms, before the 30 ms of the plan.
    bench = bench_with(StageRules(), hold_s_max=0.03, tail=1.5)
    bench.arrive(slo_s=0.04)
    assert bench.wake_s == pytest.approx(0.02286, abs=1e-5)
    assert sequences(batches(bench.wake())[0]) == [1]


def test_full_waits_for_exactly_batch_rows_max() -> None:
    bench = bench_with(StageRules(order="fifo", forming="full", drop="none", admission="open"))
    for _ in range(7):
        assert batches(bench.arrive()) == []
    assert bench.wake_s is None
    assert batches(bench.arrive())[0].rows == 8


def test_full_is_full_when_the_next_request_does_not_fit() -> None:
    bench = bench_with(StageRules(order="fifo", forming="full", drop="none", admission="open"))
    bench.arrive(rows=6)
    assert batches(bench.arrive(rows=3))[0].rows == 6


def test_full_of_one_key_does_not_wait_behind_another() -> None:
    bench = bench_with(StageRules(order="fifo", forming="full", drop="none", admission="open"))
    bench.arrive(key="y")
    for _ in range(7):
        bench.arrive(key="x")
    assert batches(bench.arrive(key="x"))[0].rows == 8


def test_full_sheds_what_a_full_batch_would_make_late() -> None:
    bench = bench_with(StageRules(forming="full", drop="infeasible", admission="open"))
    bench.arrive(slo_s=0.03)
    # Eight rows take 20 ms, so it is lost after 10 ms, although alone it would need 10 ms only.
    assert bench.wake_s == pytest.approx(0.011)
    bench.wake()
    assert bench.laws.ends


def test_timeout_counts_from_the_heads_arrival() -> None:
    bench = bench_with(
        StageRules(order="fifo", forming="timeout", timeout_s=0.05, drop="none", admission="open")
    )
    bench.now_s = 0.1
    bench.arrive()
    bench.now_s = 0.12
    bench.arrive()
    assert bench.wake_s == pytest.approx(0.15)
    assert sequences(batches(bench.wake())[0]) == [1, 2]


@pytest.mark.parametrize("forming", ["full", "timeout"])
def test_a_draining_service_waits_for_nobody(forming: str) -> None:
    rules = StageRules(forming=forming, timeout_s=9.0, drop="none", admission="open")  # type: ignore[arg-type]
    bench = bench_with(rules)
    bench.arrive()
    assert sequences(batches(bench.tell(ServiceDraining()))[0]) == [1]


def test_who_runs_alone_waits_for_nobody() -> None:
    bench = bench_with(StageRules(order="fifo", forming="full", drop="none", admission="open"))
    for _ in range(8):
        bench.arrive()
    # The batch of eight fails; each of them runs again alone, at once, although no batch is full.
    assert sequences(batches(bench.fail())[0]) == [1]
