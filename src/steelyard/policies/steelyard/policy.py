"""Steelyard's own policy: hold the SLO at its quantile with the fewest cores, moving cores first.

`react`, every window: the cores that carry what arrives and what waits, to live and parked replicas, and
starts in parallel where replicas are too few (`demand`, `pace`, `reserve`, `reaction`, `shortage`).
`decide`, every second: how the latency is shared out among the stages, with batches and the cores of an
active replica (`targets`), the first plan, and replicas that are given up (`layout`).

One knob: `violation_target`, the share of requests that may miss the SLO; a setting, not a promise. Lower
costs cores, higher saves some, as far as there are any to save (`demand`). `without` leaves out
ingredients, for ablations.

Parts of a core are used only where the node enforces them, and several services share it or one may not have
a whole core. Of each stage the first variant: the one its owner prefers.
"""

from collections.abc import Iterable

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, Grants, Plan, ReplicaPlan, ServicePlan
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import nearest_first, number, refuse_unknown
from steelyard.policies.steelyard.demand import VIOLATION_TARGET, ArrivalRate, slack_share
from steelyard.policies.steelyard.layout import Leaves, StageLayout, first_plan
from steelyard.policies.steelyard.pace import StagePace, replicas_at_most
from steelyard.policies.steelyard.reaction import ServicePace, react
from steelyard.policies.steelyard.sizing import EXACT, StageSizing
from steelyard.policies.steelyard.targets import share_latency

PERIOD_S = 1.0
FRACTION = 0.25
RATIO_STEP = 0.1
"""Targets are made anew when observed service times have moved by so much of what was profiled."""
INGREDIENTS = ("batching", "parking", "queue", "reserve")


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
        self._share = slack_share(target)
        self._without = _ingredients(self.name, context.options.get("without", ()))
        self._services = context.services
        self._sizings = {
            service.name: tuple(
                StageSizing(stage, context.service_times[service.name, stage.name])
                for stage in service.stages
            )
            for service in context.services.values()
        }
        self._layouts: dict[str, tuple[StageLayout, ...]] = {}
        self._ratios: dict[str, tuple[float, ...]] = {}
        self._paces: dict[str, ServicePace] = {}
        self._rates = {name: ArrivalRate() for name in context.services}
        reserves = "reserve" not in self._without
        self._leaves = {
            name: Leaves(service, reserves=reserves) for name, service in context.services.items()
        }
        self._decided_s: float | None = None

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        """Cores, starts and cancellations of one window."""
        for view in snapshot.services:
            if self._retarget(view, snapshot) or view.service not in self._paces:
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
        for view in snapshot.services:
            self._retarget(view, snapshot)
            for replica in _wanted(view):
                free[replica.node] = max(0.0, free.get(replica.node, 0.0) - replica.cores)
        views = sorted(snapshot.services, key=lambda v: -self._services[v.service].weight)
        kept = self._kept([view.service for view in views if view.desired is None], sum(free.values()))
        for view in views:
            rate = self._rates[view.service].update(view)
            layouts = self._layouts[view.service]
            if view.desired is None:
                kept.pop(view.service, None)
                plan = self._begin(view, rate, free, sum(free.values()) - sum(kept.values()))
            else:
                plan = self._leaves[view.service].thinned(
                    view, view.desired, layouts, rate, cores=largest, elapsed_s=elapsed_s
                )
            if plan is None:
                reasons.append(f"{view.service}: no core is left for it")
                continue
            if plan != view.desired:
                plans[view.service] = plan
            reasons.append(f"{view.service}: {rate:.1f} rows/s, {_words(plan)}")
        other = "; ".join(filter(None, (_runner_up(name, found) for name, found in self._layouts.items())))
        return Decision(Plan(plans) if plans else None, now_s + PERIOD_S, "; ".join(reasons), other)

    def _kept(self, beginners: Iterable[str], free: float) -> dict[str, float]:
        """Cores that are kept for services that begin, heaviest first: none goes without for another."""
        kept: dict[str, float] = {}
        for name in beginners:
            least = sum(target.least for _, target in self._layouts[name])
            if least <= min(free, self._services[name].cores_max or free) + EXACT:
                kept[name] = least
                free -= least
        return kept

    def _begin(
        self, view: ServiceView, rate: float, free: dict[str, float], room: float
    ) -> ServicePlan | None:
        """The first plan, for the largest rate that was seen, on `room` cores at most."""
        rate = max(rate, max(view.arrival_rows_by_second, default=0))
        return first_plan(
            view.service,
            self._layouts[view.service],
            rate,
            free,
            cores_min=self._services[view.service].cores_min,
            cores_max=min(room, self._services[view.service].cores_max or room),
            parks=not self._without & {"parking", "reserve"},
        )

    def _retarget(self, view: ServiceView, snapshot: ClusterSnapshot) -> bool:
        """Share out a service's latency anew if its service times have changed; whether they had."""
        name = view.service
        sizings = self._sizings[name]
        ratios = tuple(s.service_ratio for s in view.windows[-1].stages) if view.windows else ()
        ratios = ratios or (1.0,) * len(sizings)
        known = self._ratios.get(name)
        if known is not None and all(
            abs(now - then) <= RATIO_STEP * then for now, then in zip(ratios, known, strict=True)
        ):
            return False
        self._ratios[name] = ratios
        service = self._services[name]
        node = max(snapshot.nodes, key=lambda n: n.cores)
        for sizing in sizings:
            sizing.step = self._step(node)
            if "batching" in self._without:
                sizing.rows_max = 1
        cores = min(node.cores, service.cores_max or node.cores)
        targets = share_latency(service, sizings, cores, ratios)
        if "queue" in self._without:
            targets = tuple(target._replace(wait_s=target.wait_s / 4) for target in targets)
        for sizing, target, ratio in zip(sizings, targets, ratios, strict=True):
            sizing.reckon_by(target.rows, target.cores, target.service_s / ratio)
        self._layouts[name] = tuple(StageLayout(s, t) for s, t in zip(sizings, targets, strict=True))
        return True

    def _set_pace(self, name: str, snapshot: ClusterSnapshot) -> None:
        """Let the reaction work by the targets of the moment."""
        if name not in self._paces:
            stages = [
                StagePace(s, share=self._share, window_s=snapshot.window_s, without=self._without)
                for s in self._sizings[name]
            ]
            self._paces[name] = ServicePace(self._services[name], stages)
        cores = sum(node.cores for node in snapshot.nodes)
        largest = max(node.cores for node in snapshot.nodes)
        for pace, layout in zip(self._paces[name].stages.values(), self._layouts[name], strict=True):
            base = layout.target.cores
            pace.aim(layout.target, layout.sizing.cores_most(base, largest), replicas_at_most(cores, base))

    def _step(self, node: NodeView) -> float:
        limits = (service.cores_max for service in self._services.values())
        wants_parts = len(self._services) > 1 or any(limit is not None and limit < 1 for limit in limits)
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


def _wanted(view: ServiceView) -> Iterable[ReplicaPlan]:
    """Replicas that the present plan wants."""
    if view.desired is None:
        return ()
    return (replica for stage in view.desired.stages.values() for replica in stage.replicas)


def _words(plan: ServicePlan) -> str:
    return ", ".join(
        f"{name}: {sum(r.cores > 0 for r in stage.replicas)} of {len(stage.replicas)} replicas active on "
        f"{sum(r.cores for r in stage.replicas):g} cores, batches up to {stage.batch_rows_max}"
        for name, stage in plan.stages.items()
    )


def _runner_up(service: str, layouts: tuple[StageLayout, ...]) -> str:
    """Replicas of the next larger size, and what their rows would cost."""
    words = []
    for sizing, target in layouts:
        larger = target.cores + sizing.step
        if larger <= sizing.variant.cores_max:
            now, then = sizing.core_s(target.rows, target.cores), sizing.core_s(target.rows, larger)
            words.append(
                f"{service}.{sizing.stage.name} on replicas of {larger:g} cores: {then * 1000:.1f} core-ms a "
                f"row, not {now * 1000:.1f}"
            )
    return "; ".join(words)
