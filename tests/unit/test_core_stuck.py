"""Requests whose batch did not end: apart from each other, after all others, and once more at most.

One row takes 10 ms on one core and eight take 20 ms.
"""

import pytest

from steelyard.core.commands import Complete, Fail, Shed
from steelyard.core.events import ReplicaGone
from steelyard.core.plan import StageRules
from steelyard.core.types import RequestId
from steelyard.testing.bench import ServiceBench, batches, ends, sequences
from steelyard.testing.builders import TableTimes, make_plan, make_service

TIMES = TableTimes({1: 0.010, 8: 0.020})
STUCK = "stuck: a batch did not end within 1 s"
PATIENT = StageRules(drop="none", admission="open")


def bench_with_a_stuck_batch(rules: StageRules | None = None, *, slo_s: float = 4.0) -> ServiceBench:
    """Requests 2 to 4 in a batch that does not end within a second; 5 and 6, due later, wait meanwhile."""
    service = make_service(slo_s=slo_s, retries_max=2)
    bench = ServiceBench(service, TIMES, make_plan(service, rules=rules or StageRules()))
    bench.ready(1)
    bench.arrive(slo_s=slo_s)
    for _ in range(3):
        bench.arrive(slo_s=slo_s)
    bench.complete(1)
    assert sequences(bench.running(1)) == [2, 3, 4]
    for _ in range(2):
        bench.now_s += 0.4
        bench.arrive(slo_s=slo_s)
    bench.now_s += 0.2
    assert ends(bench.tell(ReplicaGone(1, expected=False, reason=STUCK, is_stuck=True))) == {}
    return bench


def order_of(bench: ServiceBench, first_replica: int, count: int) -> list[list[int]]:
    """What runs on a new replica, batch by batch."""
    bench.ready(first_replica)
    order = [sequences(bench.running(first_replica))]
    for _ in range(count - 1):
        bench.complete(first_replica)
        order += [sequences(batch) for batch in batches(bench.last)]
    return order


def test_suspects_run_alone_and_after_who_was_not_there() -> None:
    # By deadline 2, 3 and 4 would be first, and 5 and 6 would wait for as long as it takes to find the one
    # to blame, and for a new worker, once more.
    bench = bench_with_a_stuck_batch()
    assert order_of(bench, 2, 4) == [[5, 6], [2], [3], [4]]
    assert isinstance(ends(bench.complete(2))[4], Complete)


def test_who_comes_later_goes_first_too() -> None:
    bench = bench_with_a_stuck_batch()
    bench.ready(2)
    bench.arrive(slo_s=4.0)
    order = [sequences(bench.running(2))]
    for _ in range(2):
        bench.complete(2)
        order += [sequences(batch) for batch in batches(bench.last)]
    assert order == [[5, 6], [7], [2]]


def test_a_batch_that_does_not_end_twice_fails_its_request_and_no_other() -> None:
    bench = bench_with_a_stuck_batch()
    assert order_of(bench, 2, 2) == [[5, 6], [2]]
    bench.now_s += 1.0
    end = ends(bench.tell(ReplicaGone(2, expected=False, reason=STUCK, is_stuck=True)))
    assert list(end) == [2]
    assert isinstance(end[2], Fail)
    assert end[2].reason == "worker_lost"
    assert end[2].message == f"worker lost ({STUCK}); its batch did not end twice"
    assert order_of(bench, 3, 2) == [[3], [4]]
    assert isinstance(ends(bench.complete(3))[4], Complete)
    assert (bench.machine.counts.failed, bench.machine.counts.completed) == (1, 5)


def test_a_worker_that_is_killed_condemns_nobody() -> None:
    # Whoever was alone on a worker that somebody killed may be innocent: that is what retries are for.
    bench = bench_with_a_stuck_batch()
    assert order_of(bench, 2, 2) == [[5, 6], [2]]
    assert ends(bench.tell(ReplicaGone(2, expected=False, reason="killed by SIGKILL"))) == {}
    assert order_of(bench, 3, 3) == [[2], [3], [4]]


def test_suspects_that_others_leave_no_time_are_shed_when_they_are_due() -> None:
    bench = bench_with_a_stuck_batch(slo_s=1.5)
    # 2 to 4 came at 0 and nobody is there to run them: they go at 1.5 s, and a millisecond's lag of sheds.
    while not (shed := ends(bench.wake())):
        assert bench.now_s < 1.5
    assert shed[2] == Shed(RequestId(0, 2), "deadline", lost=1)
    assert bench.now_s == pytest.approx(1.501)


def test_first_in_first_out_lets_them_run_last_as_well() -> None:
    bench = bench_with_a_stuck_batch(StageRules(order="fifo", drop="none", admission="open"))
    assert order_of(bench, 2, 2) == [[5, 6], [2]]


def test_a_suspect_is_given_the_time_to_its_deadline_or_half_of_it_while_others_wait() -> None:
    # Due at 4 s, 1 s has passed: 2 and 3 see somebody wait behind them, 4 does not.
    bench = bench_with_a_stuck_batch()
    bench.ready(2)
    assert bench.running(2).given_s is None  # no suspects
    given = []
    for _ in range(3):
        bench.complete(2)
        due_s = 4.0 - bench.now_s
        given.append((bench.running(2).given_s or 0.0) / due_s)
    assert given == pytest.approx([0.5, 0.5, 1.0])
