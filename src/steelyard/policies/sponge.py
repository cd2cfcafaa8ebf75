"""Sponge (Razavi et al., EuroMLSys 2024, arXiv 2404.00704): cores in place only, for deadlines that move.

Every second, for the arrival rate of the last 2 s (truncated) and with d the part of the SLO that the network
has used up, the largest among the requests of the last second (SLO minus least budget at arrival):
- *One stage*: the paper's program (`plan.sponge`): the fewest cores, then the smallest batch, with which a
  second's requests, queued at once, are served within 0.9 SLO - d. Not feasible: what is there stays.
- *A pipeline*: the vertical program of Themis' release (`plan.themis`) with the replicas as they are and the
  SLO less d; that is what Themis was compared with as "Sponge". Not feasible: cores for the largest rate that
  is.

Cores go up and down at once; replicas never change. Option `replicas`, of each stage: a number, or `auto`
(the default): as many as carry the largest rate on their most cores, which is how the authors of Themis sized
it (by the trace's maximum; where the trace is not known, by the largest count seen at the start). On one
stage that is the paper's single instance, unless its program has no answer for that; several share the
requests evenly.

What differs: the release takes the *latest* remaining budget that it has seen, the paper the least among the
requests that wait; this is the least of the last second. What does not fit the nodes is left out.

`published` brings the data plane that the paper describes: earliest deadline first, dropped when its turn
comes too late, everybody admitted, batches one after another of what is there, at most b. (The release has no
deadline order, drops answers after they were computed, and may wait 1 s for a full batch, which its program
does not know of.) One variant a stage, see `uniform`.
"""

from collections.abc import Sequence
from math import ceil, floor

from steelyard.core.plan import Decision, Grants, StageRules
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.plan.problem import tabulate
from steelyard.plan.sponge import closed_form
from steelyard.plan.themis import Choice, ThemisStage, vertical_with_extra
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import integer, refuse_unknown
from steelyard.policies.sensing import rate_over
from steelyard.policies.uniform import (
    choice_words,
    present_size,
    site_of,
    stage_problem,
)

TICK_S = 1.0
RATE_OVER_S = 2.0
AUTO = "auto"

PUBLISHED = StageRules(
    order="edf", forming="hold", drop="infeasible", admission="open", routing="least_finish"
)


class SpongePolicy:
    """One service; see `per_service` for several."""

    name = "sponge"
    solve_s = 0.005
    reacts = False

    def __init__(self, context: PolicyContext) -> None:
        refuse_unknown(self.name, context.options, ("replicas",))
        self._replicas: int | None = None
        if context.options.get("replicas", AUTO) != AUTO:
            self._replicas = integer(self.name, context.options, "replicas", 1, least=1)
        (self._service,) = context.services.values()
        self._times = context.service_times
        self._largest_rate = max(context.future.get(self._service.name, ()), default=0)
        self._rules = PUBLISHED if context.published else StageRules()

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: all of Sponge happens at its tick."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Cores and batches for the rate and the budget of now."""
        site = site_of(self._service, snapshot, TICK_S)
        if isinstance(site, Decision):
            return site
        view = site.view
        stages = [stage_problem(self._service, s, self._times, site.size_max) for s in self._service.stages]
        network_s = self._network_s(view, now_s=snapshot.now_s)
        if view.desired is None:
            rate = max(view.arrival_rows_by_second, default=0)
            largest = max(rate, self._largest_rate)
            counts = [self._replicas or 0] * len(stages)
            if not self._replicas:
                counts = self._counts(stages, largest, site.cores)
        else:
            rate = int(rate_over(view, RATE_OVER_S, now_s=snapshot.now_s))
            counts = [present_size(view, stage)[0] for stage in self._service.stages]
        figures = f"rate {rate}, {network_s * 1000:.0f} ms used up by the network"
        wanted = self._vertical(stages, rate, counts, network_s)
        if not wanted and view.desired is not None:
            return Decision(None, site.next_at_s, f"stays as it is: no size is feasible ({figures})")
        wanted = wanted or _largest(stages, counts)
        fitted = site.fitted(wanted, counts, replicas_first=False)
        plan = site.plan(fitted, self._rules)
        return Decision(plan, site.next_at_s, f"{choice_words(fitted)} ({figures})")

    def _network_s(self, view: ServiceView, *, now_s: float) -> float:
        """What the network has used up, at most, of the SLO of a request that came within the last second."""
        since_s = now_s - TICK_S - 1e-6
        budgets = (w.budget_s_min for w in view.windows if w.from_s >= since_s)
        least_s = min((b for b in budgets if b is not None), default=self._service.slo_s)
        return max(0.0, self._service.slo_s - least_s)

    def _vertical(
        self, stages: Sequence[ThemisStage], rate: int, counts: Sequence[int], network_s: float
    ) -> list[Choice]:
        """Cores and batches for replicas that stay as they are; empty if the program has no answer."""
        if len(stages) > 1:
            slo_ms = max(0, floor((self._service.slo_s - network_s) * 1000 + 1e-9))
            return list(vertical_with_extra(stages, rate, slo_ms, counts)[0])
        return self._single(stages[0], rate, counts[0], network_s)

    def _single(self, stage: ThemisStage, rate: int, count: int, network_s: float) -> list[Choice]:
        """The paper's program for each of `count` instances; empty if it has no answer."""
        table = tabulate(lambda b, c: stage.latency_ms(b, c) / 1000.0, stage.rows_max, stage.cores_max)
        each = ceil(rate * stage.fan_out / count)
        chosen = closed_form(table, each, self._service.slo_s, network_s)
        if chosen is None:
            return []
        time_ms = ceil(1000.0 * table[chosen.rows - 1][chosen.cores - 1])
        return [Choice(count, chosen.cores, chosen.rows, time_ms)]

    def _counts(self, stages: Sequence[ThemisStage], rate: int, cores: int) -> list[int]:
        """Replicas of each stage that carry a rate on their most cores, as its program reckons."""
        if len(stages) == 1:
            enough = (n for n in range(1, cores + 1) if self._single(stages[0], rate, n, 0.0))
            return [next(enough, 1)]
        return [_carrying(stage, rate) for stage in stages]


def _carrying(stage: ThemisStage, rate: int) -> int:
    """Replicas that carry a rate with single rows on their most cores."""
    return max(1, ceil(rate * stage.fan_out * stage.latency_ms(1, stage.cores_max) / 1000.0))


def _largest(stages: Sequence[ThemisStage], counts: Sequence[int]) -> list[Choice]:
    """All cores and single rows: the least latency there is, to begin with where no size is feasible."""
    return [
        Choice(n, stage.cores_max, 1, ceil(stage.latency_ms(1, stage.cores_max)))
        for stage, n in zip(stages, counts, strict=True)
    ]
