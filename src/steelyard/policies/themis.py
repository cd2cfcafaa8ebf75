"""Themis (Razavi et al., arXiv 2407.14843; code of July 2024): cores at once, replicas when it is calm.

Every second, with lambda the arrival rate of the last 2 s (truncated to a whole number) and lambda^ the
forecast:
- *Steady* means: the vertical program needs no further replica, no stage needs more cores than it has, and
  the horizontal program would not want more replicas for lambda^ than for lambda.
- Not steady: apply the vertical program now. Cores never shrink in this mode.
- Steady for K seconds in a row: apply the horizontal program, one core a replica.

What differs from the release, and why:
- *The forecast is persistence*, the maximum 1-s rate of the last 10 s, and never less than lambda. The
  paper's LSTM predicts that maximum no better (MAPE 7.6 % against 7.7 % on its own trace), and it can only
  veto a transition, never provision ahead.
- *Growing n publishes the new replicas first and then shrinks the old ones.* The release shrank first,
  which dips in capacity; the authors' revision of 2025 has this order. `control.reconcile` does it for
  every policy.
- *What does not fit the nodes is left out.* The vertical step comes first, without the extra replicas; from
  the next tick on, replicas come before cores, because one-core replicas carry more. On Kubernetes the extra
  pods would be pending for ever: this is in the policy's favour.
- c_max and b_max are the variant's own limits and the largest node's cores; the paper's were 8 and 8 (4 for
  one pipeline).
- After a horizontal transition the count of steady seconds starts again at 0; the paper does not say.

`published` brings its data plane: first in first out, batches of exactly b without a time limit, dropped
when as old as the SLO, everybody admitted, replicas in turn. One variant a stage, see `uniform`.
"""

from collections.abc import Sequence
from math import floor
from typing import NamedTuple

from steelyard.core.plan import Decision, Grants, StageRules
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.forecast.predictors import WindowMaximum
from steelyard.plan.themis import Choice, horizontal, vertical_with_extra
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import integer, refuse_unknown
from steelyard.policies.sensing import rate_over
from steelyard.policies.uniform import Site, choice_words, present_size, site_of, stage_problem

TICK_S = 1.0
RATE_OVER_S = 2.0
FORECAST_OVER_S = 10
STEADY_TICKS = 10
"""K; the paper's video pipeline uses 5."""


def published_rules(slo_s: float) -> StageRules:
    """The data plane of the paper."""
    return StageRules(
        order="fifo",
        forming="full",
        drop="age",
        age_s_max=slo_s,
        admission="open",
        routing="round_robin",
    )


class Tick(NamedTuple):
    """What one tick looks at: what is there as (replicas, cores) a stage, and the three programs' answers."""

    site: Site
    present: Sequence[tuple[int, int]]
    choices: Sequence[Choice]
    extra: Sequence[int]
    now: Sequence[Choice] | None
    then: Sequence[Choice] | None
    figures: str


class ThemisPolicy:
    """One service; see `per_service` for several. Options: `steady_ticks` (K, 10)."""

    name = "themis"
    solve_s = 0.1
    reacts = False

    def __init__(self, context: PolicyContext) -> None:
        refuse_unknown(self.name, context.options, ("steady_ticks",))
        self._steady_ticks = integer(self.name, context.options, "steady_ticks", STEADY_TICKS, least=1)
        (self._service,) = context.services.values()
        self._times = context.service_times
        self._rules = published_rules(self._service.slo_s) if context.published else StageRules()
        self._forecast = WindowMaximum(FORECAST_OVER_S)
        self._steady = 0

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: all of Themis happens at its tick."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """One tick of the state machine."""
        site = site_of(self._service, snapshot, TICK_S)
        if isinstance(site, Decision):
            return site
        tick = self._look(site, now_s=snapshot.now_s)
        if site.view.desired is None:
            return self._begin(tick)
        why = _unsteady(tick)
        if why:
            self._steady = 0
            return self._go_vertical(tick, why)
        self._steady += 1
        if tick.now is None or self._steady < self._steady_ticks:
            wait = f"steady for {self._steady} of {self._steady_ticks} ticks ({tick.figures})"
            other = f"horizontal {choice_words(tick.now)}" if tick.now else ""
            return Decision(None, site.next_at_s, wait, other)
        return self._go_horizontal(tick, tick.now)

    def _look(self, site: Site, *, now_s: float) -> Tick:
        view = site.view
        rate = int(rate_over(view, RATE_OVER_S, now_s=now_s))
        ahead = max(rate, int(self._forecast.predict(view.arrival_rows_by_second)))
        problem = [stage_problem(self._service, s, self._times, site.size_max) for s in self._service.stages]
        slo_ms = floor(self._service.slo_s * 1000 + 1e-9)
        present = [present_size(view, stage) for stage in self._service.stages]
        choices, extra = vertical_with_extra(problem, rate, slo_ms, [n for n, _ in present])
        now, then = (horizontal(problem, r, slo_ms) for r in (rate, ahead))
        figures = f"rate {rate}, forecast {ahead}"
        return Tick(site, present, choices, extra, now, then, figures)

    def _begin(self, tick: Tick) -> Decision:
        """Start with what the forecast wants of one-core replicas; without history, one a stage."""
        first = tick.then or tick.choices
        fitted = tick.site.fitted(first)
        return self._decision(tick, fitted, f"begin with {choice_words(fitted)} ({tick.figures})")

    def _go_vertical(self, tick: Tick, why: str) -> Decision:
        """Cores now, never fewer than there are, and the extra replicas."""
        kept = [
            Choice(n + more, max(choice.cores, has), choice.rows, choice.time_ms)
            for (n, has), choice, more in zip(tick.present, tick.choices, tick.extra, strict=True)
        ]
        grows = any(choice.cores > has for choice, (_, has) in zip(kept, tick.present, strict=True))
        fitted = tick.site.fitted(kept, [n for n, _ in tick.present], replicas_first=grows)
        reason = f"vertical {choice_words(fitted)} ({tick.figures}): {why}"
        other = (
            f"horizontal {choice_words(tick.now)}: not while {why}"
            if tick.now
            else "horizontal: not feasible"
        )
        return self._decision(tick, fitted, reason, other)

    def _go_horizontal(self, tick: Tick, now: Sequence[Choice]) -> Decision:
        """One core a replica."""
        fitted = tick.site.fitted(now)
        if [(c.replicas, c.cores) for c in fitted] != list(tick.present):
            self._steady = 0
        reason = f"horizontal {choice_words(fitted)} ({tick.figures}) after {self._steady_ticks} steady ticks"
        return self._decision(tick, fitted, reason, f"stay {_present_words(tick.present)}")

    def _decision(self, tick: Tick, choices: Sequence[Choice], reason: str, runner_up: str = "") -> Decision:
        return Decision(tick.site.plan(choices, self._rules), tick.site.next_at_s, reason, runner_up)


def _unsteady(tick: Tick) -> str:
    """Why the state is not steady; empty if it is."""
    if any(tick.extra):
        return f"cores alone do not carry it, {sum(tick.extra)} more replicas are needed"
    if any(choice.cores > has for choice, (_, has) in zip(tick.choices, tick.present, strict=True)):
        return "a stage needs more cores"
    if tick.now is not None and tick.then is None:
        return "the forecast has no horizontal answer"
    if any(b.replicas > a.replicas for a, b in zip(tick.now or (), tick.then or (), strict=False)):
        return "the forecast wants more replicas"
    return ""


def _present_words(present: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{n}x{c} cores" for n, c in present)
