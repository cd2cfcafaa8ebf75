"""What the grants of one window make of the desired state.

They are taken one after another, each on top of those before it; one that names what is not there, or does
not fit, is dropped with the reason, and the others hold. Whom a replica stands for is asked once, before the
first grant: two grants to two replicas of a stage are two wishes, however alike the replicas are.
"""

from collections.abc import Mapping

import msgspec

from steelyard.control.desired import Desired, devices_wanted
from steelyard.control.fleet import Fleet
from steelyard.control.ledger import CPU, Ledger, quantise, units_of
from steelyard.control.memory import Memory
from steelyard.control.replica import StageKey
from steelyard.control.validate import (
    device_objection,
    node_objection,
    replica_objection,
    service_objection,
)
from steelyard.core.plan import Grant, GrantCancel, GrantCores, GrantStart, ReplicaPlan, ServicePlan
from steelyard.core.types import Service, Stage


class Granting:
    """A working copy of the stages that grants touch; nothing given to it is changed.

    Args:
        desired: as it is before the first grant.
        fleet: the replicas that grants name.
        services: by name.
        ledger: the nodes and their cores.
        memory: the nodes' memory.
    """

    def __init__(
        self,
        desired: Desired,
        fleet: Fleet,
        services: Mapping[str, Service],
        ledger: Ledger,
        memory: Memory,
    ) -> None:
        self._desired = desired
        self._fleet = fleet
        self._services = services
        self._ledger = ledger
        self._memory = memory
        self._replicas: dict[StageKey, list[ReplicaPlan | None]] = {}
        self._places: dict[StageKey, Mapping[int, int]] = {}
        self._more_of_service: dict[str, int] = {}
        self._more_on_node: dict[str, int] = {}

    def take(self, grant: Grant) -> str | None:
        """Add one grant; the reason if it is dropped."""
        if isinstance(grant, GrantStart):
            return self._start(grant)
        return self._change(grant)

    def plans(self) -> list[ServicePlan]:
        """The plans that are not what they were."""
        changed: dict[str, ServicePlan] = {}
        for (service, stage), replicas in self._replicas.items():
            plan = changed.get(service, self._desired.plans[service])
            wanted = tuple(replica for replica in replicas if replica is not None)
            if wanted != plan.stages[stage].replicas:
                stages = dict(plan.stages)
                stages[stage] = msgspec.structs.replace(stages[stage], replicas=wanted)
                changed[service] = ServicePlan(service, stages)
        return list(changed.values())

    def _start(self, grant: GrantStart) -> str | None:
        plan = self._desired.plans.get(grant.service)
        if plan is None or grant.stage not in plan.stages:
            return f"no plan yet for {grant.service}.{grant.stage}"
        key = (grant.service, grant.stage)
        objection = self._objection(key, None, grant.replica)
        if objection is None:
            self._working(key).append(self._settled(key, None, grant.replica))
        return objection

    def _change(self, grant: GrantCores | GrantCancel) -> str | None:
        replica = self._fleet.get(grant.replica_id)
        if replica is None or replica.service not in self._desired.plans:
            return f"replica {grant.replica_id} is gone"
        key = (replica.service, replica.stage)
        replicas = self._working(key)
        place = self._places[key].get(grant.replica_id)
        before = replicas[place] if place is not None else None
        if place is None or before is None:
            return f"replica {grant.replica_id} is not wanted any more"
        if isinstance(grant, GrantCancel):
            if replica.state != "starting":
                return f"replica {grant.replica_id} has started already"
            replicas[place] = None
            self._count(key, before, -units_of(before.cores))
            return None
        after = msgspec.structs.replace(before, cores=grant.cores)
        objection = self._objection(key, before, after)
        if objection is None:
            replicas[place] = self._settled(key, before, after)
        return objection

    def _working(self, key: StageKey) -> list[ReplicaPlan | None]:
        """The stage's wanted replicas, by place; None where one was cancelled."""
        replicas = self._replicas.get(key)
        if replicas is None:
            wanted = self._desired.plans[key[0]].stages[key[1]].replicas
            self._places[key] = self._fleet.matching(key, wanted).kept
            replicas = self._replicas[key] = list(wanted)
        return replicas

    def _objection(self, key: StageKey, before: ReplicaPlan | None, after: ReplicaPlan) -> str | None:
        """Why a stage may not have one replica instead of another."""
        service, stage = key
        objection = replica_objection(after, self._stage(key), self._ledger)
        if objection:
            return f"{service}.{stage}: {objection}"
        more = units_of(after.cores) - (units_of(before.cores) if before is not None else 0)
        of_service = self._desired.units(service) + self._more_of_service.get(service, 0) + more
        on_node = self._desired.units_on(after.node) + self._more_on_node.get(after.node, 0) + more
        return (
            service_objection(self._services[service], of_service)
            or node_objection(after.node, on_node, self._ledger)
            or (self._device_objection(after) if before is None else None)
            or (self._memory_objection(key, after) if before is None else None)
        )

    def _device_objection(self, replica: ReplicaPlan) -> str | None:
        """Why one replica more cannot have its device, with those that this window has granted so far."""
        if replica.device == CPU:
            return None
        key = (replica.node, replica.device)
        plans = {**self._desired.plans, **{plan.service: plan for plan in self.plans()}}
        count = devices_wanted(plans.values()).get(key, 0) + 1
        return device_objection(*key, count, self._ledger)

    def _memory_objection(self, key: StageKey, replica: ReplicaPlan) -> str | None:
        """Why the variants of one replica more do not fit beside those granted so far."""
        if not self._memory.capacity(replica.node) or not self._memory.of(key, replica.variants):
            return None
        plans = {**self._desired.plans, **{plan.service: plan for plan in self.plans()}}
        service, stage = key
        plan = plans[service].stages[stage]
        with_it = msgspec.structs.replace(plan, replicas=(*plan.replicas, replica))
        plans[service] = ServicePlan(service, {**plans[service].stages, stage: with_it})
        return self._memory.objection(plans.values())

    def _settled(self, key: StageKey, before: ReplicaPlan | None, after: ReplicaPlan) -> ReplicaPlan:
        """Count a replica that nothing speaks against; its plan as the ledger counts cores."""
        self._count(key, after, units_of(after.cores) - (units_of(before.cores) if before is not None else 0))
        return msgspec.structs.replace(after, cores=quantise(after.cores))

    def _count(self, key: StageKey, replica: ReplicaPlan, units: int) -> None:
        self._more_of_service[key[0]] = self._more_of_service.get(key[0], 0) + units
        self._more_on_node[replica.node] = self._more_on_node.get(replica.node, 0) + units

    def _stage(self, key: StageKey) -> Stage:
        return next(stage for stage in self._services[key[0]].stages if stage.name == key[1])
