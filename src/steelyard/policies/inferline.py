"""InferLine (Crankshaw et al., SoCC 2020) as the authors of Themis revised their baseline in 2025.

A *planner* chooses replicas, cores and batch of each stage once, for the largest 1-s count seen when it is
first asked with traffic (in a warm start, of the first 30 s). From then on, every half second, a *tuner*
changes nothing but the number of replicas: as many as the largest count of the last 30 s needs at the
utilisation that was planned for. Both are arithmetic on profiles (`plan.inferline`). More replicas are
started at once, fewer taken after 10 s in which fewer were wanted throughout. Before there is any traffic
each stage has one replica of its largest size.

What differs from the release: decisions do not wait for pods, and what does not fit the nodes is left out.
Where no configuration is feasible, the planner's starting point is kept: all cores, single rows. Option:
`queue_model` (exponential, as released, or gamma).

`published` brings the data plane of that release: first in first out, batches of b or what is there 50 ms
after the first, nothing dropped, everybody admitted, replicas in turn. One variant a stage, see `uniform`.
"""

from math import ceil
from typing import NamedTuple

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, Grants, StageRules
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.plan import inferline
from steelyard.plan.problem import Infeasible, PlannedService, PlannedStage, PlanProblem
from steelyard.plan.themis import Choice
from steelyard.plan.themis2025 import RECKONINGS
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import nearest_first, refuse_unknown
from steelyard.policies.themis2025 import PUBLISHED
from steelyard.policies.uniform import (
    ScaleIn,
    choice_of,
    choice_words,
    plan_problem,
    present_size,
    site_of,
)

TICK_S = 0.5
RATE_SECONDS = 30
STABLE_S = 10.0


class Planned(NamedTuple):
    """What the planner chose, and the utilisation of each stage that the tuner keeps."""

    service: PlannedService
    utilisations: tuple[float, ...]


class InferlinePolicy:
    """One service; see `per_service` for several."""

    name = "inferline"
    solve_s = 0.005
    reacts = False

    def __init__(self, context: PolicyContext) -> None:
        refuse_unknown(self.name, context.options, ("queue_model",))
        self._model = str(context.options.get("queue_model", "exponential"))
        if self._model not in RECKONINGS:
            choices = ", ".join(nearest_first(self._model, RECKONINGS))
            raise SpecError(
                f"policy {self.name}: option queue_model: no {self._model!r}; there are: {choices}"
            )
        (self._service,) = context.services.values()
        self._times = context.service_times
        self._rules = PUBLISHED if context.published else StageRules()
        self._planned: Planned | None = None
        self._scale_in = ScaleIn(STABLE_S)

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: replicas take longer than a window."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Plan once, then tune."""
        site = site_of(self._service, snapshot, TICK_S)
        if isinstance(site, Decision):
            return site
        view = site.view
        rate = max(view.arrival_rows_by_second[-RATE_SECONDS:], default=0)
        problem = plan_problem(self._service, self._times, site.size_max, float(rate), wait=self._model)
        if self._planned is None and rate == 0:
            choices, word = _fastest(problem), "no traffic yet:"
        elif self._planned is None:
            self._planned = _planned(problem)
            choices, word = [choice_of(stage) for stage in self._planned.service.stages], "planned"
        else:
            choices, word = self._tuned(problem, self._planned, view, now_s=snapshot.now_s), "tuned to"
        fitted = site.fitted(choices)
        plan = site.plan(fitted, self._rules)
        return Decision(plan, site.next_at_s, f"{word} {choice_words(fitted)} (rate {rate})")

    def _tuned(
        self, problem: PlanProblem, planned: Planned, view: ServiceView, *, now_s: float
    ) -> list[Choice]:
        present = [present_size(view, stage)[0] for stage in self._service.stages]
        wanted = inferline.tune(problem, planned.service, planned.utilisations, present)
        return [
            choice_of(stage)._replace(replicas=self._scale_in.settle(stage.name, count, there, now_s=now_s))
            for stage, count, there in zip(planned.service.stages, wanted, present, strict=True)
        ]


def _planned(problem: PlanProblem) -> Planned:
    """The planner's answer, or where it starts from if nothing is feasible."""
    planned = inferline.plan(problem)
    if isinstance(planned, Infeasible):
        stages = tuple(
            PlannedStage(stage.name, c.replicas, c.cores, c.rows, c.time_ms / 1000.0)
            for stage, c in zip(problem.stages, _fastest(problem), strict=True)
        )
        planned = PlannedService(problem.service, stages, 0.0, 0.0, 0.0)
    return Planned(planned, inferline.utilisations(problem, planned))


def _fastest(problem: PlanProblem) -> list[Choice]:
    """Where the planner starts: all cores, single rows, n = ceil(rate / h)."""
    choices = []
    for stage in problem.stages:
        time_s = stage.service_time_s[0][stage.cores_max - 1]
        count = max(1, ceil(problem.rate_rps(stage) * time_s))
        choices.append(Choice(count, stage.cores_max, 1, ceil(1000.0 * time_s)))
    return choices
