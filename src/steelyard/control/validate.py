"""Whether a plan can be carried out on the cluster as it is now.

Checked here once, on fresh state, for every policy: names are known, numbers are numbers, parts of a core
only where the node enforces them, a replica is on the device that its variants are for, and all desired
replicas together fit their nodes, cores and devices. The answer is a
sentence, for `RecordDecision`; None means that there is nothing to object to.
"""

from collections.abc import Mapping
from math import isfinite

from steelyard.control.desired import devices_wanted, units_by_node
from steelyard.control.ledger import CPU, UNITS, Ledger, units_of
from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan
from steelyard.core.types import Service, Stage

Plans = Mapping[str, ServicePlan]


def plan_objection(
    plans: Plans, desired: Plans, services: Mapping[str, Service], ledger: Ledger
) -> str | None:
    """Why the cluster cannot take `plans` on top of what the other services desire; None if it can."""
    for name, plan in plans.items():
        service = services.get(name)
        if service is None or plan.service != name:
            return f"unknown service {name}"
        stages = {stage.name: stage for stage in service.stages}
        if set(plan.stages) != set(stages):
            return f"{name}: the plan is for stages {sorted(plan.stages)}, the service has {sorted(stages)}"
        for stage, stage_plan in plan.stages.items():
            objection = _stage_objection(stage_plan, stages[stage], ledger)
            if objection:
                return f"{name}.{stage}: {objection}"
    return _fit_objection({**desired, **plans}, services, ledger)


def replica_objection(replica: ReplicaPlan, stage: Stage, ledger: Ledger) -> str | None:
    """Why a replica of a stage cannot be, whatever else is desired; None if it can."""
    if replica.node not in ledger.nodes:
        return f"unknown node {replica.node}"
    if not isfinite(replica.cores) or replica.cores < 0 or not replica.variants:
        return f"a replica of {replica.cores} cores with variants {list(replica.variants)}"
    if not ledger.fractional(replica.node) and units_of(replica.cores) % UNITS:
        return f"{replica.cores:g} cores, but node {replica.node} does not enforce parts of a core"
    return unknown_variant(replica.variants, stage) or _wrong_device(replica, stage)


def _wrong_device(replica: ReplicaPlan, stage: Stage) -> str | None:
    """The first variant that is not for the replica's device, in a sentence; None if there is none."""
    for variant in stage.variants:
        if variant.name in replica.variants and variant.device != replica.device:
            return f"variant {variant.name} is for device {variant.device}, the replica has {replica.device}"
    return None


def unknown_variant(named: tuple[str, ...], stage: Stage) -> str | None:
    """The first name that is no variant of the stage, in a sentence; None if there is none."""
    known = {variant.name for variant in stage.variants}
    strangers = sorted(set(named) - known)
    if not strangers:
        return None
    return f"unknown variant {strangers[0]}; there are {', '.join(sorted(known))}"


def service_objection(service: Service, units: int) -> str | None:
    """Why a service may not want so many hundredths of a core; None if it may."""
    if service.cores_max is None or units <= units_of(service.cores_max):
        return None
    return f"{service.name} wants {units / UNITS:g} cores, its limit is {service.cores_max:g}"


def node_objection(node: str, units: int, ledger: Ledger) -> str | None:
    """Why so many hundredths of a core cannot be wanted of a node; None if they can."""
    if units <= units_of(ledger.capacity(node)):
        return None
    return f"{units / UNITS:g} cores wanted on node {node}, which has {ledger.capacity(node):g}"


def device_objection(node: str, kind: str, count: int, ledger: Ledger) -> str | None:
    """Why so many devices of a kind cannot be wanted of a node; None if they can."""
    there = ledger.devices(node).get(kind, 0)
    if kind == CPU or count <= there:
        return None
    return f"{count} devices {kind} wanted on node {node}, which has {there}"


def _stage_objection(plan: StagePlan, stage: Stage, ledger: Ledger) -> str | None:
    if not plan.mix or not isfinite(sum(m.share for m in plan.mix)):
        return "no variant mix"
    if abs(sum(m.share for m in plan.mix) - 1.0) > 1e-6 or min(m.share for m in plan.mix) < 0:
        return f"shares of {[m.variant for m in plan.mix]} do not sum to 1"
    objection = unknown_variant(tuple(m.variant for m in plan.mix), stage)
    if objection:
        return objection
    if plan.batch_rows_max < 1 or not plan.hold_s_max >= 0:
        return f"batch of {plan.batch_rows_max} rows, held {plan.hold_s_max} s"
    for replica in plan.replicas:
        objection = replica_objection(replica, stage, ledger)
        if objection:
            return objection
    return None


def _fit_objection(desired: Plans, services: Mapping[str, Service], ledger: Ledger) -> str | None:
    totals: dict[str, int] = {}
    for name, plan in desired.items():
        by_node = units_by_node(plan)
        objection = service_objection(services[name], sum(by_node.values()))
        if objection:
            return objection
        for node, units in by_node.items():
            totals[node] = totals.get(node, 0) + units
    for node, units in totals.items():
        objection = node_objection(node, units, ledger)
        if objection:
            return objection
    for (node, kind), count in devices_wanted(desired.values()).items():
        objection = device_objection(node, kind, count, ledger)
        if objection:
            return objection
    return None
