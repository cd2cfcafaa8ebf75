"""The life of requests, batches and replicas in a service machine, one story each.

One row takes 10 ms on one core and eight take 20 ms, unless a test says else.
"""

import gc

import pytest

from steelyard.core.commands import (
    Complete,
    Discard,
    Fail,
    Reject,
    Release,
    ReleaseOutputs,
    ReportWindow,
    RunBatch,
    ServiceDrained,
    Shed,
    StopReplica,
)
from steelyard.core.errors import SpecError
from steelyard.core.events import (
    BatchCompleted,
    CapacityChanged,
    PlanPublished,
    ReplicaDraining,
    ReplicaGone,
    ServiceDraining,
    VariantLoaded,
    VariantUnloaded,
    WindowClosed,
    Woken,
)
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.snapshot import BusyCell
from steelyard.core.types import RequestId, Service, Stage, Variant
from steelyard.testing.bench import ServiceBench, batches, ends, sequences
from steelyard.testing.builders import STAGE, VARIANT, TableTimes, make_plan, make_service

TIMES = TableTimes({1: 0.010, 8: 0.020})
PATIENT = StageRules(drop="none", admission="open")


def patient_bench(*, retries_max: int = 2, replicas: int = 1) -> ServiceBench:
    """A machine that sheds and rejects nothing, so that only what a test does matters."""
    service = make_service(retries_max=retries_max)
    bench = ServiceBench(service, TIMES, make_plan(service, rules=PATIENT))
    for replica_id in range(1, replicas + 1):
        bench.ready(replica_id)
    return bench


def test_a_request_is_run_answered_and_released() -> None:
    bench = ServiceBench(make_service(), TIMES)
    bench.ready()
    (run,) = bench.arrive()
    assert run == RunBatch(1, 1, STAGE, VARIANT, 1, run.slices, expected_s=0.010)  # type: ignore[union-attr]
    bench.now_s = 0.002
    commands = bench.tell(BatchCompleted(1, 1, started_s=0.001, finished_s=0.002))
    assert [type(command) for command in commands] == [Complete, Release, ReleaseOutputs]
    answer = ends(commands)[1]
    assert isinstance(answer, Complete)
    assert (answer.queue_s, answer.service_s, answer.late) == (0.001, 0.001, False)


def test_late_is_what_cannot_reach_its_client_in_time() -> None:
    service = make_service(reply_s=0.005)
    bench = ServiceBench(service, TIMES, make_plan(service, rules=PATIENT))
    bench.ready()
    bench.arrive(slo_s=0.1)
    # Done at 96 ms, and the reply takes 5 more: 101 > 100.
    end = ends(bench.complete(service_s=0.096))[1]
    assert isinstance(end, Complete)
    assert end.late
    assert bench.machine.counts.late == 1


def test_the_next_batch_is_dispatched_before_the_answers() -> None:
    bench = patient_bench()
    bench.arrive()
    bench.arrive()
    kinds = [type(command) for command in bench.complete()]
    assert kinds.index(RunBatch) < kinds.index(Complete)


def test_many_rows_are_split_run_apart_and_answered_as_one() -> None:
    bench = patient_bench(replicas=2)
    bench.arrive(rows=19)  # 8 + 8 + 3
    slices = [(batch.replica_id, batch.slices[0]) for batch in batches(bench.last)]
    assert [(replica_id, part.row_start, part.rows) for replica_id, part in slices] == [(1, 0, 8), (2, 8, 8)]
    assert ends(bench.complete(2)) == {}  # its place is taken by the last three rows
    assert ends(bench.complete(1)) == {}
    commands = bench.complete(2)
    answer = ends(commands)[1]
    assert isinstance(answer, Complete)
    assert [part.rows for part in answer.answers[STAGE]] == [8, 8, 3]
    # All three outputs were kept until the answer was out.
    assert sum(isinstance(command, ReleaseOutputs) for command in commands) == 3
    assert commands[-1] == ReleaseOutputs(2, 3)


def test_outputs_shared_by_two_requests_are_released_after_the_second() -> None:
    bench = patient_bench()
    bench.arrive(rows=7)
    bench.arrive(rows=9)  # 8 + 1
    bench.arrive(rows=2)
    bench.complete()
    bench.complete()
    commands = bench.complete()  # the last row of request 2 with both of request 3
    assert list(ends(commands)) == [2, 3]
    kinds = [type(command) for command in commands]
    assert kinds.count(ReleaseOutputs) == 2
    assert commands[-1] == ReleaseOutputs(1, 3)


def test_cancel_drops_what_waits_and_releases_what_is_read_later() -> None:
    bench = patient_bench()
    bench.arrive(rows=16)
    commands = bench.cancel(1)
    assert commands == [Discard(RequestId(0, 1))]
    assert len(bench.machine.stages[STAGE].queue) == 0
    assert Release(RequestId(0, 1)) in bench.complete()


def test_cancel_after_the_end_changes_nothing() -> None:
    bench = patient_bench()
    bench.arrive()
    bench.complete()
    assert bench.cancel(1) == []


def test_one_shed_piece_ends_its_request() -> None:
    bench = ServiceBench(make_service(), TIMES)
    bench.ready()
    bench.arrive(slo_s=0.05)
    bench.arrive(slo_s=0.05, rows=16)
    # The first batch takes 40 ms: 10 are left, and eight rows need 20.
    commands = bench.complete(service_s=0.04)
    assert ends(commands)[2] == Shed(RequestId(0, 2), "deadline")
    assert commands.count(Release(RequestId(0, 2))) == 1


def test_what_is_lost_is_shed_though_nothing_else_happens() -> None:
    bench = ServiceBench(make_service(), TIMES)
    bench.ready()
    bench.arrive(slo_s=1.0)
    bench.arrive(slo_s=0.05)
    # It must start until 50 - 10 = 40 ms; a millisecond later it is shed.
    assert bench.wake_s == pytest.approx(0.041)
    assert ends(bench.wake())[2] == Shed(RequestId(0, 2), "deadline")


def test_a_lost_worker_retries_each_of_its_requests_alone() -> None:
    bench = patient_bench(replicas=2)
    bench.arrive()
    for _ in range(4):
        bench.arrive()
    bench.complete(1)
    assert [sequences(bench.running(1)), sequences(bench.running(2))] == [[3, 4, 5], [2]]
    commands = bench.tell(ReplicaGone(1, expected=False, reason="SIGKILL"))
    assert ends(commands) == {}
    order = []
    for _ in range(4):
        bench.complete(2)
        order += [sequences(batch) for batch in batches(bench.last)]
    assert order == [[3], [4], [5]]
    assert bench.machine.counts.completed == 5


def test_a_request_that_kills_workers_fails_when_its_retries_are_used_up() -> None:
    bench = patient_bench(retries_max=1, replicas=2)
    bench.arrive()
    bench.tell(ReplicaGone(1, expected=False, reason="exit status 139"))
    assert sequences(bench.running(2)) == [1]
    failed = ends(bench.tell(ReplicaGone(2, expected=False, reason="exit status 139")))[1]
    assert isinstance(failed, Fail)
    assert failed.reason == "worker_lost"
    assert "exit status 139" in failed.message
    assert "tried 2 times" in failed.message


def test_a_request_that_is_shed_after_workers_were_lost_says_how_often() -> None:
    bench = ServiceBench(make_service(retries_max=2), TIMES)
    bench.ready(1)
    bench.ready(2)
    bench.arrive(slo_s=0.1)
    bench.tell(ReplicaGone(1, expected=False))
    bench.tell(ReplicaGone(2, expected=False))
    bench.now_s = 0.2  # nobody has come in their place, and it was due at 0.1
    assert ends(bench.tell(Woken()))[1] == Shed(RequestId(0, 1), "deadline", lost=2)


def test_a_request_without_time_for_another_try_fails_at_once() -> None:
    bench = ServiceBench(make_service(), TIMES)
    bench.ready(1)
    bench.ready(2)
    bench.arrive(slo_s=0.018)
    bench.now_s = 0.009  # 9 ms are left and 10 are needed
    failed = ends(bench.tell(ReplicaGone(1, expected=False)))[1]
    assert isinstance(failed, Fail)
    assert failed.reason == "worker_lost"


def test_outputs_lost_with_their_worker_are_made_again() -> None:
    bench = patient_bench(replicas=2)
    bench.arrive(rows=16)
    bench.complete(1)
    commands = bench.tell(ReplicaGone(1, expected=False))
    assert ends(commands) == {}
    bench.complete(2)
    assert sequences(bench.running(2)) == [1]
    answer = ends(bench.complete(2))[1]
    assert isinstance(answer, Complete)
    assert sum(part.rows for part in answer.answers[STAGE]) == 16


def test_a_failed_batch_of_several_is_run_again_one_by_one() -> None:
    bench = patient_bench()
    for _ in range(4):
        bench.arrive()
    bench.complete()
    assert sequences(bench.running()) == [2, 3, 4]
    assert ends(bench.fail()) == {}
    assert sequences(bench.running()) == [2]
    bench.complete()
    assert ends(bench.fail(message="bad row")) == {3: Fail(RequestId(0, 3), "model_error", "bad row")}
    bench.complete()
    assert bench.machine.counts.completed == 3


def test_who_is_to_blame_for_a_batch_is_found_by_running_each_alone() -> None:
    bench = patient_bench()
    for _ in range(3):
        bench.arrive()
    bench.complete()
    assert ends(bench.fail(message="no JPEG", is_input=True)) == {}  # one of 2 and 3
    assert isinstance(ends(bench.complete())[2], Complete)
    end = ends(bench.fail(message="no JPEG", is_input=True))
    assert end == {3: Fail(RequestId(0, 3), "bad_input", "no JPEG")}


def test_a_failed_request_of_several_pieces_ends_once() -> None:
    bench = patient_bench(replicas=2)
    bench.arrive(rows=16)
    assert list(ends(bench.fail(1))) == [1]
    commands = bench.complete(2)
    assert ends(commands) == {}
    assert commands == [Release(RequestId(0, 1)), ReleaseOutputs(2, 2)]


def test_news_of_a_batch_from_a_lost_replica_changes_nothing() -> None:
    bench = patient_bench()
    bench.arrive()
    bench.tell(ReplicaGone(1, expected=False))
    assert bench.tell(BatchCompleted(1, 1, 0.0, 0.01)) == []


def test_a_parked_replica_takes_nothing_until_it_has_cores() -> None:
    bench = patient_bench()
    bench.resize(1, 0.0)
    assert not bench.machine.is_ready
    assert batches(bench.arrive()) == []
    assert sequences(batches(bench.resize(1, 1.0))[0]) == [1]
    assert bench.machine.is_ready


def test_a_resized_replica_runs_its_next_batch_on_the_new_cores() -> None:
    bench = patient_bench()
    bench.arrive()
    bench.resize(1, 2.0)
    bench.arrive()
    bench.complete(service_s=0.010)
    assert bench.running().expected_s == pytest.approx(0.005)


def test_a_batch_during_a_resize_does_not_correct_the_profile() -> None:
    bench = patient_bench()
    bench.arrive()
    bench.resize(1, 2.0)
    bench.complete(service_s=0.080)
    assert bench.machine.stages[STAGE].estimator.residuals.mean_ratio == 1.0


def test_a_drained_replica_finishes_its_batch_and_stops() -> None:
    bench = patient_bench()
    bench.arrive()
    bench.arrive()
    assert bench.tell(ReplicaDraining(1)) == []
    assert not bench.machine.is_ready
    commands = bench.complete()
    assert commands[-1] == StopReplica(1)
    assert batches(commands) == []
    assert bench.tell(ReplicaGone(1, expected=True)) == []
    assert sequences(batches(bench.ready(2))[0]) == [2]


def test_a_drained_replica_stays_while_its_outputs_are_needed() -> None:
    bench = patient_bench(replicas=2)
    bench.arrive(rows=16)
    bench.tell(ReplicaDraining(1))
    assert bench.complete(1) == []
    commands = bench.complete(2)
    assert [type(command) for command in commands] == [
        Complete,
        ReleaseOutputs,
        StopReplica,
        Release,
        ReleaseOutputs,
    ]


def test_a_starting_replica_that_is_drained_is_cancelled() -> None:
    bench = patient_bench()
    bench.starting(2, ready_s=1.0)
    assert bench.tell(ReplicaDraining(2)) == [StopReplica(2)]
    assert bench.ready(2) == []


def test_a_draining_service_refuses_finishes_and_says_so_once() -> None:
    bench = patient_bench()
    bench.arrive()
    bench.arrive()
    assert bench.tell(ServiceDraining()) == []
    assert ends(bench.arrive())[3] == Reject(RequestId(0, 3), "draining", None)
    bench.complete()
    assert bench.complete()[-1] == ServiceDrained()
    assert bench.tell(ServiceDraining()) == []


def test_an_idle_service_is_drained_at_once() -> None:
    assert patient_bench().tell(ServiceDraining()) == [ServiceDrained()]


def test_a_plan_with_smaller_batches_cuts_what_waits() -> None:
    bench = patient_bench()
    bench.arrive()
    bench.arrive(rows=8)
    bench.tell(PlanPublished(make_plan(bench.service, batch_rows_max=3, rules=PATIENT)))
    rows = []
    bench.complete()
    for _ in range(3):
        rows.append(bench.running().rows)
        bench.complete()
    assert rows == [3, 3, 2]
    assert bench.machine.counts.completed == 2


def test_a_plan_that_leaves_a_stage_out_keeps_its_rules() -> None:
    bench = patient_bench()
    plan = make_plan(bench.service)
    bench.machine.handle(PlanPublished(type(plan)(plan.service, {})), now_s=0.0)
    assert bench.machine.stages[STAGE].plan.rules == PATIENT


def test_shares_of_variants_are_kept_over_batches() -> None:
    service = make_service(variants=("big", "small"))
    plan = make_plan(service, rules=PATIENT, shares={"big": 0.75, "small": 0.25})
    bench = ServiceBench(service, TIMES, plan)
    bench.ready(variants=("big", "small"))
    variants = []
    for _ in range(8):
        bench.arrive()
        variants.append(bench.running().variant)
        bench.complete()
    # Credits (big, small) after each batch: (-0.25, 0.25), (0.5, -0.5), (0.25, -0.25), (0, 0), and so on.
    assert variants.count("big") == 6
    assert variants[:4] == ["big", "small", "big", "big"]


def test_only_resident_variants_answer() -> None:
    service = make_service(variants=("big", "small"))
    bench = ServiceBench(service, TIMES, make_plan(service, rules=PATIENT, shares={"big": 1.0}))
    bench.ready(variants=("small",))
    bench.arrive()
    assert bench.running().variant == "small"
    bench.tell(VariantLoaded(1, "big"))
    bench.arrive()
    bench.complete()
    assert bench.running().variant == "big"
    bench.tell(VariantUnloaded(1, "big"))
    bench.tell(VariantUnloaded(1, "small"))
    bench.arrive()
    assert batches(bench.complete()) == []


def test_windows_count_what_happened_in_between() -> None:
    bench = patient_bench()
    bench.arrive(rows=2)
    bench.complete(service_s=0.02)
    bench.arrive()
    bench.arrive()
    bench.now_s = 0.1
    (report,) = bench.tell(WindowClosed())
    assert isinstance(report, ReportWindow)
    window = report.window
    assert (window.from_s, window.to_s) == (0.0, 0.1)
    assert (window.arrivals, window.arrival_rows, window.completed) == (3, 4, 1)
    assert window.busy == (BusyCell(STAGE, VARIANT, 2, 1.0, 1, 0.02),)
    (stage,) = window.stages
    assert (stage.queue_requests, stage.queue_rows, stage.in_flight_rows) == (1, 1, 1)
    # Two rows are profiled at 11.43 ms and took 20: 1.75; the head is due at 120 and needs 10 * 1.75 = 17.5.
    assert stage.service_ratio == pytest.approx(1.75)
    assert stage.head_slack_s == pytest.approx(0.12 - 0.1 - 0.0175)
    bench.now_s = 0.2
    (report,) = bench.tell(WindowClosed())
    assert isinstance(report, ReportWindow)
    assert (report.window.from_s, report.window.arrivals, report.window.busy) == (0.1, 0, ())


def test_requests_leave_no_garbage_behind() -> None:
    bench = patient_bench(replicas=2)
    gc.collect()
    for _ in range(50):
        bench.arrive(rows=16)
        bench.arrive()
        bench.cancel(1)
        while bench.laws.running:
            bench.complete(next(iter(bench.laws.running.values())).replica_id)
    # A server that has frozen its garbage collector's generations must not need it: no reference cycles.
    bench.laws.requests.clear()
    bench.laws.ends.clear()
    assert gc.collect() == 0


def test_time_is_the_largest_seen() -> None:
    bench = patient_bench()
    bench.now_s = 5.0
    bench.arrive()
    bench.now_s = 4.0
    bench.tell(CapacityChanged(1.0))
    (report,) = bench.tell(WindowClosed())
    assert isinstance(report, ReportWindow)
    assert report.window.to_s == 5.0


def test_a_machine_without_a_plan_works_by_the_first_variants_limits() -> None:
    service = make_service(batch_rows_max=2)
    machine = ServiceMachine(service, {STAGE: TIMES})
    assert machine.stages[STAGE].plan.batch_rows_max == 2
    assert machine.stages[STAGE].plan.mix[0].variant == VARIANT


def test_missing_service_times_are_refused() -> None:
    with pytest.raises(SpecError, match="stage a has no service times"):
        ServiceMachine(Service("ocr", 0.1, (Stage("a", (Variant("v"),)),)), {})
