"""What a plan holds, whoever made it: its latency bound by the tail-aware queue model, and whether it fits.

The bound is the latency that all but the allowed violations keep: of a chain by convolving its stages' waits,
of other pipelines by the longest path, each stage with its part of the violations. Replicas of different size
share a stage's rows in proportion to what they can carry, and the slowest of them counts. A batch may be
smaller than the plan allows, so the size with the least bound counts; where the plan's rules wait for a full
batch, that is charged. Parts of a core count as what they come to where nodes lend them (`lent`).
"""

from collections.abc import Mapping
from math import ceil, inf
from typing import NamedTuple

from msgspec.structs import replace

from steelyard.cli.groups import crews_of, groups_of
from steelyard.cli.lent import with_lent_parts
from steelyard.config.planning import Blueprint
from steelyard.control.ledger import Ledger
from steelyard.control.memory import Memory
from steelyard.control.validate import plan_objection
from steelyard.control.variants import StageVariants
from steelyard.core.plan import ServicePlan, StagePlan
from steelyard.core.types import Service, ServiceTimes, Stage
from steelyard.plan import joint, tight
from steelyard.plan.problem import PlannedService, PlanProblem, stage_of
from steelyard.plan.queueing import fill_wait_s
from steelyard.plan.tails import RHO_MAX, StageLoad, chain_latency_quantile_s
from steelyard.sim.scenario import WINDOW_S


class Verdict(NamedTuple):
    """Seconds that a plan holds at the service's quantile, infinite if a queue grows; why it will not do.

    `fits`: the nodes can take the plan; where they cannot, nobody gets the chance to react.
    """

    latency_bound_s: float
    objection: str
    fits: bool = True


def assess(made: Blueprint, plan: ServicePlan, rate_rps: float) -> Verdict:
    """Whether a plan holds its service's SLO at a rate, on the nodes.

    Args:
        made: service, service times and nodes.
        plan: what the service is to have; the other services are not looked at.
        rate_rps: rows of requests a second.
    """
    service = made.services[plan.service]
    ledger = Ledger()
    memory = Memory({(service.name, stage.name): StageVariants(stage.variants) for stage in service.stages})
    for node in made.nodes:
        ledger.join(node.name, tuple(range(node.cores)), fractional=node.fractional, devices=node.devices)
        memory.join(node.name, node.memory_bytes)
    objection = plan_objection({service.name: plan}, {}, made.services, ledger) or memory.objection([plan])
    if objection:
        return Verdict(inf, objection, fits=False)
    plan = with_lent_parts(made, plan, rate_rps)
    times = made.service_times()
    loads: dict[str, StageLoad] = {}
    for stage in service.stages:
        planned, known = plan.stages[stage.name], times[service.name, stage.name]
        load = _stage_load(service, stage, planned, known, rate_rps)
        if load is None:
            return Verdict(inf, _overload(stage.name, planned, known, rate_rps * stage.fan_out))
        loads[stage.name] = load
    bound_s = service.reply_s + _latency_s(service, loads)
    if bound_s <= service.slo_s:
        return Verdict(bound_s, "")
    return Verdict(
        bound_s,
        f"holds {_figure(bound_s * 1e3)} ms at the {service.quantile:g} quantile, "
        f"the SLO is {_figure(service.slo_s * 1e3)} ms",
    )


def within_reach(made: Blueprint, plan: ServicePlan, rate_rps: float) -> PlannedService | None:
    """What a policy that reacts can make of its plan without a cold start, if that holds the SLO.

    The plan's replicas, parked ones included, with as few cores as do, taken one sensing window after the
    rows that need them came; that window is in the result's latency, and so is the reply.
    """
    service = made.services[plan.service]
    lag_s = WINDOW_S + service.reply_s
    if service.slo_s <= lag_s:
        return None
    replicas = {name: max(1, len(stage.replicas)) for name, stage in plan.stages.items()}
    best = joint.solve(_problem(made, plan, rate_rps, service.slo_s - lag_s, replicas))
    return replace(best, latency_s=best.latency_s + lag_s) if isinstance(best, PlannedService) else None


def alternative(made: Blueprint, plan: ServicePlan, rate_rps: float) -> str:
    """What would hold the SLO where a plan does not: as few cores as do, else the nearest objective or cores.

    Each stage stays with its present variant.
    """
    service = made.services[plan.service]
    # `assess` convolves the waits of chains only, and has a stricter quantile where requests fan out.
    is_plain = _is_chain(service) and all(stage.fan_out == 1 for stage in service.stages)
    solve = tight.solve if is_plain else joint.solve
    best = solve(_problem(made, plan, rate_rps, service.slo_s - service.reply_s))
    if isinstance(best, PlannedService):
        return f"{best.cores} core{'' if best.cores == 1 else 's'} would hold it: {joint.sizes_text(best)}"
    if best.nearest_slo_s is not None:
        nearest_s = best.nearest_slo_s + service.reply_s
        return f"no plan is faster than {_figure(nearest_s * 1e3)} ms, the nearest feasible SLO"
    if best.nearest_cores is not None:
        return f"{best.binding}, the nearest feasible cluster has {best.nearest_cores:g} cores"
    return best.binding


def _problem(
    made: Blueprint,
    plan: ServicePlan,
    rate_rps: float,
    budget_s: float,
    replicas_max: Mapping[str, int] | None = None,
) -> PlanProblem:
    """The planning problem of a plan's service on the plan's variants."""
    service, times = made.services[plan.service], made.service_times()
    stages = []
    for stage in service.stages:
        known = {variant.name: variant for variant in stage.variants}
        groups = groups_of(plan.stages[stage.name], times[service.name, stage.name], rate_rps * stage.fan_out)
        variant = known[groups[0].variant] if groups else stage.variants[0]
        made_stage = stage_of(stage, variant, times[service.name, stage.name])
        if replicas_max is not None:
            made_stage = replace(made_stage, replicas_max=replicas_max[stage.name])
        stages.append(made_stage)
    return PlanProblem(
        service=service.name,
        stages=tuple(stages),
        arrival_rate_rps=rate_rps,
        slo_s=budget_s,
        quantile=service.quantile,
        nodes=_nodes(made, service),
    )


def _nodes(made: Blueprint, service: Service) -> tuple[int, ...]:
    """Cores of each node that a service may have; where it may not have all, those of the largest nodes."""
    cores = [node.cores for node in made.nodes]
    if service.cores_max is None or service.cores_max >= made.cores:
        return tuple(cores)
    left, nodes = int(service.cores_max), []
    for most in sorted(cores, reverse=True):
        nodes.append(min(most, left))
        left -= nodes[-1]
    return tuple(most for most in nodes if most)


def _stage_load(
    service: Service, stage: Stage, plan: StagePlan, times: ServiceTimes, rate_rps: float
) -> StageLoad | None:
    """The load of a stage's slowest replicas; None if a queue grows."""
    rows_rps = rate_rps * stage.fan_out
    loss = _loss(service)
    slowest: StageLoad | None = None
    for crew in crews_of(groups_of(plan, times, rows_rps)):
        if crew.share == 0:
            continue
        due_s = service.slo_s - service.reply_s
        held_s = _held_s(plan, rows_rps, loss, due_s - crew.service_time_s(times, crew.batch))
        batches = _batches(plan, crew.batch)
        loads = [
            StageLoad(
                rate_rps=rows_rps * crew.share,
                replicas=crew.replicas,
                service_s=crew.service_time_s(times, rows),
                rows=rows,
                latency_s=crew.service_time_s_p99(times, rows) + held_s,
                single_s=crew.service_time_s(times, max(batches[0], min(rows, ceil(stage.fan_out)))),
                burst=float(stage.fan_out),
            )
            for rows in batches
        ]
        best = min(loads, key=lambda load: stage_latency_s(load, loss))
        if stage_latency_s(best, loss) == inf:
            return None
        if slowest is None or stage_latency_s(best, loss) > stage_latency_s(slowest, loss):
            slowest = best
    return slowest


def _batches(plan: StagePlan, rows_max: int) -> range:
    """Sizes that a batch of at most `rows_max` may have: any, where an idle replica takes what is there."""
    return range(1 if plan.rules.forming == "hold" else rows_max, rows_max + 1)


def stage_latency_s(load: StageLoad, loss: float) -> float:
    """Seconds that all but a share `loss` of a stage's rows take at most; infinite if a queue grows."""
    return chain_latency_quantile_s([load], 1.0 - loss)


def _loss(service: Service) -> float:
    """A stage's part of the allowed violations, for each row: a request is late if one of its rows is."""
    fan_out = max(stage.fan_out for stage in service.stages)
    return (1.0 - service.quantile) / (len(service.stages) * fan_out)


def _held_s(plan: StagePlan, rate_rps: float, loss: float, slack_s: float) -> float:
    """Seconds that the first row of a batch waits for company, by the plan's rules.

    Args:
        plan: of the stage.
        rate_rps: rows that it is given.
        loss: share that may wait longer.
        slack_s: what a batch leaves of the objective; rules that look at deadlines wait no longer.
    """
    if plan.rules.forming == "hold":
        return plan.hold_s_max
    fill_s = fill_wait_s(plan.batch_rows_max, rate_rps, 1.0 - loss)
    if plan.rules.forming == "full":
        return fill_s
    return min(fill_s, plan.rules.timeout_s if plan.rules.forming == "timeout" else max(slack_s, 0.0))


def _latency_s(service: Service, loads: Mapping[str, StageLoad]) -> float:
    """Of the whole pipeline, without the reply."""
    loss = _loss(service)
    if _is_chain(service):
        quantile = 1.0 - loss * len(service.stages)
        return chain_latency_quantile_s([loads[stage.name] for stage in service.stages], quantile)
    ends_s: dict[str, float] = {}
    for stage in service.stages:
        before_s = max((ends_s[name] for name in stage.after), default=0.0)
        ends_s[stage.name] = before_s + stage_latency_s(loads[stage.name], loss)
    return max(ends_s.values())


def _is_chain(service: Service) -> bool:
    after = [name for stage in service.stages for name in stage.after]
    return len(after) == len(set(after)) == len(service.stages) - 1


def _overload(name: str, stage: StagePlan, times: ServiceTimes, rate_rps: float) -> str:
    """Why a stage's queue has no bound, in figures."""
    crews = crews_of(groups_of(stage, times, rate_rps))
    carried_rps = sum(
        crew.replicas * max(rows / crew.service_time_s(times, rows) for rows in _batches(stage, crew.batch))
        for crew in crews
        if crew.cores
    )
    cores = sum(crew.replicas * crew.cores for crew in crews)
    carry = "core carries" if cores == 1 else "cores carry"
    return (
        f"stage {name} is given {_figure(rate_rps)} rows/s, its {cores:g} {carry} {_figure(carried_rps)} "
        f"(planned up to {RHO_MAX:.0%} of it)"
    )


def _figure(value: float) -> str:
    """At least four figures of it, never with an exponent: a bound may be minutes long."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
