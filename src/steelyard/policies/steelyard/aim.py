"""Which level a service is at: how accurate its plan is, by the objective, at the rate of the moment.

The level is a *ceiling*: the data plane answers with its variants as long as nothing comes too late, and
with less accurate ones otherwise (`choice: fit`), within milliseconds and without a plan. So a plan need not
foresee bursts, and a load between two levels is carried by both.

- No objective, or a cap of cores: the cheapest level that the cores do *not* suffice for, if there is one:
  what it lacks of cores, the data plane makes up for by the level below. Otherwise the most accurate one.
  Which stages of a pipeline are lowered is thus the plan's choice, and how far they are, the moment's.
- Weights: the level with the largest weighted sum.
- A floor: the two levels around it whose mixture is cheapest, in turns. An account of what was answered says
  whose turn it is: the lower one's, if the mean stays above the floor through its turn, also where the upper
  one's turns brought less than they should have for want of cores. Levels hold for `TURN_S`, so that the
  cores that a turn saves can be given up.

More accurate levels are reckoned at `RISE` times the rate: a load at the edge does not move the level.
"""

from collections.abc import Sequence
from typing import NamedTuple

from steelyard.core.accuracy import Accuracies
from steelyard.core.snapshot import ServiceView
from steelyard.core.types import Objective, Service
from steelyard.plan.accuracy import pick
from steelyard.policies.steelyard.levels import Level
from steelyard.policies.steelyard.sizing import EXACT

RISE = 1.1
TURN_S = 10.0
MARGIN = 0.002
"""What the floor's account keeps above it, since estimates of turns are rough."""
ACCOUNT_S_MAX = 60.0
"""Seconds' worth of accuracy above or below the floor that the account remembers at most."""


class Offer(NamedTuple):
    """A level at a rate: a point that `plan.accuracy.pick` can weigh.

    Attributes:
        level: which.
        accuracy: its.
        cores: that it takes.
        switches: replicas that would have to change their variant.
    """

    level: Level
    accuracy: float
    cores: float
    switches: int


class Aim:
    """The level of one service; asked at every decision."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._account = _Account(service)
        self._turn_until_s = float("-inf")
        self._present: Level | None = None

    def choose(
        self,
        front: Sequence[Level],
        view: ServiceView,
        rate_rps: float,
        cores: float,
        *,
        ratios: Sequence[float],
        step: float,
        now_s: float,
    ) -> Level:
        """The level from now on.

        Args:
            front: the levels that count, the most accurate first.
            view: of the service.
            rate_rps: requests' rows a second to reckon with.
            cores: that the service can have.
            ratios: observed over profiled service times, by stage.
            step: in which cores are given.
            now_s: seconds.
        """
        if len(front) == 1:
            return front[0]
        present = self._present if self._present in front else None
        offers = [self._offer(level, view, present, rate_rps, ratios, step) for level in front]
        objective = self._service.objective
        if objective is None or (objective.weights is None and objective.accuracy_floor is None):
            level = _ceiling(offers, cores)
        elif objective.accuracy_floor is not None:
            self._account.add(view, objective.accuracy_floor)
            if present is not None and now_s < self._turn_until_s and self._may_stay(present, objective):
                return present
            level = self._turn(offers, cores, rate_rps, objective.accuracy_floor)
            self._turn_until_s = now_s + TURN_S
        else:
            best = pick(offers, objective, cores_max=cores)
            level = best.level if best is not None else front[-1]
        self._present = level
        return level

    def _may_stay(self, present: Level, objective: Objective) -> bool:
        """Whether the turn of the present level goes on: what it takes from the account is there."""
        return (present.accuracy or 0.0) >= (objective.accuracy_floor or 0.0) or self._account.above > 0

    def _offer(
        self,
        level: Level,
        view: ServiceView,
        present: Level | None,
        rate_rps: float,
        ratios: Sequence[float],
        step: float,
    ) -> Offer:
        accuracy = level.accuracy or 0.0
        rises = present is not None and accuracy > (present.accuracy or 0.0) + EXACT
        switches = 0
        if present is not None and level is not present:
            changed = {
                stage.name
                for stage, now, then in zip(
                    self._service.stages, present.variants, level.variants, strict=True
                )
                if now != then
            }
            switches = sum(replica.stage in changed for replica in view.replicas)
        return Offer(
            level, accuracy, level.cores(rate_rps * (RISE if rises else 1.0), ratios, step), switches
        )

    def _turn(self, offers: Sequence[Offer], cores: float, rate_rps: float, floor: float) -> Level:
        """Of the two levels whose mixture reaches the floor at least cost, the one whose turn it is."""
        offers = [offer._replace(cores=min(offer.cores, cores)) for offer in offers]
        upper = [offer for offer in offers if offer.accuracy >= floor - EXACT]
        lower = [offer for offer in offers if offer.accuracy < floor - EXACT]
        if not upper:
            return offers[0].level
        high = min(upper, key=lambda offer: offer.cores)
        best, low = high.cores, high
        for first in upper:
            for second in lower:
                share = (first.accuracy - floor) / (first.accuracy - second.accuracy)
                cost = first.cores + share * (second.cores - first.cores)
                if cost < best - EXACT:
                    best, high, low = cost, first, second
        spent = (floor + MARGIN - low.accuracy) * rate_rps * TURN_S
        return low.level if self._account.above >= spent else high.level


class _Account:
    """What was answered above the floor, in accuracy times requests, by the batches of the windows.

    Attributes:
        above: the sum; negative where the mean is below.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._accuracies = Accuracies(service)
        self._seen_s = float("-inf")
        self.above = 0.0

    def add(self, view: ServiceView, floor: float) -> None:
        """Take the windows that are new."""
        rows: dict[str, dict[str, int]] = {}
        completed, seconds = 0, 0.0
        for window in view.windows:
            if window.to_s > self._seen_s:
                completed += window.completed
                seconds += window.to_s - window.from_s
                for cell in window.busy:
                    of_stage = rows.setdefault(cell.stage, {})
                    of_stage[cell.variant] = of_stage.get(cell.variant, 0) + cell.rows * cell.batches
        if view.windows:
            self._seen_s = view.windows[-1].to_s
        accuracy = self._mean(rows)
        if accuracy is None or not completed:
            return
        most = completed / seconds * ACCOUNT_S_MAX
        self.above = max(-most, min(most, self.above + completed * (accuracy - floor - MARGIN)))

    def _mean(self, rows: dict[str, dict[str, int]]) -> float | None:
        """Mean accuracy of what ran: of the path where each stage ran one variant, else by stages."""
        if any(stage.name not in rows for stage in self._service.stages):
            return None
        main = {stage: _most(counts) for stage, counts in rows.items()}
        accuracy, _ = self._accuracies.of(main)
        if accuracy is None:
            return None
        for stage, counts in rows.items():
            known = {variant: self._accuracies.of_variant(stage, variant) for variant in counts}
            if known[main[stage]]:
                mean = sum(n * known[variant] for variant, n in counts.items()) / sum(counts.values())
                accuracy *= mean / known[main[stage]]
        return accuracy


def _most(counts: dict[str, int]) -> str:
    """The variant of most rows."""
    return max(counts, key=lambda variant: counts[variant])


def _ceiling(offers: Sequence[Offer], cores: float) -> Level:
    """The cheapest level of those that the cores do not suffice for; the most accurate if they do."""
    too_dear = [offer for offer in offers if offer.cores > cores + EXACT]
    return min(too_dear, key=lambda offer: offer.cores).level if too_dear else offers[0].level
