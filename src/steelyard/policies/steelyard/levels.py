"""The third axis: what accuracy costs. A *level* is one choice of a variant for each stage.

Of all levels that can meet the SLO, those on the front count: no other one, and no mixture of two others, is
as accurate at as few core-seconds a request. One that lies below that line is not worth a batch: some answers
of the level above it and some of the one below are more accurate at the same cost. Accuracies are those of
answers (`core.accuracy`). Where one is not known, there is nothing to weigh: the first variants of all stages
are the only level.

The cost of a variant is that of its cheapest batch and size which take no longer than a service may spend on
serving: exact for one stage, a little too low for pipelines, whose stages share that time.

Only variants for cores count. Devices are planned by other policies.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import ceil, prod
from typing import NamedTuple

from steelyard.core.accuracy import Accuracies
from steelyard.core.types import Service
from steelyard.policies.steelyard.knob import SERVICE_SHARE
from steelyard.policies.steelyard.sizing import EXACT, StageSizing

LEVELS_MAX = 1024
"""Choices that are looked at one by one; beyond, stages are lowered one after the other."""
BUSY_MAX = 0.9
"""Part of its cores that a stage uses at most, where a level is said to be affordable."""

Menu = Mapping[str, StageSizing]
"""The sizings of a stage's variants, by name."""


class Level(NamedTuple):
    """One choice of a variant for each stage.

    Attributes:
        variants: by stage, in the service's order.
        accuracy: of an answer; None if it is not known.
        core_s: core-seconds for one row of a request, by stage; empty for the only level there is.
    """

    variants: tuple[str, ...]
    accuracy: float | None
    core_s: tuple[float, ...]

    def cores(self, rate_rps: float, ratios: Sequence[float], step: float) -> float:
        """Cores, in steps, on which `rate_rps` rows a second keep no stage busier than `BUSY_MAX`."""
        needs = (rate_rps * s * ratio / BUSY_MAX for s, ratio in zip(self.core_s, ratios, strict=True))
        return sum((step * max(1, ceil(need / step - EXACT)) for need in needs), 0.0)


def menus_of(service: Service, sizings: Mapping[str, Menu], accuracies: Accuracies) -> tuple[Menu, ...]:
    """What may be chosen for each stage: its variants for cores; the first alone where accuracies lack."""
    offered = [
        [v.name for v in stage.variants if v.device == "cpu"] or [stage.variants[0].name]
        for stage in service.stages
    ]
    if any(_accuracy(service, accuracies, choice) is None for choice in _corners(offered)):
        offered = [names[:1] for names in offered]
    return tuple(
        {name: sizings[stage.name][name] for name in names}
        for stage, names in zip(service.stages, offered, strict=True)
    )


def _corners(offered: Sequence[Sequence[str]]) -> Iterable[tuple[str, ...]]:
    """All choices; if there are too many, those that differ from the first in one stage."""
    if prod(len(names) for names in offered) <= LEVELS_MAX:
        return product(*offered)
    first = tuple(names[0] for names in offered)
    return [(*first[:i], name, *first[i + 1 :]) for i, names in enumerate(offered) for name in names]


def front_of(
    service: Service,
    menus: Sequence[Menu],
    accuracies: Accuracies,
    cores: float,
    ratios: Sequence[float],
) -> list[Level]:
    """The levels that count, the most accurate and dearest first; at least one.

    Args:
        service: its stages, SLO and measured paths.
        menus: of its stages.
        accuracies: of its answers.
        cores: that one replica may have at most.
        ratios: observed over profiled service times, by stage.
    """
    if all(len(menu) == 1 for menu in menus):
        only = tuple(next(iter(menu)) for menu in menus)
        return [Level(only, _accuracy(service, accuracies, only), ())]
    available_s = service.slo_s - service.reply_s
    costs = [
        {name: _cost(sizing, cores, ratio, SERVICE_SHARE * available_s) for name, sizing in menu.items()}
        for menu, ratio in zip(menus, ratios, strict=True)
    ]
    choices = _choices(service, costs, accuracies)
    quickest = [
        {name: _quickest_s(sizing, cores) * ratio for name, sizing in menu.items()}
        for menu, ratio in zip(menus, ratios, strict=True)
    ]
    in_time = [c for c in choices if _path_s(service, quickest, c) <= available_s]
    levels = [_level(service, costs, accuracies, choice) for choice in in_time]
    if not levels:  # none meets the SLO: the fastest misses it by least
        fastest = min(choices, key=lambda choice: _path_s(service, quickest, choice))
        return [_level(service, costs, accuracies, fastest)]
    levels.sort(key=lambda level: (sum(level.core_s), -(level.accuracy or 0.0)))
    front: list[Level] = []
    for level in levels:
        if front and (level.accuracy or 0.0) <= (front[-1].accuracy or 0.0) + EXACT:
            continue
        while len(front) > 1 and _gain(front[-1], level) >= _gain(front[-2], front[-1]):
            front.pop()
        front.append(level)
    return front[::-1]


def _gain(lower: Level, upper: Level) -> float:
    """Accuracy that a further core-second buys between two levels."""
    more_s = sum(upper.core_s) - sum(lower.core_s)
    return ((upper.accuracy or 0.0) - (lower.accuracy or 0.0)) / max(more_s, EXACT)


def _accuracy(service: Service, accuracies: Accuracies, choice: Sequence[str]) -> float | None:
    """Of an answer by these variants, stage by stage; None if it is not known."""
    return accuracies.of(dict(zip((stage.name for stage in service.stages), choice, strict=True)))[0]


def _choices(
    service: Service, costs: Sequence[Mapping[str, float]], accuracies: Accuracies
) -> list[tuple[str, ...]]:
    """All choices; if there are too many, those met when stages are lowered one by one at the best price."""
    if prod(len(of_stage) for of_stage in costs) <= LEVELS_MAX:
        return list(product(*costs))
    known = [
        {name: accuracies.of_variant(stage.name, name) for name in of_stage}
        for stage, of_stage in zip(service.stages, costs, strict=True)
    ]
    ranked = [
        sorted(cost, key=lambda name, a=accuracy, c=cost: (-a[name], c[name]))  # type: ignore[misc]
        for accuracy, cost in zip(known, costs, strict=True)
    ]
    places = [0] * len(costs)
    met = [tuple(names[0] for names in ranked)]

    def price(index: int) -> float:
        """Accuracy that is lost, as a ratio, for a core-second saved by lowering a stage."""
        before, after = ranked[index][places[index] : places[index] + 2]
        saved = costs[index][before] - costs[index][after]
        lost = 1.0 - known[index][after] / max(known[index][before], EXACT)
        return lost / saved if saved > 0 else float("inf")

    while lowerable := [i for i, names in enumerate(ranked) if places[i] + 1 < len(names)]:
        places[min(lowerable, key=lambda i: (price(i), i))] += 1
        met.append(tuple(names[place] for place, names in zip(places, ranked, strict=True)))
    return met


def _level(
    service: Service, costs: Sequence[Mapping[str, float]], accuracies: Accuracies, choice: tuple[str, ...]
) -> Level:
    core_s = tuple(of_stage[name] for of_stage, name in zip(costs, choice, strict=True))
    return Level(choice, _accuracy(service, accuracies, choice), core_s)


def _cost(sizing: StageSizing, cores: float, ratio: float, within_s: float) -> float:
    """Core-seconds of the stage's rows for one row of a request, at its cheapest batch and size."""
    points = [(rows, size) for size in _sizes(sizing, cores) for rows in range(1, sizing.rows_max + 1)]
    in_time = [point for point in points if sizing.tail_s(*point) * ratio <= within_s]
    cheapest = min(sizing.core_s(*point) for point in in_time or points[:1])
    return sizing.fan_out * cheapest


def _quickest_s(sizing: StageSizing, cores: float) -> float:
    return min(sizing.tail_s(1, size) for size in _sizes(sizing, cores))


def _sizes(sizing: StageSizing, cores: float) -> list[float]:
    return sizing.sizes(min(cores, sizing.variant.cores_max))


def _path_s(service: Service, seconds: Sequence[Mapping[str, float]], choice: Sequence[str]) -> float:
    """Seconds of the longest path."""
    ends: dict[str, float] = {}
    for stage, of_stage, name in zip(service.stages, seconds, choice, strict=True):
        ends[stage.name] = max((ends[source] for source in stage.after), default=0.0) + of_stage[name]
    return max(ends.values())
