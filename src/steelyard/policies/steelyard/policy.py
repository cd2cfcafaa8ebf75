"""Steelyard's own policy: hold the SLO at its quantile with the fewest cores, moving cores first.

`react`, every window: cores to live replicas within the window, replicas in parallel (`reaction`).
`decide`, every second: for each service the demand (`demand`), every sensible (n, c) with its latency at the
quantile (`sizing`), the cheapest chain within the SLO (`plan.chain`); the services' cores together within the
node's (`shares`); and savings only when they have earned what a mistake would cost (`patience`).

Growth needs no patience: it is taken at once. Of plans with equal cores, the one that starts fewer replicas
wins. Parts of a core are used only where the node enforces them and several services share it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from steelyard.core.plan import (
    Decision,
    Grants,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Service
from steelyard.plan.chain import Point, cheapest, frontier
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import refuse_unknown
from steelyard.policies.sensing import wanted_replicas
from steelyard.policies.steelyard.demand import arrival_demand_rps, backlog_rps
from steelyard.policies.steelyard.patience import Patience
from steelyard.policies.steelyard.reaction import Reaction
from steelyard.policies.steelyard.shares import Need, share_cores
from steelyard.policies.steelyard.sizing import UNSTABLE_S, StageChoice, StageSizing, observed_ratio

PERIOD_S = 1.0
BUSY_PERIOD_S = 0.5
FRACTION = 0.25
FRACTION_UP_TO = 2.0
"""Above this many cores a replica is sized in whole cores."""
RATIO_WINDOWS = 50

Choices = tuple[StageChoice, ...]


class Sized(NamedTuple):
    """What one service could be given: its undominated plans, and what they were reckoned for."""

    view: ServiceView
    service: Service
    demand_rps: float
    budget_s: float
    points: tuple[Point[StageChoice], ...]
    present: Choices
    present_s: float


class SteelyardPolicy:
    """See the module. It has no options."""

    name = "steelyard"
    solve_s = 0.005
    reacts = True

    def __init__(self, context: PolicyContext) -> None:
        refuse_unknown(self.name, context.options, ())
        self._services = context.services
        self._sizings = {
            (service.name, stage.name): StageSizing(
                service, stage, context.service_times[service.name, stage.name]
            )
            for service in context.services.values()
            for stage in service.stages
        }
        self._patience = Patience()

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        """Cores and starts for the stages that are in need now."""
        reaction = Reaction(snapshot, self._services, self._step(snapshot.nodes[0]))
        needs = []
        for view in snapshot.services:
            for stage in self._services[view.service].stages:
                sizing = self._sizings[view.service, stage.name]
                need = reaction.need(view, sizing)
                if need is not None:
                    needs.append(need)
                else:
                    reaction.cancel(view, sizing)
        needs.sort(key=lambda n: (-self._services[n.view.service].weight, n.view.service))
        if needs and reaction.free < self._step(snapshot.nodes[0]):
            reaction.collect(needs, self._sizings)
        for need in needs:
            reaction.serve(need)
        grants = reaction.grants()
        return Grants(grants, "; ".join(reaction.reasons)) if grants else None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """The cheapest plan that holds every SLO; the fairest one where cores are short."""
        node = snapshot.nodes[0]
        step = self._step(node)
        sized = [self._size(view, node, step, snapshot.now_s) for view in snapshot.services]
        shares = share_cores(node.cores, [_need(s, step) for s in sized], step)
        chosen = {s.view.service: _within(s, shares[s.view.service]) for s in sized}
        kept = self._keep(sized, chosen, node.cores, snapshot.now_s)
        plans: dict[str, ServicePlan] = {}
        reasons, runners_up = [], []
        grown = False
        for s in sized:
            name = s.view.service
            point = chosen[name]
            if name in kept:
                reasons.append(f"{name}: {kept[name]} ({s.demand_rps:.1f} rows/s)")
                runners_up.append(f"{name}: {_words(point)}")
                continue
            if point is None:
                reasons.append(f"{name}: no cores left for it")
                continue
            plans[name] = self._plan(s, point, node.name)
            grown = grown or point.choices != s.present
            reasons.append(f"{name}: {_words(point)} for {s.demand_rps:.1f} rows/s")
            runners_up.append(f"{name}: {_runner_up(s, point)}")
        busy = grown or any(backlog_rps(s.view, stage.name) for s in sized for stage in s.service.stages)
        next_at_s = snapshot.now_s + (BUSY_PERIOD_S if busy else PERIOD_S)
        return Decision(Plan(plans) if plans else None, next_at_s, "; ".join(reasons), "; ".join(runners_up))

    def _step(self, node: NodeView) -> float:
        return FRACTION if node.fractional and len(self._services) > 1 else 1.0

    def _size(self, view: ServiceView, node: NodeView, step: float, now_s: float) -> Sized:
        """All undominated plans of one service, and how its present one does."""
        service = self._services[view.service]
        limit = node.cores if service.cores_max is None else min(node.cores, service.cores_max)
        demand = arrival_demand_rps(view, now_s=now_s)
        options, present, present_s = [], [], 0.0
        for stage in service.stages:
            sizing = self._sizings[service.name, stage.name]
            ratio = observed_ratio(view, sizing, RATIO_WINDOWS)
            stage_demand = demand + backlog_rps(view, stage.name)
            wanted = wanted_replicas(view, stage.name)
            options.append(sizing.options(stage_demand, ratio, _sizes(limit, step), limit, len(wanted)))
            if wanted:
                mean = sum(r.cores for r in wanted) / len(wanted)
                now = StageChoice(len(wanted), mean, sizing.rows_max(mean))
                present.append(now)
                present_s += sizing.latency_s(now, stage_demand, ratio)
        points = frontier(options)
        budget_s = service.slo_s - service.reply_s
        return Sized(view, service, demand, budget_s, points, tuple(present), present_s)

    def _keep(
        self,
        sized: Sequence[Sized],
        chosen: Mapping[str, Point[StageChoice] | None],
        cores: float,
        now_s: float,
    ) -> dict[str, str]:
        """Services that keep what they have, and why: it does, and giving it up has not paid off yet."""
        kept: dict[str, str] = {}
        total = sum(_cores(p.choices) for p in chosen.values() if p is not None)
        for s in sized:
            name, point = s.view.service, chosen[s.view.service]
            if point is None or not s.present or s.present_s > max(s.budget_s, point.time_s):
                self._patience.forget(name)
                continue
            saving = _cores(s.present) - _cores(point.choices)
            if total + saving > cores + 1e-9:
                self._patience.forget(name)
                continue
            if saving <= 1e-9:
                self._patience.forget(name)
                kept[name] = f"stays at {_choice_words(s.present)}"
                total += saving
                continue
            fewer = sum(
                max(0, now.replicas - then.replicas)
                for now, then in zip(s.present, point.choices, strict=True)
            )
            cold_start_s = max(v.cold_start_s for stage in s.service.stages for v in stage.variants[:1])
            if self._patience.may_save(
                name, cores=saving, replicas=fewer, cold_start_s=cold_start_s, now_s=now_s
            ):
                self._patience.forget(name)
                continue
            kept[name] = f"keeps {_choice_words(s.present)} for now"
            total += saving
        return kept

    def _plan(self, s: Sized, point: Point[StageChoice], node: str) -> ServicePlan:
        stages = {}
        for stage, choice in zip(s.service.stages, point.choices, strict=True):
            variant = stage.variants[0].name
            stages[stage.name] = StagePlan(
                (ReplicaPlan(choice.cores, (variant,), node),) * choice.replicas,
                (VariantShare(variant, 1.0),),
                choice.rows,
            )
        return ServicePlan(s.service.name, stages)


def _sizes(limit: float, step: float) -> list[float]:
    """Cores that one replica may have."""
    if step >= 1.0:
        return [float(c) for c in range(1, int(limit + 1e-9) + 1)]
    parts = [step * i for i in range(1, int(min(limit, FRACTION_UP_TO) / step + 1e-9) + 1)]
    return [*parts, *(float(c) for c in range(int(FRACTION_UP_TO) + 1, int(limit + 1e-9) + 1))]


def _need(s: Sized, step: float) -> Need:
    least = max(s.service.cores_min, step * len(s.service.stages))
    if not s.points:
        return Need(s.view.service, s.service.weight, least, least, least)
    full = cheapest(s.points, s.budget_s) or s.points[-1]
    stable = cheapest(s.points, UNSTABLE_S / 2) or s.points[-1]
    most = _cores(full.choices)
    return Need(s.view.service, s.service.weight, least, min(most, _cores(stable.choices)), max(least, most))


def _within(s: Sized, cores: float) -> Point[StageChoice] | None:
    """The cheapest point that holds the SLO within the share, else the fastest one within it."""
    inside = [p for p in s.points if _cores(p.choices) <= cores + 1e-9]
    if not inside:
        return None
    return cheapest(inside, s.budget_s) or inside[-1]


def _runner_up(s: Sized, point: Point[StageChoice]) -> str:
    """The next cheaper plan and why it does not do, or else the next dearer one."""
    place = s.points.index(point)
    if place > 0:
        return f"{_words(s.points[place - 1])}, over {s.budget_s * 1000:.0f} ms"
    if len(s.points) > 1:
        return f"{_words(s.points[1])}, dearer"
    return "none"


def _cores(choices: Sequence[StageChoice]) -> float:
    return sum(choice.total_cores for choice in choices)


def _choice_words(choices: Sequence[StageChoice]) -> str:
    return ", ".join(f"{c.replicas}x{c.cores:g} cores batch {c.rows}" for c in choices)


def _words(point: Point[StageChoice] | None) -> str:
    if point is None:
        return "nothing"
    bound = "unstable" if point.time_s >= UNSTABLE_S / 2 else f"{point.time_s * 1000:.0f} ms"
    return f"{_choice_words(point.choices)}, {bound}"
