"""The default policy on pipelines, simulated: a surge through a chain and through a fork that joins.

Whatever it leaves out, it stays within the node, loses no request, and gives its cores back.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.types import Service, Stage, Variant
from steelyard.metrics.runs import RunSummary
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.result import SimulatedRun
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.trace import CountTrace, Mark

CHAIN = (("a", ()), ("b", ("a",)), ("c", ("b",)))
FORK = (("a", ()), ("b", ("a",)), ("c", ("a",)), ("d", ("b", "c")))
QUIET, BURST = 40, 120
SURGE = (QUIET,) * 15 + (BURST,) * 15 + (QUIET,) * 15
CORES = 24


def scenario(
    graph: tuple[tuple[str, tuple[str, ...]], ...],
    counts: tuple[int, ...] = SURGE,
    *,
    policy: str = "steelyard",
    options: dict[str, object] | None = None,
    seed: int = 1,
    fan_out: int = 1,
) -> Scenario:
    """14 b / c + 4 b + 1 / c + 1 ms a batch: one core carries 50 to 55 rows a second; 3 s a start."""
    variants = (Variant("m", None, 8, 4, 3.0, 0.05),)
    stages = tuple(Stage(name, variants, after, fan_out if after else 1) for name, after in graph)
    declared = {"m": DeclaredLatency((14.0, 4.0, 1.0, 1.0), spread=0.1)}
    times = tuple(StageTimes("s", stage.name, (), declared) for stage in stages)
    trace = CountTrace({Mark(): np.array(counts, dtype=np.int64)})
    node = SimulatedNode("local", CORES)
    return Scenario(
        {"s": Service("s", 0.4, stages)}, times, {"s": trace}, policy, options or {}, (node,), seed=seed
    )


def summary_of(run: SimulatedRun) -> RunSummary:
    (summary,) = run.summaries
    return summary


@pytest.mark.long
@pytest.mark.parametrize("graph", [CHAIN, FORK])
def test_a_surge_through_a_pipeline_costs_no_slo_and_fewer_cores_than_its_peak(
    graph: tuple[tuple[str, tuple[str, ...]], ...],
) -> None:
    run = simulate(scenario(graph))
    summary, (series,) = summary_of(run), run.series
    assert summary.violation_ratio <= 0.01
    # At least 120 x 20 ms a stage are needed in the burst, 2.4 cores, and 0.8 before and after.
    peak = 2.4 * len(graph)
    assert max(series.cores[16:30]) >= peak
    assert series.cores[-1] <= 0.6 * max(series.cores)
    assert summary.core_seconds <= 45 * 1.1 * peak
    assert summary.resizes is not None
    # Cores are given up 30 times a minute for each core at most, and taken as often.
    assert summary.resizes <= 2 * 30 * (summary.core_seconds / 60 + CORES / 6)


@pytest.mark.long
@pytest.mark.parametrize("ingredient", ["parking", "reserve", "batching", "queue"])
@pytest.mark.parametrize("graph", [CHAIN, FORK])
def test_without_an_ingredient_a_surge_is_still_held(
    graph: tuple[tuple[str, tuple[str, ...]], ...], ingredient: str
) -> None:
    summary = summary_of(simulate(scenario(graph, options={"without": [ingredient]})))
    assert summary.violation_ratio <= 0.03
    # What is in reserve has a core each where it cannot be parked.
    assert summary.core_seconds <= 45 * CORES * (0.75 if ingredient == "parking" else 0.5)


@pytest.mark.long
def test_a_higher_violation_target_costs_fewer_cores() -> None:
    strict, loose = (
        summary_of(simulate(scenario(CHAIN, options={"violation_target": target})))
        for target in (0.0005, 0.1)
    )
    assert loose.core_seconds < strict.core_seconds
    assert loose.violations >= strict.violations


@pytest.mark.long
@settings(max_examples=10, deadline=None)
@given(
    graph=st.sampled_from([CHAIN, FORK]),
    counts=st.lists(st.integers(0, 150), min_size=8, max_size=8),
    without=st.sets(st.sampled_from(["parking", "reserve", "batching", "queue"])),
    fan_out=st.integers(1, 2),
)
def test_whatever_comes_and_whatever_is_left_out_most_is_served_and_the_node_is_not_exceeded(
    graph: tuple[tuple[str, tuple[str, ...]], ...],
    counts: list[int],
    without: set[str],
    fan_out: int,
) -> None:
    options: dict[str, object] = {"without": sorted(without)}
    run = simulate(scenario(graph, tuple(counts), options=options, fan_out=fan_out))
    summary, (series,) = summary_of(run), run.series
    assert summary.requests == sum(counts)
    assert summary.completed >= 0.3 * summary.requests
    assert max(series.cores) <= CORES
