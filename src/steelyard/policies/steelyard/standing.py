"""Where a service stands: the level of its plan, and what its stages aim at there.

Made anew when observed service times, or counted items, have moved by `RATIO_STEP`, or when the level
changes. `decide` chooses the level; `react`, in another process, reads it off the plan.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from steelyard.core.accuracy import Accuracies
from steelyard.core.plan import ServicePlan
from steelyard.core.snapshot import NodeView, ServiceView
from steelyard.core.types import Service, ServiceTimes
from steelyard.policies.steelyard.knob import AS_IT_COMES, Knob
from steelyard.policies.steelyard.layout import StageLayout, layouts_of
from steelyard.policies.steelyard.levels import Level, Menu, front_of, menus_of
from steelyard.policies.steelyard.residents import replicas_at_most, resident
from steelyard.policies.steelyard.sizing import EXACT, StageSizing
from steelyard.policies.steelyard.targets import LIMIT_WAITS, StageTarget, fitted, rows_within, share_latency

RATIO_STEP = 0.1


class Ground(NamedTuple):
    """What the nodes offer.

    Attributes:
        largest: cores of the largest node.
        cores: of all nodes.
        step: in which cores are given.
        room_bytes: memory of a stage's replicas together; 0: as much as they like.
        rooms: cores on which a service may count, by name, where there are several services.
    """

    largest: NodeView
    cores: float
    step: float
    room_bytes: int
    rooms: Mapping[str, float] = MappingProxyType({})


class Standing:
    """One service.

    Args:
        service: which.
        times: service times by stage.
        without: ingredients left out.
        knob: of the policy.

    Attributes:
        service: which.
        layouts: of its stages, in its order, at the level of the moment.
        ratios: observed over profiled service times, by which they were made.
        front: the levels that count, the most accurate first.
    """

    def __init__(
        self,
        service: Service,
        times: Mapping[str, ServiceTimes],
        without: Collection[str],
        knob: Knob = AS_IT_COMES,
    ) -> None:
        self.service = service
        self._without = without
        self._knob = knob
        menus = {
            stage.name: {v.name: StageSizing(stage, times[stage.name], v.name) for v in stage.variants}
            for stage in service.stages
        }
        self._accuracies = Accuracies(service)
        self._menus: tuple[Menu, ...] = menus_of(service, menus, self._accuracies)
        if "variants" in without:
            self._menus = tuple({name: menu[name] for name in list(menu)[:1]} for menu in self._menus)
        self.layouts: tuple[StageLayout, ...] = ()
        self.ratios: tuple[float, ...] = ()
        self._takes_items = any(stage.items_of for stage in service.stages)
        self._planned_fan_outs = tuple([float(stage.fan_out) for stage in service.stages])
        self._fan_outs = self._planned_fan_outs
        self.front: list[Level] = []
        self._variants: tuple[str, ...] = ()
        self._is_plain = all(len(menu) == 1 for menu in self._menus)
        self._had = self._wanted = 0.0  # room, and least cores without one, when `layouts` were made

    def likes(self, ground: Ground) -> float:
        """Cores that it keeps in calm times, if there is room; by its first variants, as profiled."""
        sizings = [next(iter(menu.values())) for menu in self._menus]
        self._prepare(ground)
        ratios = (1.0,) * len(sizings)
        targets = fitted(self._shared(sizings, ratios, ground), sizings, ratios, self._room(ground))
        return _least(targets)

    def is_current(self, view: ServiceView) -> bool:
        """Whether neither service times nor the plan's level have changed."""
        if not self._variants or self._has_moved(view):
            return False
        return self._is_plain or self._planned(view.desired) == self._variants

    def settle(self, ground: Ground) -> None:
        """Rooms may have changed: aim anew if that matters."""
        room = self._room(ground)
        if room != self._had and min(room, self._had) < self._wanted - EXACT:
            self._variants = ()

    def squeezed(self, room: float) -> tuple[StageLayout, ...]:
        """The layouts of the moment on so many cores, to begin with."""
        sizings = [layout.sizing for layout in self.layouts]
        targets = fitted([layout.target for layout in self.layouts], sizings, self.ratios, room)
        pairs = zip(self.layouts, targets, strict=True)
        return tuple(layout._replace(target=target) for layout, target in pairs)

    def follow(self, view: ServiceView, ground: Ground) -> None:
        """Aim by the level of the plan, and start replicas with what those of the plan have resident."""
        self._observe(view, ground)
        self._variants = self._planned(view.desired)
        layouts = self._plain(ground)
        if view.desired is not None and not self._is_plain:
            replicas = [view.desired.stages[layout.sizing.stage.name].replicas for layout in layouts]
            layouts = tuple(
                layout._replace(resident=of_stage[0].variants) if of_stage else layout
                for layout, of_stage in zip(layouts, replicas, strict=True)
            )
        self.layouts = layouts

    def look(self, view: ServiceView, ground: Ground) -> None:
        """Make the front anew if service times have changed."""
        if self._has_moved(view):
            self._observe(view, ground)
            self.front = front_of(
                self.service, self._menus, self._accuracies, self._cores(ground), self.ratios
            )
            self._variants = ()

    def stand(self, variants: tuple[str, ...], ground: Ground) -> None:
        """Aim by a level from now on, and keep others resident."""
        if self._variants != variants:
            self._variants = variants
            plain = self._plain(ground)
            self.layouts = tuple(self._varied(i, layout, ground) for i, layout in enumerate(plain))

    def _planned(self, plan: ServicePlan | None) -> tuple[str, ...]:
        """The level of a plan; the first variants without one, or where it is not to be had."""
        names = [next(iter(menu)) for menu in self._menus]
        for index, stage in enumerate(self.service.stages if plan is not None else ()):
            assert plan is not None
            planned = plan.stages[stage.name].mix[0].variant
            if planned in self._menus[index]:
                names[index] = planned
        return tuple(names)

    def _observe(self, view: ServiceView, ground: Ground) -> None:
        self.ratios = self._observed(view)
        self._fan_outs = self._counted(view)
        self._prepare(ground)

    def _prepare(self, ground: Ground) -> None:
        for menu, fan_out in zip(self._menus, self._fan_outs, strict=True):
            for sizing in menu.values():
                sizing.step = ground.step
                sizing.fan_out = fan_out
                if "batching" in self._without:
                    sizing.rows_max = 1

    def _observed(self, view: ServiceView) -> tuple[float, ...]:
        ratios = tuple([s.service_ratio for s in view.windows[-1].stages]) if view.windows else ()
        return ratios or (1.0,) * len(self._menus)

    def _has_moved(self, view: ServiceView) -> bool:
        """Whether the present layouts were made for other service times."""
        if not self.ratios:
            return True
        for now, then in zip(self._observed(view), self.ratios, strict=True):
            if abs(now - then) > RATIO_STEP * then:
                return True
        if not self._takes_items:
            return False
        pairs = zip(self._counted(view), self._fan_outs, strict=True)
        return any(abs(now - then) > RATIO_STEP * then for now, then in pairs)

    def _counted(self, view: ServiceView) -> tuple[float, ...]:
        """Rows of each stage for a row of a request, as counted of late."""
        if not self._takes_items or not view.windows:
            return self._planned_fan_outs
        latest = {seen.stage: seen.fan_out for seen in view.windows[-1].stages}
        counts = [latest.get(stage.name) for stage in self.service.stages]
        pairs = zip(counts, self._planned_fan_outs, strict=True)
        return tuple([planned if counted is None else counted for counted, planned in pairs])

    def _plain(self, ground: Ground) -> tuple[StageLayout, ...]:
        """Layouts at the level, of the planned variants alone."""
        sizings = tuple(menu[name] for menu, name in zip(self._menus, self._variants, strict=True))
        targets = self._shared(sizings, self.ratios, ground)
        self._had, self._wanted = self._room(ground), _least(targets)
        targets = fitted(targets, sizings, self.ratios, self._had)
        if "queue" in self._without:
            targets = tuple(target._replace(wait_s=target.wait_s / 4) for target in targets)
        for sizing, target, ratio in zip(sizings, targets, self.ratios, strict=True):
            sizing.reckon_by(target.rows, target.cores, target.service_s / ratio)
        return layouts_of(sizings, targets, self._knob)

    def _shared(
        self, sizings: Sequence[StageSizing], ratios: Sequence[float], ground: Ground
    ) -> tuple[StageTarget, ...]:
        """What the stages aim at, as if no other service were there."""
        return share_latency(
            self.service, sizings, self._cores(ground), ratios, service_share=self._knob.service_share
        )

    def _room(self, ground: Ground) -> float:
        """Cores for one active replica of every stage."""
        room = ground.rooms.get(self.service.name, ground.cores)
        return min(room, self.service.cores_max or room)

    def _cores(self, ground: Ground) -> float:
        """Cores that one replica may have at most."""
        return min(ground.largest.cores, self.service.cores_max or ground.largest.cores)

    def _varied(self, index: int, layout: StageLayout, ground: Ground) -> StageLayout:
        """The layout with the other variants that its replicas keep resident, and within memory."""
        menu, sizing, target = self._menus[index], layout.sizing, layout.target
        order = self._order(index, sizing.variant.name)
        bytes_of = {name: menu[name].variant.memory_bytes for name in order}
        room = ground.room_bytes
        replicas = max(1, int(ground.cores / target.cores))
        names = resident(order, sizing.variant.name, bytes_of, room // replicas)
        limit = replicas_at_most(sum(bytes_of[name] for name in names), room, replicas) if room else None
        followed = {source for stage in self.service.stages for source in stage.after}
        wait_s = LIMIT_WAITS * target.wait_s * (sizing.stage.name not in followed)
        most_s = (target.service_s + wait_s) / self.ratios[index]
        lower = [name for name in names if order.index(name) > order.index(sizing.variant.name)]
        limits = tuple((name, rows_within(menu[name], target.cores, most_s)) for name in lower)
        return layout._replace(resident=names, limits=limits, limit=limit)

    def _order(self, index: int, planned: str) -> list[str]:
        """A stage's variants that are on the front, those of the most accurate and dearest levels first."""
        return list(dict.fromkeys([*(level.variants[index] for level in self.front), planned]))


def _least(targets: Sequence[StageTarget]) -> float:
    """Cores for one active replica of every stage."""
    return sum([target.least for target in targets], 0.0)
