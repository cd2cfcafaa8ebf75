"""Policies that count in (replicas, cores, rows) a stage: what is there in these terms, and plans from them.

Of each stage one variant is used, the first that is for CPUs, and all replicas of a stage are alike.
Such policies were published for one machine, or for a cluster that places what they want; here the cores of
all nodes are one number to them, a replica fits the largest node, and `fitting` finds the places.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import NamedTuple

from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.core.plan import (
    Decision,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    StageRules,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.core.types import Service, ServiceTimes, Stage
from steelyard.plan.problem import PlannedStage, PlanProblem, stage_of
from steelyard.plan.themis import Choice, ThemisStage
from steelyard.policies.base import PolicyContext
from steelyard.policies.fitting import fitted_choices, placed
from steelyard.policies.sensing import wanted_replicas

CPU = "cpu"
Times = Mapping[tuple[str, str], ServiceTimes]


def whole_cores(cores: float) -> int:
    """Whole cores in `cores`."""
    return floor(cores + 1e-9)


def on_cpus(policy: str, context: PolicyContext) -> PolicyContext:
    """What a policy knows that takes one variant a stage as given: the first that is for CPUs.

    Raises:
        SpecError: all variants of a stage are for other devices.
    """
    services = {}
    for name, service in context.services.items():
        stages = []
        for stage in service.stages:
            usable = [variant for variant in stage.variants if variant.device == CPU]
            if not usable:
                devices = ", ".join(sorted({variant.device for variant in stage.variants}))
                raise SpecError(
                    f"policy {policy}: it plans for CPUs alone, and all variants of {name}.{stage.name} are "
                    f"for {devices}"
                )
            stages.append(replace(stage, variants=(usable[0],)))
        services[name] = replace(service, stages=tuple(stages))
    return PolicyContext(
        services, context.service_times, context.options, published=context.published, future=context.future
    )


class Site(NamedTuple):
    """One service and where it can be, as a policy in whole cores looks at it.

    Attributes:
        service: which.
        view: of it.
        nodes: whole cores by name.
        next_at_s: the policy's next tick.
        memory: bytes by name, 0 where nobody knows.
    """

    service: Service
    view: ServiceView
    nodes: dict[str, int]
    next_at_s: float
    memory: Mapping[str, int] = {}

    @property
    def needs(self) -> list[int]:
        """Bytes of a replica, by stage, 0 where nobody knows: with the first variant."""
        return [stage.variants[0].memory_bytes for stage in self.service.stages]

    @property
    def cores(self) -> int:
        """Of all nodes."""
        return sum(self.nodes.values())

    @property
    def size_max(self) -> int:
        """Cores that one replica may have: the largest node's, and one is left for each other stage."""
        others = len(self.service.stages) - 1
        return max(1, min(max(self.nodes.values()), self.cores - others))

    def fitted(
        self,
        choices: Sequence[Choice],
        present: Sequence[int] | None = None,
        *,
        replicas_first: bool = True,
        needs: Sequence[int] | None = None,
    ) -> list[Choice]:
        """The choices as far as they fit; `present` replicas, one a stage if omitted, are cut last."""
        return fitted_choices(
            choices,
            [1] * len(choices) if present is None else present,
            list(self.nodes.values()),
            replicas_first=replicas_first,
            needs=self.needs if needs is None else needs,
            memory=[self.memory.get(name, 0) for name in self.nodes],
        )

    def placed(self, sizes: Sequence[Sequence[float]], needs: Sequence[int] = ()) -> list[list[str]] | None:
        """The node of each replica of each stage, by cores, and memory if it can be; None: no place."""
        present = [[r.node for r in wanted_replicas(self.view, s.name)] for s in self.service.stages]
        found = placed(sizes, present, self.nodes, needs, self.memory) if any(needs) else None
        # A plan for which there is no memory is for who carries it out to refuse, and to say so.
        return placed(sizes, present, self.nodes) if found is None else found

    def plan(self, choices: Sequence[Choice], rules: StageRules) -> Plan:
        """One choice a stage, all stages by the same rules; choices that fit (`fitted`)."""
        nodes = self.placed([[float(choice.cores)] * choice.replicas for choice in choices], self.needs)
        assert nodes is not None, f"{choices} do not fit {self.nodes}"
        stages = {}
        for stage, choice, at in zip(self.service.stages, choices, nodes, strict=True):
            variant = stage.variants[0].name
            stages[stage.name] = StagePlan(
                tuple(ReplicaPlan(float(choice.cores), (variant,), node) for node in at),
                (VariantShare(variant, 1.0),),
                choice.rows,
                budget_s=choice.time_ms / 1000.0,
                rules=rules,
            )
        return Plan({self.service.name: ServicePlan(self.service.name, stages)})


def site_of(service: Service, snapshot: ClusterSnapshot, tick_s: float) -> Site | Decision:
    """Where a service can be, for a decision every `tick_s` seconds; the decision, if it is nowhere."""
    next_at_s = snapshot.now_s + tick_s
    nodes = {node.name: whole_cores(node.cores) for node in snapshot.nodes}
    if sum(nodes.values()) < len(service.stages):
        has = "have" if len(nodes) > 1 else "has"
        lacking = f"{', '.join(nodes)} {has} {sum(nodes.values())} cores for {len(service.stages)} stages"
        return Decision(None, next_at_s, lacking)
    view = next(v for v in snapshot.services if v.service == service.name)
    memory = {node.name: node.memory_bytes for node in snapshot.nodes}
    return Site(service, view, nodes, next_at_s, memory)


def present_size(view: ServiceView, stage: Stage) -> tuple[int, int]:
    """Replicas wanted now and the most cores one of them is to have; (1, 1) to begin with.

    Those still starting count: the published systems wait for them, so they never ask for them twice.
    """
    wanted = wanted_replicas(view, stage.name)
    if not wanted:
        return 1, 1
    return len(wanted), max(1, whole_cores(max(r.cores for r in wanted)))


def stage_problem(service: Service, stage: Stage, times: Times, size_max: int) -> ThemisStage:
    """A stage as Themis' programs see it, with replicas of at most `size_max` cores."""
    variant = stage.variants[0]
    known = times[service.name, stage.name]

    def latency_ms(rows: int, cores: int) -> float:
        return known.service_time_s(variant.name, 0, rows, float(cores)) * 1000.0

    cores_max = min(variant.cores_max, size_max)
    return ThemisStage(latency_ms, cores_max, variant.batch_rows_max, fan_out=ceil(stage.fan_out))


def plan_problem(
    service: Service, times: Times, size_max: int, rate: float, *, wait: str = "fill"
) -> PlanProblem:
    """A service as the programs of `steelyard.plan` see it, with replicas of at most `size_max` cores."""
    stages = tuple(
        stage_of(stage, stage.variants[0], times[service.name, stage.name], cores_max=size_max)
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


def choice_words(choices: Sequence[Choice]) -> str:
    """`2x4 cores batch 1, 1x2 cores batch 4`."""
    return ", ".join(f"{c.replicas}x{c.cores} cores batch {c.rows}" for c in choices)
