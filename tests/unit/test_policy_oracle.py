"""The oracle on a stage of which a row takes 0.1 s on one core and 0.06 s on two (10 and 16.7 rows/s).

alpha / c + zeta with alpha = 80 ms and zeta = 20 ms; no batches. SLO 1 s, of which 0.05 s are kept and at
most 0.2 s are the budget for a row and a replica's turn: at least 0.75 s of patience, less the reply's time.
"""

import pytest

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.snapshot import (
    ClusterSnapshot,
    NodeView,
    ReplicaState,
    ReplicaView,
    ServiceView,
    ServiceWindow,
    StageWindow,
)
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.oracle import OraclePolicy
from steelyard.policies.registry import make_policy
from steelyard.profile.tables import StageTimes
from steelyard.profile.times import CoefficientTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.trace import count_trace

READ = Stage("read", (Variant("only", batch_rows_max=1, cores_max=2, cold_start_s=2.0),))
SERVICE = Service("ocr", 1.0, (READ,))


def policy(future: list[int], **options: object) -> Policy:
    times = {("ocr", "read"): CoefficientTimes(80.0, 0.0, 0.0, 20.0)}
    return OraclePolicy(PolicyContext({"ocr": SERVICE}, times, options, future={"ocr": tuple(future)}))


def awake(future: list[int]) -> Policy:
    """Without parked replicas."""
    return policy(future, parks=False)


def snapshot(
    now_s: float,
    *,
    states: tuple[ReplicaState, ...] = (),
    queue: int = 0,
    arrived: int = 0,
    cores: float = 16.0,
) -> ClusterSnapshot:
    """One-core replicas in these states; `arrived` rows in the window that ends now."""
    desired = None
    if states:
        plan = StagePlan((ReplicaPlan(1.0, ("only",)),) * len(states), (VariantShare("only", 1.0),))
        desired = ServicePlan("ocr", {"read": plan})
    replicas = tuple(
        ReplicaView(i, "ocr", "read", "local", state, 1.0, 1.0, 1.0, ("only",), 0.0)
        for i, state in enumerate(states)
    )
    stage = StageWindow("read", queue, queue, 0.5 if queue else None, 0)
    window = ServiceWindow("ocr", now_s - 0.1, now_s, arrived, arrived, 0, 0, 0, 0, 0, 0, (stage,))
    view = ServiceView("ocr", (window,), (), desired, replicas)
    return ClusterSnapshot(now_s, 0.1, (NodeView("local", cores, cores),), (view,))


def sizes(decision: Decision) -> list[float]:
    assert decision.plan is not None
    return [replica.cores for replica in decision.plan.services["ocr"].stages["read"].replicas]


STEP = [8] * 20 + [39] * 40 + [8] * 20
"""One replica carries 10/s; 39 rows/s want four, as three would need 3 + 9 / 6.7 = 4.35 cores."""


def test_it_begins_with_what_the_first_second_needs() -> None:
    assert sizes(awake(STEP).decide(snapshot(0.0))) == [1.0]
    assert sizes(awake([39] * 30).decide(snapshot(0.0))) == [1.0] * 4


def test_what_the_first_half_minute_needs_is_there_from_the_start_and_parked() -> None:
    assert sizes(policy(STEP).decide(snapshot(0.0))) == [1.0, 0.0, 0.0, 0.0]
    assert sizes(policy([8] * 20 + STEP).decide(snapshot(0.0))) == [1.0]


def test_replicas_start_a_cold_start_and_a_second_before_they_are_needed() -> None:
    # The rate rises at 20 s; of its first second some rows wait, so the fourth is needed from second 21 on.
    # What starts is to be parked: it holds a core until it is ready, and has what it is given then.
    oracle = awake(STEP)
    assert sizes(oracle.decide(snapshot(16.9, states=("ready",)))) == [1.0]
    assert sizes(oracle.decide(snapshot(17.1, states=("ready",)))) == [1.0] * 3
    assert sizes(oracle.decide(snapshot(18.1, states=("ready", "starting", "starting")))) == [1.0] * 4


def test_replicas_go_when_they_are_not_needed_for_longer_than_a_start_costs() -> None:
    oracle = awake(STEP)
    assert sizes(oracle.decide(snapshot(61.5, states=("ready",) * 4))) == [1.0]
    # If the rate is back after one second, keeping three idle costs 3 core-seconds, and starting them 6.
    oracle = awake([39] * 20 + [8] + [39] * 20)
    assert len(sizes(oracle.decide(snapshot(20.5, states=("ready",) * 4)))) == 4


def test_cores_carry_what_waits() -> None:
    # One ready replica. 3 waiting and 8 t to come, within about 0.9 s and t more: the worst t is 0
    # (3 / 0.9 = 3.3) or late (8): one core. 10 waiting: 10 / 0.9 = 11: two cores.
    oracle = policy([8] * 30)
    assert sizes(oracle.decide(snapshot(10.0, states=("ready",), queue=3, arrived=1))) == [1.0]
    assert sizes(oracle.decide(snapshot(12.0, states=("ready",), queue=10, arrived=1))) == [2.0]


def test_cores_stay_for_the_time_of_a_batch() -> None:
    oracle = policy([8] * 30)
    assert sizes(oracle.decide(snapshot(10.0, states=("ready",), queue=10))) == [2.0]
    assert sizes(oracle.decide(snapshot(10.05, states=("ready",)))) == [
        2.0
    ]  # a row takes 0.06 s on two cores
    assert sizes(oracle.decide(snapshot(10.2, states=("ready",)))) == [1.0]


def test_what_has_come_of_a_second_does_not_come_again() -> None:
    # Either all 20 of the second have come in its first 0.1 s, and are being served: later 8 rows/s come.
    # Or none have, and come within 0.9 s: 20 / (0.9 + 0.9) = 11 rows/s, two cores.
    for arrived, cores in ((20, 1.0), (0, 2.0)):
        oracle = awake([8] * 10 + [20] + [8] * 10)
        assert sizes(oracle.decide(snapshot(10.1, states=("ready",), arrived=arrived))) == [cores]


def test_what_does_not_fit_the_node_is_left_out() -> None:
    assert sizes(policy([39] * 30).decide(snapshot(0.0, cores=3.0))) == [1.0] * 3
    assert (
        sizes(policy([39] * 30).decide(snapshot(5.0, states=("ready",) * 3, queue=99, cores=3.0)))
        == [1.0] * 3
    )


def test_it_decides_after_every_window() -> None:
    oracle = policy(STEP)
    assert oracle.decide(snapshot(-0.5)).next_at_s == pytest.approx(-0.495)
    assert oracle.decide(snapshot(0.0)).next_at_s == pytest.approx(0.005)
    assert oracle.decide(snapshot(0.005)).next_at_s == pytest.approx(0.105)
    assert oracle.decide(snapshot(0.105)).next_at_s == pytest.approx(0.205)


def test_it_always_runs_on_the_shared_data_plane() -> None:
    plan = policy(STEP).decide(snapshot(0.0)).plan
    assert plan is not None
    assert plan.services["ocr"].stages["read"].rules == StageRules()


def test_without_a_trace_it_refuses_and_options_are_checked() -> None:
    times = {("ocr", "read"): CoefficientTimes(80.0, 0.0, 0.0, 20.0)}
    with pytest.raises(SpecError, match="must know the trace of ocr: for simulations only"):
        make_policy("oracle", PolicyContext({"ocr": SERVICE}, times))
    with pytest.raises(SpecError, match="unknown option 'margin'; it has: margin_s"):
        policy(STEP, margin=1)


@pytest.mark.long
def test_a_step_is_served_at_little_more_than_its_work() -> None:
    # 40 s of 39 rows/s and 40 s of 8: four replicas and one, and three starts of 3 core-seconds.
    declared = {"only": DeclaredLatency(coefficients_ms=(80.0, 0.0, 0.0, 20.0))}
    run = simulate(
        Scenario(
            services={"ocr": SERVICE},
            times=(StageTimes("ocr", "read", declared=declared),),
            traces={"ocr": count_trace(STEP)},
            policy="oracle",
            options={},
            nodes=(SimulatedNode("node", 16),),
        )
    )
    (summary,) = run.summaries
    assert summary.violation_ratio <= 0.001
    assert summary.core_seconds <= 1.1 * (4 * 40 + 1 * 40 + 3 * 3)
