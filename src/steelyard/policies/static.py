"""A fixed allocation: decided once, kept for ever. What one has without an autoscaler, and the baseline.

Options, for all stages alike: `replicas` (1), `cores` of each (1, parts of a core where the node enforces
them), `batch` (the variant's largest), `variant` (the first that is for CPUs, or else the first). Or by
stage, as a list of groups of replicas: `stages: {ocr.detect: [{variant: small, replicas: 2, cores: 1, batch:
4}]}`; `detect` alone will do where only one service has such a stage, and so will the name of a service of
one stage.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.core.plan import (
    Decision,
    Grants,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.core.types import Service, Stage
from steelyard.policies.base import PolicyContext
from steelyard.policies.fitting import placed
from steelyard.policies.options import integer, nearest_first, number, refuse_unknown
from steelyard.policies.sensing import wanted_replicas
from steelyard.policies.uniform import CPU

GROUP_OPTIONS = ("variant", "replicas", "cores", "batch")
RECHECK_S = 3600.0


class StaticPolicy:
    """See the module; `decide` answers with the same plan whenever it is asked."""

    name = "static"
    solve_s = 0.0
    reacts = False

    def __init__(self, context: PolicyContext) -> None:
        options = context.options
        refuse_unknown(self.name, options, (*GROUP_OPTIONS, "stages"))
        common = {key: options[key] for key in GROUP_OPTIONS if key in options}
        by_stage = _groups_by_stage(options.get("stages", {}), context.services)
        self._services = {
            service.name: ServicePlan(
                service.name,
                {
                    stage.name: _stage_plan(stage, by_stage.get((service.name, stage.name), [{}]), common)
                    for stage in service.stages
                },
            )
            for service in context.services.values()
        }

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing, ever."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """The plan of the options, if there is a place for each replica."""
        stages = {
            (name, stage): planned
            for name, plan in self._services.items()
            for stage, planned in plan.stages.items()
        }
        sizes = [[replica.cores for replica in stage.replicas] for stage in stages.values()]
        nodes = placed(sizes, _present(snapshot, stages), {node.name: node.cores for node in snapshot.nodes})
        next_at_s = snapshot.now_s + RECHECK_S
        if nodes is None:
            there = ", ".join(f"{node.name} has {node.cores:g}" for node in snapshot.nodes)
            replicas = "; ".join(
                _in_words(s, of_stage) for (_, s), of_stage in zip(stages, sizes, strict=True)
            )
            return Decision(None, next_at_s, f"no place for {replicas}: {there}")
        plans: dict[str, ServicePlan] = {name: ServicePlan(name, {}) for name in self._services}
        for ((name, stage), planned), at in zip(stages.items(), nodes, strict=True):
            plans[name].stages[stage] = _on(planned, at)
        cores = sum(map(sum, sizes))
        return Decision(Plan(plans), next_at_s, f"fixed allocation of {cores:g} cores")


def _in_words(stage: str, sizes: Sequence[float]) -> str:
    """`detect: 2 of 4 cores, 1 of 1`."""
    return f"{stage}: " + ", ".join(f"{sizes.count(size)} of {size:g} cores" for size in dict.fromkeys(sizes))


def _present(snapshot: ClusterSnapshot, stages: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Nodes of each stage's replicas, if it has any yet."""
    views = {view.service: view for view in snapshot.services}
    return [
        [r.node for r in wanted_replicas(views[name], stage)] if name in views else []
        for name, stage in stages
    ]


def _on(plan: StagePlan, nodes: Sequence[str]) -> StagePlan:
    replicas = tuple(replace(r, node=node) for r, node in zip(plan.replicas, nodes, strict=True))
    return replace(plan, replicas=replicas)


def _groups_by_stage(
    stages: object, services: Mapping[str, Service]
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    if not isinstance(stages, Mapping):
        raise SpecError(f"policy static: option stages: want stage names with their replicas, got {stages!r}")
    known = {(s.name, stage.name) for s in services.values() for stage in s.stages}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, listed in stages.items():
        matching = [key for key in known if name in (f"{key[0]}.{key[1]}", key[1])]
        matching = matching or [key for key in known if key[0] == name and len(services[name].stages) == 1]
        if len(matching) != 1:
            choices = ", ".join(nearest_first(str(name), (f"{s}.{t}" for s, t in known)))
            raise SpecError(f"policy static: option stages: no stage {name!r}; there are: {choices}")
        rows = [listed] if isinstance(listed, Mapping) else listed
        if not isinstance(rows, list | tuple) or not rows or not all(isinstance(r, Mapping) for r in rows):
            raise SpecError(f"policy static: option stages.{name}: want a list of replicas, got {listed!r}")
        for row in rows:
            refuse_unknown("static", row, GROUP_OPTIONS)
        groups[matching[0]] = [dict(row) for row in rows]
    return groups


def _stage_plan(stage: Stage, groups: list[dict[str, Any]], common: Mapping[str, object]) -> StagePlan:
    variants = {variant.name: variant for variant in stage.variants}
    first = next((variant for variant in stage.variants if variant.device == CPU), stage.variants[0])
    replicas: list[ReplicaPlan] = []
    cores_of: dict[str, float] = {}
    rows_of: dict[str, int] = {}
    for own in groups:
        group = {**common, **own}
        name = group.get("variant", first.name)
        if name not in variants:
            choices = ", ".join(nearest_first(str(name), variants))
            raise SpecError(f"policy static: stage {stage.name}: no variant {name!r}; there are: {choices}")
        variant = variants[str(name)]
        count = integer("static", group, "replicas", 1, least=1)
        cores = number("static", group, "cores", 1.0, least=0.01)
        if cores > variant.cores_max:
            raise SpecError(
                f"policy static: stage {stage.name}: want at most {variant.cores_max} cores for a replica of "
                f"variant {variant.name}, got {cores:g}"
            )
        rows = integer("static", group, "batch", variant.batch_rows_max, least=1)
        replicas += [ReplicaPlan(cores, (variant.name,), device=variant.device)] * count
        cores_of[variant.name] = cores_of.get(variant.name, 0.0) + cores * count
        rows_of[variant.name] = max(rows_of.get(variant.name, 0), min(rows, variant.batch_rows_max))
    total = sum(cores_of.values())
    mix = tuple(VariantShare(name, cores / total) for name, cores in cores_of.items())
    batch = max(rows_of.values())
    fewer = {name: rows for name, rows in rows_of.items() if rows < batch}
    return StagePlan(tuple(replicas), mix, batch, rows_max=fewer)
