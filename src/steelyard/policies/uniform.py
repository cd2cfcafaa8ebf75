"""Policies that count in (replicas, cores, rows) a stage: what is there in these terms, and plans from them.

Of each stage the first variant is used, the one its owner prefers, and all replicas of a stage are alike.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor

from steelyard.core.plan import Plan, ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.snapshot import ServiceView
from steelyard.core.types import Service, ServiceTimes, Stage
from steelyard.plan.problem import PlannedStage, PlanProblem, stage_of
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
    return ThemisStage(latency_ms, cores_max, variant.batch_rows_max, fan_out=ceil(stage.fan_out))


def plan_problem(
    service: Service, times: Times, cores: int, rate: float, *, wait: str = "fill"
) -> PlanProblem:
    """A service as the programs of `steelyard.plan` see it; replicas leave a core for each other stage."""
    others = len(service.stages) - 1
    stages = tuple(
        stage_of(stage, stage.variants[0], times[service.name, stage.name], cores_max=max(1, cores - others))
        for stage in service.stages
    )
    return PlanProblem(service.name, stages, rate, service.slo_s, wait=wait)


def choice_of(planned: PlannedStage) -> Choice:
    """What a program of `steelyard.plan` chose."""
    return Choice(planned.replicas, planned.cores, planned.rows, ceil(planned.time_s * 1000.0))


def first_choices(stages: Sequence[ThemisStage], rate: float) -> list[Choice]:
    """How the authors of Themis start what scales out: one core, single rows, n = ceil(rate / h(1, 1))."""
    choices = []
    for stage in stages:
        time_ms = stage.latency_ms(1, 1)
        count = ceil(rate * stage.fan_out * time_ms / 1000.0)
        choices.append(Choice(max(1, count), 1, 1, ceil(time_ms)))
    return choices


class ScaleIn:
    """More replicas at once; fewer only where fewer have been wanted for `stable_s` without a break."""

    def __init__(self, stable_s: float) -> None:
        self._stable_s = stable_s
        self._since_s: dict[str, float] = {}

    def settle(self, stage: str, wanted: int, present: int, *, now_s: float) -> int:
        """How many replicas a stage is to have now."""
        if wanted >= present:
            self._since_s.pop(stage, None)
            return wanted
        since_s = self._since_s.setdefault(stage, now_s)
        if now_s - since_s < self._stable_s - 1e-9:
            return present
        del self._since_s[stage]
        return wanted


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
