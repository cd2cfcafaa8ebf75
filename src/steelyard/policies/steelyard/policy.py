"""Steelyard's own policy: hold the SLO at its quantile with the fewest cores, moving cores first.

`react`, every window: cores to live replicas within the window, replicas in parallel (`reaction`).
`decide`, every second: for each service the demand (`demand`), every sensible (n, c) a stage (`sizing`), and
the undominated plans of the whole service (`prospects`). Then one of two cases:
- *Ample*: every service gets its cheapest plan that holds its SLO. Growth is taken at once, a saving only
  when it has earned what a mistake would cost (`patience`). Of equally many cores, the fewest starts win.
- *Short*: the services' plans together do not fit the node. Reserve is given up first: the demand is what
  arrives now. Then the combination with the fewest violations a second, by weight, that fits; and a present
  one is kept unless the new one is better by a margin.

Parts of a core are used only where the node enforces them, and several services share it or one may not have
a whole core. One node, and of each stage the first variant: the one its owner prefers.
"""

from collections.abc import Sequence
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
from steelyard.core.snapshot import ClusterSnapshot, NodeView
from steelyard.core.types import Service
from steelyard.plan.chain import Option, Point, cheapest, frontier
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import refuse_unknown
from steelyard.policies.steelyard.demand import backlog_rps
from steelyard.policies.steelyard.patience import Patience
from steelyard.policies.steelyard.prospects import Choices, Prospect, ServiceSizing, cores_of
from steelyard.policies.steelyard.reaction import Reaction
from steelyard.policies.steelyard.sizing import UNSTABLE_S, StageChoice, StageSizing

PERIOD_S = 1.0
BUSY_PERIOD_S = 0.5
FRACTION = 0.25
MARGIN = 0.02
"""Where cores are short: the share of the offered rows that a change must save."""

TOO_LITTLE = "its limit is less than the least that the node can give"

Pick = tuple[Prospect, Point[StageChoice]]


class Verdict(NamedTuple):
    """What is to become of one service: a new plan, or None to keep what it has; and why."""

    prospect: Prospect
    choices: Choices | None
    reason: str
    runner_up: str = ""


class SteelyardPolicy:
    """See the module. It has no options."""

    name = "steelyard"
    solve_s = 0.005
    reacts = True

    def __init__(self, context: PolicyContext) -> None:
        refuse_unknown(self.name, context.options, ())
        self._services = context.services
        self._sizings = {
            service.name: ServiceSizing(service, _stage_sizings(service, context))
            for service in context.services.values()
        }
        self._patience = Patience()

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        """Cores and starts for the stages that are in need now."""
        step = self._step(snapshot.nodes[0])
        reaction = Reaction(snapshot, self._services, step)
        needs = []
        for view in snapshot.services:
            for sizing in self._sizings[view.service].stages:
                need = reaction.need(view, sizing)
                if need is not None:
                    needs.append(need)
                else:
                    reaction.cancel(view, sizing)
        needs.sort(key=lambda n: (-self._services[n.view.service].weight, n.view.service))
        if needs and reaction.free < step:
            reaction.collect(needs, {name: sizing.stages for name, sizing in self._sizings.items()})
        for need in needs:
            reaction.serve(need)
        grants = reaction.grants()
        return Grants(grants, "; ".join(reaction.reasons)) if grants else None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """The cheapest plans that hold every SLO, or the least loss where cores are short."""
        node = snapshot.nodes[0]
        verdicts = self._ample(snapshot, node) or self._short(snapshot, node)
        plans = {
            v.prospect.service.name: _plan(v.prospect.service, v.choices, node.name)
            for v in verdicts
            if v.choices is not None
        }
        moving = any(v.choices is not None and v.choices != v.prospect.present for v in verdicts)
        waiting = any(
            backlog_rps(v.prospect.view, stage.name) for v in verdicts for stage in v.prospect.service.stages
        )
        next_at_s = snapshot.now_s + (BUSY_PERIOD_S if moving or waiting else PERIOD_S)
        reason = "; ".join(f"{v.prospect.service.name}: {v.reason}" for v in verdicts)
        runner_up = "; ".join(f"{v.prospect.service.name}: {v.runner_up}" for v in verdicts if v.runner_up)
        return Decision(Plan(plans) if plans else None, next_at_s, reason, runner_up)

    def _step(self, node: NodeView) -> float:
        limits = (service.cores_max for service in self._services.values())
        wants_parts = len(self._services) > 1 or any(limit is not None and limit < 1 for limit in limits)
        return FRACTION if node.fractional and wants_parts else 1.0

    def _limit(self, service: str, node: NodeView) -> float:
        limit = self._services[service].cores_max
        return node.cores if limit is None else min(node.cores, limit)

    def _ample(self, snapshot: ClusterSnapshot, node: NodeView) -> list[Verdict]:
        """Every SLO held; empty if the node has not the cores for it."""
        picks: list[Pick] = []
        for view in snapshot.services:
            prospect = self._sizings[view.service].by_latency(
                view, now_s=snapshot.now_s, cores=self._limit(view.service, node), step=self._step(node)
            )
            point = cheapest(prospect.points, prospect.limit)
            if point is None:
                return []
            picks.append((prospect, point))
        spare = node.cores - sum(cores_of(point.choices) for _, point in picks)
        if spare < -1e-9:
            return []
        verdicts: list[Verdict] = []
        for prospect, point in picks:
            saving = cores_of(prospect.present) - cores_of(point.choices)
            reason = self._reason_to_stay(prospect, point, saving <= spare + 1e-9, snapshot.now_s)
            if reason:
                spare -= saving
                same = point.choices == prospect.present
                other = _other(prospect, point) if same else f"{_words(point.choices)}, {_bound(point)}"
                verdicts.append(Verdict(prospect, None, reason, other))
            else:
                self._patience.forget(prospect.service.name)
                words = f"{_words(point.choices)}, {_bound(point)} for {prospect.demand_rps:.1f} rows/s"
                verdicts.append(Verdict(prospect, point.choices, words, _other(prospect, point)))
        return verdicts

    def _reason_to_stay(
        self, prospect: Prospect, point: Point[StageChoice], affordable: bool, now_s: float
    ) -> str:
        """Why a service keeps what it has: it does, and giving it up has not paid off yet; else empty."""
        name = prospect.service.name
        self._patience.look(name, cores=cores_of(prospect.present), now_s=now_s)
        if not prospect.present or prospect.present_value > prospect.limit or not affordable:
            return ""
        saving = cores_of(prospect.present) - cores_of(point.choices)
        words = f"{_words(prospect.present)} for {prospect.demand_rps:.1f} rows/s"
        if saving <= 1e-9:
            self._patience.forget(name)
            return f"stays at {words}"
        pairs = list(zip(prospect.present, point.choices, strict=True))
        fewer = sum(max(0, now.replicas - then.replicas) for now, then in pairs)
        cold_start_s = max(stage.variants[0].cold_start_s for stage in prospect.service.stages)
        if self._patience.may_save(
            name, cores=saving, replicas=fewer, cold_start_s=cold_start_s, now_s=now_s
        ):
            self._patience.saved(name, cores=cores_of(point.choices), now_s=now_s)
            return ""
        return f"keeps {words} until the saving has earned a way back"

    def _short(self, snapshot: ClusterSnapshot, node: NodeView) -> list[Verdict]:
        """The combination of plans with the fewest violations that fits the node."""
        prospects = []
        for view in snapshot.services:
            self._patience.forget(view.service)
            prospects.append(
                self._sizings[view.service].by_loss(
                    view, now_s=snapshot.now_s, cores=self._limit(view.service, node), step=self._step(node)
                )
            )
        served = sorted((p for p in prospects if p.points), key=lambda p: -p.service.weight)
        best: Point[Pick] | None = None
        while served and best is None:
            options = [[Option(q.time_s, cores_of(q.choices), (p, q)) for q in p.points] for p in served]
            fitting = [joint for joint in frontier(options) if joint.cost <= node.cores + 1e-9]
            best = fitting[-1] if fitting else None
            served = served if best else served[:-1]
        chosen = {p.service.name: q for p, q in best.choices} if best else {}
        offered = sum(p.service.weight * p.demand_rps for p in prospects)
        now = sum(p.present_value for p in prospects)
        fits = sum(cores_of(p.present) for p in prospects) <= node.cores + 1e-9
        all_present = all(p.present for p in prospects)
        if best and fits and all_present and now <= best.time_s + MARGIN * offered:
            return [Verdict(p, None, _short_words(p, p.present, p.present_value)) for p in prospects]
        verdicts = []
        for p in prospects:
            point = chosen.get(p.service.name)
            if point is None:
                verdicts.append(Verdict(p, None, "no core is left for it" if p.points else TOO_LITTLE))
                continue
            words = _short_words(p, point.choices, point.time_s)
            verdicts.append(Verdict(p, point.choices, words, _words(p.present)))
        return verdicts


def _stage_sizings(service: Service, context: PolicyContext) -> tuple[StageSizing, ...]:
    return tuple(
        StageSizing(service, stage, context.service_times[service.name, stage.name])
        for stage in service.stages
    )


def _plan(service: Service, choices: Choices, node: str) -> ServicePlan:
    stages = {}
    for stage, choice in zip(service.stages, choices, strict=True):
        variant = stage.variants[0].name
        replicas = (ReplicaPlan(choice.cores, (variant,), node),) * choice.replicas
        stages[stage.name] = StagePlan(replicas, (VariantShare(variant, 1.0),), choice.rows)
    return ServicePlan(service.name, stages)


def _other(prospect: Prospect, point: Point[StageChoice]) -> str:
    """The next cheaper plan and why it does not do, else the next dearer one."""
    place = prospect.points.index(point)
    if place > 0:
        cheaper = prospect.points[place - 1]
        return f"{_words(cheaper.choices)}: {_bound(cheaper)}, over {prospect.limit * 1000:.0f} ms"
    if len(prospect.points) > 1:
        dearer = prospect.points[1]
        return f"{_words(dearer.choices)}: {_bound(dearer)}, but more cores"
    return ""


def _words(choices: Sequence[StageChoice]) -> str:
    return ", ".join(f"{c.replicas} x {c.cores:g} cores" for c in choices) or "nothing"


def _bound(point: Point[StageChoice]) -> str:
    return "too slow" if point.time_s >= UNSTABLE_S / 2 else f"{point.time_s * 1000:.0f} ms"


def _short_words(prospect: Prospect, choices: Choices, value: float) -> str:
    weighed = prospect.service.weight * prospect.demand_rps
    lost = 100.0 * value / weighed if weighed > 0 else 0.0
    return f"cores are short: {_words(choices)} for {prospect.demand_rps:.1f} rows/s, about {lost:.1f} % lost"
