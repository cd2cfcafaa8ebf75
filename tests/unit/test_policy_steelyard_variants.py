"""The default policy with several variants, simulated: cores first, then accuracy, then requests."""

import numpy as np
import pytest

from steelyard.core.commands import Command, LoadVariant, RunBatch, StartReplica, UnloadVariant
from steelyard.core.events import Event
from steelyard.core.types import Objective, Service, Stage, Variant
from steelyard.metrics.runs import RunSummary
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.synth import counts_of, surge

COST_MS = {"large": 14.0, "tiny": 3.0}
ACCURACY = {"large": 0.99, "tiny": 0.89}
CORES = 2
FULL_RPS = CORES * 1000.0 / COST_MS["large"]
"""What the cores carry at full accuracy: 143 rows a second."""
MEGABYTE = 1_000_000
MEMORY = {"large": 300 * MEGABYTE, "tiny": 100 * MEGABYTE}


def run(
    *names: str,
    surge_of: float,
    base: float = 0.4,
    seconds: int = 15,
    objective: Objective | None = None,
    memory_bytes: int = 0,
    commands: list[tuple[float, Command]] | None = None,
) -> RunSummary:
    """A third of the time at `base` of what the cores carry, a third at `surge_of`, then at `base` again."""
    variants = tuple(
        Variant(n, ACCURACY[n], 4, CORES, 0.5, 0.001, load_s=0.2, memory_bytes=MEMORY[n]) for n in names
    )
    service = Service("a", 0.2, (Stage("read", variants),), objective=objective)
    declared = {n: DeclaredLatency((0.85 * COST_MS[n], 0.15 * COST_MS[n], 0.0, 0.0)) for n in names}
    rates = surge(
        seconds,
        base_rps=base * FULL_RPS,
        surge_rps=surge_of * FULL_RPS,
        from_s=seconds // 3,
        to_s=2 * seconds // 3,
    )

    def journal(_: str, now_s: float, __: Event, sent: list[Command]) -> None:
        if commands is not None:
            commands.extend((now_s, command) for command in sent)

    scenario = Scenario(
        {"a": service},
        (StageTimes("a", "read", (), declared),),
        {"a": counts_of(rates, np.random.default_rng(1))},
        "steelyard",
        {},
        (SimulatedNode("local", CORES, memory_bytes=memory_bytes),),
        seed=1,
    )
    return simulate(scenario, journal=journal).summaries[0]


def test_a_surge_beyond_the_cores_costs_accuracy_instead_of_requests() -> None:
    both, large = run("large", "tiny", surge_of=1.6), run("large", surge_of=1.6)
    # The accurate variant alone loses 0.6 of 2.4 in the surge at least: 0.6 / (0.4 + 1.6 + 0.4) = 25 %.
    assert large.violation_ratio > 0.2
    assert both.violation_ratio < 0.005
    # In the surge a share p of the large one fills the cores: 14 p + 3 (1 - p) = 14 / 1.6, so p = 0.52; the
    # mean over all is (0.8 * 0.99 + 1.6 * (0.89 + 0.1 p)) / 2.4 = 0.958.
    assert both.accuracy_mean == pytest.approx(0.958, abs=0.008)
    assert both.failed == 0
    assert both.switches is not None
    assert both.switches > 5  # some of the replicas, for a part of the time each


def test_while_cores_suffice_accuracy_stays_whole() -> None:
    """Cores come first: a surge that they carry costs cores and hardly any accuracy."""
    calm = run("large", "tiny", surge_of=0.7)
    assert calm.accuracy_mean is not None
    assert calm.accuracy_mean > 0.985
    assert calm.violation_ratio < 0.005


def test_a_floor_costs_fewer_cores_than_full_accuracy_and_is_kept() -> None:
    """0.8 of two cores want both at full accuracy, and one of them with the small variant: half the time."""
    whole = run("large", "tiny", base=0.8, surge_of=0.8, seconds=60)
    floor = run("large", "tiny", base=0.8, surge_of=0.8, seconds=60, objective=Objective(accuracy_floor=0.94))
    assert floor.accuracy_mean is not None
    assert 0.94 <= floor.accuracy_mean < 0.98
    assert floor.core_seconds < 0.85 * whole.core_seconds
    assert floor.violation_ratio < 0.005


def test_a_cap_of_cores_is_kept() -> None:
    capped = run("large", "tiny", surge_of=0.8, objective=Objective(cost_max_cores=1.0))
    assert capped.core_seconds <= 15.0 + 1e-6
    assert capped.violation_ratio < 0.01


def test_all_that_may_answer_is_resident_from_the_start() -> None:
    sent: list[tuple[float, Command]] = []
    run("large", "tiny", surge_of=1.6, commands=sent)
    starts = [command for _, command in sent if isinstance(command, StartReplica)]
    assert {start.variants for start in starts} == {("large", "tiny")}
    assert not [command for _, command in sent if isinstance(command, LoadVariant | UnloadVariant)]


def test_where_memory_is_short_one_variant_is_resident_and_replicas_are_few() -> None:
    """700 MB: one replica of both, or two of the large one: two of 300 MB are what the load wants."""
    sent: list[tuple[float, Command]] = []
    summary = run("large", "tiny", surge_of=0.8, memory_bytes=700 * MEGABYTE, commands=sent)
    starts = [command for _, command in sent if isinstance(command, StartReplica)]
    assert {start.variants for start in starts} == {("large",)}
    assert len(starts) == 2
    assert {c.variant for _, c in sent if isinstance(c, RunBatch)} == {"large"}
    assert summary.violation_ratio < 0.05
