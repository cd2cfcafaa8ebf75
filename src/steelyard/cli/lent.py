"""What parts of a core come to where nodes lend them: each has what the others leave on average.

A replica's part of a core is guaranteed; what its neighbours do not use is its own for the moment
(docs/adr/0012). Which core it shares with whom is not known before it runs, so the work of a node is taken as
spread evenly over its cores: a stage on less than one core has, of one core, what the work of the other
stages there leaves. The other services of the spec are not looked at, as everywhere in `plan`.
"""

from msgspec.structs import replace

from steelyard.config.planning import Blueprint
from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan
from steelyard.core.types import ServiceTimes

EXACT = 1e-9


def with_lent_parts(made: Blueprint, plan: ServicePlan, rate_rps: float) -> ServicePlan:
    """The plan with the cores that its replicas have on average, at a rate of requests' rows a second."""
    lenders = {node.name: node.cores for node in made.nodes if node.fractional and node.lends}
    times = made.service_times()
    busy: dict[tuple[str, str], float] = {}
    for stage in made.services[plan.service].stages:
        planned = plan.stages[stage.name]
        cores = _work(planned, times[plan.service, stage.name]) * rate_rps * stage.fan_out
        total = sum(replica.cores for replica in planned.replicas)
        for replica in planned.replicas:
            at = (stage.name, replica.node)
            busy[at] = busy.get(at, 0.0) + (cores * replica.cores / total if total else 0.0)

    def lent(stage: str, replica: ReplicaPlan) -> ReplicaPlan:
        if not 0 < replica.cores < 1 - EXACT or replica.node not in lenders:
            return replica
        others = sum(each for (name, node), each in busy.items() if node == replica.node and name != stage)
        left = round(1.0 - others / lenders[replica.node], 2)
        return replace(replica, cores=max(replica.cores, left))

    stages = {
        name: replace(stage, replicas=tuple([lent(name, replica) for replica in stage.replicas]))
        for name, stage in plan.stages.items()
    }
    return ServicePlan(plan.service, stages)


def _work(plan: StagePlan, times: ServiceTimes) -> float:
    """Core-seconds a row, in batches as planned."""
    rows = plan.batch_rows_max
    return sum(mix.share * times.service_time_s(mix.variant, 0, rows, 1.0) / rows for mix in plan.mix)
