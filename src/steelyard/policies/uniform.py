"""Policies that count in (replicas, cores, rows) a stage: what is there in these terms, and plans from them.

Of each stage the first variant is used, the one its owner prefers, and all replicas of a stage are alike.
"""

from collections.abc import Mapping, Sequence
from math import floor

from steelyard.core.plan import Plan, ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.snapshot import ServiceView
from steelyard.core.types import Service, ServiceTimes, Stage
from steelyard.plan.themis import Choice, ThemisStage
from steelyard.policies.sensing import wanted_replicas

Times = Mapping[tuple[str, str], ServiceTimes]


def whole_cores(cores: float) -> int:
    """Whole cores in `cores`."""
    return floor(cores + 1e-9)


def present_size(view: ServiceView, stage: Stage) -> tuple[int, int]:
    """Replicas wanted now and the most cores one of them is to have; (1, 1) to begin with.

    Those still starting count: the published systems wait for them, so they never ask for them twice.
    """
    wanted = wanted_replicas(view, stage.name)
    if not wanted:
        return 1, 1
    return len(wanted), max(1, whole_cores(max(r.cores for r in wanted)))


def stage_problem(service: Service, stage: Stage, times: Times, cores: int) -> ThemisStage:
    """A stage as Themis' programs see it; a replica may have all of a node's cores but one for each other."""
    variant = stage.variants[0]
    known = times[service.name, stage.name]

    def latency_ms(rows: int, cores: int) -> float:
        return known.service_time_s(variant.name, 0, rows, float(cores)) * 1000.0

    others = len(service.stages) - 1
    cores_max = max(1, min(variant.cores_max, cores - others))
    return ThemisStage(latency_ms, cores_max, variant.batch_rows_max, fan_out=stage.fan_out)


def uniform_plan(service: Service, choices: Sequence[Choice], node: str, rules: StageRules) -> Plan:
    """One choice a stage, all stages by the same rules."""
    stages = {}
    for stage, choice in zip(service.stages, choices, strict=True):
        variant = stage.variants[0].name
        stages[stage.name] = StagePlan(
            (ReplicaPlan(float(choice.cores), (variant,), node),) * choice.replicas,
            (VariantShare(variant, 1.0),),
            choice.rows,
            budget_s=choice.time_ms / 1000.0,
            rules=rules,
        )
    return Plan({service.name: ServicePlan(service.name, stages)})


def choice_words(choices: Sequence[Choice]) -> str:
    """`2x4 cores batch 1, 1x2 cores batch 4`."""
    return ", ".join(f"{c.replicas}x{c.cores} cores batch {c.rows}" for c in choices)


def too_few_cores(service: Service, node: str, cores: int) -> str:
    """Why nothing can be planned on a node; empty if there is a core for each stage."""
    if cores >= len(service.stages):
        return ""
    return f"{node} has {cores} cores for {len(service.stages)} stages"
