"""The oracle: knows the trace, pays real cold starts. What a policy could reach that guesses nothing wrong.

It is told how many rows arrive in each second (`PolicyContext.future`), not when within it; so it exists in
simulations only. Before the first second it has a scheme for the whole trace (`plan.scheme`): a budget for
each stage, patience that is left for waiting, and replicas for every second. Then, every 0.1 s:

- *Replicas*: those are started that are needed when a cold start has passed, those given up that are not
  needed again or cheaper to start again than to keep.
- *Cores*: ready replicas get the fewest at which what waits and what comes is served in time: the least
  constant rate r with Q + A(t) <= r (t + w) for all t to come, A being known by the second and w what is left
  of the patience. That is the rule "optimal available" of Yao, Demers and Shenker ("A scheduling model for
  reduced CPU energy", FOCS 1995), whose schedule for what is fully known is that of the scheme. Cores count
  from a replica's next batch on, so they stay for the time of a batch. Replicas that get none are parked.

The shared data plane, always. Options: `parks` (true), false for a yardstick of policies that cannot park
replicas; `margin_s` (0.05), what it keeps of the SLO for what it cannot know, the moments of arrivals and of
batches' ends: with less it is cheaper and violates more. One variant a stage, see `uniform`.
"""

from collections.abc import Sequence
from math import ceil, floor
from typing import NamedTuple

import numpy as np

from steelyard.core.errors import SpecError
from steelyard.core.plan import Decision, Grants, Plan, ReplicaPlan, ServicePlan, StagePlan, VariantShare
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.core.types import Service, ServiceTimes, Stage
from steelyard.plan.ladder import Counts, Floats, Ladder, StageLadders
from steelyard.plan.problem import tabulate
from steelyard.plan.scheme import KnownStage, Scheme, best_scheme
from steelyard.policies.base import PolicyContext
from steelyard.policies.fitting import within_memory
from steelyard.policies.options import number, refuse_unknown
from steelyard.policies.sensing import latest_stage, live_replicas
from steelyard.policies.uniform import Site, site_of

TICK_S = 0.1
PHASE_S = 0.005
"""After the end of a sensing window, so that its report is there."""
AHEAD_S: Floats = np.arange(61) / 20
"""What the cores of now are reckoned for: times from now, seconds."""
START_MARGIN_S = 1.0
"""How much earlier than a cold start before the need a replica is started."""


class Size(NamedTuple):
    """Cores of each replica of a stage, and its largest batch."""

    cores: list[int]
    rows: int


class Flow(NamedTuple):
    """What a stage passes on: rows of requests from now on, cumulated over `AHEAD_S`, and their patience."""

    rows: Floats
    patience_s: float


class OraclePolicy:
    """One service; see `per_service` for several."""

    name = "oracle"
    solve_s = 0.0
    reacts = True
    """In effect: it decides every window, so free cores may be counted on by admission."""

    def __init__(self, context: PolicyContext) -> None:
        refuse_unknown(self.name, context.options, ("margin_s", "parks"))
        self._margin_s = number(self.name, context.options, "margin_s", 0.05, least=0.0)
        parks = context.options.get("parks", True)
        if not isinstance(parks, bool):
            raise SpecError(f"policy {self.name}: option parks: want true or false, got {parks!r}")
        self._parks = parks
        (self._service,) = context.services.values()
        name = self._service.name
        if name not in context.future:
            raise SpecError(f"policy {self.name}: it must know the trace of {name}: for simulations only")
        self._times = context.service_times
        self._rows = np.array(context.future[name], dtype=np.int64)
        self._arrived = np.concatenate(([0.0], np.cumsum(self._rows, dtype=np.float64)))
        self._seconds = np.arange(len(self._arrived), dtype=np.float64)
        self._needs: dict[str, list[tuple[float, int, int]]] = {}
        self._schemes: dict[tuple[int, ...], Scheme] = {}

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: it decides every window anyway."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Replicas as foreseen; cores for what waits and what comes."""
        now_s = snapshot.now_s
        next_at_s = (floor((now_s - PHASE_S) / TICK_S + 1e-6) + 1) * TICK_S + PHASE_S
        site = site_of(self._service, snapshot, next_at_s - now_s)
        if isinstance(site, Decision):
            return site
        nodes = tuple(site.nodes.values())
        if nodes not in self._schemes:
            self._schemes[nodes] = self._scheme(site)
        sizes = self._sizes(site.view, self._schemes[nodes], now_s=now_s)
        fitted, at = _fitted([size.cores for size in sizes], site)
        words = ", ".join("+".join(str(c) for c in stage) for stage in fitted)
        plan = _plan(self._service, fitted, [size.rows for size in sizes], at)
        return Decision(plan, next_at_s, f"{words} cores for what waits and what comes")

    def _scheme(self, site: Site) -> Scheme:
        stages = [
            _known(stage, self._times[self._service.name, stage.name], site.size_max, parks=self._parks)
            for stage in self._service.stages
        ]
        slack_s = self._service.slo_s - self._service.reply_s - self._margin_s
        return best_scheme(stages, self._rows, slack_s=slack_s, cores=site.cores)

    def _sizes(self, view: ServiceView, scheme: Scheme, *, now_s: float) -> list[Size]:
        """Cores of each replica of each stage, and batches; one core for replicas that are still starting."""
        flows: dict[str, Flow] = {}
        sizes: list[Size] = []
        for index, stage in enumerate(self._service.stages):
            wanted = _from_now(scheme.replicas[index], now_s, stage.variants[0].cold_start_s + START_MARGIN_S)
            if view.desired is None:
                wanted = min(wanted, scheme.first[index])
            live = live_replicas(view, stage.name)
            ready = min(wanted, sum(r.state != "starting" for r in live)) or wanted
            ladders = scheme.ladders[index]
            ladder = ladders.of(ready)
            if stage.after:
                before = [flows[name] for name in stage.after]
                rows: Floats = np.max([flow.rows for flow in before], axis=0)
                patience_s = max(self._margin_s, min(flow.patience_s for flow in before))
                least_s = max(TICK_S, self._left_s(view, scheme, stage))
            else:
                rows = self._coming(view, now_s=now_s)
                patience_s = scheme.patience_s
                least_s = TICK_S
            arriving = Flow(rows * stage.fan_out, patience_s)
            waits_s = np.maximum(ladders.budget_s - ladder.busy_s + patience_s, least_s)[:, None]
            joining = _joining(scheme.replicas[index], ready, ladder, now_s=now_s)
            needed = _needed(view, stage, arriving.rows, joining, waits_s, now_s=now_s)
            entry = ladder.entry_for(needed)
            entry = self._held(stage.name, ready, entry, float(ladder.busy_s[entry]), now_s=now_s)
            active = _even(int(ladder.cores[entry]), int(ladder.active[entry]))
            others = [0 if self._parks else 1] * (wanted - len(active))
            sizes.append(Size([*active, *others], int(ladder.rows[entry])))
            flows[stage.name] = _passed_on(view, stage, ladders, ladder, entry, arriving)
        return sizes

    def _held(self, stage: str, ready: int, entry: int, busy_s: float, *, now_s: float) -> int:
        """The most that was needed within a batch's time: cores count from a replica's next batch on."""
        lately = [
            need
            for need in self._needs.get(stage, [])
            if need[0] > now_s - busy_s and need[1] == ready
        ]  # fmt: skip
        self._needs[stage] = [*lately, (now_s, ready, entry)]
        return max(need for _, _, need in self._needs[stage])

    def _left_s(self, view: ServiceView, scheme: Scheme, stage: Stage) -> float:
        """How long the most urgent row of a later stage can wait; for those behind it waits are kept free."""
        seen = latest_stage(view, stage.name)
        if seen is None or seen.head_slack_s is None:
            return 0.0
        behind = {stage.name}
        kept_s = self._margin_s
        for later, ladders in zip(self._service.stages, scheme.ladders, strict=True):
            if behind & set(later.after):
                behind.add(later.name)
                kept_s += max(0.0, ladders.budget_s - float(ladders.times_s[0, 0]))
        return seen.head_slack_s - kept_s

    def _coming(self, view: ServiceView, *, now_s: float) -> Floats:
        """Rows of requests that arrive from now on, cumulated over `AHEAD_S`.

        The present second's count is known, and so is what of it has come.
        """
        total: Floats = np.interp(now_s + AHEAD_S, self._seconds, self._arrived)
        second = floor(now_s)
        if not 0 <= second < len(self._rows):
            return total - float(total[0])
        seen = sum(w.arrival_rows for w in view.windows if w.from_s >= second - 1e-6)
        left = max(0.0, float(self._rows[second]) - seen)
        later: Floats = np.maximum(total - self._arrived[second + 1], 0.0)
        return later + left * np.minimum(AHEAD_S / (second + 1.0 - now_s), 1.0)


def _known(stage: Stage, times: ServiceTimes, cores_max: int, *, parks: bool) -> KnownStage:
    variant = stage.variants[0]
    table = tabulate(
        lambda rows, cores: times.service_time_s(variant.name, 0, rows, float(cores)),
        variant.batch_rows_max,
        max(1, min(cores_max, variant.cores_max)),
    )
    return KnownStage(stage.name, stage.after, ceil(stage.fan_out), table, variant.cold_start_s, parks)


def _joining(schedule: Counts, ready: int, ladder: Ladder, *, now_s: float) -> Floats:
    """Rows that replicas which are still to come will have served, on a core each, over `AHEAD_S`."""
    seconds = np.floor(now_s + AHEAD_S[:-1]).astype(np.int64)
    known = (seconds >= 0) & (seconds < len(schedule))
    more = np.zeros(len(seconds))
    more[known] = np.maximum(schedule[seconds[known]] - ready, 0)
    each = float(ladder.rates[0]) / int(ladder.active[0])
    return np.concatenate(([0.0], np.cumsum(more * np.diff(AHEAD_S)))) * each


def _needed(
    view: ServiceView, stage: Stage, arriving: Floats, joining: Floats, waits_s: Floats, *, now_s: float
) -> Floats:
    """The least rates at which what waits and what comes is served in time, in the profile's units.

    Args:
        view: of the service.
        stage: of it.
        arriving: rows of the stage from now on, cumulated over `AHEAD_S`.
        joining: what replicas to come serve of them.
        waits_s: that rows may wait, shape (entries, 1).
        now_s: seconds.
    """
    seen = latest_stage(view, stage.name)
    queue = seen.queue_rows if seen else 0
    due_s = AHEAD_S + waits_s
    needed: Floats = np.max((queue + arriving - np.interp(due_s, AHEAD_S, joining)) / due_s, axis=1)
    if queue and not stage.after:
        rows, ages_s = _waiting(view, queue, stage.fan_out, now_s=now_s)
        needed = np.maximum(needed, np.max(rows / np.maximum(waits_s - ages_s, TICK_S), axis=1))
    return needed * (seen.service_ratio if seen else 1.0)


def _waiting(view: ServiceView, queue: int, fan_out: float, *, now_s: float) -> tuple[Floats, Floats]:
    """Of what waits in a first stage, by window: rows that came in it or earlier, and how long ago it was.

    The last rows that came are those that wait; what came before the windows is as old as the first one.
    """
    rows: list[float] = []
    ages_s: list[float] = []
    left = float(queue)
    for window in reversed(view.windows):
        if left <= 0:
            break
        rows.append(left)
        ages_s.append(now_s - (window.from_s + window.to_s) / 2)
        left -= window.arrival_rows * fan_out
    return np.array(rows), np.array(ages_s)


def _passed_on(
    view: ServiceView, stage: Stage, ladders: StageLadders, ladder: Ladder, entry: int, arriving: Flow
) -> Flow:
    """What comes out of a stage: what is in flight, then what waits and comes, as fast as it is served."""
    seen = latest_stage(view, stage.name)
    queue, in_flight = (seen.queue_rows, seen.in_flight_rows) if seen else (0, 0)
    ratio = seen.service_ratio if seen else 1.0
    busy_s = float(ladder.busy_s[entry])
    carried = max(float(ladder.rates[entry]) / ratio, 1e-9)
    served = np.minimum(queue + arriving.rows, carried * AHEAD_S)
    rows: Floats = np.interp(AHEAD_S - busy_s, AHEAD_S, served, left=0.0)
    rows += in_flight * np.minimum(AHEAD_S / busy_s, 1.0)
    waited_s = max(0.0, queue / carried - (ladders.budget_s - busy_s))
    return Flow(rows / stage.fan_out, arriving.patience_s - waited_s)


def _from_now(schedule: Counts, now_s: float, lead_s: float) -> int:
    """Replicas that are needed now or within the time that a start takes; one beyond the trace."""
    first = max(0, floor(now_s))
    last = max(first, floor(now_s + lead_s))
    return int(schedule[first : last + 1].max(initial=1))


def _even(cores: int, replicas: int) -> list[int]:
    """So many cores on so many replicas, as evenly as whole cores allow."""
    each, more = divmod(cores, replicas)
    return [each + 1] * more + [each] * (replicas - more)


def _fitted(sizes: Sequence[Sequence[int]], site: Site) -> tuple[list[list[int]], list[list[str]]]:
    """Cut to the nodes: replicas to the memory, cores of the largest, then replicas of the largest stage."""
    counts = within_memory([len(stage) for stage in sizes], site.needs, list(site.memory.values()))
    fitted = [sorted(stage, reverse=True)[:count] for stage, count in zip(sizes, counts, strict=True)]
    while True:
        if sum(map(sum, fitted)) <= site.cores:
            nodes = site.placed(fitted, site.needs)
            if nodes is not None:
                return fitted, nodes
        cut = max(fitted, key=lambda stage: (stage[0], len(stage)))
        if cut[0] > 1:
            cut[0] -= 1
            cut.sort(reverse=True)
        else:
            cut.remove(1)
    return fitted


def _plan(
    service: Service, cores: Sequence[Sequence[int]], rows: Sequence[int], nodes: Sequence[Sequence[str]]
) -> Plan:
    stages = {}
    for stage, sizes, batch, at in zip(service.stages, cores, rows, nodes, strict=True):
        variant = stage.variants[0].name
        replicas = tuple(ReplicaPlan(float(c), (variant,), node) for c, node in zip(sizes, at, strict=True))
        stages[stage.name] = StagePlan(replicas, (VariantShare(variant, 1.0),), batch, covers_starts=False)
    return Plan({service.name: ServicePlan(service.name, stages)})
