"""What is known of accuracies, and which point of a front of (accuracy, cores) a service's objective means.

A planner that finds the whole front needs no weights: a floor, a cap or weights are three ways to point at
it, and another one costs nothing.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from steelyard.core.errors import SpecError
from steelyard.core.types import Objective, Stage, Variant

_ROUNDING = 1e-9


class Point(Protocol):
    """A point of a front."""

    @property
    def accuracy(self) -> float:
        """Mean over requests, in [0, 1]."""
        ...

    @property
    def cores(self) -> float:
        """Of all replicas."""
        ...

    @property
    def switches(self) -> int:
        """Replicas that would have to change their variant."""
        ...


P = TypeVar("P", bound=Point)


def accuracies(policy: str, service: str, stage: Stage) -> dict[str, float]:
    """Accuracy by variant; the only variant of a stage counts as 1 where nobody has said, since it is given.

    Raises:
        SpecError: one of several variants has no accuracy.
    """
    unknown = [variant.name for variant in stage.variants if variant.accuracy is None]
    if unknown and len(stage.variants) > 1:
        raise SpecError(
            f"policy {policy}: service {service}, stage {stage.name}: variant {unknown[0]} has no accuracy; "
            "state `accuracy:` or measure it with `steelyard profile --labels`"
        )
    return {variant.name: _of(variant) for variant in stage.variants}


def pick(front: Sequence[P], objective: Objective | None, *, cores_max: float) -> P | None:
    """The point that an objective means, among those of at most `cores_max` cores; None if there is none.

    - a floor: the fewest cores that reach it; where none does, the most accurate;
    - a cap of cores: the most accurate below it; where none is, the fewest cores;
    - weights: the largest sum of weighted accuracy, cores and switches;
    - none of them: the most accurate.

    Of equals the one with fewer cores, then the earlier one.
    """
    within = sorted((point for point in front if point.cores <= cores_max + _ROUNDING), key=lambda p: p.cores)
    if not within:
        return None
    most_accurate = max(within, key=lambda point: point.accuracy)
    if objective is None:
        return most_accurate
    if objective.weights is not None:
        accuracy, cores, switches = objective.weights
        return max(within, key=lambda p: accuracy * p.accuracy - cores * p.cores - switches * p.switches)
    if objective.accuracy_floor is not None:
        floor = objective.accuracy_floor - _ROUNDING
        return next((point for point in within if point.accuracy >= floor), most_accurate)
    if objective.cost_max_cores is not None:
        cap = objective.cost_max_cores + _ROUNDING
        below = [point for point in within if point.cores <= cap]
        return max(below, key=lambda point: point.accuracy) if below else within[0]
    return most_accurate


def _of(variant: Variant) -> float:
    return 1.0 if variant.accuracy is None else variant.accuracy
