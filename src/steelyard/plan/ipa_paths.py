"""The front of a chain where accuracy is known of whole combinations of variants: measured, not a product.

Products of the stages' accuracies are contradicted by measurement (a weak detector spoils what the best
classifier can do), and what is measured does not divide into stages. So every combination of variants is gone
through, at most `COMBINATIONS_MAX` of them; batches and replicas need not be: for each combination the least
cost within the bound is found on the grid of latencies, and combinations that begin alike share the work.

    PathFront(stages, variants, accuracy_of)       with what `plan.ipa_front.Front` has
"""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from steelyard.core.errors import SpecError
from steelyard.plan.ipa_front import TICKS, Floats, Front, Ints, Options

COMBINATIONS_MAX = 4096
_BEYOND = np.iinfo(np.int64).max // 4
"""A cost that no plan has."""

Combination = tuple[int, ...]
"""The variant of each stage, as numbered by the caller."""


class PathFront:
    """The undominated points: cost and accuracy both rise; empty if the bound is too tight.

    Attributes:
        cost: whole cores, shape (points,).
        accuracy: shape (points,).
    """

    def __init__(
        self,
        stages: Sequence[Options],
        variants: Sequence[Sequence[int]],
        accuracy_of: Callable[[Combination], float],
        *,
        ticks_max: int = TICKS,
        cost_max: int | None = None,
    ) -> None:
        """Find it.

        Args:
            stages: their options; the accuracies in them are not looked at.
            variants: which variant each option of each stage is of.
            accuracy_of: of a combination.
            ticks_max: the bound.
            cost_max: points that cost more are left out.

        Raises:
            SpecError: there are more than `COMBINATIONS_MAX` combinations.
        """
        self._stages = stages
        self._variants = [np.asarray(of_stage, np.int64) for of_stage in variants]
        self._ticks_max = ticks_max
        count = prod(len(set(of_stage)) for of_stage in variants)
        if count > COMBINATIONS_MAX:
            raise SpecError(f"{count} combinations of variants, at most {COMBINATIONS_MAX} are gone through")
        costs = np.full(ticks_max + 1, _BEYOND, np.int64)
        costs[0] = 0
        cheapest: dict[Combination, int] = {}
        self._extend((), costs, _BEYOND - 1 if cost_max is None else cost_max, cheapest)
        found = sorted((cost, -accuracy_of(chosen), chosen) for chosen, cost in cheapest.items())
        kept: list[tuple[int, float, Combination]] = []
        for cost, negative, chosen in found:
            if not kept or -negative > kept[-1][1]:
                kept.append((cost, -negative, chosen))
        self.cost: Ints = np.array([cost for cost, _, _ in kept], dtype=np.int64)
        self.accuracy: Floats = np.array([accuracy for _, accuracy, _ in kept])
        self._combinations = [chosen for _, _, chosen in kept]

    def choices(self, point: int) -> list[int]:
        """The index of the option that each stage takes at a point, in the order of the stages."""
        of_variant = [
            np.flatnonzero(variants == chosen)
            for variants, chosen in zip(self._variants, self._combinations[point], strict=True)
        ]
        alike = [
            Options(stage.ticks[kept], stage.cost[kept], np.ones(len(kept)))
            for stage, kept in zip(self._stages, of_variant, strict=True)
        ]
        cheapest = Front(alike, ticks_max=self._ticks_max).choices(0)
        return [int(kept[option]) for kept, option in zip(of_variant, cheapest, strict=True)]

    def _extend(self, chosen: Combination, costs: Ints, most: int, found: dict[Combination, int]) -> None:
        """Go through the variants of the next stage; `costs` are the least so far, by ticks exactly used."""
        if len(chosen) == len(self._stages):
            found[chosen] = int(costs.min())
            return
        stage, variants = self._stages[len(chosen)], self._variants[len(chosen)]
        for variant in np.unique(variants).tolist():
            following = np.full(len(costs), _BEYOND, np.int64)
            for option in np.flatnonzero(variants == variant).tolist():
                ticks, cost = int(stage.ticks[option]), int(stage.cost[option])
                if ticks < len(costs):
                    target = following[ticks:]
                    np.minimum(target, costs[: len(costs) - ticks] + cost, out=target)
            if following.min() <= most:
                self._extend((*chosen, variant), following, most, found)
