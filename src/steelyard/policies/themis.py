"""Themis (Razavi et al., arXiv 2407.14843; code of July 2024): cores at once, replicas when it is calm.

Every second, with lambda the arrival rate of the last 2 s (truncated to a whole number) and lambda^ the
forecast:
- *Steady* means: the vertical program needs no further replica, no stage needs more cores than it has, and
  the horizontal program would not want more replicas for lambda^ than for lambda.
- Not steady: apply the vertical program now. Cores never shrink in this mode.
- Steady for K seconds in a row: apply the horizontal program, one core a replica.

What differs from the release, and why:
- *The forecast is persistence*, the maximum 1-s rate of the last 10 s. The paper's LSTM predicts that
  maximum no better (MAPE 7.6 % against 7.7 % on its own trace), and it can only veto a transition, never
  provision ahead.
- *Growing n publishes the new replicas first and then shrinks the old ones.* The release shrank first,
  which dips in capacity; the authors' revision of 2025 has this order. `control.reconcile` does it for
  every policy.
- *What does not fit the node is left out.* The vertical step comes first, without the extra replicas; from
  the next tick on, replicas come before cores, because one-core replicas carry more. On Kubernetes the extra
  pods would be pending for ever: this is in the policy's favour.
- c_max and b_max are the variant's own limits and the node's cores; the paper's were 8 and 8 (4 for one
pipeline).
- After a horizontal transition the count of steady seconds starts again at 0; the paper does not say.

`published` brings its data plane: first in first out, batches of exactly b without a time limit, dropped
when as old as the SLO, everybody admitted, replicas in turn. One variant a stage: the first of the spec.
"""

from collections.abc import Sequence
from math import floor

from steelyard.core.plan import (
    Decision,
    Grants,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    StageRules,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.core.types import ServiceTimes, Stage
from steelyard.forecast.predictors import WindowMaximum
from steelyard.plan.themis import Choice, ThemisStage, horizontal, vertical_with_extra
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import integer, refuse_unknown
from steelyard.policies.sensing import rate_over, wanted_replicas

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
        self._published = context.published
        self._forecast = WindowMaximum(FORECAST_OVER_S)
        self._steady = 0

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: all of Themis happens at its tick."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """One tick of the state machine."""
        next_at_s = snapshot.now_s + TICK_S
        view = next(v for v in snapshot.services if v.service == self._service.name)
        node = snapshot.nodes[0]
        cores = floor(node.cores + 1e-9)
        if cores < len(self._service.stages):
            stages = len(self._service.stages)
            return Decision(None, next_at_s, f"{node.name} has {cores} cores for {stages} stages")
        rate = int(rate_over(view, RATE_OVER_S, now_s=snapshot.now_s))
        ahead = max(rate, int(self._forecast.predict(view.arrival_rows_by_second)))
        present = [self._present(view, stage) for stage in self._service.stages]
        problem = [self._problem(stage, cores) for stage in self._service.stages]
        slo_ms = floor(self._service.slo_s * 1000 + 1e-9)
        now = horizontal(problem, rate, slo_ms)
        then = horizontal(problem, ahead, slo_ms)
        choices, extra = vertical_with_extra(problem, rate, slo_ms, [n for n, _ in present])
        why = _unsteady(present, choices, extra, now, then)
        figures = f"rate {rate}, forecast {ahead}"
        if why:
            self._steady = 0
            kept = [
                Choice(n + more, max(choice.cores, has), choice.rows, choice.time_ms)
                for (n, has), choice, more in zip(present, choices, extra, strict=True)
            ]
            grows = any(choice.cores > has for choice, (_, has) in zip(kept, present, strict=True))
            fitted = _fitted(kept, [n for n, _ in present], cores, replicas_first=grows)
            plan = self._plan(fitted, node.name)
            runner_up = f"horizontal {_words(now)}: not while {why}" if now else "horizontal: not feasible"
            return Decision(plan, next_at_s, f"vertical {_words(fitted)} ({figures}): {why}", runner_up)
        self._steady += 1
        if now is None or self._steady < self._steady_ticks:
            wait = f"steady for {self._steady} of {self._steady_ticks} ticks"
            return Decision(None, next_at_s, wait, f"horizontal {_words(now)}" if now else "")
        fitted = _fitted(now, [1] * len(now), cores, replicas_first=True)
        if [(c.replicas, c.cores) for c in fitted] != present:
            self._steady = 0
        reason = f"horizontal {_words(fitted)} ({figures}) after {self._steady_ticks} steady ticks"
        return Decision(self._plan(fitted, node.name), next_at_s, reason, f"stay {_present_words(present)}")

    def _present(self, view: ServiceView, stage: Stage) -> tuple[int, int]:
        """Replicas wanted now and the most cores one of them is to have; (1, 1) to begin with.

        Those still starting count: the release waits for them, so it never asks for them twice.
        """
        wanted = wanted_replicas(view, stage.name)
        if not wanted:
            return 1, 1
        return len(wanted), max(1, floor(max(r.cores for r in wanted)))

    def _problem(self, stage: Stage, cores: int) -> ThemisStage:
        variant = stage.variants[0]
        times: ServiceTimes = self._times[self._service.name, stage.name]

        def latency_ms(rows: int, cores: int) -> float:
            return times.service_time_s(variant.name, 0, rows, float(cores)) * 1000.0

        others = len(self._service.stages) - 1
        return ThemisStage(latency_ms, max(1, min(variant.cores_max, cores - others)), variant.batch_rows_max)

    def _plan(self, choices: list[Choice], node: str) -> Plan:
        rules = published_rules(self._service.slo_s) if self._published else StageRules()
        stages = {}
        for stage, choice in zip(self._service.stages, choices, strict=True):
            variant = stage.variants[0].name
            stages[stage.name] = StagePlan(
                (ReplicaPlan(float(choice.cores), (variant,), node),) * choice.replicas,
                (VariantShare(variant, 1.0),),
                choice.rows,
                budget_s=choice.time_ms / 1000.0,
                rules=rules,
            )
        return Plan({self._service.name: ServicePlan(self._service.name, stages)})


def _unsteady(
    present: list[tuple[int, int]],
    choices: tuple[Choice, ...],
    extra: tuple[int, ...],
    now: tuple[Choice, ...] | None,
    then: tuple[Choice, ...] | None,
) -> str:
    """Why the state is not steady; empty if it is."""
    if any(extra):
        return f"cores alone do not carry it, {sum(extra)} more replicas are needed"
    if any(choice.cores > has for choice, (_, has) in zip(choices, present, strict=True)):
        return "a stage needs more cores"
    if now is not None and then is None:
        return "the forecast has no horizontal answer"
    if any(b.replicas > a.replicas for a, b in zip(now or (), then or (), strict=False)):
        return "the forecast wants more replicas"
    return ""


def _fitted(
    choices: Sequence[Choice], present: Sequence[int], cores: int, *, replicas_first: bool
) -> list[Choice]:
    """The choices cut down to a node's cores, one at a time from the stage that takes most.

    Cut first are replicas beyond `present` (`replicas_first`) or cores beyond one, then the other, then
    replicas down to one: the caller has made sure that one core a stage fits.
    """
    fitted = list(choices)
    while sum(c.replicas * c.cores for c in fitted) > cores:
        extra = [i for i, c in enumerate(fitted) if c.replicas > max(1, present[i])]
        large = [i for i, c in enumerate(fitted) if c.cores > 1]
        first, second = (extra, large) if replicas_first else (large, extra)
        several = [i for i, c in enumerate(fitted) if c.replicas > 1]
        among = first or second or several
        index = max(among, key=lambda i: (fitted[i].replicas * fitted[i].cores, -i))
        cut = fitted[index]
        if among is large:
            fitted[index] = cut._replace(cores=cut.cores - 1)
        else:
            fitted[index] = cut._replace(replicas=cut.replicas - 1)
    return fitted


def _words(choices: list[Choice] | tuple[Choice, ...]) -> str:
    return ", ".join(f"{c.replicas}x{c.cores} cores batch {c.rows}" for c in choices)


def _present_words(present: list[tuple[int, int]]) -> str:
    return ", ".join(f"{n}x{c} cores" for n, c in present)
