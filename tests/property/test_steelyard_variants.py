"""The default policy with variants: its front is that of all choices, and limits hold whatever comes."""

from itertools import combinations, product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.accuracy import Accuracies
from steelyard.core.types import Objective, Service, Stage, Variant
from steelyard.policies.steelyard.levels import front_of, menus_of
from steelyard.policies.steelyard.sizing import StageSizing
from steelyard.profile.tables import StageTimes, service_times
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.trace import CountTrace, Mark

Family = list[tuple[float, float]]
"""(ms a row, accuracy) by variant."""
families = st.lists(
    st.tuples(st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0]), st.sampled_from([0.5, 0.7, 0.8, 0.9, 0.95])),
    min_size=1,
    max_size=4,
)
CORES = 4


def service(stages: list[Family], **fields: object) -> tuple[Service, tuple[StageTimes, ...]]:
    """A chain; row by row, whatever the cores."""
    made, times = [], []
    for index, family in enumerate(stages):
        names = [f"v{place}" for place in range(len(family))]
        variants = tuple(
            Variant(n, accuracy, 4, CORES, 0.3, 0.001, load_s=0.1, memory_bytes=100)
            for n, (_, accuracy) in zip(names, family, strict=True)
        )
        made.append(Stage(f"s{index}", variants, (f"s{index - 1}",) if index else ()))
        declared = {
            n: DeclaredLatency((0.8 * ms, 0.2 * ms, 0.0, 0.0), distribution="fixed", spread=0.0)
            for n, (ms, _) in zip(names, family, strict=True)
        }
        times.append(StageTimes("a", f"s{index}", (), declared))
    return Service("a", 0.2, tuple(made), **fields), tuple(times)  # type: ignore[arg-type]


@given(st.lists(families, min_size=1, max_size=3))
def test_no_choice_and_no_mixture_is_better_than_the_front(stages: list[Family]) -> None:
    """Against all choices: at the cost of any, the front's mixtures are at least as accurate."""
    made, times = service(stages)
    menus = {
        stage.name: {v.name: StageSizing(stage, service_times(t), v.name) for v in stage.variants}
        for stage, t in zip(made.stages, times, strict=True)
    }
    known = Accuracies(made)
    front = front_of(made, menus_of(made, menus, known), known, 4.0, [1.0] * len(stages))
    points = [(sum(level.core_s), level.accuracy or 0.0) for level in front]
    if len(front) > 1:  # the only level says nothing of its cost
        assert points == sorted(points, reverse=True)
        for choice in product(*stages):
            cost, accuracy = sum(ms for ms, _ in choice) / 1e3, prod(value for _, value in choice)
            best = max(
                [a for c, a in points if c <= cost + 1e-9]
                + [
                    low[1] + (high[1] - low[1]) * (cost - low[0]) / (high[0] - low[0])
                    for high, low in combinations(points, 2)
                    if low[0] <= cost <= high[0]
                ],
            )
            assert best >= accuracy - 1e-9


objectives = st.one_of(
    st.none(),
    st.builds(Objective, accuracy_floor=st.sampled_from([0.3, 0.6, 0.9])),
    st.builds(Objective, cost_max_cores=st.sampled_from([2.0, 3.0])),
    st.builds(Objective, weights=st.tuples(st.just(1.0), st.sampled_from([0.01, 0.2]), st.just(0.001))),
)


@pytest.mark.long
@settings(max_examples=12, deadline=None)
@given(
    stages=st.lists(families, min_size=1, max_size=2),
    counts=st.lists(st.integers(0, 300), min_size=6, max_size=6),
    objective=objectives,
    memory=st.sampled_from([0, 0, 600, 2000]),
)
def test_whatever_comes_limits_hold_and_accuracies_are_those_of_variants(
    stages: list[Family], counts: list[int], objective: Objective | None, memory: int
) -> None:
    made, times = service(stages, objective=objective)
    trace = CountTrace({Mark(): np.array(counts, dtype=np.int64)})
    node = SimulatedNode("local", CORES, memory_bytes=memory)
    run = simulate(Scenario({"a": made}, times, {"a": trace}, "steelyard", {}, (node,), seed=1))
    (summary,), (series,) = run.summaries, run.series
    assert summary.requests == sum(counts)
    assert summary.failed == 0
    assert max(series.cores) <= CORES
    assert summary.cold_starts is not None
    limit = CORES if objective is None else min(CORES, objective.cost_max_cores or CORES)
    # A replica that starts in order to be parked takes a core for its cold start of 0.3 s, whatever the cap;
    # cores that move from one replica to another are both's for the 1 ms of a resize.
    assert summary.core_seconds <= len(counts) * limit + 0.5 * summary.cold_starts + 0.1
    if summary.completed:
        assert summary.accuracy_mean is not None
        least = prod(min(accuracy for _, accuracy in family) for family in stages)
        most = prod(max(accuracy for _, accuracy in family) for family in stages)
        assert least - 1e-9 <= summary.accuracy_mean <= most + 1e-9
    assert not [each for each in run.decisions if each.kind == "discarded" and "memory" in each.reason]
