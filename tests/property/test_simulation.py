"""Whatever the policy, the trace, the pipeline and the failures: the laws of every run hold.

`simulate` itself asserts that the account balances with the machines' counts and that Little's law holds;
here are the others.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.registry import known_policies
from steelyard.profile.formula import Distribution
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Failure, Physics, Scenario, SimulatedNode, SlowDown
from steelyard.workload.trace import CountTrace, Mark

GRAPHS: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...] = (
    (("a", ()),),
    (("a", ()), ("b", ("a",))),
    (("a", ()), ("b", ("a",)), ("c", ("a",)), ("d", ("b", "c"))),
)
POLICIES = sorted(known_policies())
FOR_TREES = [name for name in POLICIES if not known_policies()[name].one_stage]
FOR_GRAPHS = [name for name in FOR_TREES if name != "loki"]
"""Policies by what they plan: Loki's paths end at leaves, so it refuses joins."""
DISTRIBUTIONS: tuple[Distribution, ...] = ("fixed", "lognormal", "exponential")
SECONDS = 6
CORES = 8
REPLY_S = 0.001


def _policies(stages: tuple[Stage, ...]) -> list[str]:
    if len(stages) == 1:
        return POLICIES
    return FOR_GRAPHS if any(len(stage.after) > 1 for stage in stages) else FOR_TREES


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Six seconds around the capacity of eight cores, with whatever may happen in them."""
    graph = draw(st.sampled_from(GRAPHS))
    variants = (Variant("big", 0.9, 4, 4, 0.3, 0.02), Variant("small", 0.8, 4, 4, 0.2, 0.02))
    fan_out = draw(st.integers(1, 2))
    stages = tuple(Stage(name, variants, after, fan_out if after else 1) for name, after in graph)
    service = Service("s", draw(st.sampled_from([0.1, 0.4])), stages, reply_s=REPLY_S)
    distribution = draw(st.sampled_from(DISTRIBUTIONS))
    declared = {
        "big": DeclaredLatency((14.0, 4.0, 1.0, 1.0), spread=0.2, distribution=distribution),
        "small": DeclaredLatency((7.0, 2.0, 1.0, 1.0), spread=0.2, distribution=distribution),
    }
    times = tuple(StageTimes("s", stage.name, (), declared) for stage in stages)
    counts = draw(st.lists(st.integers(0, 60), min_size=SECONDS, max_size=SECONDS))
    marks = {Mark(): counts, Mark(rows=3, latency_s=0.05): [n // 10 for n in counts]}
    failures = draw(
        st.lists(
            st.builds(
                Failure, st.floats(0.0, SECONDS), st.just("s"), st.sampled_from([s.name for s in stages])
            ),
            max_size=2,
        )
    )
    physics = Physics(
        dispatch_s=draw(st.sampled_from([0.0, 0.001])),
        sensing_lag_s=draw(st.sampled_from([0.0, 0.02])),
        corun_ratio=draw(st.sampled_from([1.0, 1.1])),
        failures=tuple(failures),
        slow_downs=(SlowDown(2.0, 3.0, 1.5),),
    )
    return Scenario(
        {"s": service},
        times,
        {"s": CountTrace({mark: np.array(n, dtype=np.int64) for mark, n in marks.items()})},
        draw(st.sampled_from(_policies(stages))) + draw(st.sampled_from(["", "+ours"])),
        {},
        (SimulatedNode("local", CORES, fractional=draw(st.booleans())),),
        seed=draw(st.integers(0, 3)),
        cold=draw(st.booleans()),
        physics=physics,
    )


@pytest.mark.long
@settings(max_examples=25, deadline=None)
@given(scenarios())
def test_laws_of_a_run(scenario: Scenario) -> None:
    run = simulate(scenario)
    (summary,), (series,), (flow,) = run.summaries, run.series, run.flows
    trace = scenario.traces["s"]
    ended = summary.completed + summary.shed + summary.rejected + summary.failed + summary.cancelled
    assert summary.requests == ended == int(trace.counts.sum())
    assert summary.violations == summary.late + summary.shed + summary.rejected + summary.failed
    assert summary.violations == sum(series.violations)
    assert series.rate_rps == trace.counts.tolist()
    # Nobody pays for more cores than there are, but for a start that overlaps a core which another one is
    # about to give up: both pay, until the newcomer is up and the other has let go.
    assert summary.cold_starts is not None
    assert 0 <= summary.core_seconds <= CORES * SECONDS + summary.cold_starts
    assert max(series.cores) <= 2 * CORES
    assert len(series.cores) == len(series.replicas) == SECONDS
    # Nothing is faster than a row of the fast variant on its most cores, but for the spread's luck.
    if summary.latency_ms["p50"] is not None:
        assert summary.latency_ms["p50"] > REPLY_S * 1e3
        assert summary.accuracy_mean is not None
        assert 0.8 ** len(scenario.services["s"].stages) - 1e-9 <= summary.accuracy_mean <= 0.9 + 1e-9
    assert flow.arrival_rate_rps * flow.sojourn_mean_s == pytest.approx(flow.number_mean)
