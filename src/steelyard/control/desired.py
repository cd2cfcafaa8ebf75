"""The desired state: the plan of each service, grants included, and the cores that the plans want.

The sums are kept beside the plans, in hundredths of a core, because every window asks for them and few
windows change them.
"""

from collections.abc import Iterable

import msgspec

from steelyard.control.ledger import CPU, UNITS, quantise, units_of
from steelyard.core.plan import ServicePlan


class Desired:
    """Plans by service.

    Attributes:
        plans: by service; cores as the ledger counts them. Changed by the methods below alone.
        version: changes with every plan.
    """

    def __init__(self, plans: Iterable[ServicePlan] = ()) -> None:
        self.plans: dict[str, ServicePlan] = {}
        self.version = 0
        self._units: dict[str, dict[str, int]] = {}
        for plan in plans:
            self.put(plan)

    def put(self, plan: ServicePlan) -> None:
        """Let a service have this plan from now on."""
        self.plans[plan.service] = plan
        self._units[plan.service] = units_by_node(plan)
        self.version += 1

    def empty(self, service: str) -> None:
        """Let a service have no replica; without a plan, it has none."""
        plan = self.plans.get(service)
        if plan is not None:
            stages = {name: msgspec.structs.replace(s, replicas=()) for name, s in plan.stages.items()}
            self.put(ServicePlan(service, stages))

    def drop(self, service: str) -> None:
        """Forget a service's plan, as before its first one."""
        if self.plans.pop(service, None) is not None:
            del self._units[service]
            self.version += 1

    def may_grow_on(self, service: str, node: str) -> bool:
        """Whether a service wants replicas on a node, so that cores could go to them; without a plan, yes."""
        units = self._units.get(service)
        return not units or node in units

    def units(self, service: str) -> int:
        """What a service wants, in hundredths of a core; 0 without a plan."""
        return sum(self._units.get(service, {}).values())

    def units_on(self, node: str) -> int:
        """What all services together want of a node, in hundredths of a core."""
        return sum(units.get(node, 0) for units in self._units.values())

    def cores(self, service: str) -> float:
        """Cores that a service wants; 0 without a plan."""
        return self.units(service) / UNITS


def units_by_node(plan: ServicePlan) -> dict[str, int]:
    """What a plan wants of each node, in hundredths of a core."""
    units: dict[str, int] = {}
    for stage in plan.stages.values():
        for replica in stage.replicas:
            units[replica.node] = units.get(replica.node, 0) + units_of(replica.cores)
    return units


def devices_wanted(plans: Iterable[ServicePlan]) -> dict[tuple[str, str], int]:
    """Devices that plans want, by (node, kind); replicas that want none are not counted."""
    counts: dict[tuple[str, str], int] = {}
    for plan in plans:
        for stage in plan.stages.values():
            for replica in stage.replicas:
                if replica.device != CPU:
                    key = (replica.node, replica.device)
                    counts[key] = counts.get(key, 0) + 1
    return counts


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
