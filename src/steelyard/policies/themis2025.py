"""Themis as its authors revised it by September 2025 (repository mehransi/Themis): the bar to beat.

Every half second, with lambda the maximum of the last five 1-s counts and `throughput` what the slowest stage
carries as it is planned now:
- *Horizontal is allowed* if no excess is predicted and lambda < throughput, or if some stage already stands
  at its largest size. Then H(lambda) is applied at once, one core a replica; only if it scales in on every
  stage must it have done so for 10 s. Where cores shrink to one, each stage gets one replica more.
- *Otherwise* V(lambda) is applied, and cores never shrink, as in the paper (`policies.themis`).

The programs reckon with a 0.99 quantile of the fill wait, square-root head-room and a tenth of margin
(`plan.themis2025`). Options: `queue_model` (exponential, as released, or gamma), `cores_max` and `batch_max`
(4 and 4, the release's limits), `memory_gb` (of a replica, by stage; 0 where unknown; a core counts as 18).

What differs from the release, and why:
- *The predictor is persistence*: an excess is predicted if a count of the last 10 s exceeds the throughput.
  The release trains an LSTM to say so of the next 10 s; its forecasts are no better than persistence (MAPE
  7.6 % against 7.7 % on the authors' trace).
- *Decisions do not wait for pods.* The release's loop is blocked while replicas start.
- *The extra replica counts in the test of scale-in*: with it, a stage that would lose one replica does not
  scale in, so the 10 s are waited for less often. The revision speaks of H, before the addition.
- *It begins with the largest count that was seen*, of 30 s at most, and one replica a stage without any. The
  release reads the first 30 s of the trace beforehand; a simulation that starts warm shows the same rate.
- *What does not fit the nodes is left out*, as in `policies.themis`; the release finds pending resizes by
  polling and replaces the pod.

`published` brings its data plane: first in first out, batches of b or what is there 50 ms after the first,
nothing dropped, everybody admitted, replicas in turn.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import NamedTuple

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, Grants, ServicePlan, StageRules
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.core.types import Service
from steelyard.plan.themis import Choice, ThemisStage, capacity_rps, horizontal, vertical_with_extra
from steelyard.plan.themis2025 import RECKONINGS, with_margin
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import integer, nearest_first, number, refuse_unknown
from steelyard.policies.sensing import rate_over
from steelyard.policies.uniform import (
    Site,
    choice_words,
    first_choices,
    present_size,
    site_of,
    stage_problem,
)

TICK_S = 0.5
RATE_SECONDS = 5
FORECAST_SECONDS = 10
FIRST_SECONDS = 30
STABLE_S = 10.0
EXTRA_REPLICAS = 1
LIMIT = 4
"""c_max and b_max of the release."""

PUBLISHED = StageRules(
    order="fifo", forming="timeout", timeout_s=0.05, drop="none", admission="open", routing="round_robin"
)


class Tick(NamedTuple):
    """What one tick looks at; `present` is what the plan wants now, `throughput` what that carries."""

    site: Site
    problem: Sequence[ThemisStage]
    present: Sequence[Choice]
    rate: int
    throughput: float
    excess: bool

    @property
    def figures(self) -> str:
        """For reasons."""
        return f"rate {self.rate}, throughput {self.throughput:.1f}"


class Themis2025Policy:
    """One service; see `per_service` for several."""

    name = "themis2025"
    solve_s = 0.02
    reacts = False

    def __init__(self, context: PolicyContext) -> None:
        options = context.options
        refuse_unknown(self.name, options, ("queue_model", "cores_max", "batch_max", "memory_gb"))
        self._cores_max = integer(self.name, options, "cores_max", LIMIT, least=1)
        self._rows_max = integer(self.name, options, "batch_max", LIMIT, least=1)
        model = str(options.get("queue_model", "exponential"))
        if model not in RECKONINGS:
            choices = ", ".join(nearest_first(model, RECKONINGS))
            raise SpecError(f"policy {self.name}: option queue_model: no {model!r}; there are: {choices}")
        self._reckoning = RECKONINGS[model]
        (self._service,) = context.services.values()
        self._memory_gb = _memory_gb(options, self._service)
        self._times = context.service_times
        self._rules = PUBLISHED if context.published else StageRules()
        self._slo_ms = floor(self._service.slo_s * 1000 + 1e-9)
        self._scaling_in_since_s: float | None = None

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: all of Themis happens at its tick."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """One tick of the state machine."""
        site = site_of(self._service, snapshot, TICK_S)
        if isinstance(site, Decision):
            return site
        problem = self._problem(site.size_max)
        if site.view.desired is None:
            return self._begin(site, problem)
        tick = self._look(site, site.view.desired, problem, now_s=snapshot.now_s)
        at_limit = any(c.cores >= stage.cores_max for c, stage in zip(tick.present, problem, strict=True))
        if at_limit or not (tick.excess or tick.rate >= tick.throughput):
            wanted = horizontal(problem, tick.rate, self._slo_ms, self._reckoning)
            if wanted is not None:
                return self._go_horizontal(tick, wanted, now_s=snapshot.now_s)
        self._scaling_in_since_s = None
        return self._go_vertical(tick)

    def _problem(self, size_max: int) -> list[ThemisStage]:
        found = []
        for stage in self._service.stages:
            base = stage_problem(self._service, stage, self._times, size_max)
            found.append(
                base._replace(
                    latency_ms=with_margin(base.latency_ms),
                    cores_max=min(base.cores_max, self._cores_max),
                    rows_max=min(base.rows_max, self._rows_max),
                    memory_gb=self._memory_gb.get(stage.name, 0.0),
                )
            )
        return found

    def _look(
        self, site: Site, desired: ServicePlan, problem: Sequence[ThemisStage], *, now_s: float
    ) -> Tick:
        view = site.view
        seconds = view.arrival_rows_by_second
        rate = max(seconds[-RATE_SECONDS:], default=ceil(rate_over(view, 1.0, now_s=now_s)))
        present = []
        for stage in self._service.stages:
            replicas, size = present_size(view, stage)
            present.append(Choice(replicas, size, desired.stages[stage.name].batch_rows_max, 0))
        throughput = min(
            c.replicas * capacity_rps(stage, c.rows, c.cores, rate, self._reckoning) / stage.fan_out
            for c, stage in zip(present, problem, strict=True)
        )
        excess = max(seconds[-FORECAST_SECONDS:], default=0) > throughput
        return Tick(site, problem, present, rate, throughput, excess)

    def _begin(self, site: Site, problem: Sequence[ThemisStage]) -> Decision:
        """One-core replicas with single rows for the largest count seen: n = ceil(rate / h(1, 1))."""
        rate = max(site.view.arrival_rows_by_second[-FIRST_SECONDS:], default=0)
        fitted = site.fitted(first_choices(problem, rate))
        reason = f"begin with {choice_words(fitted)} for rate {rate}"
        return Decision(site.plan(fitted, self._rules), site.next_at_s, reason)

    def _go_horizontal(self, tick: Tick, wanted: Sequence[Choice], *, now_s: float) -> Decision:
        """One core a replica, and one replica more if cores shrink; patience if every stage scales in."""
        shrinks = any(c.cores > 1 for c in tick.present)
        more = EXTRA_REPLICAS if shrinks else 0
        target = [c._replace(replicas=c.replicas + more) for c in wanted]
        if all(c.replicas < has.replicas for c, has in zip(target, tick.present, strict=True)):
            if self._scaling_in_since_s is None:
                self._scaling_in_since_s = now_s
            waited_s = now_s - self._scaling_in_since_s
            if waited_s < STABLE_S - 1e-9:
                wait = f"scaling in on every stage waits: {waited_s:g} of {STABLE_S:g} s ({tick.figures})"
                return Decision(None, tick.site.next_at_s, wait, f"horizontal {choice_words(target)}")
        self._scaling_in_since_s = None
        fitted = tick.site.fitted(target)
        reason = f"horizontal {choice_words(fitted)} ({tick.figures})"
        return self._decision(tick, fitted, reason)

    def _go_vertical(self, tick: Tick) -> Decision:
        """Cores now, never fewer than there are, and the replicas that cores cannot replace."""
        counts = [c.replicas for c in tick.present]
        choices, extra = vertical_with_extra(tick.problem, tick.rate, self._slo_ms, counts, self._reckoning)
        kept = [
            Choice(has.replicas + more, max(choice.cores, has.cores), choice.rows, choice.time_ms)
            for has, choice, more in zip(tick.present, choices, extra, strict=True)
        ]
        grows = any(choice.cores > has.cores for choice, has in zip(kept, tick.present, strict=True))
        fitted = tick.site.fitted(kept, counts, replicas_first=grows)
        why = "an excess is predicted" if tick.excess else "horizontal is not feasible"
        if tick.rate >= tick.throughput:
            why = "the rate has reached the throughput"
        reason = f"vertical {choice_words(fitted)} ({tick.figures}): {why}"
        return self._decision(tick, fitted, reason)

    def _decision(self, tick: Tick, choices: Sequence[Choice], reason: str) -> Decision:
        plan = tick.site.plan(choices, self._rules)
        return Decision(plan, tick.site.next_at_s, reason, f"stay {choice_words(tick.present)}")


def _memory_gb(options: Mapping[str, object], service: Service) -> dict[str, float]:
    """The option `memory_gb`: GB of a replica, by `stage` or, where there are more services, `service.stage`.

    Raises:
        SpecError: it is no mapping, names an unknown stage, or has something else than sizes.
    """
    sizes = options.get("memory_gb", {})
    if not isinstance(sizes, Mapping):
        raise SpecError(f"policy themis2025: option memory_gb: want stages with GB, got {sizes!r}")
    stages = [stage.name for stage in service.stages]
    found: dict[str, float] = {}
    for key, size in sizes.items():
        owner, _, name = str(key).rpartition(".")
        if owner not in ("", service.name):
            continue
        if name not in stages:
            choices = ", ".join(nearest_first(name, stages))
            raise SpecError(f"policy themis2025: option memory_gb: no stage {name!r}; there are: {choices}")
        found[name] = number("themis2025", {str(key): size}, str(key), 0.0, least=0.0)
    return found
