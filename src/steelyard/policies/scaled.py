"""What autoscalers have in common: each stage is a group of equal replicas, scaled on what that stage shows.

`hpa`, `kpa`, `rayserve` and `vpa` differ in one thing, how many replicas of which size a stage should have: a
`StageScaler`. The rest is here, and is meant to be fair to them:
- *A warm start*: the first plan is what the system's own formula gives for the largest rate seen.
- *What does not fit the nodes is cut* (`fitting`), where a cluster would have pods that pend for ever:
  replicas that are not there yet go first.
- *Batches as a careful user configures them.* All four systems serve single requests unless told otherwise,
  which wastes models that gain from batches. `batch` defaults to the fewest rows whose time a row is within
  5 % of the least, among batches that take at most half of the stage's share of the SLO; the shares of the
  stages on the longest path are equal.

`published` is how these systems serve: requests in order of arrival, no deadlines, nothing dropped, everybody
admitted, replicas in turn, an idle replica takes what is there. One thing is better than theirs: a stage has
one queue, where they assign requests to replicas early and cannot move them again.

One service; see `per_service` for several. One variant a stage, see `uniform`; whole cores.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Literal, NamedTuple, Protocol

import msgspec

from steelyard.core.plan import Decision, Grants, StageRules
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.core.types import Service, ServiceTimes, Stage, Variant
from steelyard.plan.themis import Choice
from steelyard.policies.base import PolicyContext
from steelyard.policies.meters import LOOK_S, StageMeter
from steelyard.policies.options import integer
from steelyard.policies.sensing import live_replicas, rate_over
from steelyard.policies.uniform import Site, present_size, site_of

RULES = StageRules(order="fifo", forming="hold", drop="none", admission="open", routing="round_robin")
"""The published data plane of all of them."""
BATCH_SLO_SHARE = 0.5
BATCH_GAIN = 0.05
FIRST_RATE_S = 2.0


class Group(NamedTuple):
    """What is constant of one stage and its replicas.

    Attributes:
        stage: its name.
        variant: what its replicas run.
        fan_out: rows it is given for each row of the service.
        rows: in one batch.
        cores: of one replica, by option.
        time_s: seconds of a batch, by (rows, cores).
    """

    stage: str
    variant: Variant
    fan_out: int
    rows: int
    cores: int
    time_s: Callable[[int, int], float]


class Wanted(NamedTuple):
    """What a scaler wants of its stage, and the figures behind it."""

    replicas: int
    cores: int
    why: str


class Seen(NamedTuple):
    """A stage at a tick: replicas that the plan wants, those of them that are ready, cores of each."""

    replicas: int
    ready: int
    cores: int
    meter: StageMeter


class StageScaler(Protocol):
    """Scales one stage; keeps what it must remember."""

    def begin(self, rate_rps: float) -> Wanted:
        """What carries `rate_rps` rows a second in this system's steady state."""
        ...

    def tick(self, seen: Seen, *, now_s: float) -> Wanted:
        """What it wants now."""
        ...


class Loop(NamedTuple):
    """How a system's control loop runs.

    Attributes:
        tick_s: seconds between two decisions.
        memory_s: seconds that its longest mean goes back.
        cut: what goes first where the nodes are too small: replicas that are not there yet, or cores.
    """

    tick_s: float
    memory_s: float
    cut: Literal["replicas", "cores"] = "replicas"


class ScaledPolicy:
    """The control loop of a system that scales every stage by itself."""

    solve_s = 0.1
    reacts = False

    def __init__(
        self,
        name: str,
        context: PolicyContext,
        groups: Mapping[str, Group],
        loop: Loop,
        make: Callable[[Group], StageScaler],
    ) -> None:
        self.name = name
        (self._service,) = context.services.values()
        self._rules = RULES if context.published else StageRules()
        self._groups = groups
        self._loop = loop
        self._scalers = {stage: make(group) for stage, group in groups.items()}
        self._meters = {stage: StageMeter(stage, loop.memory_s) for stage in groups}
        self._due_s = float("-inf")

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: these systems act at their tick."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Look; and at a tick, scale."""
        now_s = snapshot.now_s
        view = next(v for v in snapshot.services if v.service == self._service.name)
        for meter in self._meters.values():
            meter.look(view, now_s=now_s)
        site = site_of(self._service, snapshot, self._loop.tick_s)
        if isinstance(site, Decision):
            return site
        if view.desired is None:
            return self._begin(site, now_s=now_s)
        if now_s < self._due_s - 1e-6:
            return Decision(None, self._next_s(now_s), f"next tick at {self._due_s:g} s")
        self._due_s = now_s + self._loop.tick_s
        seen = [self._seen(view, stage) for stage in self._service.stages]
        wanted = [s.tick(look, now_s=now_s) for s, look in zip(self._scalers.values(), seen, strict=True)]
        return self._answer(site, wanted, [look.replicas for look in seen], now_s=now_s)

    def _begin(self, site: Site, *, now_s: float) -> Decision:
        """The first plan. Replicas beyond one a stage go first where it does not fit, or cores."""
        self._due_s = now_s + self._loop.tick_s
        for meter in self._meters.values():
            meter.forget(now_s=now_s)
        rate_rps = largest_rate_rps(site.view, now_s=now_s)
        wanted = [s.begin(rate_rps * self._groups[stage].fan_out) for stage, s in self._scalers.items()]
        present = [one.replicas if self._loop.cut == "cores" else 1 for one in wanted]
        decision = self._answer(site, wanted, present, now_s=now_s)
        return msgspec.structs.replace(decision, reason=f"begin for {rate_rps:.4g}/s: {decision.reason}")

    def _answer(
        self, site: Site, wanted: Sequence[Wanted], present: Sequence[int], *, now_s: float
    ) -> Decision:
        """What is wanted as far as it fits, as a plan."""
        groups = self._groups.values()
        choices = [_choice(group, one, site.cores) for group, one in zip(groups, wanted, strict=True)]
        fitted = site.fitted(choices, present, replicas_first=self._loop.cut == "replicas")
        words = [
            f"{stage} {choice.replicas}x{choice.cores} cores ({one.why}{_cut(one, choice)})"
            for stage, choice, one in zip(self._groups, fitted, wanted, strict=True)
        ]
        return Decision(site.plan(fitted, self._rules), self._next_s(now_s), "; ".join(words))

    def _seen(self, view: ServiceView, stage: Stage) -> Seen:
        replicas, cores = present_size(view, stage)
        ready = sum(replica.state == "ready" for replica in live_replicas(view, stage.name))
        return Seen(replicas, min(ready, replicas), cores, self._meters[stage.name])

    def _next_s(self, now_s: float) -> float:
        """The next tick, or a look before it."""
        return max(now_s + 1e-3, min(self._due_s, now_s + LOOK_S))


def groups_of(policy: str, context: PolicyContext, *, rows_max: int | None = None) -> dict[str, Group]:
    """The stages of the context's only service, with the options `cores` (1) and `batch` (measured).

    Args:
        policy: for messages.
        context: of one service.
        rows_max: most rows that this system gives one replica at a time.

    Raises:
        SpecError: an option is out of range.
    """
    (service,) = context.services.values()
    asked = integer(policy, context.options, "batch", 0, least=1) if "batch" in context.options else None
    cores = integer(policy, context.options, "cores", 1, least=1)
    budget_s = BATCH_SLO_SHARE * service.slo_s / longest_path(service)
    groups = {}
    for stage in service.stages:
        variant = stage.variants[0]
        size = min(cores, variant.cores_max)
        time_s = _time_of(context.service_times[service.name, stage.name], variant.name)
        most = variant.batch_rows_max if rows_max is None else min(variant.batch_rows_max, rows_max)
        rows = measured_batch(time_s, size, budget_s, most) if asked is None else min(asked, most)
        groups[stage.name] = Group(stage.name, variant, ceil(stage.fan_out), rows, size, time_s)
    return groups


def _time_of(times: ServiceTimes, variant: str) -> Callable[[int, int], float]:
    return lambda rows, cores: times.service_time_s(variant, 0, rows, float(cores))


def measured_batch(time_s: Callable[[int, int], float], cores: int, budget_s: float, rows_max: int) -> int:
    """The fewest rows within 5 % of the least time a row, among batches of at most `budget_s`; or 1."""
    per_row_s = {rows: time_s(rows, cores) / rows for rows in range(1, rows_max + 1)}
    within = [rows for rows, each_s in per_row_s.items() if rows * each_s <= budget_s] or [1]
    enough_s = min(per_row_s[rows] for rows in within) * (1 + BATCH_GAIN)
    return next(rows for rows in within if per_row_s[rows] <= enough_s)


def longest_path(service: Service) -> int:
    """Stages on the longest path through a service."""
    depth: dict[str, int] = {}
    for stage in service.stages:
        depth[stage.name] = 1 + max((depth[name] for name in stage.after), default=0)
    return max(depth.values())


def largest_rate_rps(view: ServiceView, *, now_s: float) -> float:
    """Rows a second: the largest whole second that is known, or the last seconds' rate if that is more."""
    return max(float(max(view.arrival_rows_by_second, default=0)), rate_over(view, FIRST_RATE_S, now_s=now_s))


def _choice(group: Group, wanted: Wanted, most: int) -> Choice:
    """What is wanted, up to what the nodes could hold, in the terms of plans; its time is a full batch's."""
    time_s = group.time_s(group.rows, wanted.cores)
    return Choice(min(wanted.replicas, most), wanted.cores, group.rows, ceil(time_s * 1000 - 1e-9))


def _cut(wanted: Wanted, choice: Choice) -> str:
    """What the nodes had no room for."""
    if (wanted.replicas, wanted.cores) == (choice.replicas, choice.cores):
        return ""
    return f", wants {wanted.replicas}x{wanted.cores}"
