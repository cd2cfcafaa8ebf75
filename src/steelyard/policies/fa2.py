"""FA2 (Razavi et al., RTAS 2022): replicas of one core, as few as the pipeline's SLO allows, every second.

Every second its program (`plan.fa2`) is solved anew for the arrival rate of the last 2 s, truncated to a
whole number; it has the fewest one-core replicas and a batch for each stage, on any graph of stages. More
replicas are started at once, cold starts are not looked ahead to; fewer are taken after 10 s in which fewer
were wanted throughout. That is how the authors of Themis run it as their horizontal baseline, whose rate and
stabilisation these are; the paper itself solves in every cycle. There is no option.

- *It begins* with n = ceil(rate / h(1)) replicas for the largest 1-s count seen.
- *Where one core is too slow for the SLO* the program has no answer, and what is there stays.
- *What does not fit the nodes is left out.*

`published` brings the data plane that the program supposes: first in first out, batches of exactly b however
long they take to fill, replicas in turn, everybody admitted; dropped when as old as the SLO, as in Themis'
release. One variant a stage, see `uniform`.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from steelyard.core.plan import Decision, Grants, StageRules
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.plan import fa2
from steelyard.plan.problem import Infeasible
from steelyard.plan.themis import Choice
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import refuse_unknown
from steelyard.policies.sensing import rate_over
from steelyard.policies.themis import published_rules
from steelyard.policies.uniform import (
    ScaleIn,
    choice_of,
    choice_words,
    first_choices,
    plan_problem,
    present_size,
    site_of,
    stage_problem,
)

TICK_S = 1.0
RATE_OVER_S = 2.0
STABLE_S = 10.0
FIRST_SECONDS = 30


class Fa2Policy:
    """One service; see `per_service` for several."""

    name = "fa2"
    solve_s = 0.005
    reacts = False

    def __init__(self, context: PolicyContext) -> None:
        refuse_unknown(self.name, context.options, ())
        (self._service,) = context.services.values()
        self._times = context.service_times
        self._problem = plan_problem(self._service, self._times, size_max=10**6, rate=0.0)
        self._rules = published_rules(self._service.slo_s) if context.published else StageRules()
        self._scale_in = ScaleIn(STABLE_S)

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: replicas take longer than a window."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Solve for the rate of now; more at once, fewer when it has lasted."""
        site = site_of(self._service, snapshot, TICK_S)
        if isinstance(site, Decision):
            return site
        view = site.view
        other = ""
        if view.desired is None:
            rate = max(view.arrival_rows_by_second[-FIRST_SECONDS:], default=0)
            stages = [
                stage_problem(self._service, s, self._times, site.size_max) for s in self._service.stages
            ]
            choices, word = first_choices(stages, rate), "begin with"
        else:
            rate = int(rate_over(view, RATE_OVER_S, now_s=snapshot.now_s))
            planned = fa2.solve(replace(self._problem, arrival_rate_rps=float(rate)))
            if isinstance(planned, Infeasible):
                return Decision(None, site.next_at_s, f"rate {rate}: {planned.binding}")
            wanted = [choice_of(stage) for stage in planned.stages]
            choices, word = self._settled(view, wanted, now_s=snapshot.now_s), "as planned"
            if choices != wanted:
                word, other = "scaling in waits:", f"{choice_words(wanted)} at once"
        fitted = site.fitted(choices)
        plan = site.plan(fitted, self._rules)
        return Decision(plan, site.next_at_s, f"{word} {choice_words(fitted)} (rate {rate})", other)

    def _settled(self, view: ServiceView, wanted: Sequence[Choice], *, now_s: float) -> list[Choice]:
        settled = []
        for stage, choice in zip(self._service.stages, wanted, strict=True):
            present, _ = present_size(view, stage)
            count = self._scale_in.settle(stage.name, choice.replicas, present, now_s=now_s)
            settled.append(choice._replace(replicas=count))
        return settled
