"""Who is refused at arrival, and when to come again.

One row takes 10 ms on one core and eight take 20 ms: 400 rows a second at the best batch.
"""

import pytest

from steelyard.core.commands import Reject
from steelyard.core.events import CapacityChanged, ReplicaDraining
from steelyard.core.plan import StageRules
from steelyard.core.types import RequestId
from steelyard.testing.bench import ServiceBench, ends
from steelyard.testing.builders import TableTimes, make_plan, make_service

TIMES = TableTimes({1: 0.010, 8: 0.020})


def bench_with(rules: StageRules | None = None, *, queue_rows_max: int = 4096) -> ServiceBench:
    service = make_service(queue_rows_max=queue_rows_max)
    return ServiceBench(service, TIMES, make_plan(service, rules=rules))


def refusal(bench: ServiceBench) -> Reject | None:
    """Of the last arrival."""
    end = next(iter(ends(bench.last).values()), None)
    return end if isinstance(end, Reject) else None


def test_what_no_replica_could_ever_finish_is_refused_for_good() -> None:
    bench = bench_with()
    bench.ready()
    bench.arrive(slo_s=0.009)
    end = refusal(bench)
    assert end is not None
    assert (end.reason, end.retry_after_s) == ("deadline", None)
    assert end.nearest is not None
    assert end.nearest.max_latency_ms == pytest.approx(10.0)  # 9 were asked for


def test_it_is_admitted_if_grantable_cores_would_save_it() -> None:
    bench = bench_with()
    bench.ready()
    bench.tell(CapacityChanged(1.0))
    bench.arrive(slo_s=0.009)  # 5 ms on two cores
    assert refusal(bench) is None
    # It waits for the cores: what the replica has now is not enough, and it is not lost before 9 - 5 = 4 ms.
    assert bench.laws.running == {}
    assert bench.wake_s == pytest.approx(0.005)
    bench.resize(1, 2.0)
    assert bench.running().expected_s == pytest.approx(0.005)


def test_a_busy_replica_counts_from_its_expected_end() -> None:
    bench = bench_with()
    bench.ready()
    bench.arrive()
    bench.arrive(slo_s=0.020)  # free at 10 ms, done at 20
    assert refusal(bench) is None
    bench.arrive(slo_s=0.019)
    end = refusal(bench)
    assert end is not None
    assert end.retry_after_s == pytest.approx(0.001)


def test_the_backlog_counts_in_best_batches() -> None:
    bench = bench_with(StageRules(drop="infeasible"))
    bench.ready()
    bench.arrive()
    # Free at 10 ms. Until 60 ms 0.05 * 400 = 20 rows can be finished.
    for _ in range(20):
        bench.arrive(slo_s=0.06)
        assert refusal(bench) is None
    bench.arrive(slo_s=0.06)
    end = refusal(bench)
    assert end is not None
    assert end.reason == "deadline"
    assert end.retry_after_s == pytest.approx(1 / 400)


def test_only_what_goes_before_it_counts() -> None:
    bench = bench_with(StageRules(drop="infeasible"))
    bench.ready()
    bench.arrive()
    for _ in range(20):
        bench.arrive(slo_s=0.06)
    bench.arrive(slo_s=0.03)  # more urgent than all of them: 0.02 * 400 = 8 rows by then
    assert refusal(bench) is None


def test_fifo_counts_all_that_came_before() -> None:
    bench = bench_with(StageRules(order="fifo", drop="infeasible"))
    bench.ready()
    bench.arrive()
    for _ in range(20):
        bench.arrive(slo_s=0.06)
    bench.arrive(slo_s=0.03)
    assert refusal(bench) is not None


def test_under_early_drop_urgent_requests_do_not_keep_out_those_they_would_be_shed_for() -> None:
    bench = bench_with()
    bench.ready()
    bench.arrive()
    # Free at 10 ms, the first best batch ends at 30 ms; 8 rows can be finished by then.
    for _ in range(8):
        bench.arrive(slo_s=0.0299)
    bench.arrive(slo_s=0.0305)
    # 20.5 ms * 400 = 8.2 rows < 8 + 1, but the eight before it cannot fill a batch in time, and it can.
    assert refusal(bench) is None


def test_a_starting_replica_counts_from_its_expected_ready_time() -> None:
    bench = bench_with()
    bench.starting(1, ready_s=0.5)
    bench.arrive(slo_s=0.4)
    end = refusal(bench)
    assert end is not None
    assert end.retry_after_s == pytest.approx(0.11)  # ready at 500, done at 510
    bench.arrive(slo_s=0.6)
    assert refusal(bench) is None


def test_a_parked_replica_counts_if_there_are_cores_to_wake_it() -> None:
    bench = bench_with()
    bench.ready(1, cores=0.0)
    bench.tell(CapacityChanged(2.0))
    bench.arrive(slo_s=0.009)
    assert refusal(bench) is None


def test_draining_replicas_do_not_count() -> None:
    bench = bench_with()
    bench.ready(1)
    bench.ready(2, cores=0.5)
    bench.tell(ReplicaDraining(1))
    bench.arrive(slo_s=0.015)  # 20 ms on half a core
    assert refusal(bench) is not None


def test_without_any_replica_requests_wait_until_they_are_due() -> None:
    bench = bench_with()
    bench.arrive(slo_s=0.05)
    assert refusal(bench) is None
    assert bench.wake_s == pytest.approx(0.051)
    bench.wake()
    assert bench.machine.counts.shed == 1


def test_a_full_queue_refuses_and_says_when_there_is_room() -> None:
    bench = bench_with(StageRules(admission="open", drop="none"), queue_rows_max=10)
    bench.ready()
    bench.arrive()
    bench.arrive(rows=8)
    assert refusal(bench) is None
    bench.arrive(rows=3)
    end = refusal(bench)
    assert end is not None
    assert end.reason == "queue_full"
    assert end.retry_after_s == pytest.approx(1 / 400)
    bench.arrive(rows=11)
    assert refusal(bench) == Reject(RequestId(0, 4), "queue_full", None)


def test_open_admits_what_is_infeasible() -> None:
    bench = bench_with(StageRules(admission="open", drop="none"))
    bench.ready()
    bench.arrive(slo_s=0.001)
    assert refusal(bench) is None


def test_a_disturbance_does_not_close_admission_for_good() -> None:
    bench = bench_with()
    bench.ready()
    for _ in range(20):
        bench.arrive(slo_s=0.1)
        bench.complete(service_s=0.08)  # eight times the profile
    bench.arrive(slo_s=0.05)
    assert refusal(bench) is not None
    # Nothing is observed any more; after three seconds the correction has fallen from 8 to 8 ** (1/8) = 1.3.
    bench.now_s += 3.0
    bench.arrive(slo_s=0.05)
    assert refusal(bench) is None
