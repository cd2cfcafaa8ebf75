"""The cheapest choice for each stage of a chain within one latency budget, exactly.

Each stage offers options (time, cost). Times add up along the chain, and so do costs, so only undominated
partial sums can be part of an optimum: the frontier of a prefix is the undominated sums of the former
frontier and the stage's options. No rounding of times. Ties are broken by order: the first listed option
wins, so equal problems have equal answers in every process.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Option(NamedTuple, Generic[T]):
    """One way to run a stage: seconds it takes, what it costs, and what it stands for."""

    time_s: float
    cost: float
    choice: T


class Point(NamedTuple, Generic[T]):
    """One undominated way to run the whole chain."""

    time_s: float
    cost: float
    choices: tuple[T, ...]


def frontier(stages: Sequence[Sequence[Option[T]]]) -> tuple[Point[T], ...]:
    """All undominated ways to run the chain, cheapest (and slowest) first; empty if a stage has no option.

    O(S F O log(F O)) with F the frontier's size and O the options of a stage.
    """
    points: tuple[Point[T], ...] = (Point(0.0, 0.0, ()),)
    for options in stages:
        useful = _undominated([Point(o.time_s, o.cost, (o.choice,)) for o in options])
        points = _undominated(
            [
                Point(head.time_s + tail.time_s, head.cost + tail.cost, (*head.choices, *tail.choices))
                for head in points
                for tail in useful
            ]
        )
    return points


def cheapest(points: Sequence[Point[T]], budget_s: float) -> Point[T] | None:
    """The cheapest point that takes at most `budget_s` seconds, or None."""
    return next((point for point in points if point.time_s <= budget_s), None)


def _undominated(points: Sequence[Point[T]]) -> tuple[Point[T], ...]:
    kept: list[Point[T]] = []
    for point in sorted(points, key=lambda p: (p.cost, p.time_s)):
        if not kept or point.time_s < kept[-1].time_s:
            kept.append(point)
    return tuple(kept)
