"""Steelyard's own policy: hold the SLO at its quantile with the fewest cores, moving cores first.

`react`, every window: the cores that carry what arrives and what waits, to live and parked replicas, and
starts in parallel where replicas are too few (`demand`, `pace`, `reserve`, `reaction`).
`decide`, every second: how the latency is shared out among the stages, with batches and the cores of an
active replica (`targets`), the first plan, and replicas that have not been needed for long.

One knob: `violation_target`, the share of requests that may miss the SLO. Lower costs cores, higher saves
some (`demand`). `without` leaves out ingredients, for ablations.

Parts of a core are used only where the node enforces them, and several services share it or one may not have
a whole core. Of each stage the first variant: the one its owner prefers.
"""

from collections.abc import Iterable

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
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import nearest_first, number, refuse_unknown
from steelyard.policies.sensing import latest_stage
from steelyard.policies.steelyard.demand import VIOLATION_TARGET, ArrivalRate, head_room
from steelyard.policies.steelyard.pace import StagePace, replicas_at_most
from steelyard.policies.steelyard.reaction import ServicePace, react
from steelyard.policies.steelyard.reserve import PARKED_CORES, crew, parting_price
from steelyard.policies.steelyard.sizing import StageSizing
from steelyard.policies.steelyard.targets import StageTarget, share_latency

PERIOD_S = 1.0
FRACTION = 0.25
FRACTION_UP_TO = 2.0
"""Above this many cores a replica is sized in whole cores."""
RATIO_STEP = 0.1
"""Targets are made anew when observed service times have moved by so much of what was profiled."""
INGREDIENTS = ("parking", "reserve", "batching", "queue", "backlog")


class SteelyardPolicy:
    """See the module. Options: `violation_target` (0.001), `without` (a list of ingredients)."""

    name = "steelyard"
    solve_s = 0.005
    reacts = True

    def __init__(self, context: PolicyContext) -> None:
        refuse_unknown(self.name, context.options, ("violation_target", "without"))
        target = number(
            self.name, context.options, "violation_target", VIOLATION_TARGET, least=1e-6, most=0.5
        )
        self._without = _ingredients(self.name, context.options.get("without", ()))
        self._z = head_room(target)
        self._services = context.services
        self._sizings = {
            service.name: tuple(
                StageSizing(stage, context.service_times[service.name, stage.name])
                for stage in service.stages
            )
            for service in context.services.values()
        }
        self._targets: dict[str, tuple[StageTarget, ...]] = {}
        self._ratios: dict[str, tuple[float, ...]] = {}
        self._paces: dict[str, ServicePace] = {}
        self._rates = {name: ArrivalRate() for name in context.services}
        self._in_vain: dict[tuple[str, str], float] = {}
        self._decided_s: float | None = None

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        """Cores, starts and cancellations of one window."""
        for view in snapshot.services:
            if self._retarget(view, snapshot) or view.service not in self._paces:
                self._set_pace(view.service, snapshot)
        return react(snapshot, self._paces, self._z)

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """The first plan, later the data plane's limits and replicas that are given up."""
        elapsed_s = snapshot.now_s - (snapshot.now_s if self._decided_s is None else self._decided_s)
        self._decided_s = snapshot.now_s
        plans: dict[str, ServicePlan] = {}
        reasons: list[str] = []
        free = {node.name: node.cores for node in snapshot.nodes}
        for view in sorted(snapshot.services, key=lambda v: -self._services[v.service].weight):
            self._retarget(view, snapshot)
            rate = self._rates[view.service].update(view)
            if view.desired is None:
                plan = self._first_plan(view, free)
                if plan is None:
                    reasons.append(f"{view.service}: no core is left for it")
                    continue
                words = "begins with"
            else:
                plan = self._thinned(view, view.desired, rate, snapshot, elapsed_s)
                words = "keeps" if plan == view.desired else "goes on with"
            if plan != view.desired:
                plans[view.service] = plan
            reasons.append(f"{view.service}: {rate:.1f} rows/s; {words} {_words(plan)}")
        other = "; ".join(filter(None, (self._runner_up(name) for name in self._targets)))
        return Decision(Plan(plans) if plans else None, snapshot.now_s + PERIOD_S, "; ".join(reasons), other)

    def _retarget(self, view: ServiceView, snapshot: ClusterSnapshot) -> bool:
        """Share out a service's latency anew if its service times have changed; whether they had."""
        name = view.service
        sizings = self._sizings[name]
        if view.windows:
            ratios = tuple(stage.service_ratio for stage in view.windows[-1].stages)
        else:
            ratios = (1.0,) * len(sizings)
        known = self._ratios.get(name)
        if known is not None and all(
            abs(now - then) <= RATIO_STEP * then for now, then in zip(ratios, known, strict=True)
        ):
            return False
        self._ratios[name] = ratios
        node = max(snapshot.nodes, key=lambda n: n.cores)
        step = self._step(node)
        cores = min(node.cores, self._services[name].cores_max or node.cores)
        for sizing in sizings:
            sizing.step = step
        if "batching" in self._without:
            for sizing in sizings:
                sizing.rows_max = 1
        targets = share_latency(self._services[name], sizings, sizes(cores, step), ratios)
        if "queue" in self._without:
            targets = tuple(t._replace(wait_s=t.wait_s / 4) for t in targets)
        self._targets[name] = targets
        for sizing, target in zip(sizings, targets, strict=True):
            sizing.rows = target.rows
        return True

    def _set_pace(self, name: str, snapshot: ClusterSnapshot) -> None:
        if name not in self._paces:
            stages = [
                StagePace(s, window_s=snapshot.window_s, without=self._without) for s in self._sizings[name]
            ]
            self._paces[name] = ServicePace(self._services[name], stages)
        cores = sum(node.cores for node in snapshot.nodes)
        largest = max(node.cores for node in snapshot.nodes)
        for pace, target in zip(self._paces[name].stages.values(), self._targets[name], strict=True):
            most = pace.sizing.cores_most(target.cores, largest)
            pace.aim(target, most, replicas_at_most(cores, target.cores))

    def _step(self, node: NodeView) -> float:
        limits = (service.cores_max for service in self._services.values())
        wants_parts = len(self._services) > 1 or any(limit is not None and limit < 1 for limit in limits)
        return FRACTION if node.fractional and wants_parts else 1.0

    def _first_plan(self, view: ServiceView, free: dict[str, float]) -> ServicePlan | None:
        """Active replicas for the largest rate that was seen, and parked ones in reserve.

        One replica a stage first; None if not even these fit. Takes its cores off `free`.
        """
        service = self._services[view.service]
        rate = max((float(rows) for rows in view.arrival_rows_by_second), default=0.0)
        rate = max(rate, self._rates[view.service].update(view))
        pairs = list(zip(self._sizings[view.service], self._targets[view.service], strict=True))
        room = min(sum(free.values()), service.cores_max or float("inf"))
        if sum(target.cores for _, target in pairs) > room + 1e-9:
            return None
        limits = [replicas_at_most(room, target.cores) for _, target in pairs]
        crews = []
        for (sizing, target), limit in zip(pairs, limits, strict=True):
            need = rate * sizing.stage.fan_out
            most = sizing.cores_most(target.cores, max(free.values()))
            crews.append(crew(need, need, sizing, target, most, limit))
        active = [c.efficient for c in crews]
        while sum(n * t.cores for n, (_, t) in zip(active, pairs, strict=True)) > room + 1e-9:
            index = max(range(len(active)), key=lambda i: (active[i], -i))
            active[index] -= 1
        stages = {}
        for (sizing, target), wanted, count in zip(pairs, crews, active, strict=True):
            replicas: list[ReplicaPlan] = []
            for _ in range(count):
                node = max(free, key=lambda name: free[name])
                free[node] -= target.cores
                replicas.append(ReplicaPlan(target.cores, (sizing.variant.name,), node))
            parked = wanted.wanted - count if self._parks else 0
            node = max(free, key=lambda name: free[name])
            replicas += [ReplicaPlan(0.0, (sizing.variant.name,), node)] * max(0, parked)
            stages[sizing.stage.name] = _stage_plan(sizing, target, tuple(replicas))
        return ServicePlan(view.service, stages)

    @property
    def _parks(self) -> bool:
        return "parking" not in self._without and "reserve" not in self._without

    def _thinned(
        self,
        view: ServiceView,
        desired: ServicePlan,
        rate: float,
        snapshot: ClusterSnapshot,
        elapsed_s: float,
    ) -> ServicePlan:
        """The present plan with the targets of the moment, less replicas that have earned their leave."""
        stages = {}
        cores = sum(node.cores for node in snapshot.nodes)
        largest = max(node.cores for node in snapshot.nodes)
        pairs = zip(self._sizings[view.service], self._targets[view.service], strict=True)
        for sizing, target in pairs:
            stage = sizing.stage.name
            replicas = desired.stages[stage].replicas
            arriving = rate * sizing.stage.fan_out
            seen = latest_stage(view, stage)
            ratio = seen.service_ratio if seen else 1.0
            most = sizing.cores_most(target.cores, largest)
            limit = replicas_at_most(cores, target.cores)
            wanted = crew(arriving * ratio, arriving * ratio, sizing, target, most, limit)
            spare = len(replicas) - (wanted.wanted if self._keeps_reserve else wanted.efficient)
            starting = any(r.state == "starting" for r in view.replicas if r.stage == stage)
            occupied = self._in_vain.get((view.service, stage), 0.0)
            price = parting_price(target.cores, sizing.variant.cold_start_s)
            if spare <= 0 or starting or (seen is not None and seen.queue_rows > arriving * target.wait_s):
                occupied = 0.0
            else:
                idle = sorted(replicas, key=lambda r: r.cores)[:spare]
                occupied += elapsed_s * sum(max(r.cores, PARKED_CORES) for r in idle) / spare
                if occupied >= price:
                    for leaving in idle:
                        at = replicas.index(leaving)
                        replicas = (*replicas[:at], *replicas[at + 1 :])
                    occupied = 0.0
            self._in_vain[view.service, stage] = occupied
            stages[stage] = _stage_plan(sizing, target, replicas)
        return ServicePlan(view.service, stages)

    @property
    def _keeps_reserve(self) -> bool:
        return "reserve" not in self._without

    def _runner_up(self, name: str) -> str:
        """The next larger size of a replica and what its rows would cost more."""
        words = []
        for sizing, target in zip(self._sizings[name], self._targets[name], strict=True):
            larger = target.cores + sizing.step
            if larger <= sizing.variant.cores_max:
                now, then = sizing.core_s(target.rows, target.cores), sizing.core_s(target.rows, larger)
                words.append(
                    f"{name}.{sizing.stage.name} on replicas of {larger:g} cores: {then * 1000:.1f} core-ms "
                    f"a row instead of {now * 1000:.1f}"
                )
        return "; ".join(words)


def sizes(cores: float, step: float) -> list[float]:
    """Cores that one replica may have."""
    if step >= 1.0:
        return [float(c) for c in range(1, int(cores + 1e-9) + 1)]
    parts = [step * i for i in range(1, int(min(cores, FRACTION_UP_TO) / step + 1e-9) + 1)]
    return [*parts, *(float(c) for c in range(int(FRACTION_UP_TO) + 1, int(cores + 1e-9) + 1))]


def _ingredients(policy: str, value: object) -> frozenset[str]:
    """The ingredients to leave out.

    Raises:
        SpecError: not a list, or one is unknown.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise SpecError(f"policy {policy}: option without: want a list, got {value!r}")
    names = frozenset(str(name) for name in value)
    for name in names:
        if name not in INGREDIENTS:
            choices = ", ".join(nearest_first(name, INGREDIENTS))
            raise SpecError(
                f"policy {policy}: option without: unknown ingredient {name!r}; there are: {choices}"
            )
    return names


def _stage_plan(sizing: StageSizing, target: StageTarget, replicas: tuple[ReplicaPlan, ...]) -> StagePlan:
    return StagePlan(
        replicas,
        (VariantShare(sizing.variant.name, 1.0),),
        target.rows,
        budget_s=target.service_s + target.wait_s,
        covers_starts=False,
    )


def _words(plan: ServicePlan) -> str:
    return ", ".join(
        f"{name} {sum(r.cores > 0 for r in stage.replicas)} of {len(stage.replicas)} replicas active on "
        f"{sum(r.cores for r in stage.replicas):g} cores, batches up to {stage.batch_rows_max}"
        for name, stage in plan.stages.items()
    )
