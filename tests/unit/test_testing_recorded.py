"""A simulated run that is recorded, read and simulated again is the same run."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from steelyard.core.commands import Command
from steelyard.core.events import Event
from steelyard.core.types import Items, Service, Stage, Variant
from steelyard.journal.codec import encode
from steelyard.journal.records import VERSION, Header, Record
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.result import latencies_s
from steelyard.sim.run import Simulation
from steelyard.sim.scenario import Physics, Scenario, SimulatedNode
from steelyard.testing.recorded import recorded, recorded_run
from steelyard.workload.synth import counts_of, surge
from steelyard.workload.trace import Arrival, ArrivalTrace, Mark

DISPATCH_S, COLD_START_S = 0.002, 0.7
VARIANT = Variant("base", batch_rows_max=4, cores_max=2, cold_start_s=COLD_START_S, resize_s=0.001)
SERVICE = Service("naps", 0.25, (Stage("sleep", (VARIANT,)),))
TIMES = StageTimes("naps", "sleep", declared={"base": DeclaredLatency((40.0, 4.0, 4.0, 4.0), spread=0.1)})


def scenario(policy: str, **options: object) -> Scenario:
    """A surge from a cold start; every seventh request has a bound of its own, every fifth two rows."""
    rng = np.random.default_rng(1)
    rates = surge(12, base_rps=8.0, surge_rps=40.0, from_s=4, to_s=8)
    arrivals = tuple(
        Arrival(at_s, Mark(latency_s=0.15 if i % 7 == 0 else None, rows=2 if i % 5 == 0 else 1))
        for i, (at_s, _) in enumerate(counts_of(rates, rng).arrivals(rng))
    )
    return Scenario(
        services={"naps": SERVICE},
        times=(TIMES,),
        traces={"naps": ArrivalTrace(arrivals, 12)},
        policy=policy,
        options=options,
        nodes=(SimulatedNode("local", 2),),
        cold=True,
        physics=Physics(dispatch_s=DISPATCH_S),
    )


def run(given: Scenario) -> tuple[Simulation, list[Header | Record]]:
    """A run to its end, and its journal."""
    lines: list[Header | Record] = [
        Header(
            VERSION,
            given.services,
            service_times={"naps": {"sleep": msgspec.to_builtins(TIMES)}},
            policy=given.policy,
            policy_options=given.options,
        )
    ]

    def record(machine: str, now_s: float, event: Event, commands: Sequence[Command]) -> None:
        lines.append(Record(machine, len(lines), now_s, event, tuple(commands)))

    return Simulation(given, journal=record), lines


@pytest.mark.parametrize(("replicas", "cores"), [(1, 1), (2, 1), (1, 2)])
def test_a_recorded_run_simulated_again_is_the_same(replicas: int, cores: int) -> None:
    first, lines = run(scenario("static", replicas=replicas, cores=cores))
    (summary,) = first.run().summaries
    seen = recorded(lines, "naps")
    assert (seen.requests, seen.violations) == (summary.requests, summary.violations)
    assert seen.core_seconds == pytest.approx(summary.core_seconds)
    theirs = latencies_s(SERVICE, first.accounts["naps"].ends())
    assert np.sort(seen.latencies_s) == pytest.approx(np.sort(theirs))

    assert seen.constants.dispatch_s == pytest.approx(DISPATCH_S)
    assert seen.constants.cold_start_s == pytest.approx(COLD_START_S)
    # The mean of the log-normal factor, exp(0.1^2 / 2) = 1.005, over some 100 batches: to within 4 sigma.
    assert seen.constants.service_ratio == pytest.approx(1.005, abs=0.04)

    (again,) = Simulation(seen.scenario()).run().summaries
    assert (again.requests, again.violations) == (summary.requests, summary.violations)
    assert again.latency_ms == pytest.approx(summary.latency_ms)


def test_cores_that_move_are_charged_alike() -> None:
    first, lines = run(scenario("steelyard"))
    (summary,) = first.run().summaries
    # Time 0 is that of the first decision: the policy's declared time for one, within which nothing is held.
    assert recorded(lines, "naps").core_seconds == pytest.approx(summary.core_seconds, abs=0.1)


def test_bounds_and_rows_of_requests_come_back(tmp_path: Path) -> None:
    given = scenario("static")
    first, lines = run(given)
    first.run()
    journal = tmp_path / "run.journal"
    journal.write_bytes(b"".join(encode(line) + b"\n" for line in lines))
    seen = recorded_run(journal, "naps").trace
    trace = given.traces["naps"]
    assert isinstance(trace, ArrivalTrace)
    assert [arrival.mark.rows for arrival in seen.requests] == [a.mark.rows for a in trace.requests]
    for ours, theirs in zip(seen.requests, trace.requests, strict=True):
        assert ours.at_s == pytest.approx(theirs.at_s)
        assert ours.mark.latency_s == pytest.approx(theirs.mark.latency_s)


def test_items_that_were_counted_are_simulated_again() -> None:
    variants = (msgspec.structs.replace(VARIANT, cold_start_s=0.1),)
    stages = (
        Stage("crop", variants),
        Stage("read", variants, ("crop",), 2.5, items_of="crop", items=Items({"": 2.5}, "fixed")),
    )
    times = tuple(StageTimes("naps", stage.name, declared=TIMES.declared) for stage in stages)
    given = scenario("static")._replace(
        services={"naps": Service("naps", 1.0, stages)}, times=times, nodes=(SimulatedNode("local", 4),)
    )
    first, lines = run(given)
    header = lines[0]
    assert isinstance(header, Header)
    by_stage = {stage.stage: msgspec.to_builtins(stage) for stage in times}
    lines[0] = msgspec.structs.replace(header, service_times={"naps": by_stage})
    first.run()
    seen = recorded(lines, "naps")
    # Fixed counts of 2 and 3 in turn: over all rows that ran, 2.5 to within half an item.
    assert seen.constants.items["read"]["base"] == pytest.approx(2.5, abs=0.1)
    read = seen.scenario().services["naps"].stages[1]
    assert read.items is not None
    assert read.items.distribution == "fixed"
    assert read.items.mean["base"] == seen.constants.items["read"]["base"]
