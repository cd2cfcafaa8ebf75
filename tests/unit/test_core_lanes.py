"""A queue a replica: who is given what, and the forming rules of Proteus, Clipper and Nexus, step by step.

l(b) = 10 + 10 (b - 1) / 7 ms: l(1) = 10, l(2) = 11.43, l(3) = 12.86, l(4) = 14.29, l(8) = 20. SLO 100 ms.
"""

from collections import Counter

import pytest

from steelyard.core.commands import RunBatch, Shed
from steelyard.core.events import ReplicaDraining, ReplicaGone, ServiceDraining, VariantUnloaded
from steelyard.core.plan import Forming, StageRules
from steelyard.testing.bench import ServiceBench, batches, ends, sequences
from steelyard.testing.builders import TableTimes, make_plan, make_service

TIMES = TableTimes({1: 0.010, 8: 0.020})


def bench_with(forming: Forming, *, batch_rows_max: int = 8) -> ServiceBench:
    service = make_service()
    rules = StageRules(
        order="fifo", forming=forming, drop="none", admission="open", routing="assigned", timeout_s=0.03
    )
    bench = ServiceBench(service, TIMES, make_plan(service, rules=rules, batch_rows_max=batch_rows_max))
    bench.ready()
    return bench


def at(bench: ServiceBench, now_s: float) -> ServiceBench:
    bench.now_s = now_s
    return bench


class TestAdaptive:
    """t_w = D - l(b(q)), D the head's deadline."""

    def test_step_1_an_idle_device_waits_until_the_head_can_wait_no_longer(self) -> None:
        bench = bench_with("adaptive")
        assert batches(bench.arrive()) == []
        assert bench.wake_s == pytest.approx(0.090)  # 100 - l(1)

    def test_step_1_the_timer_is_set_again_with_every_arrival(self) -> None:
        bench = bench_with("adaptive")
        bench.arrive()
        at(bench, 0.02).arrive()
        assert bench.wake_s == pytest.approx(0.1 - 0.0114286)

    def test_step_3_the_timer_runs_what_there_is(self) -> None:
        bench = bench_with("adaptive")
        bench.arrive()
        at(bench, 0.02).arrive()
        assert sequences(batches(bench.wake())[0]) == [1, 2]

    def test_step_1_a_newcomer_that_makes_the_head_late_drops_it(self) -> None:
        # At 89 ms the head alone could wait until 90, with the newcomer until 88.57: it is dropped. The
        # newcomer's own deadline is 189.
        bench = bench_with("adaptive")
        bench.arrive()
        commands = at(bench, 0.089).arrive()
        assert ends(commands) == {
            1: Shed(bench.laws.requests[next(iter(bench.laws.requests))].id, "deadline")
        }
        assert batches(commands) == []
        assert batches(bench.wake()) == []  # the head's timer is stale
        assert bench.wake_s == pytest.approx(0.179)

    def test_step_1_at_its_very_last_moment_the_batch_leaves_without_the_newcomer(self) -> None:
        # 0.25 s is due and a row takes 0.125 s, as do two: exact in binary. At 0.125 t_w is now.
        service = make_service()
        rules = StageRules(order="fifo", forming="adaptive", drop="none", admission="open")
        bench = ServiceBench(service, TableTimes({1: 0.125}), make_plan(service, rules=rules))
        bench.ready()
        bench.arrive(slo_s=0.25)
        bench.now_s = 0.125
        assert sequences(batches(bench.arrive(slo_s=0.25))[0]) == [1]

    def test_a_full_queue_waits_as_well(self) -> None:
        # The rule as published: an idle device with q >= b_max still waits until t_w = 100 - l(8).
        bench = bench_with("adaptive")
        for _ in range(8):
            assert batches(bench.arrive()) == []
        assert bench.wake_s == pytest.approx(0.080)

    def test_step_4_after_a_batch_the_rest_waits_for_its_own_time(self) -> None:
        bench = bench_with("adaptive")
        bench.arrive()
        bench.wake()  # 90 ms: [1] runs until 100
        at(bench, 0.095).arrive()
        assert batches(at(bench, 0.090).complete()) == []
        assert bench.wake_s == pytest.approx(0.185)

    def test_step_4_a_time_that_came_while_the_device_was_busy_is_made_up_for_at_once(self) -> None:
        bench = bench_with("adaptive")
        bench.arrive()
        bench.wake()
        at(bench, 0.095).arrive(slo_s=0.012)  # t_w = 107 - 10 = 97, while busy until 100
        assert sequences(batches(at(bench, 0.090).complete())[0]) == [2]

    def test_step_4_more_than_a_full_batch_does_not_wait(self) -> None:
        bench = bench_with("adaptive", batch_rows_max=2)
        bench.arrive()
        bench.wake()
        for _ in range(3):
            at(bench, 0.095).arrive()
        assert sequences(batches(at(bench, 0.090).complete())[0]) == [2, 3]
        assert batches(bench.complete()) == []  # one left

    def test_step_5_what_is_older_than_twice_its_objective_is_purged(self) -> None:
        bench = bench_with("adaptive")
        bench.arrive()
        bench.wake()
        at(bench, 0.095).arrive()
        at(bench, 0.200).arrive()
        # Until 0.31 s: request 2 is 0.215 s old, its twofold objective is 0.2; request 3 is due at 0.3, late
        # and runs.
        commands = bench.complete(service_s=0.110)
        assert [type(command) for command in ends(commands).values()].count(Shed) == 1
        assert sequences(batches(commands)[0]) == [3]


class TestAimd:
    def test_it_grows_by_one_with_every_batch_in_time(self) -> None:
        bench = bench_with("aimd")
        sizes = []
        for _ in range(4):
            while not batches(bench.arrive()):
                pass
            sizes.append(bench.running().rows)
            bench.complete()
        assert sizes == [1, 2, 3, 4]

    def test_it_shrinks_by_one_after_a_batch_with_a_late_one(self) -> None:
        bench = bench_with("aimd")
        for service_s in (0.01, 0.01, 0.2):  # sizes 1, 2 and 3, the last of them late
            while not batches(bench.arrive()):
                pass
            bench.complete(service_s=service_s)
        while not batches(bench.arrive()):
            pass
        assert bench.running().rows == 2

    def test_it_waits_no_longer_than_until_the_head_is_due(self) -> None:
        bench = bench_with("aimd")
        bench.arrive()
        bench.complete()
        bench.arrive()  # two are wanted
        assert bench.wake_s == pytest.approx(0.110)
        assert sequences(batches(bench.wake())[0]) == [2]

    def test_it_does_not_outgrow_the_plan(self) -> None:
        bench = bench_with("aimd", batch_rows_max=2)
        sizes = []
        for _ in range(4):
            while not batches(bench.arrive()):
                pass
            sizes.append(bench.running().rows)
            bench.complete()
        assert sizes == [1, 2, 2, 2]


class TestNexus:
    def test_a_full_batch_leaves_at_once(self) -> None:
        bench = bench_with("nexus", batch_rows_max=2)
        assert batches(bench.arrive()) == []
        assert sequences(batches(bench.arrive())[0]) == [1, 2]

    def test_else_when_the_head_could_not_wait_for_a_full_one(self) -> None:
        bench = bench_with("nexus")
        bench.arrive()
        assert bench.wake_s == pytest.approx(0.080)  # 100 - l(8)
        assert sequences(batches(bench.wake())[0]) == [1]

    def test_heads_that_their_batch_would_make_late_are_dropped(self) -> None:
        # Busy until 100 ms. Request 2 is due at 105, and its batch of three takes 12.86 ms; then [3, 4] take
        # 11.43.
        bench = bench_with("nexus", batch_rows_max=3)
        bench.arrive()
        bench.wake()
        bench.arrive(slo_s=0.105 - bench.now_s)
        bench.arrive()
        bench.arrive()
        commands = bench.complete(service_s=0.1 - bench.now_s)
        shed = [n for n, end in ends(commands).items() if isinstance(end, Shed)]
        assert shed == [2]
        assert batches(commands) == []  # two of three, and time is left
        assert sequences(batches(bench.wake())[0]) == [3, 4]


class TestAssigned:
    def test_each_replica_is_given_its_share_by_rate(self) -> None:
        # A replica of two cores is twice as fast as one of one: it is given two of three.
        bench = bench_with("full", batch_rows_max=8)
        bench.ready(2, cores=2.0)
        for _ in range(9):
            bench.arrive()
        given = Counter(piece.terms.replica_id for piece in bench.machine.stages["main"].queue if piece.terms)
        running = {batch.replica_id: batch.rows for batch in bench.laws.running.values()}
        assert (given + Counter(running))[1] == 3
        assert (given + Counter(running))[2] == 6

    def test_what_waits_for_one_replica_is_not_taken_by_another(self) -> None:
        bench = bench_with("hold")
        bench.ready(2)
        for _ in range(4):
            bench.arrive()
        assert {batch.replica_id: sequences(batch) for batch in bench.laws.running.values()} == {
            1: [1],
            2: [2],
        }
        assert sequences(batches(bench.complete(2))[0]) == [4]

    @pytest.mark.parametrize(
        "event",
        [ReplicaDraining(2), ReplicaGone(2, expected=False), VariantUnloaded(2, "model")],
    )
    def test_what_a_replica_leaves_is_given_anew(
        self, event: ReplicaDraining | ReplicaGone | VariantUnloaded
    ) -> None:
        bench = bench_with("hold")
        bench.ready(2)
        for _ in range(4):
            bench.arrive()
        bench.tell(event)
        seen: list[RunBatch] = []
        while bench.laws.open:
            replica_id = max(batch.replica_id for batch in bench.laws.running.values())
            seen += batches(bench.complete(replica_id))
        assert all(batch.replica_id == 1 for batch in seen)

    def test_without_a_replica_it_waits_for_the_first(self) -> None:
        service = make_service()
        rules = StageRules(routing="assigned", drop="none", admission="open")
        bench = ServiceBench(service, TIMES, make_plan(service, rules=rules))
        bench.arrive()
        assert sequences(batches(bench.ready())[0]) == [1]

    def test_what_nobody_comes_for_is_shed_when_it_is_due(self) -> None:
        service = make_service()
        rules = StageRules(forming="adaptive", drop="none", admission="open")
        bench = ServiceBench(service, TIMES, make_plan(service, rules=rules))
        bench.arrive()
        assert bench.wake_s == pytest.approx(0.101)
        assert isinstance(ends(bench.wake())[1], Shed)

    @pytest.mark.parametrize("forming", ["adaptive", "aimd", "nexus", "timeout", "full"])
    def test_a_draining_service_waits_for_nobody(self, forming: Forming) -> None:
        bench = bench_with(forming)
        bench.arrive()
        bench.complete() if bench.laws.running else None
        bench.arrive()
        bench.tell(ServiceDraining())
        assert bench.laws.running

    def test_timeout_leaves_after_its_time(self) -> None:
        bench = bench_with("timeout")
        bench.arrive()
        assert bench.wake_s == pytest.approx(0.030)
        assert sequences(batches(bench.wake())[0]) == [1]
