"""What one service could be given, and how it would do: undominated plans by cores.

Two yardsticks. While cores suffice, a plan is judged by its latency at the service's quantile. Where they
are short, something will be lost whatever is done, and plans are judged by the violations a second to
expect, times the service's weight: then the cores go where they prevent most.
"""

from typing import NamedTuple

from steelyard.core.snapshot import ServiceView
from steelyard.core.types import Service
from steelyard.plan.chain import Option, Point, frontier
from steelyard.policies.sensing import wanted_replicas
from steelyard.policies.steelyard.demand import (
    arrival_demand_rps,
    backlog_rps,
    present_demand_rps,
    recent_demand_rps,
)
from steelyard.policies.steelyard.sizing import StageChoice, StageSizing, observed_ratio

Choices = tuple[StageChoice, ...]

RATIO_WINDOWS = 50
FRACTION_UP_TO = 2.0
"""Above this many cores a replica is sized in whole cores."""
START_CORES, DRAIN_CORES = 0.02, 0.01
"""Cost of a start and of a drain, in cores: decides between plans of equal cores; patience does the rest."""
START_LOSS, DRAIN_LOSS = 0.004, 0.001
"""The same as a share of the rows, where plans are judged by what they lose."""


class Prospect(NamedTuple):
    """A service's undominated plans, cheapest first; `Point.time_s` is in the yardstick's unit.

    Attributes:
        limit: the yardstick's bound: the latency budget in seconds, or 0 violations.
        present: what the service has now, empty before the first plan; replicas reckoned as if all alike.
        present_value: how that does, in the yardstick's unit.
    """

    service: Service
    view: ServiceView
    demand_rps: float
    limit: float
    points: tuple[Point[StageChoice], ...]
    present: Choices
    present_value: float


class ServiceSizing:
    """The stages of one service."""

    def __init__(self, service: Service, stages: tuple[StageSizing, ...]) -> None:
        self.service = service
        self.stages = stages

    def by_latency(self, view: ServiceView, *, now_s: float, cores: float, step: float) -> Prospect:
        """Plans within `cores`, judged by seconds of latency at the quantile.

        Plans are for the demand that may come; what is there now is judged by the demand there is. So the
        forecast can keep cores that are there and never asks for more: growth is what `react` is for. A
        service that has not been seen yet begins with a core.
        """
        demand_rps = arrival_demand_rps(view, now_s=now_s)
        recent_rps = recent_demand_rps(view, now_s=now_s)
        budget_s = self.service.slo_s - self.service.reply_s
        options, present, value = [], [], 0.0
        for sizing in self.stages:
            ratio = observed_ratio(view, sizing, RATIO_WINDOWS)
            backlog = backlog_rps(view, sizing.stage.name)
            demand = demand_rps + backlog
            now = _present(view, sizing)
            count = now.replicas if now else 0
            options.append(
                [
                    Option(sizing.latency_s(choice, demand, ratio), _cost(choice, count), choice)
                    for choice in sizing.choices(demand, ratio, sizes(cores, step), cores)
                ]
            )
            if now:
                present.append(now)
                value += sizing.latency_s(now, recent_rps + backlog, ratio)
        least = self.service.cores_min if view.windows else max(self.service.cores_min, min(1.0, cores))
        points = _allowed(frontier(options), least)
        return Prospect(self.service, view, demand_rps, budget_s, points, tuple(present), value)

    def by_loss(self, view: ServiceView, *, now_s: float, cores: float, step: float) -> Prospect:
        """Plans within `cores`, judged by violations a second times weight.

        A stage may use what the fastest single rows of the other stages leave of the budget.
        """
        demand_rps = present_demand_rps(view, now_s=now_s)
        budget_s = self.service.slo_s - self.service.reply_s
        fastest_s = sum(sizing.fastest_s for sizing in self.stages)
        options, present, value = [], [], 0.0
        for sizing in self.stages:
            ratio = observed_ratio(view, sizing, RATIO_WINDOWS)
            demand = demand_rps + backlog_rps(view, sizing.stage.name)
            worth = self.service.weight * demand
            left_s = budget_s - (fastest_s - sizing.fastest_s) * ratio
            now = _present(view, sizing)
            count = now.replicas if now else 0
            options.append(
                [
                    Option(
                        worth
                        * (sizing.loss_ratio(choice, demand, ratio, left_s) + _switch_loss(choice, count)),
                        choice.total_cores,
                        choice,
                    )
                    for choice in sizing.choices(demand, ratio, sizes(cores, step), cores)
                ]
            )
            if now:
                present.append(now)
                value += worth * sizing.loss_ratio(now, demand, ratio, left_s)
        points = _allowed(frontier(options), self.service.cores_min)
        return Prospect(self.service, view, demand_rps, 0.0, points, tuple(present), value)


def cores_of(choices: Choices) -> float:
    """Cores of all replicas of all stages."""
    return sum(choice.total_cores for choice in choices)


def sizes(cores: float, step: float) -> list[float]:
    """Cores that one replica may have."""
    if step >= 1.0:
        return [float(c) for c in range(1, int(cores + 1e-9) + 1)]
    parts = [step * i for i in range(1, int(min(cores, FRACTION_UP_TO) / step + 1e-9) + 1)]
    return [*parts, *(float(c) for c in range(int(FRACTION_UP_TO) + 1, int(cores + 1e-9) + 1))]


def _allowed(points: tuple[Point[StageChoice], ...], least: float) -> tuple[Point[StageChoice], ...]:
    """Plans of at least `least` cores; of the others only the largest, if there are no larger ones."""
    allowed = tuple(p for p in points if cores_of(p.choices) >= least - 1e-9)
    return allowed or points[-1:]


def _present(view: ServiceView, sizing: StageSizing) -> StageChoice | None:
    wanted = wanted_replicas(view, sizing.stage.name)
    if not wanted:
        return None
    mean = sum(replica.cores for replica in wanted) / len(wanted)
    return StageChoice(len(wanted), mean, sizing.rows_max(mean))


def _cost(choice: StageChoice, present: int) -> float:
    starts, drains = max(0, choice.replicas - present), max(0, present - choice.replicas)
    return choice.total_cores + START_CORES * starts + DRAIN_CORES * drains


def _switch_loss(choice: StageChoice, present: int) -> float:
    starts, drains = max(0, choice.replicas - present), max(0, present - choice.replicas)
    return START_LOSS * starts + DRAIN_LOSS * drains
