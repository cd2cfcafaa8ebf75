"""Which replicas a service has: the first plan, and later without those that have earned their leave.

Whatever moves within seconds is the reaction's; this is what a decision adds to it. Cores of live replicas
are left as they are: they were right a window ago.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.snapshot import ServiceView
from steelyard.core.types import Service
from steelyard.policies.sensing import latest_stage
from steelyard.policies.steelyard.knob import AS_IT_COMES, Knob
from steelyard.policies.steelyard.pace import replicas_at_most
from steelyard.policies.steelyard.reserve import PARKED_CORES, Crew, crew, parting_price
from steelyard.policies.steelyard.sizing import EXACT, StageSizing
from steelyard.policies.steelyard.targets import StageTarget

FIT = StageRules(choice="fit")
HOLD_SAVES_MIN = 0.2
"""What full batches must save over single rows, as a share of what a request costs, to be waited for: rows
that are held come all at once, here and at the next stage, which costs cores."""


class StageLayout(NamedTuple):
    """One stage: what its replicas can do and what it aims at.

    Attributes:
        sizing: of the variant that is planned.
        target: what it aims at.
        resident: variants of its replicas; empty: the planned one.
        limits: of the less accurate variants that may answer as well, in this order: their largest batches.
        limit: replicas that fit the cluster's memory; None: as many as it likes.
        saves: core-time that its batches save over single rows, over that of a request at all stages.
        knob: of the policy.
    """

    sizing: StageSizing
    target: StageTarget
    resident: tuple[str, ...] = ()
    limits: tuple[tuple[str, int], ...] = ()
    limit: int | None = None
    saves: float = 0.0
    knob: Knob = AS_IT_COMES

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants of a replica."""
        return self.resident or (self.sizing.variant.name,)

    def hold_s(self, cores: float) -> float:
        """For how long a batch that is not full is held, on so many cores: only where that can save some.

        On the least cores that a stage may have, there is nothing to save.
        """
        if self.saves < HOLD_SAVES_MIN or cores <= self.target.least + EXACT:
            return 0.0
        return self.knob.hold_share * self.target.wait_s

    def plan(self, replicas: tuple[ReplicaPlan, ...]) -> StagePlan:
        """The stage's plan with these replicas; their variants become those of the layout."""
        name, target = self.sizing.variant.name, self.target
        wanted = self.variants
        if any(replica.variants != wanted for replica in replicas):
            replicas = tuple([msgspec.structs.replace(r, variants=wanted) for r in replicas])
        return StagePlan(
            replicas,
            (VariantShare(name, 1.0), *[VariantShare(lower, 0.0) for lower, _ in self.limits]),
            target.limit,
            self.hold_s(sum([replica.cores for replica in replicas])),
            budget_s=target.service_s + target.wait_s,
            rules=FIT if self.limits else StageRules(),
            covers_starts=False,
            rows_max=dict(self.limits),
        )


def layouts_of(
    sizings: Sequence[StageSizing], targets: Sequence[StageTarget], knob: Knob
) -> tuple[StageLayout, ...]:
    """One for each stage of a service, in its order."""
    pairs = list(zip(sizings, targets, strict=True))
    whole = sum([s.fan_out * s.core_s(t.rows, t.cores) for s, t in pairs], 0.0)
    layouts = []
    for sizing, target in pairs:
        saved = sizing.core_s(1, target.cores) - sizing.core_s(target.rows, target.cores)
        layouts.append(StageLayout(sizing, target, saves=sizing.fan_out * saved / whole, knob=knob))
    return tuple(layouts)


def first_plan(
    service: str,
    stages: Sequence[StageLayout],
    rate_rps: float,
    free: dict[str, float],
    *,
    cores_min: float,
    cores_max: float,
    parks: bool,
) -> ServicePlan | None:
    """Active replicas for `rate_rps`, and parked ones in reserve; None if not even one a stage fits.

    Where cores are not enough for one of calm times a stage, each stage has one of as few as do.

    Args:
        service: its name.
        stages: in its order.
        rate_rps: requests' rows a second.
        free: cores by node; what the plan takes is taken off.
        cores_min: that it is to have whatever arrives.
        cores_max: most cores that it may take.
        parks: whether replicas may be parked.
    """
    room = min(sum(free.values()), cores_max)
    for sizes in ([s.target.cores for s in stages], [s.target.least for s in stages]):
        crews = [_crew(stage, rate_rps, room, max(free.values())) for stage in stages]
        active = [wanted.efficient for wanted in crews]
        while sum(n * size for n, size in zip(active, sizes, strict=True)) > room + EXACT and max(active) > 1:
            active[max(range(len(active)), key=lambda i: (active[i], -i))] -= 1
        while sum(n * size for n, size in zip(active, sizes, strict=True)) < min(cores_min, room) - EXACT:
            active[min(range(len(active)), key=lambda i: (active[i], i))] += 1
        left = dict(free)
        nodes = _placed(active, sizes, left)
        if nodes is None or sum(free.values()) - sum(left.values()) > room + EXACT:
            continue
        free.update(left)
        roomiest = max(free, key=lambda name: free[name])
        plans = {}
        for stage, wanted, size, placed in zip(stages, crews, sizes, nodes, strict=True):
            resident = stage.variants
            replicas = [ReplicaPlan(size, resident, node) for node in placed]
            spare = max(0, wanted.wanted - len(placed)) if parks else 0
            replicas += [ReplicaPlan(0.0, resident, roomiest)] * spare
            plans[stage.sizing.stage.name] = stage.plan(tuple(replicas))
        return ServicePlan(service, plans)
    return None


class Leaves:
    """What replicas have occupied in vain, by stage, in core-seconds each; given up at `parting_price`."""

    def __init__(self, service: Service, *, reserves: bool) -> None:
        self._service = service
        self._reserves = reserves
        self._in_vain: dict[str, float] = {}

    def thinned(
        self,
        view: ServiceView,
        desired: ServicePlan,
        stages: Sequence[StageLayout],
        rate_rps: float,
        *,
        cores: float,
        elapsed_s: float,
    ) -> ServicePlan:
        """The present plan with the targets of the moment, less replicas that have earned their leave.

        Args:
            view: of the service.
            desired: its present plan.
            stages: in its order.
            rate_rps: requests' rows a second.
            cores: of the largest node.
            elapsed_s: since the last call.
        """
        plans = {}
        surplus = -self._service.cores_min + sum(
            replica.cores for plan in desired.stages.values() for replica in plan.replicas
        )
        for stage in stages:
            name = stage.sizing.stage.name
            replicas = desired.stages[name].replicas
            spare = self._spare(view, stage, len(replicas), rate_rps, cores)
            if spare <= 0:
                self._in_vain.pop(name, None)
            else:
                idle = sorted(range(len(replicas)), key=lambda i: replicas[i].cores)[:spare]
                occupied = elapsed_s * sum(max(replicas[i].cores, PARKED_CORES) for i in idle) / spare
                self._in_vain[name] = self._in_vain.get(name, 0.0) + occupied
                cold_start_s = stage.sizing.variant.cold_start_s
                leaving = sum(replicas[i].cores for i in idle)
                price = parting_price(stage.target.cores, cold_start_s)
                if self._in_vain[name] >= price and leaving <= max(0.0, surplus) + EXACT:
                    surplus -= leaving
                    replicas = tuple(r for i, r in enumerate(replicas) if i not in idle)
                    del self._in_vain[name]
            plans[name] = stage.plan(replicas)
        return ServicePlan(self._service.name, plans)

    def _spare(self, view: ServiceView, stage: StageLayout, count: int, rate_rps: float, cores: float) -> int:
        """Replicas beyond those wanted; none while some start or more waits than is planned for."""
        sizing, target = stage.sizing, stage.target
        seen = latest_stage(view, sizing.stage.name)
        arriving = rate_rps * sizing.fan_out
        if any(r.state == "starting" and r.stage == sizing.stage.name for r in view.replicas):
            return 0
        if seen is not None and seen.queue_rows > arriving * target.wait_s:
            return 0
        need = arriving * (seen.service_ratio if seen is not None else 1.0)
        base_rps, most_rps = stage_rates(sizing, target, cores)
        wanted = crew(need, need if self._reserves else 0.0, base_rps, most_rps, count, stage.knob)
        return count - wanted.wanted


def stage_rates(sizing: StageSizing, target: StageTarget, cores: float) -> tuple[float, float]:
    """Rows a second of a replica in calm times, and with as many of `cores` as it can make use of."""
    return sizing.rate_rps(target.cores), sizing.rate_rps(sizing.cores_most(target.cores, cores))


def _crew(stage: StageLayout, rate_rps: float, room: float, largest: float) -> Crew:
    """What a stage wants when it begins, of `room` cores on nodes of at most `largest`."""
    sizing, target = stage.sizing, stage.target
    need = rate_rps * sizing.fan_out
    limit = replicas_at_most(room, target.cores)
    if stage.limit is not None:
        limit = min(limit, stage.limit)
    return crew(need, need, *stage_rates(sizing, target, largest), limit, stage.knob)


def _placed(counts: Sequence[int], sizes: Sequence[float], left: dict[str, float]) -> list[list[str]] | None:
    """Nodes for each stage's active replicas, roomiest first; None if not even one a stage has a place.

    Every stage gets its first replica before any gets a second. What is placed is taken off `left`.
    """
    placed: list[list[str]] = [[] for _ in counts]
    for turn in range(max(counts)):
        for index, size in enumerate(sizes):
            node = max(left, key=lambda name: left[name])
            if turn < counts[index] and left[node] >= size - EXACT:
                left[node] -= size
                placed[index].append(node)
    return placed if all(placed) else None
