"""Whether a plan can be carried out on the cluster as it is now, and what a grant makes of the desired state.

Checked here once, on fresh state, for every policy: names are known, numbers are numbers, parts of a core
only where the node enforces them, and all desired replicas together fit their nodes. The answer is a
sentence, for `RecordDecision`; None means that there is nothing to object to.
"""

from collections.abc import Mapping, Sequence
from math import isfinite

import msgspec

from steelyard.control.fleet import Fleet, desired_cores, match, of_stage
from steelyard.control.ledger import Ledger, quantise, units_of
from steelyard.core.plan import (
    Grant,
    GrantCancel,
    GrantCores,
    GrantStart,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
)
from steelyard.core.types import Service, Stage

Desired = Mapping[str, ServicePlan]


def plan_objection(
    plans: Desired, desired: Desired, services: Mapping[str, Service], ledger: Ledger
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


def quantised(plan: ServicePlan) -> ServicePlan:
    """The plan with cores as the ledger counts them."""
    stages = {
        name: msgspec.structs.replace(
            stage,
            replicas=tuple(msgspec.structs.replace(r, cores=quantise(r.cores)) for r in stage.replicas),
        )
        for name, stage in plan.stages.items()
    }
    return ServicePlan(plan.service, stages)


def rules_of(plan: ServicePlan) -> ServicePlan:
    """A plan without its replicas, which come and go by their own events."""
    stages = {name: msgspec.structs.replace(stage, replicas=()) for name, stage in plan.stages.items()}
    return ServicePlan(plan.service, stages)


def granted(
    grant: Grant, desired: Desired, fleet: Fleet, services: Mapping[str, Service], ledger: Ledger
) -> dict[str, ServicePlan] | str:
    """The desired state with one grant in it, or why the grant is dropped."""
    if isinstance(grant, GrantStart):
        changed = _with_start(grant, desired, services)
    else:
        changed = _with_change(grant, desired, fleet)
    if isinstance(changed, str):
        return changed
    objection = plan_objection({changed.service: changed}, desired, services, ledger)
    return objection or {**desired, changed.service: quantised(changed)}


def _with_start(grant: GrantStart, desired: Desired, services: Mapping[str, Service]) -> ServicePlan | str:
    plan = desired.get(grant.service)
    if grant.service not in services or plan is None or grant.stage not in plan.stages:
        return f"no plan yet for {grant.service}.{grant.stage}"
    stage = plan.stages[grant.stage]
    return _with_replicas(plan, grant.stage, (*stage.replicas, grant.replica))


def _with_change(grant: GrantCores | GrantCancel, desired: Desired, fleet: Fleet) -> ServicePlan | str:
    replica = fleet.get(grant.replica_id)
    if replica is None or replica.service not in desired:
        return f"replica {grant.replica_id} is gone"
    plan = desired[replica.service]
    replicas = plan.stages[replica.stage].replicas
    kept = match(replicas, of_stage(fleet, replica.service, replica.stage)).kept
    index = next((k.place for k in kept if k.replica.replica_id == grant.replica_id), None)
    if index is None:
        return f"replica {grant.replica_id} is not wanted any more"
    if isinstance(grant, GrantCancel):
        if replica.state != "starting":
            return f"replica {grant.replica_id} has started already"
        return _with_replicas(plan, replica.stage, (*replicas[:index], *replicas[index + 1 :]))
    resized = msgspec.structs.replace(replicas[index], cores=grant.cores)
    return _with_replicas(plan, replica.stage, (*replicas[:index], resized, *replicas[index + 1 :]))


def _with_replicas(plan: ServicePlan, stage: str, replicas: tuple[ReplicaPlan, ...]) -> ServicePlan:
    changed = msgspec.structs.replace(plan.stages[stage], replicas=replicas)
    return ServicePlan(plan.service, {**plan.stages, stage: changed})


def _stage_objection(plan: StagePlan, stage: Stage, ledger: Ledger) -> str | None:
    known = {variant.name for variant in stage.variants}
    if not plan.mix or not isfinite(sum(m.share for m in plan.mix)):
        return "no variant mix"
    if abs(sum(m.share for m in plan.mix) - 1.0) > 1e-6 or min(m.share for m in plan.mix) < 0:
        return f"shares of {[m.variant for m in plan.mix]} do not sum to 1"
    named = {m.variant for m in plan.mix} | {v for r in plan.replicas for v in r.variants}
    if not named <= known:
        return f"unknown variant {min(named - known)}; there are {', '.join(sorted(known))}"
    if plan.batch_rows_max < 1 or not plan.hold_s_max >= 0:
        return f"batch of {plan.batch_rows_max} rows, held {plan.hold_s_max} s"
    return _replicas_objection(plan.replicas, ledger)


def _replicas_objection(replicas: Sequence[ReplicaPlan], ledger: Ledger) -> str | None:
    for replica in replicas:
        if replica.node not in ledger.nodes:
            return f"unknown node {replica.node}"
        if not isfinite(replica.cores) or replica.cores < 0 or not replica.variants:
            return f"a replica of {replica.cores} cores with variants {list(replica.variants)}"
        if not ledger.fractional(replica.node) and units_of(replica.cores) % 100:
            return f"{replica.cores:g} cores, but node {replica.node} does not enforce parts of a core"
    return None


def _fit_objection(desired: Desired, services: Mapping[str, Service], ledger: Ledger) -> str | None:
    totals: dict[str, float] = {}
    for name, plan in desired.items():
        by_node = desired_cores(quantised(plan))
        cores_max = services[name].cores_max
        if cores_max is not None and units_of(sum(by_node.values())) > units_of(cores_max):
            return f"{name} wants {sum(by_node.values()):g} cores, its limit is {cores_max:g}"
        for node, cores in by_node.items():
            totals[node] = totals.get(node, 0.0) + cores
    for node, cores in totals.items():
        if units_of(cores) > units_of(ledger.capacity(node)):
            return f"{cores:g} cores wanted on node {node}, which has {ledger.capacity(node):g}"
    return None
