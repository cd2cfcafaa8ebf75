"""Ways in which one request could go from here on: a variant and the cores for it at each stage that is left.

These are the *plans of the moment*: replicas that are ready, starting (from when they are expected), or
parked (if there are cores to wake them), with the variants that they have, with the cores that they have or
could be granted; a stage without any replica could start any of its variants now. The request runs alone, in
as few pieces as its rows allow, from when the replica is free, with nothing before it: what no such route can
do, nothing can. A route has an end, a cost in core-milliseconds, and an accuracy.

The search goes through the stages in their order and leaves a branch as soon as its end and its cost with the
least of the stages behind, or the most accuracy that it could still have, break a limit, or cannot beat what
was found. Options that another one beats in everything are left out before. It gives up after `STEPS_MAX`
options with the best so far: what that takes is the longest that one request can hold up the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Literal, NamedTuple

from steelyard.core.accuracy import Accuracies

if TYPE_CHECKING:
    from steelyard.core.stage import StageState

STEPS_MAX = 2_000
"""Options that one search looks at, in a microsecond or two each."""

CORES_STEPS_MAX = 8
"""Grants that are looked at for one replica: each whole core more, up to so many."""

ROUNDING = 1e-9
"""Of seconds, core-milliseconds and accuracies: a bound that is met exactly is met."""

INF = float("inf")

Aim = Literal["any", "latency", "core_ms", "accuracy"]


class Option(NamedTuple):
    """One way to run the rows of a stage: on cores that are free at `free_s` (absolute)."""

    variant: str
    free_s: float
    service_s: float
    core_ms: float


class Leg:
    """What is left to do at one stage.

    Attributes:
        stage: its state.
        options: ways to do it; empty: nothing is left, or nothing has to run.
        done: variants by name that have answered there already, or run; at most one.
        done_s: when what runs there now ends.
    """

    __slots__ = ("done", "done_s", "options", "stage")

    def __init__(
        self, stage: StageState, options: tuple[Option, ...], done: str = "", done_s: float = 0.0
    ) -> None:
        self.stage = stage
        self.options = options
        self.done = done
        self.done_s = done_s


class Limits(NamedTuple):
    """What a route must keep to: absolute end, accuracy, core-milliseconds from here on."""

    due_s: float = INF
    min_accuracy: float = 0.0
    max_core_ms: float = INF


class Route(NamedTuple):
    """A way to the end; `variants` by stage, of those that run."""

    variants: dict[str, str]
    finish_s: float
    core_ms: float
    accuracy: float


def options_at(
    stage: StageState,
    rows: int,
    bucket: int,
    *,
    now_s: float,
    is_idle: bool = False,
    is_planned: bool = False,
) -> list[Option]:
    """Ways to run `rows` rows at a stage.

    Args:
        stage: where.
        rows: at least 1.
        bucket: their shape bucket.
        now_s: now.
        is_idle: as if nothing ran.
        is_planned: with the variants that the plan uses, as a request without bounds of its own is.
    """
    free: dict[tuple[str, float], float] = {}
    counts: dict[str, int] = {}
    for entry in stage.capacity.possible():
        replica = entry.replica
        free_s = entry.free_s(now_s)
        if is_idle and replica.state != "starting":
            free_s = now_s
        most = stage.capacity.cores_alone(entry)
        for variant in stage.mix.usable(replica.variants) if is_planned else replica.variants:
            counts[variant] = counts.get(variant, 0) + 1
            for cores in _grants(replica.cores, most):
                key = (variant, cores)
                if free_s < free.get(key, INF):
                    free[key] = free_s
    if not counts:
        for known in stage.variants:
            free[known.name, 1.0] = free[known.name, float(known.cores_max)] = now_s
    return [
        _option(stage, variant, bucket, rows, cores, free_s, counts.get(variant, 1))
        for (variant, cores), free_s in free.items()
    ]


def _grants(cores: float, most: float) -> list[float]:
    """Cores that a replica could have: those it has, each whole core more, and the most."""
    found = [cores] if cores > 0 else []
    step = float(int(cores) + 1)
    while step < most and len(found) < CORES_STEPS_MAX:
        found.append(step)
        step += 1.0
    if most > cores:
        found.append(most)
    return found


def alone_core_ms(
    stage: StageState, variant: str, bucket: int, rows: int, cores: float
) -> tuple[float, float]:
    """(core-milliseconds, seconds of the longest piece) of rows that run in pieces of their own."""
    per_piece = stage.piece_rows_least
    pieces, rest = divmod(rows, per_piece)
    whole_s = stage.estimator.service_s(variant, bucket, per_piece, cores) if pieces else 0.0
    rest_s = stage.estimator.service_s(variant, bucket, rest, cores) if rest else 0.0
    return 1000.0 * cores * (pieces * whole_s + rest_s), max(whole_s, rest_s)


def _option(
    stage: StageState, variant: str, bucket: int, rows: int, cores: float, free_s: float, replicas: int
) -> Option:
    core_ms, piece_s = alone_core_ms(stage, variant, bucket, rows, cores)
    rounds = ceil(ceil(rows / stage.piece_rows_least) / replicas)
    return Option(variant, free_s, rounds * piece_s, core_ms)


class Search:
    """One search.

    Args:
        legs: what is left, in the order of the stages.
        accuracies: of the service.
        limits: to keep to.
        aim: what the best route is; `any` takes the first.
        now_s: nothing starts before.
    """

    def __init__(
        self, legs: Sequence[Leg], accuracies: Accuracies, limits: Limits, aim: Aim, *, now_s: float
    ) -> None:
        self._accuracies = accuracies
        self._limits = limits
        self._aim = aim
        self._is_accurate = limits.min_accuracy > 0 or aim == "accuracy"
        self._legs = [Leg(leg.stage, self._in_order(leg), leg.done, leg.done_s) for leg in legs]
        self._now_s = now_s
        self._steps = 0
        self._is_over = False
        self._core_ms_behind = [0.0] * (len(legs) + 1)
        self._accuracy_behind = [1.0] * (len(legs) + 1)
        self._behind_s: dict[str, float] = {}
        for index in range(len(legs) - 1, -1, -1):
            leg = self._legs[index]
            least = min((option.core_ms for option in leg.options), default=0.0)
            most = max(
                (accuracies.of_variant(leg.stage.name, option.variant) for option in leg.options), default=1.0
            )
            self._core_ms_behind[index] = self._core_ms_behind[index + 1] + least
            self._accuracy_behind[index] = self._accuracy_behind[index + 1] * (1.0 if leg.done else most)
            least_s = min((option.service_s for option in leg.options), default=0.0)
            behind_s = [self._behind_s[stage.name] for stage in leg.stage.followers]
            # From when the inputs of the stage are there.
            self._behind_s[leg.stage.name] = least_s + max(behind_s, default=0.0)
        self._chosen: dict[str, str] = {}
        self._finish_s: dict[str, float] = {}
        self.best: Route | None = None

    def run(self) -> Route | None:
        """The best route within the limits; None if there is none."""
        self._extend(0, 0.0, 1.0)
        return self.best

    @property
    def gave_up(self) -> bool:
        """Whether there may be a route all the same, or a better one."""
        return self._steps > STEPS_MAX

    def _in_order(self, leg: Leg) -> tuple[Option, ...]:
        """Options that no other one beats, the most promising first."""
        options = self._unbeaten(leg.options)
        if self._aim != "core_ms":
            options.sort(key=lambda option: option.free_s + option.service_s)
        if self._aim == "accuracy":
            name, of_variant = leg.stage.name, self._accuracies.of_variant
            options.sort(key=lambda option: -of_variant(name, option.variant))
        return tuple(options)

    def _unbeaten(self, options: Sequence[Option]) -> list[Option]:
        """Without those that another one of the same variant is as good as; of any, if accuracy is no matter.

        The cheapest first.
        """
        kept: list[Option] = []
        for option in sorted(options, key=lambda option: option.core_ms):
            for other in kept:
                if (
                    other.free_s <= option.free_s
                    and other.service_s <= option.service_s
                    and (other.variant == option.variant or not self._is_accurate)
                ):
                    break
            else:
                kept.append(option)
        return kept

    def _extend(self, index: int, core_ms: float, product: float) -> None:
        """Look through the stages from `index` on; `product` is that of the accuracies before."""
        if index == len(self._legs):
            self._arrive(core_ms)
            return
        leg = self._legs[index]
        name = leg.stage.name
        start_s = max([self._finish_s[source.name] for source in leg.stage.sources], default=self._now_s)
        start_s = max(start_s, leg.done_s, self._now_s)
        if leg.done:
            self._chosen[name] = leg.done
        if not leg.options:
            self._finish_s[name] = start_s
            if leg.done:
                product *= self._accuracies.of_variant(name, leg.done)
            if self._is_promising(index + 1, start_s, core_ms, product):
                self._extend(index + 1, core_ms, product)
            self._chosen.pop(name, None)
            return
        for option in leg.options:
            finish_s = max(start_s, option.free_s) + option.service_s
            self._finish_s[name] = finish_s
            self._chosen[name] = option.variant
            self._steps += 1
            accuracy = product * self._accuracies.of_variant(name, option.variant)
            if self._is_promising(index + 1, finish_s, core_ms + option.core_ms, accuracy):
                self._extend(index + 1, core_ms + option.core_ms, accuracy)
            if self._is_over or self._steps > STEPS_MAX:
                break
        self._chosen.pop(name, None)

    def _is_promising(self, index: int, finish_s: float, core_ms: float, product: float) -> bool:
        """Whether the stages before `index`, the last of which ends then, leave hope of limits and a best."""
        limits, best = self._limits, self.best
        core_ms += self._core_ms_behind[index]
        leg = self._legs[index - 1]
        if leg.stage.followers:
            finish_s += max([self._behind_s[stage.name] for stage in leg.stage.followers])
        if finish_s > limits.due_s + ROUNDING or core_ms > limits.max_core_ms + ROUNDING:
            return False
        if best is not None:
            if self._aim == "latency" and finish_s >= best.finish_s:
                return False
            if self._aim == "core_ms" and core_ms >= best.core_ms:
                return False
        if not self._is_accurate:
            return True
        most = self._accuracies.most(self._chosen, product * self._accuracy_behind[index])
        if most < limits.min_accuracy - ROUNDING:
            return False
        return self._aim != "accuracy" or best is None or most > best.accuracy

    def _arrive(self, core_ms: float) -> None:
        """A whole route is found."""
        accuracy = self._accuracies.of(self._chosen)[0] or 0.0
        if accuracy < self._limits.min_accuracy - ROUNDING:
            return
        if self._aim == "accuracy" and self.best is not None and accuracy <= self.best.accuracy:
            return
        finish_s = max(self._finish_s.values())
        self.best = Route(dict(self._chosen), finish_s, core_ms, accuracy)
        self._is_over = self._aim == "any"


def reachable(legs: Sequence[Leg], accuracies: Accuracies, min_accuracy: float) -> bool:
    """Whether some way is accurate enough, whenever and at whatever cost."""
    return Search(legs, accuracies, Limits(min_accuracy=min_accuracy), "any", now_s=0.0).run() is not None
