"""`simulate`: what comes out, worked out by hand; the same for everybody who asks again."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from steelyard.core.errors import SpecError, TraceError
from steelyard.core.events import WindowReported
from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.core.types import Service, Stage, Variant
from steelyard.journal.records import CONTROL, Record
from steelyard.policies.base import PolicyContext
from steelyard.policies.static import StaticPolicy
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import DRAIN_S_MAX, Simulation, simulate
from steelyard.sim.scenario import Failure, Physics, Scenario, SimulatedNode, SlowDown
from steelyard.testing.fixed_plan import fixed
from steelyard.testing.hash_seeds import HASH_SEEDS, printed
from steelyard.workload.trace import Arrival, ArrivalTrace, Mark, Trace, arrival_trace, count_trace

PUBLISHED = StageRules(order="fifo", drop="none", admission="open")


def service(*, slo_s: float = 1.0, cold_start_s: float = 0.5, batch: int = 1) -> Service:
    variant = Variant("base", 0.9, batch, 4, cold_start_s, 0.05)
    return Service("ocr", slo_s, (Stage("read", (variant,)),), reply_s=0.001)


def chain(*, fan_out: int = 1) -> Service:
    variant = Variant("base", 0.9, 1, 4, 0.5, 0.05)
    stages = (Stage("find", (variant,)), Stage("read", (variant,), ("find",), fan_out))
    return Service("ocr", 1.0, stages, reply_s=0.0)


PLAIN = Mark()


def at(*times_s: float, mark: Mark = PLAIN, seconds: int = 2) -> ArrivalTrace:
    """Arrivals at exact times in a trace of `seconds`."""
    requests = arrival_trace([Arrival(time_s, mark) for time_s in times_s]).requests
    return ArrivalTrace(requests, seconds)


def scenario(trace: Trace, policy: str = "static", **fields: Any) -> Scenario:
    """One service, 10 ms a batch whatever its size, on four cores."""
    of = fields.pop("of", service())
    times = tuple(
        StageTimes(
            of.name, s.name, (), {"base": DeclaredLatency((0.0, 0.0, 0.0, 10.0), distribution="fixed")}
        )
        for s in of.stages
    )
    nodes = (SimulatedNode("local", fields.pop("cores", 4)),)
    return Scenario(
        {of.name: of}, times, {of.name: trace}, policy, fields.pop("options", {}), nodes, **fields
    )


def latencies_ms(made: Scenario) -> list[float]:
    """Of all requests in the order of arrival, without the reply."""
    simulation = Simulation(made)
    simulation.run()
    ends = simulation.accounts["ocr"].ends()
    return [round(float(value), 6) for value in (ends.ended_s - ends.arrived_s) * 1e3]


def timeless(made: Scenario) -> bytes:
    """A run as bytes, without wall times."""
    run = simulate(made)
    summaries = tuple(
        msgspec.structs.replace(s, plan_ms=None, wall_s=None, requests_per_wall_s=None) for s in run.summaries
    )
    series = tuple(msgspec.structs.replace(s, summary=o) for s, o in zip(run.series, summaries, strict=True))
    return msgspec.json.encode(msgspec.structs.replace(run, summaries=summaries, series=series))


def test_a_request_takes_its_service_time_and_the_reply() -> None:
    run = simulate(scenario(at(0.5, 0.505)))
    (summary,), (series,), (flow,) = run.summaries, run.series, run.flows
    # The second finds the replica busy until 0.510: 10 and 15 ms, and 1 ms for the reply.
    assert summary.latency_ms == pytest.approx({"p50": 11.0, "p90": 16.0, "p99": 16.0, "max": 16.0})
    assert (summary.requests, summary.completed, summary.violations) == (2, 2, 0)
    assert summary.core_seconds == 2.0  # one core from 0 to the end of the trace, at 2 s
    assert (summary.cold_starts, summary.resizes, summary.switches) == (0, 0, 0)
    assert summary.accuracy_mean == pytest.approx(0.9)
    assert series.rate_rps == [2.0, 0.0]
    assert series.p99_ms == [pytest.approx(16.0), None]
    assert (series.cores, series.replicas) == ([1.0, 1.0], [1, 1])
    # Little: 2 requests in 0.520 s, (10 + 15) / 2 ms each: 2 / 0.520 x 0.0125 = 0.048 in the system.
    assert flow.number_mean == pytest.approx(0.025 / 0.520)
    assert flow.arrival_rate_rps * flow.sojourn_mean_s == pytest.approx(flow.number_mean)


def test_a_cold_start_is_waited_for_and_paid_for() -> None:
    (summary,) = simulate(scenario(at(0.1), cold=True)).summaries
    # Started at 0, ready at 0.5: the request of 0.1 is done at 0.510. The core is paid for from 0 on.
    assert summary.latency_ms["max"] == pytest.approx(411.0)
    assert (summary.cold_starts, summary.core_seconds) == (1, 2.0)


def test_dispatch_takes_time_before_and_after_a_batch() -> None:
    assert latencies_ms(scenario(at(0.5), physics=Physics(dispatch_s=0.002))) == [14.0]


def test_a_slow_machine_is_slow_for_batches_that_start_meanwhile() -> None:
    slow = Physics(slow_downs=(SlowDown(0.5, 1.0, 1.5), SlowDown(0.9, 1.0, 2.0)))
    assert latencies_ms(scenario(at(0.4, 0.5, 0.95, 1.0), physics=slow)) == [10.0, 15.0, 30.0, 10.0]


def test_neighbours_slow_each_other_down_as_far_as_they_are_busy() -> None:
    made = scenario(at(0.5, 0.501), options={"replicas": 2}, cores=3, physics=Physics(corun_ratio=1.2))
    # The first starts alone; the second while one of the two other cores is busy: 10 ms x (1 + 0.2 / 2).
    assert latencies_ms(made) == [10.0, 11.0]


def test_a_lost_replica_is_replaced_and_its_request_tried_again() -> None:
    lost = Physics(failures=(Failure(0.505, "ocr", "read"),))
    made = scenario(at(0.5), physics=lost)
    # Lost at 0.505, replaced at 1.005 by a cold start, done at 1.015: 515 ms.
    assert latencies_ms(made) == [515.0]
    assert simulate(made).summaries[0].cold_starts == 1


def test_a_loss_at_time_0_meets_what_was_warm() -> None:
    made = scenario(at(0.1), physics=Physics(failures=(Failure(0.0, "ocr", "read"),)))
    assert latencies_ms(made) == [410.0]  # replaced at 0, ready at 0.5, done at 0.510


def test_two_replicas_may_be_lost_at_once() -> None:
    lost = Physics(failures=(Failure(0.505, "ocr", "read"), Failure(0.505, "ocr", "read")))
    # The service hears of the first while the second is dead already: what it runs there comes back.
    assert latencies_ms(scenario(at(0.5, 0.501), options={"replicas": 2}, physics=lost)) == [515.0, 514.0]


def test_windows_reach_the_control_plane_late_if_sensing_lags() -> None:
    told: list[tuple[float, float]] = []

    def journal(machine: str, now_s: float, event: Any, _: Any) -> None:
        if machine == CONTROL and isinstance(event, WindowReported):
            told.append((event.window.to_s, now_s))

    simulate(scenario(at(0.5), cold=True, physics=Physics(sensing_lag_s=0.03)), journal=journal)
    assert told[1][0] == 0.2
    assert [now_s - to_s for to_s, now_s in told] == pytest.approx([0.03] * len(told))


def test_budgets_are_the_earliest_of_class_and_own() -> None:
    gold = {"ocr": {"gold": 0.015}}
    # 16 ms with reply and queue, behind another: too late for gold (15 ms), not for 20 ms of its own.
    for mark, late in ((Mark(slo_class="gold"), 1), (Mark(latency_s=0.020), 0), (Mark(latency_s=0.012), 1)):
        requests = (Arrival(0.5), Arrival(0.505, mark))
        made = scenario(ArrivalTrace(requests, 2), classes=gold)
        (summary,) = simulate(made, make=fixed(one_replica(PUBLISHED))).summaries
        assert (summary.late, summary.completed) == (late, 2), mark


def one_replica(rules: StageRules, *, replicas: int = 1) -> ServicePlan:
    stage = StagePlan((ReplicaPlan(1.0, ("base",)),) * replicas, (VariantShare("base", 1.0),), rules=rules)
    return ServicePlan("ocr", {"read": stage})


def test_what_nobody_can_answer_has_failed_in_the_end() -> None:
    run = simulate(scenario(at(0.5, 1.0)), make=fixed(one_replica(PUBLISHED, replicas=0)))
    (summary,), (flow,) = run.summaries, run.flows
    assert (summary.failed, summary.violations, summary.core_seconds) == (2, 2, 0.0)
    # Given up 600 s after the end of a trace of 2 s: both have waited until then.
    assert flow.sojourn_mean_s == pytest.approx(DRAIN_S_MAX + 2 - 0.75)


def test_stages_follow_one_another() -> None:
    assert latencies_ms(scenario(at(0.5), of=chain())) == [20.0]
    # One row makes three of the second stage, where one replica takes them one at a time: 10 + 3 x 10.
    assert latencies_ms(scenario(at(0.5), of=chain(fan_out=3))) == [40.0]
    (summary,) = simulate(scenario(at(0.5), of=chain())).summaries
    assert summary.accuracy_mean == pytest.approx(0.81)
    assert summary.core_seconds == 4.0


def test_resizes_take_their_time_and_count() -> None:
    """A surge that `steelyard` meets by growing: every growth takes 50 ms, nothing is lost."""
    alpha = DeclaredLatency((40.0, 0.0, 0.0, 2.0), distribution="fixed")
    of = service(slo_s=0.3, cold_start_s=5.0)
    made = scenario(count_trace([10] * 5 + [40] * 5), "steelyard", of=of, cores=8)
    made = made._replace(times=(StageTimes("ocr", "read", (), {"base": alpha}),))
    (summary,) = simulate(made).summaries
    assert summary.resizes is not None
    assert summary.resizes > 0
    assert summary.completed == 250


class Clairvoyant(StaticPolicy):
    """Keeps what it was told of the future, and what it saw first."""

    futures: list[dict[str, tuple[int, ...]]]
    seen: list[ClusterSnapshot]

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self.futures.append(context.future)

    def decide(self, snapshot: ClusterSnapshot) -> Any:
        self.seen.append(snapshot)
        return super().decide(snapshot)


def test_both_instances_know_the_future_and_warm_up_on_the_largest_rate() -> None:
    Clairvoyant.futures, Clairvoyant.seen = [], []
    trace = count_trace([3, 7, 5] + [0] * 27 + [100])
    simulate(scenario(trace), make=Clairvoyant)
    assert Clairvoyant.futures == [{"ocr": (3, 7, 5, *[0] * 27, 100)}] * 2
    (view,) = Clairvoyant.seen[0].services
    # The first 30 s hold 7 a second at most: 5 s of windows with 7 a second in them, up to time 0.
    assert view.arrival_rows_by_second == (7, 7, 7, 7)
    assert sum(window.arrival_rows for window in view.windows) == 35
    assert (view.windows[0].from_s, view.windows[-1].to_s) == (-5.0, 0.0)
    assert Clairvoyant.seen[0].now_s == 0.0
    assert Clairvoyant.seen[0].nodes[0].cores_free == 4.0


def test_several_nodes_join_before_the_first_decision() -> None:
    Clairvoyant.futures, Clairvoyant.seen = [], []
    made = scenario(at(0.5))._replace(nodes=(SimulatedNode("a", 2), SimulatedNode("b", 3)))
    simulate(made, make=Clairvoyant)
    assert [node.name for node in Clairvoyant.seen[0].nodes] == ["a", "b"]


def eventful() -> Scenario:
    """Two stages, a loss, a slow minute, log-normal times."""
    latency = DeclaredLatency((20.0, 5.0, 0.0, 2.0), spread=0.2)
    of = chain()
    physics = Physics(
        dispatch_s=0.001,
        sensing_lag_s=0.01,
        corun_ratio=1.1,
        failures=(Failure(3.2, "ocr", "read"),),
        slow_downs=(SlowDown(4.0, 5.0, 1.3),),
    )
    made = scenario(count_trace([10, 20, 30, 60, 60, 30, 10]), "steelyard", of=of, cores=8, seed=5)
    times = tuple(StageTimes("ocr", stage.name, (), {"base": latency}) for stage in of.stages)
    return made._replace(times=times, physics=physics)


def test_the_same_scenario_is_the_same_run() -> None:
    assert timeless(eventful()) == timeless(eventful())


def test_another_seed_is_another_run_of_the_same_trace() -> None:
    first, second = simulate(eventful()), simulate(eventful()._replace(seed=6))
    assert first.summaries[0].latency_ms != second.summaries[0].latency_ms
    assert first.series[0].rate_rps == second.series[0].rate_rps


def test_policies_see_the_same_arrivals() -> None:
    trace = count_trace([20, 30])
    first, second = Simulation(scenario(trace)), Simulation(scenario(trace, "themis"))
    first.run()
    second.run()
    arrived = [s.accounts["ocr"].ends().arrived_s.tolist() for s in (first, second)]
    assert arrived[0] == arrived[1]


PROGRAM = """
import hashlib
from test_sim_run import eventful, timeless
print(hashlib.sha256(timeless(eventful())).hexdigest())
"""


@pytest.mark.long
def test_a_run_does_not_depend_on_the_order_of_hashes() -> None:
    folder = Path(__file__).parent
    assert len({printed(PROGRAM, hash_seed=seed, folder=folder) for seed in HASH_SEEDS}) == 1


def test_a_journal_holds_both_machines() -> None:
    records: list[Record] = []

    def journal(machine: str, now_s: float, event: Any, commands: Any) -> None:
        records.append(Record(machine, len(records), now_s, event, tuple(commands)))

    simulate(scenario(at(0.5)), journal=journal)
    assert {record.machine for record in records} == {CONTROL, "service/ocr"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"nodes": ()}, "scenario static: want at least one service and one node"),
        ({"traces": {"ocrr": count_trace([1])}}, "no service 'ocrr'; there are: ocr"),
        (
            {"physics": Physics(failures=(Failure(1.0, "ocr", "raed"),))},
            "no stage ocr.raed; there are: ocr.read",
        ),
        ({"times": ()}, "service ocr: stage read has no service times"),
        ({"policy": "statik"}, "unknown policy 'statik'"),
    ],
)
def test_a_scenario_that_contradicts_itself_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        simulate(scenario(at(0.5))._replace(**change))


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        (Mark(slo_class="gold"), "service ocr: unknown SLO class 'gold'; there are: none"),
        (Mark(rows=1000), "service ocr: want 1 to 256 rows in a request, got 1000"),
    ],
)
def test_a_request_that_no_service_takes_is_refused(mark: Mark, text: str) -> None:
    with pytest.raises(TraceError, match=text):
        simulate(scenario(at(0.5, mark=mark)))
