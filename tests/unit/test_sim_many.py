"""Several runs at once: order, errors that name their run, progress."""

import pytest

from steelyard.core.errors import SpecError
from steelyard.core.types import Service, Stage, Variant
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.many import simulate_many
from steelyard.sim.result import SimulatedRun
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.trace import count_trace

SERVICE = Service("ocr", 0.2, (Stage("read", (Variant("base", 0.9, 4, 4),)),))
TIMES = (StageTimes("ocr", "read", (), {"base": DeclaredLatency((20.0, 5.0, 0.0, 0.0))}),)


def scenario(policy: str = "static", *, seed: int = 0, seconds: int = 3) -> Scenario:
    trace = count_trace([20] * seconds)
    return Scenario(
        {"ocr": SERVICE}, TIMES, {"ocr": trace}, policy, {}, (SimulatedNode("local", 4),), seed=seed
    )


def timeless(run: SimulatedRun) -> list[tuple[object, ...]]:
    return [(s.policy, s.seed, s.requests, s.completed, s.latency_ms["p99"]) for s in run.summaries]


def test_one_after_the_other_in_this_process() -> None:
    told: list[tuple[float, float]] = []
    runs = simulate_many(
        [scenario(seed=1), scenario(seed=2, seconds=2)],
        processes=1,
        on_progress=lambda done, all_: told.append((done, all_)),
    )
    assert [run.seed for run in runs] == [1, 2]
    assert told == [(1.0, 5.0), (2.0, 5.0), (3.0, 5.0), (4.0, 5.0), (5.0, 5.0)]


def test_a_run_that_fails_is_named() -> None:
    runs = simulate_many([scenario(), scenario("statik", seed=7)], processes=1)
    assert next(runs).label == "static"
    with pytest.raises(SpecError, match="run statik, seed 7: unknown policy 'statik'"):
        next(runs)


def test_nothing_to_run() -> None:
    assert list(simulate_many([])) == []


@pytest.mark.slow
def test_processes_give_the_same_runs_in_the_order_given() -> None:
    scenarios = [scenario(seed=1, seconds=30), scenario("themis", seed=2), scenario(seed=3)]
    told: list[float] = []
    here = list(simulate_many(scenarios, processes=1))
    there = list(simulate_many(scenarios, processes=2, on_progress=lambda done, _: told.append(done)))
    assert [timeless(run) for run in there] == [timeless(run) for run in here]
    assert told[-1] == 36.0


@pytest.mark.slow
def test_a_run_that_fails_elsewhere_is_named() -> None:
    runs = simulate_many([scenario(), scenario("statik", seed=7)], processes=2)
    assert next(runs).label == "static"
    with pytest.raises(SpecError, match="run statik, seed 7: unknown policy 'statik'"):
        next(runs)
