"""Services of several stages: order, deadlines carried along, losses, and who is asked at arrival."""

import pytest

from steelyard.core.commands import (
    Complete,
    Discard,
    Fail,
    OutputPart,
    Reject,
    Release,
    ReleaseOutputs,
    ReportWindow,
    RunBatch,
    Shed,
    StopReplica,
)
from steelyard.core.errors import SpecError
from steelyard.core.events import (
    CapacityChanged,
    PlanPublished,
    ReplicaDraining,
    ReplicaGone,
    WindowClosed,
)
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.types import RequestId, Service, Stage, Variant
from steelyard.testing.bench import ServiceBench, batches, ends, sequences
from steelyard.testing.builders import TableTimes, make_pipeline, make_plan, times_by_stage

CHAIN = {"a": (), "b": ("a",)}
DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
TIMES = TableTimes({1: 0.010, 8: 0.024})  # one row in 10 ms on a core, each further one 2 ms
PATIENT = StageRules(drop="none", admission="open")


def ready_bench(
    after: dict[str, tuple[str, ...]],
    *,
    slo_s: float = 0.1,
    fan_out: dict[str, int] | None = None,
    rules: StageRules | None = None,
    reply_s: float = 0.0,
    retries_max: int = 2,
    batch_rows_max: int = 8,
    queue_rows_max: int = 4096,
) -> ServiceBench:
    """A bench whose stages have one replica of one core each, with the ids 1, 2, ... in their order."""
    service = make_pipeline(
        after,
        fan_out=fan_out,
        slo_s=slo_s,
        reply_s=reply_s,
        retries_max=retries_max,
        queue_rows_max=queue_rows_max,
    )
    plan = make_plan(service, rules=rules, batch_rows_max=batch_rows_max)
    bench = ServiceBench(service, TIMES, plan)
    for replica_id, name in enumerate(after, start=1):
        bench.ready(replica_id, stage=name)
    return bench


def parts_of(end: Complete) -> tuple[OutputPart, ...]:
    (parts,) = end.answers.values()
    return parts


def one(commands: list[RunBatch]) -> RunBatch:
    (batch,) = commands
    return batch


class TestOrder:
    def test_a_chain_answers_with_its_last_stage(self) -> None:
        bench = ready_bench(CHAIN)
        first = one(batches(bench.arrive()))
        assert (first.stage, first.replica_id, first.rows) == ("a", 1, 1)
        second = one(batches(bench.complete(1)))
        assert (second.stage, second.replica_id, second.rows) == ("b", 2, 1)
        end = ends(bench.complete(2))[1]
        assert isinstance(end, Complete)
        assert not end.late
        assert parts_of(end)[0].outputs[0].shape == (second.batch_id,)
        # 10 ms at each stage, and no waiting.
        assert end.service_s == pytest.approx(0.020)
        assert end.queue_s == pytest.approx(0.0)

    def test_waiting_is_summed_along_the_stages(self) -> None:
        bench = ready_bench(CHAIN, slo_s=1.0, batch_rows_max=1)
        bench.arrive()
        bench.arrive()
        bench.complete(1)  # at 10 ms: the first goes to b, the second starts at a
        bench.now_s = 0.010
        bench.complete(1)  # at 20 ms: the second waits at b until 30 ms
        bench.now_s = 0.020
        bench.complete(2, service_s=0.010)
        (end,) = ends(bench.complete(2, service_s=0.010)).values()
        assert isinstance(end, Complete)
        # Second request: 10 ms waiting at a, 10 ms served; 10 ms waiting at b, 10 ms served; 40 ms in all.
        assert end.queue_s == pytest.approx(0.020)
        assert end.service_s == pytest.approx(0.020)
        assert bench.now_s == pytest.approx(0.040)

    def test_a_fork_runs_side_by_side_and_a_join_waits_for_all(self) -> None:
        bench = ready_bench(DIAMOND)
        bench.arrive()
        forked = batches(bench.complete(1))
        assert [batch.stage for batch in forked] == ["b", "c"]
        assert batches(bench.complete(2, service_s=0.010)) == []
        joined = one(batches(bench.complete(3, service_s=0.005)))
        assert joined.stage == "d"
        end = ends(bench.complete(4))[1]
        assert isinstance(end, Complete)
        # The path of what was done last: a 10 ms; c, which the bench's clock lets start when b has ended and
        # so has waited 10 ms from a's end, 5 ms; d 10 ms.
        assert end.service_s == pytest.approx(0.025)
        assert end.queue_s == pytest.approx(0.010)

    def test_all_entry_stages_start_at_once_and_all_ends_are_awaited(self) -> None:
        bench = ready_bench({"a": (), "b": ()})
        assert [batch.stage for batch in batches(bench.arrive())] == ["a", "b"]
        assert ends(bench.complete(2)) == {}
        end = ends(bench.complete(1))[1]
        assert isinstance(end, Complete)
        assert parts_of(end)[0].outputs[0].shape == (2,)  # of the last stage, though a ended later

    def test_a_fan_out_counts_rows_of_the_request(self) -> None:
        bench = ready_bench({"a": (), "b": ("a",), "c": ("b",)}, fan_out={"b": 3, "c": 2}, slo_s=1.0)
        assert one(batches(bench.arrive(rows=3))).rows == 3
        # 3 rows * 3 = 9 at b, cut into batches of 8 and 1.
        assert one(batches(bench.complete(1))).rows == 8
        assert one(batches(bench.complete(2))).rows == 1
        assert one(batches(bench.complete(2))).rows == 6  # 3 rows * 2
        end = ends(bench.complete(3))[1]
        assert isinstance(end, Complete)
        assert [part.rows for part in parts_of(end)] == [6]

    def test_requests_batch_anew_at_each_stage(self) -> None:
        bench = ready_bench(CHAIN, batch_rows_max=8)
        bench.arrive()
        for _ in range(3):
            bench.arrive()
        assert sequences(one([b for b in batches(bench.complete(1)) if b.stage == "a"])) == [2, 3, 4]
        bench.complete(1)
        assert sequences(one(batches(bench.complete(2)))) == [2, 3, 4]

    def test_first_come_first_served_goes_by_arrival_at_the_stage(self) -> None:
        bench = ready_bench(CHAIN, rules=StageRules(order="fifo", drop="none", admission="open"), slo_s=1.0)
        bench.ready(3, stage="a")
        bench.arrive(key="x")
        bench.arrive(key="y")
        bench.arrive(key="z")
        bench.complete(3, service_s=0.010)  # the second is at b first, and runs; a takes the third
        bench.now_s = 0.015
        bench.complete(3, service_s=0.001)  # the third waits at b from 16 ms on
        bench.complete(1, service_s=0.010)  # the first from 26 ms on
        assert sequences(one(batches(bench.complete(2)))) == [3]


class TestDeadlines:
    def test_a_piece_is_due_before_the_least_time_of_what_is_behind(self) -> None:
        bench = ready_bench(CHAIN, reply_s=0.005)
        bench.arrive(slo_s=0.1)
        bench.arrive(slo_s=0.1)
        # The second waits at a; b takes 10 ms and the reply 5 ms, so it must be done at a in 85 ms.
        assert bench.machine.stages["a"].queue.head().due_s == pytest.approx(0.085)
        bench.complete(1)
        bench.complete(1, service_s=0.0)
        assert bench.machine.stages["b"].queue.head().due_s == pytest.approx(0.095)

    def test_what_cannot_be_answered_any_more_is_shed_at_the_first_stage(self) -> None:
        rules = StageRules(admission="open", drop="infeasible")
        bench = ready_bench(CHAIN, rules=rules, batch_rows_max=1)
        bench.arrive(slo_s=0.1)
        bench.arrive(slo_s=0.029)  # could run from 10 to 20 ms, and would be answered at 30 ms
        end = ends(bench.complete(1))[2]
        assert isinstance(end, Shed)

    def test_it_is_refused_at_arrival_by_the_time_of_the_whole_pipeline(self) -> None:
        bench = ready_bench(CHAIN, reply_s=0.005)
        # a 10 ms, b 10 ms, the reply 5 ms: 25 ms at least.
        assert isinstance(ends(bench.arrive(slo_s=0.024))[1], Reject)
        assert one(batches(bench.arrive(slo_s=0.026))).stage == "a"

    def test_the_longest_path_counts_with_its_fan_out(self) -> None:
        # Behind a: b with one row in 10 ms, or c with 5 rows in 10 + 4 * 2 = 18 ms; then d in 10 ms.
        bench = ready_bench(DIAMOND, fan_out={"c": 5})
        assert bench.machine.stages["a"].remaining.after_s(0) == pytest.approx(0.028)
        assert bench.machine.stages["b"].remaining.after_s(0) == pytest.approx(0.010)
        assert bench.machine.stages["d"].remaining.after_s(0) == 0.0

    def test_more_cores_behind_give_more_time_to_what_waits(self) -> None:
        rules = StageRules(admission="open", drop="infeasible")
        bench = ready_bench(CHAIN, rules=rules, batch_rows_max=1)
        bench.arrive()
        bench.arrive(slo_s=0.029)  # too late if b takes 10 ms; with two cores b takes 5 ms
        bench.resize(2, 2.0)
        assert sequences(one([b for b in batches(bench.complete(1)) if b.stage == "a"])) == [2]

    def test_without_a_ready_replica_the_first_variant_counts_on_all_cores_it_can_use(self) -> None:
        service = make_pipeline(CHAIN, cores_max=4)
        bench = ServiceBench(service, TIMES)
        assert bench.machine.stages["a"].remaining.after_s(0) == pytest.approx(0.010 / 4)
        bench.starting(1, ready_s=1.0, stage="b")
        assert bench.machine.stages["a"].remaining.after_s(0) == pytest.approx(0.010 / 4)
        bench.ready(1, stage="b")
        assert bench.machine.stages["a"].remaining.after_s(0) == pytest.approx(0.010)
        bench.ready(2, stage="b", cores=2.0)
        assert bench.machine.stages["a"].remaining.after_s(0) == pytest.approx(0.005)

    def test_corrections_behind_count(self) -> None:
        bench = ready_bench(CHAIN, slo_s=1.0)
        bench.arrive(slo_s=1.0)
        bench.complete(1)
        bench.complete(2, service_s=0.020)  # twice its profile
        assert bench.machine.stages["a"].remaining.after_s(0) == pytest.approx(0.020)

    def test_late_is_judged_of_the_whole(self) -> None:
        bench = ready_bench(CHAIN, rules=PATIENT)
        bench.arrive(slo_s=0.1)
        bench.complete(1, service_s=0.060)
        end = ends(bench.complete(2, service_s=0.060))[1]
        assert isinstance(end, Complete)
        assert end.late

    def test_age_is_counted_from_the_arrival_at_the_service(self) -> None:
        bench = ready_bench(CHAIN, rules=StageRules(drop="age", age_s_max=0.050, admission="open"))
        bench.arrive()
        end = ends(bench.complete(1, service_s=0.050))[1]
        assert isinstance(end, Shed)
        assert end.reason == "age"

    def test_a_time_to_wait_for_company_begins_at_the_stage(self) -> None:
        rules = StageRules(forming="timeout", timeout_s=0.020, drop="none", admission="open")
        bench = ready_bench(CHAIN, rules=rules)
        bench.arrive()
        assert bench.wake_s == pytest.approx(0.020)
        bench.wake()
        bench.complete(1)  # at 30 ms; b waits until 50 ms
        assert bench.wake_s == pytest.approx(0.050)
        assert one(batches(bench.wake())).stage == "b"


class TestEnds:
    def test_shed_at_the_second_stage_frees_the_outputs_of_the_first(self) -> None:
        bench = ready_bench(CHAIN, rules=StageRules(admission="open", drop="infeasible"))
        bench.arrive()
        commands = bench.complete(1, service_s=0.095)  # 5 ms are left, b needs 10
        assert isinstance(ends(commands)[1], Shed)
        assert ReleaseOutputs(1, 1) in commands

    def test_who_is_shed_in_one_branch_leaves_the_other(self) -> None:
        # b serves one after the other, c has time: the second request is shed at b, and c does not run it.
        rules = StageRules(admission="open", drop="infeasible")
        bench = ready_bench({"a": (), "b": ("a",), "c": ("a",)}, rules=rules, batch_rows_max=1)
        bench.arrive(slo_s=1.0)
        bench.arrive(slo_s=0.105)
        bench.complete(1, service_s=0.010)
        bench.complete(1, service_s=0.080)
        # At 90 ms the second waits at b and c for the first one's batches.
        bench.now_s = 0.090
        commands = bench.complete(2, service_s=0.010)  # at 100 ms: 5 ms are left
        assert isinstance(ends(commands)[2], Shed)
        assert batches(bench.complete(3)) == []

    def test_a_cancelled_request_keeps_what_a_batch_still_reads(self) -> None:
        bench = ready_bench(CHAIN)
        bench.arrive()
        bench.complete(1)
        assert [type(command) for command in bench.cancel(1)] == [Discard]
        commands = bench.complete(2)
        assert ReleaseOutputs(1, 1) in commands

    def test_a_middle_stage_that_is_full_refuses_at_arrival(self) -> None:
        bench = ready_bench(CHAIN, rules=PATIENT, batch_rows_max=1, queue_rows_max=2, slo_s=9.0)
        bench.tell(ReplicaGone(2, expected=False))
        for _ in range(2):
            bench.arrive(slo_s=9.0)
            bench.complete(1)
        end = ends(bench.arrive(slo_s=9.0))[3]
        assert isinstance(end, Reject)
        assert (end.reason, end.retry_after_s) == ("queue_full", None)  # b has nobody to serve it

    def test_each_entry_stage_must_admit(self) -> None:
        bench = ready_bench({"a": (), "b": (), "c": ("a", "b")}, fan_out={"b": 8})
        # a takes 10 ms, b with 8 rows 24 ms, c 10 ms.
        assert isinstance(ends(bench.arrive(slo_s=0.033))[1], Reject)
        assert len(batches(bench.arrive(slo_s=0.035))) == 2


class TestLosses:
    def test_a_batch_lost_at_the_second_stage_runs_again_there(self) -> None:
        bench = ready_bench(CHAIN)
        bench.arrive()
        bench.complete(1)
        assert bench.tell(ReplicaGone(2, expected=False)) != []  # wakes for the deadline
        again = one(batches(bench.ready(3, stage="b")))
        assert (again.stage, sequences(again)) == ("b", [1])

    def test_outputs_lost_while_the_next_stage_waits_are_made_again(self) -> None:
        bench = ready_bench(CHAIN, batch_rows_max=1)
        bench.ready(3, stage="a")
        bench.arrive()
        bench.arrive()
        bench.complete(1)
        bench.now_s = 0.0
        bench.complete(3)  # b runs the first, the second waits with its outputs on replica 3
        again = one(batches(bench.tell(ReplicaGone(3, expected=False))))
        assert (again.stage, again.replica_id, sequences(again)) == ("a", 1, [2])
        assert batches(bench.complete(2)) == []  # b is idle, and its inputs are not there
        assert sequences(one(batches(bench.complete(1)))) == [2]
        assert isinstance(ends(bench.complete(2))[2], Complete)

    def test_outputs_lost_while_the_next_stage_runs_are_not_missed(self) -> None:
        bench = ready_bench(CHAIN)
        bench.arrive()
        bench.complete(1)
        assert batches(bench.tell(ReplicaGone(1, expected=False))) == []
        assert isinstance(ends(bench.complete(2))[1], Complete)

    def test_but_if_that_batch_is_lost_too_both_stages_run_again(self) -> None:
        bench = ready_bench(CHAIN)
        bench.arrive()
        bench.complete(1)
        bench.tell(ReplicaGone(1, expected=False))
        bench.tell(ReplicaGone(2, expected=False))
        bench.ready(4, stage="b")
        assert one(batches(bench.ready(3, stage="a"))).stage == "a"
        assert one(batches(bench.complete(3))).stage == "b"
        assert isinstance(ends(bench.complete(4))[1], Complete)

    def test_what_was_released_runs_again_all_the_way_up(self) -> None:
        bench = ready_bench({"a": (), "b": ("a",), "c": ("b",)})
        bench.arrive()
        bench.complete(1)
        assert ReleaseOutputs(1, 1) in bench.complete(2)  # c runs: a's outputs are not needed any more
        bench.tell(ReplicaGone(2, expected=False))  # c has taken its inputs
        again = one(batches(bench.tell(ReplicaGone(3, expected=False))))
        assert again.stage == "a"

    def test_a_lost_replica_releases_nothing(self) -> None:
        bench = ready_bench(CHAIN, batch_rows_max=1)
        bench.arrive(rows=2)
        bench.complete(1)  # the first row is done and kept by replica 1, which runs the second
        assert [type(command) for command in bench.cancel(1)] == [Discard]  # a batch still reads the request
        assert bench.tell(ReplicaGone(1, expected=False)) == [Release(RequestId(0, 1))]

    def test_retries_have_a_limit(self) -> None:
        bench = ready_bench(CHAIN, retries_max=1, slo_s=1.0)
        bench.arrive(slo_s=1.0)
        bench.complete(1)
        bench.tell(ReplicaGone(2, expected=False))
        bench.ready(3, stage="b")
        end = ends(bench.tell(ReplicaGone(3, expected=False)))[1]
        assert isinstance(end, Fail)
        assert "tried 2 times" in end.message

    def test_a_draining_replica_stays_until_its_outputs_are_used_up(self) -> None:
        bench = ready_bench(CHAIN)
        bench.arrive()
        bench.complete(1)
        assert bench.tell(ReplicaDraining(1)) == []
        commands = bench.complete(2)
        assert commands.index(ReleaseOutputs(1, 1)) < commands.index(StopReplica(1))


class TestTheWhole:
    def test_it_is_ready_when_each_stage_is(self) -> None:
        bench = ServiceBench(make_pipeline(CHAIN), TIMES)
        bench.ready(1, stage="b")
        assert not bench.machine.is_ready
        bench.ready(2, stage="a")
        assert bench.machine.is_ready

    def test_a_window_reports_each_stage(self) -> None:
        bench = ready_bench(CHAIN, batch_rows_max=1)
        for _ in range(3):
            bench.arrive()
        bench.complete(1)
        (report,) = bench.tell(WindowClosed())
        assert isinstance(report, ReportWindow)
        at_a, at_b = report.window.stages
        assert (at_a.stage, at_a.queue_rows, at_a.in_flight_rows) == ("a", 1, 1)
        assert (at_b.stage, at_b.queue_rows, at_b.in_flight_rows) == ("b", 0, 1)
        # Head at a: due at 100 ms less 10 ms for b; now is 10 ms, its batch takes 10 ms: 70 ms of slack.
        assert at_a.head_slack_s == pytest.approx(0.070)
        (busy,) = report.window.busy
        assert (busy.stage, busy.batches) == ("a", 1)

    def test_a_plan_reaches_its_stages_and_leaves_the_others(self) -> None:
        bench = ready_bench(CHAIN)
        plan = make_plan(bench.service, batch_rows_max=2)
        bench.tell(PlanPublished(type(plan)(plan.service, {"b": plan.stages["b"]})))
        assert bench.machine.stages["a"].plan.batch_rows_max == 8
        assert bench.machine.stages["b"].plan.batch_rows_max == 2

    def test_cores_that_could_be_had_count_at_the_entry(self) -> None:
        bench = ready_bench(CHAIN)
        bench.arrive(slo_s=1.0)
        bench.tell(CapacityChanged(1.0))
        # a is busy for 10 ms; with 2 cores 5 ms, then b 10 ms: 25 ms are enough, 24 are not.
        assert isinstance(ends(bench.arrive(slo_s=0.0245))[2], Reject)
        assert ends(bench.arrive(slo_s=0.0255)) == {}


VARIANTS = (Variant("v"),)


@pytest.mark.parametrize(
    ("stages", "error"),
    [
        ((), "want at least one stage"),
        ((Stage("a", VARIANTS, ("z",)),), "stage a is after z, which is unknown; known: a"),
        (
            (Stage("a", VARIANTS, ("b",)), Stage("b", VARIANTS)),
            "stage a is after b, which does not come before it",
        ),
        ((Stage("a", VARIANTS, ("a",)),), "stage a is after a, which does not come before it"),
        ((Stage("a", VARIANTS), Stage("a", VARIANTS)), "stage a is there twice"),
        ((Stage("a", VARIANTS), Stage("x", VARIANTS)), "stage x has no service times"),
        ((Stage("a", VARIANTS, fan_out=0),), "stage a has a fan-out of 0, want a whole number of at least 1"),
    ],
)
def test_what_is_no_pipeline_is_refused(stages: tuple[Stage, ...], error: str) -> None:
    with pytest.raises(SpecError, match=error):
        ServiceMachine(Service("ocr", 0.1, stages), {"a": TIMES, "b": TIMES})


def test_every_stage_has_its_own_service_times() -> None:
    service = make_pipeline(CHAIN)
    bench = ServiceBench(service, {"a": TIMES, "b": TableTimes({1: 0.001})})
    assert bench.machine.stages["a"].remaining.after_s(0) == pytest.approx(0.001 / 4)
    assert times_by_stage(service, TIMES).keys() == {"a", "b"}
