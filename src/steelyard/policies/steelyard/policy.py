"""Steelyard's own policy: hold the SLO at its quantile with the fewest cores, moving cores first.

`react`, every window: the cores that carry what arrives and what waits, to live and parked replicas, and
starts in parallel where replicas are too few (`demand`, `pace`, `reserve`, `reaction`, `shortage`).
`decide`, every second: how the latency is shared out among the stages, with batches and the cores of an
active replica (`targets`), the first plan, and replicas that are given up (`layout`).

One knob: `violation_target`, the share of requests that may miss the SLO; a setting, not a promise. Lower
costs cores, higher saves some, as far as there are any to save (`demand`). `without` leaves out
ingredients, for ablations.

Where stages have several variants of known accuracy, the plan has a *level*: the most accurate variants that
may answer (`levels`, `aim`, `standing`); less accurate ones stay resident (`residents`), and the data plane
answers with them where the others would come too late.

Parts of a core are used only where the node enforces them, and several services share it, or stages are more
than its cores, or a service may not have a whole one.
"""

from collections.abc import Iterable
from math import inf

import msgspec

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, Grants, Plan, ReplicaPlan, ServicePlan, StagePlan
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Service, need_parts
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import nearest_first, number, refuse_unknown
from steelyard.policies.steelyard.aim import Aim
from steelyard.policies.steelyard.demand import ArrivalRate
from steelyard.policies.steelyard.knob import VIOLATION_TARGET, knob_at
from steelyard.policies.steelyard.layout import Leaves, StageLayout, first_plan
from steelyard.policies.steelyard.pace import StagePace, replicas_at_most
from steelyard.policies.steelyard.reaction import ServicePace, react
from steelyard.policies.steelyard.residents import room_bytes
from steelyard.policies.steelyard.rooms import Guest, rooms
from steelyard.policies.steelyard.sizing import EXACT
from steelyard.policies.steelyard.standing import Ground, Standing

PERIOD_S = 1.0
FRACTION = 0.25
LOOK_S = 10
"""Seconds whose largest rate the level is chosen for: bursts are the data plane's."""
INGREDIENTS = ("batching", "parking", "queue", "reserve", "variants")


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
        self._knob = knob_at(target)
        self._without = _ingredients(self.name, context.options.get("without", ()))
        self._services = {name: _capped(service) for name, service in context.services.items()}
        self._times = {
            name: {stage.name: context.service_times[name, stage.name] for stage in service.stages}
            for name, service in self._services.items()
        }
        self._standings = {name: self._standing(name) for name in self._services}
        self._followed = {name: self._standing(name) for name in self._services}
        self._aims = {name: Aim(service) for name, service in self._services.items()}
        self._paces: dict[str, ServicePace] = {}
        self._rates = {name: ArrivalRate() for name in context.services}
        reserves = "reserve" not in self._without
        self._leaves = {name: Leaves(service, reserves=reserves) for name, service in self._services.items()}
        self._place: object = None
        self._decided_s: float | None = None
        self._rooms: tuple[object, dict[str, float]] = None, {}
        self._likes: dict[object, float] = {}

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        """Cores, starts and cancellations of one window."""
        place = [view.service for view in snapshot.services], [node.cores for node in snapshot.nodes]
        ground = None if place == self._place else self._ground(snapshot)
        self._place = place
        for view in snapshot.services:
            standing = self._followed[view.service]
            if view.service in self._paces and standing.is_current(view):
                continue
            ground = ground or self._ground(snapshot)
            standing.follow(view, ground)
            self._set_pace(view.service, snapshot)
        return react(snapshot, self._paces)

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """The first plan; later the data plane's limits, and replicas that are given up."""
        now_s = snapshot.now_s
        elapsed_s = now_s - self._decided_s if self._decided_s is not None else 0.0
        self._decided_s = now_s
        plans: dict[str, ServicePlan] = {}
        reasons: list[str] = []
        free = {node.name: node.cores for node in snapshot.nodes}
        largest = max(free.values())
        ground = self._ground(snapshot)
        for view in snapshot.services:
            for replica in _wanted(view):
                free[replica.node] = max(0.0, free.get(replica.node, 0.0) - replica.cores)
        views = sorted(snapshot.services, key=lambda v: -self._services[v.service].weight)
        for view in views:
            self._choose_level(view, snapshot, ground)
        begin = [view.service for view in views if view.desired is None]
        kept = self._kept(begin, sum(free.values(), 0.0), ground)
        for view in views:
            rate = self._rates[view.service].update(view)
            layouts = self._standings[view.service].layouts
            if view.desired is None:
                kept.pop(view.service, None)
                room = sum(free.values(), 0.0) - sum(kept.values(), 0.0)
                plan = self._begin(view, rate, free, room, ground)
            else:
                plan = self._leaves[view.service].thinned(
                    view, view.desired, layouts, rate, cores=largest, elapsed_s=elapsed_s
                )
            if plan is None:
                least = sum([layout.target.least for layout in layouts], 0.0)
                reasons.append(f"{view.service}: wants {_amount(least)}, {sum(free.values(), 0.0):g} free")
                continue
            if plan != view.desired:
                plans[view.service] = plan
            reasons.append(f"{view.service}: {rate:.1f} rows/s, {_words(plan)}")
        found = ((name, standing.layouts) for name, standing in self._standings.items() if standing.layouts)
        other = "; ".join(filter(None, (_runner_up(name, layouts) for name, layouts in found)))
        return Decision(Plan(plans) if plans else None, now_s + PERIOD_S, "; ".join(reasons), other)

    def _kept(self, beginners: Iterable[str], free: float, ground: Ground) -> dict[str, float]:
        """Cores that are kept for services that begin, heaviest first: none goes without for another."""
        kept: dict[str, float] = {}
        for name in beginners:
            room = min(free, self._services[name].cores_max or free)
            least = sum([layout.target.least for layout in self._standings[name].layouts], 0.0)
            if min(least, self._fewest(name, ground)) <= room + EXACT:
                kept[name] = min(least, room)
                free -= kept[name]
        return kept

    def _begin(
        self, view: ServiceView, rate: float, free: dict[str, float], room: float, ground: Ground
    ) -> ServicePlan | None:
        """The first plan, for the largest rate that was seen, on `room` cores at most.

        It may begin on fewer than it is to keep: others give it the rest as soon as it asks.
        """
        rate = max(rate, max(view.arrival_rows_by_second, default=0))
        room = min(room, self._services[view.service].cores_max or room)
        standing, layouts = self._standings[view.service], self._standings[view.service].layouts
        if len(self._services) > 1 and self._fewest(view.service, ground) <= room + EXACT:
            layouts = standing.squeezed(room)
        return first_plan(
            view.service,
            layouts,
            rate,
            free,
            cores_min=self._services[view.service].cores_min,
            cores_max=room,
            parks=not self._without & {"parking", "reserve"},
        )

    def _choose_level(self, view: ServiceView, snapshot: ClusterSnapshot, ground: Ground) -> None:
        """The level of a service's plan, for the largest rate of the last seconds."""
        name = view.service
        standing = self._standings[name]
        standing.look(view, ground)
        level = self._aims[name].choose(
            standing.front,
            view,
            max(self._rates[name].update(view), *view.arrival_rows_by_second[-LOOK_S:], 0),
            self._affordable(view, snapshot, ground),
            ratios=standing.ratios,
            step=ground.step,
            now_s=snapshot.now_s,
        )
        standing.stand(level.variants, ground)

    def _affordable(self, view: ServiceView, snapshot: ClusterSnapshot, ground: Ground) -> float:
        """Cores that a service can have: what others leave, its share by weight at least, and its limit."""
        service = self._services[view.service]
        others = sum(
            replica.cores for other in snapshot.services if other is not view for replica in _wanted(other)
        )
        share = service.weight / sum(each.weight for each in self._services.values())
        cores = max(ground.cores - others, share * ground.cores)
        return min(cores, service.cores_max or cores)

    def _standing(self, name: str) -> Standing:
        """A service that nothing has been observed of."""
        return Standing(self._services[name], self._times[name], self._without, self._knob)

    def _ground(self, snapshot: ClusterSnapshot) -> Ground:
        largest = max(snapshot.nodes, key=lambda n: n.cores)
        cores = sum([node.cores for node in snapshot.nodes], 0.0)
        ground = Ground(largest, cores, self._step(largest), room_bytes(snapshot.nodes, self._services))
        return ground._replace(
            rooms=self._rooms_on(ground, tuple([view.service for view in snapshot.services]))
        )

    def _rooms_on(self, ground: Ground, names: tuple[str, ...]) -> dict[str, float]:
        """By service, where there are several; as profiled, so `react`, elsewhere, knows the same."""
        made_for = names, ground.cores, ground.largest.cores, ground.step
        if self._rooms[0] != made_for:
            guests = [self._guest(name, ground) for name in names] if len(names) > 1 else []
            found = dict(zip(names, rooms(guests, ground.cores, ground.step), strict=False))
            self._rooms = made_for, found
            for standing in (*self._standings.values(), *self._followed.values()):
                standing.settle(ground._replace(rooms=found))
        return self._rooms[1]

    def _guest(self, name: str, ground: Ground) -> Guest:
        service, known = self._services[name], (name, ground.cores, ground.largest.cores, ground.step)
        if known not in self._likes:
            self._likes[known] = self._standing(name).likes(ground)
        fewest = self._fewest(name, ground)
        most = service.cores_max or inf
        return Guest(service.weight, fewest, max(fewest, self._likes[known]), most)

    def _fewest(self, name: str, ground: Ground) -> float:
        """Cores that a service must have: a step for each stage, or what it was promised."""
        service = self._services[name]
        return max(ground.step * len(service.stages), service.cores_min)

    def _set_pace(self, name: str, snapshot: ClusterSnapshot) -> None:
        """Let the reaction work by the targets of the moment."""
        layouts = self._followed[name].layouts
        if name not in self._paces:
            stages = [
                StagePace(layout.sizing, knob=self._knob, window_s=snapshot.window_s, without=self._without)
                for layout in layouts
            ]
            self._paces[name] = ServicePace(self._services[name], stages)
        cores = sum(node.cores for node in snapshot.nodes)
        largest = max(node.cores for node in snapshot.nodes)
        for pace, layout in zip(self._paces[name].stages.values(), layouts, strict=True):
            base = layout.target.cores
            limit = replicas_at_most(cores, base)
            pace.aim(
                layout.target,
                layout.sizing.cores_most(base, largest),
                limit if layout.limit is None else min(limit, layout.limit),
                sizing=layout.sizing,
                resident=layout.variants,
            )

    def _step(self, node: NodeView) -> float:
        wants_parts = len(self._services) > 1 or need_parts(self._services.values(), node.cores)
        return FRACTION if node.fractional and wants_parts else 1.0


def _ingredients(policy: str, value: object) -> frozenset[str]:
    """The ingredients to leave out.

    Raises:
        SpecError: not a list, or one is unknown.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise SpecError(f"policy {policy}: option without: want a list, got {value!r}")
    names = frozenset(str(name) for name in value)
    for name in sorted(names.difference(INGREDIENTS)):
        known = ", ".join(nearest_first(name, INGREDIENTS))
        raise SpecError(f"policy {policy}: option without: unknown ingredient {name!r}; there are: {known}")
    return names


def _capped(service: Service) -> Service:
    """The service with its objective's cap of cores, if that is tighter than its own."""
    cap = service.objective.cost_max_cores if service.objective is not None else None
    if cap is None or (service.cores_max is not None and service.cores_max <= cap):
        return service
    return msgspec.structs.replace(service, cores_max=cap)


def _wanted(view: ServiceView) -> Iterable[ReplicaPlan]:
    """Replicas that the present plan wants."""
    if view.desired is None:
        return ()
    return (replica for stage in view.desired.stages.values() for replica in stage.replicas)


def _words(plan: ServicePlan) -> str:
    return ", ".join(
        f"{name}: {sum(r.cores > 0 for r in stage.replicas)} of {len(stage.replicas)} replicas active on "
        f"{_cores(stage)}, batches up to {stage.batch_rows_max}{_level(stage)}"
        for name, stage in plan.stages.items()
    )


def _cores(stage: StagePlan) -> str:
    return _amount(sum((r.cores for r in stage.replicas), 0.0))


def _amount(cores: float) -> str:
    return f"{cores:g} core{'' if cores == 1 else 's'}"


def _level(stage: StagePlan) -> str:
    """Who answers, where there are several."""
    planned, *lower = [share.variant for share in stage.mix]
    return f" of {planned}, or of {', '.join(lower)} where that would come too late" if lower else ""


def _runner_up(service: str, layouts: tuple[StageLayout, ...]) -> str:
    """Replicas of the next larger size, and what their rows would cost."""
    words = []
    for sizing, target in ((layout.sizing, layout.target) for layout in layouts):
        larger = target.cores + sizing.step
        if larger <= sizing.variant.cores_max:
            now, then = sizing.core_s(target.rows, target.cores), sizing.core_s(target.rows, larger)
            words.append(
                f"{service}.{sizing.stage.name} on replicas of {larger:g} cores: {then * 1000:.4g} core-ms a "
                f"row, not {now * 1000:.4g}"
            )
    return "; ".join(words)
