"""Which pieces one batch is made of: the drop rules, one by one.

Unless a test says else, one row takes 10 ms on one core and eight take 20 ms, straight between:
l(b) = 10 + 10 (b - 1) / 7 ms, so l(2) = 11.43, l(4) = 14.29, l(8) = 20.
"""

import pytest

from steelyard.core.commands import Command, Complete, RunBatch, Shed
from steelyard.core.plan import StageRules
from steelyard.testing.bench import ServiceBench, batches, ends, sequences
from steelyard.testing.builders import TableTimes, make_plan, make_service

TIMES = TableTimes({1: 0.010, 8: 0.020})


def bench_with(rules: StageRules, *, batch_rows_max: int = 8) -> ServiceBench:
    service = make_service()
    plan = make_plan(service, rules=rules, batch_rows_max=batch_rows_max)
    bench = ServiceBench(service, TIMES, plan)
    bench.ready()
    return bench


def shed(commands: list[Command]) -> dict[int, str]:
    return {command.request_id.sequence: command.reason for command in commands if isinstance(command, Shed)}


def test_none_runs_even_what_is_late() -> None:
    bench = bench_with(StageRules(drop="none", admission="open"))
    bench.arrive()
    bench.arrive(slo_s=0.001)
    bench.complete(service_s=0.05)
    assert sequences(bench.running()) == [2]
    end = ends(bench.complete())[2]
    assert isinstance(end, Complete)
    assert end.late


def test_age_sheds_at_assembly_what_has_reached_the_limit() -> None:
    bench = bench_with(StageRules(order="fifo", drop="age", age_s_max=0.5, admission="open"))
    bench.arrive()
    bench.now_s = 0.25
    bench.arrive()
    bench.now_s = 0.5
    bench.arrive()
    # The batch ends at 0.75 s: request 2 is then exactly 0.5 s old, request 3 is 0.25 s old.
    commands = bench.complete(service_s=0.25)
    assert shed(commands) == {2: "age"}
    assert sequences(bench.running()) == [3]


def test_who_waits_alone_goes_to_the_first_replica_in_line_that_is_in_time() -> None:
    bench = bench_with(StageRules(drop="infeasible", admission="open", routing="round_robin"))
    bench.ready(2, cores=2.0)
    # It is the turn of replica 1, which takes 10 ms; replica 2 takes 5 ms.
    bench.arrive(slo_s=0.008)
    assert sequences(bench.running(2)) == [1]
    bench.complete(2)
    bench.arrive(slo_s=0.012)
    assert sequences(bench.running(1)) == [2]


def test_who_waits_alone_is_cut_where_the_replica_takes_fewer_rows() -> None:
    bench = bench_with(StageRules(), batch_rows_max=2)
    bench.ready(2)
    bench.arrive(rows=3)
    # Three rows are two pieces: nobody waits alone, and each runs where nothing does.
    assert (bench.running(1).rows, bench.running(2).rows) == (2, 1)


def test_infeasible_takes_as_many_as_the_head_allows() -> None:
    bench = bench_with(StageRules(drop="infeasible", admission="open"))
    bench.arrive()
    # Free at 10 ms; the head is due at 22 ms, so it allows 12 ms: l(2) = 11.43 fits, l(3) = 12.86 does not.
    bench.arrive(slo_s=0.022)
    for _ in range(5):
        bench.arrive(slo_s=0.2)
    bench.complete()
    assert sequences(bench.running()) == [2, 3]


def test_infeasible_sheds_the_lost_and_runs_the_rest() -> None:
    bench = bench_with(StageRules(drop="infeasible", admission="open"))
    bench.arrive()
    bench.arrive(slo_s=0.015)  # at 10 ms, 5 ms are left and 10 are needed
    bench.arrive(slo_s=0.1)
    commands = bench.complete()
    assert shed(commands) == {2: "deadline"}
    assert sequences(bench.running()) == [3]


def test_what_only_a_slow_replica_cannot_finish_waits_for_the_fast_one() -> None:
    bench = bench_with(StageRules(drop="early", admission="open"))
    bench.arrive(slo_s=0.1)
    bench.arrive(slo_s=0.022)
    # A replica of a quarter core takes 40 ms for one row; the one of a whole core is free at 10 ms.
    assert batches(bench.ready(2, cores=0.25)) == []
    bench.complete(1)
    assert sequences(bench.running(1)) == [2]


def test_early_keeps_the_head_while_everybody_behind_makes_it() -> None:
    bench = bench_with(StageRules(drop="early", admission="open"))
    bench.arrive()
    # Free at 10 ms; the head allows 12 ms, a batch of 2. Then 7 remain and have 170 ms: nobody is shed.
    bench.arrive(slo_s=0.022)
    for _ in range(8):
        bench.arrive(slo_s=0.2)
    commands = bench.complete()
    assert shed(commands) == {}
    assert sequences(bench.running()) == [2, 3]


def test_early_sheds_a_head_that_shrinks_the_batch_under_overload() -> None:
    bench = bench_with(StageRules(drop="early", admission="open"))
    bench.arrive()
    bench.arrive(slo_s=0.022)
    for _ in range(24):
        bench.arrive(slo_s=0.055)
    # Free at 10 ms. With the head: 2 rows until 21.4, then best batches until 41.4 and 61.4 > 55: somebody is
    # late. Without it: 8 rows in 20 ms (400 a second) instead of 2 in 11.4 (175 a second).
    commands = bench.complete()
    assert shed(commands) == {2: "early"}
    assert len(sequences(bench.running())) == 8


def test_early_sheds_nobody_while_another_replica_is_idle() -> None:
    bench = bench_with(StageRules(drop="early", admission="open"))
    for _ in range(2):
        bench.arrive(slo_s=0.3)
    assert len(bench.laws.running) == 1
    bench.arrive(slo_s=0.022)
    for _ in range(24):
        bench.arrive(slo_s=0.055)
    bench.ready(2, cores=0.0)
    bench.complete(1)
    before = dict(bench.laws.ends)
    bench.resize(2, 1.0)
    assert not any(isinstance(end, Shed) for key, end in bench.laws.ends.items() if key not in before)


@pytest.mark.parametrize("drop", ["none", "infeasible", "early"])
def test_a_batch_is_a_run_of_neighbours_of_one_key(drop: str) -> None:
    bench = bench_with(StageRules(drop=drop, admission="open"))  # type: ignore[arg-type]
    bench.arrive(slo_s=0.2)
    bench.arrive(slo_s=0.3, key="x")
    bench.arrive(slo_s=0.4, key="y")
    bench.arrive(slo_s=0.5, key="x")
    bench.complete()
    assert sequences(bench.running()) == [2, 4]
    bench.complete()
    assert sequences(bench.running()) == [3]


def test_rows_are_counted_and_pieces_are_not_packed_around() -> None:
    bench = bench_with(StageRules(drop="early", admission="open"))
    bench.arrive(slo_s=0.3)
    for rows in (5, 4, 1):
        bench.arrive(slo_s=0.4, rows=rows)
    bench.complete()
    # 5 + 4 > 8, and the third does not overtake the second.
    assert sequences(bench.running()) == [2]
    bench.complete()
    assert sequences(bench.running()) == [3, 4]


def test_fifo_goes_by_arrival_whatever_the_deadlines() -> None:
    bench = bench_with(StageRules(order="fifo", drop="none", admission="open"), batch_rows_max=1)
    bench.arrive()
    bench.arrive(slo_s=0.9)
    bench.arrive(slo_s=0.1)
    bench.complete()
    assert sequences(bench.running()) == [2]


def test_edf_goes_by_deadline() -> None:
    bench = bench_with(StageRules(), batch_rows_max=1)
    bench.arrive()
    bench.arrive(slo_s=0.9)
    bench.arrive(slo_s=0.1)
    commands = bench.complete()
    assert isinstance(commands[0], RunBatch)
    assert sequences(bench.running()) == [3]


def test_early_makes_no_batch_that_gains_nothing() -> None:
    # Two rows take twice as long as one: nobody is better off in a batch, though the plan allows eight rows.
    service = make_service()
    bench = ServiceBench(service, TableTimes({1: 0.010, 8: 0.080}), make_plan(service))
    bench.ready()
    for _ in range(4):
        bench.arrive(slo_s=1.0)
    for number in (2, 3, 4):
        bench.complete()
        assert sequences(bench.running()) == [number]


def test_a_request_of_many_rows_is_not_cut_to_the_best_size() -> None:
    service = make_service()
    bench = ServiceBench(service, TableTimes({1: 0.010, 8: 0.080}), make_plan(service))
    bench.ready()
    bench.arrive(slo_s=1.0, rows=5)
    assert bench.running().rows == 5


def test_published_rules_fill_batches_that_gain_nothing() -> None:
    service = make_service()
    plan = make_plan(service, rules=StageRules(order="fifo", drop="none", admission="open"))
    bench = ServiceBench(service, TableTimes({1: 0.010, 8: 0.080}), plan)
    bench.ready()
    for _ in range(4):
        bench.arrive(slo_s=1.0)
    bench.complete()
    assert sequences(bench.running()) == [2, 3, 4]
