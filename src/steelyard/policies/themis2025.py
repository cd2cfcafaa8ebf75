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
- *What does not fit the node is left out*, as in `policies.themis`; the release finds pending resizes by
  polling and replaces the pod.

`published` brings its data plane: first in first out, batches of b or what is there 50 ms after the first,
nothing dropped, everybody admitted, replicas in turn.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import NamedTuple

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, Grants, Plan, ServicePlan, StageRules
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.core.types import Service
from steelyard.plan.themis import Choice, ThemisStage, capacity_rps, horizontal, vertical_with_extra
from steelyard.plan.themis2025 import RECKONINGS, with_margin
from steelyard.policies.base import PolicyContext
from steelyard.policies.fitting import fitted_choices
from steelyard.policies.options import integer, nearest_first, number, refuse_unknown
from steelyard.policies.sensing import rate_over
from steelyard.policies.uniform import (
    choice_words,
    first_choices,
    present_size,
    stage_problem,
    too_few_cores,
    uniform_plan,
    whole_cores,
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

    cores: int
    node: str
    next_at_s: float
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
        next_at_s = snapshot.now_s + TICK_S
        node = snapshot.nodes[0]
        cores = whole_cores(node.cores)
        lacking = too_few_cores(self._service, node.name, cores)
        if lacking:
            return Decision(None, next_at_s, lacking)
        view = next(v for v in snapshot.services if v.service == self._service.name)
        problem = self._problem(cores)
        if view.desired is None:
            return self._begin(view, problem, cores, node.name, next_at_s)
        tick = self._look(view, view.desired, problem, cores, node.name, snapshot.now_s)
        at_limit = any(c.cores >= stage.cores_max for c, stage in zip(tick.present, problem, strict=True))
        if at_limit or not (tick.excess or tick.rate >= tick.throughput):
            wanted = horizontal(problem, tick.rate, self._slo_ms, self._reckoning)
            if wanted is not None:
                return self._go_horizontal(tick, wanted, now_s=snapshot.now_s)
        self._scaling_in_since_s = None
        return self._go_vertical(tick)

    def _problem(self, cores: int) -> list[ThemisStage]:
        found = []
        for stage in self._service.stages:
            base = stage_problem(self._service, stage, self._times, cores)
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
        self,
        view: ServiceView,
        desired: ServicePlan,
        problem: Sequence[ThemisStage],
        cores: int,
        node: str,
        now_s: float,
    ) -> Tick:
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
        return Tick(cores, node, now_s + TICK_S, problem, present, rate, throughput, excess)

    def _begin(
        self, view: ServiceView, problem: Sequence[ThemisStage], cores: int, node: str, next_at_s: float
    ) -> Decision:
        """One-core replicas with single rows for the largest count seen: n = ceil(rate / h(1, 1))."""
        rate = max(view.arrival_rows_by_second[-FIRST_SECONDS:], default=0)
        first = first_choices(problem, rate)
        fitted = fitted_choices(first, [1] * len(first), cores, replicas_first=True)
        return Decision(
            self._plan(fitted, node), next_at_s, f"begin with {choice_words(fitted)} for rate {rate}"
        )

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
                return Decision(None, tick.next_at_s, wait, f"horizontal {choice_words(target)}")
        self._scaling_in_since_s = None
        fitted = fitted_choices(target, [1] * len(target), tick.cores, replicas_first=True)
        reason = f"horizontal {choice_words(fitted)} ({tick.figures})"
        return Decision(self._plan(fitted, tick.node), tick.next_at_s, reason, _stay(tick))

    def _go_vertical(self, tick: Tick) -> Decision:
        """Cores now, never fewer than there are, and the replicas that cores cannot replace."""
        counts = [c.replicas for c in tick.present]
        choices, extra = vertical_with_extra(tick.problem, tick.rate, self._slo_ms, counts, self._reckoning)
        kept = [
            Choice(has.replicas + more, max(choice.cores, has.cores), choice.rows, choice.time_ms)
            for has, choice, more in zip(tick.present, choices, extra, strict=True)
        ]
        grows = any(choice.cores > has.cores for choice, has in zip(kept, tick.present, strict=True))
        fitted = fitted_choices(kept, counts, tick.cores, replicas_first=grows)
        why = "an excess is predicted" if tick.excess else "horizontal is not feasible"
        if tick.rate >= tick.throughput:
            why = "the rate has reached the throughput"
        reason = f"vertical {choice_words(fitted)} ({tick.figures}): {why}"
        return Decision(self._plan(fitted, tick.node), tick.next_at_s, reason, _stay(tick))

    def _plan(self, choices: Sequence[Choice], node: str) -> Plan:
        return uniform_plan(self._service, choices, node, self._rules)


def _stay(tick: Tick) -> str:
    return f"stay {choice_words(tick.present)}"


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
