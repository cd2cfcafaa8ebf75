"""What is done within one sensing window, from capacities alone: microseconds, no queueing formula.

A stage is in need when the rows that wait would take more than a part of the latency that is left to them.
It is given, whole and at once, what carries its present rate and serves the last waiting row in half of
what is left: first cores for its live replicas, from what is free, then from services that have more than
they need. Where the burst is beyond doubt and live replicas do not carry it, replicas are started in
parallel; and given up while they still start if what the slow path plans for is held without them.
"""

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import sqrt
from typing import NamedTuple

from steelyard.core.plan import Grant, GrantCancel, GrantCores, GrantStart, ReplicaPlan
from steelyard.core.snapshot import ClusterSnapshot, ReplicaView, ServiceView
from steelyard.core.types import Service
from steelyard.policies.sensing import latest_stage, live_replicas, rate_over, rows_in_last
from steelyard.policies.steelyard.demand import DRAIN_S, arrival_demand_rps
from steelyard.policies.steelyard.prospects import RATIO_WINDOWS as PLANNED_OVER
from steelyard.policies.steelyard.sizing import StageChoice, StageSizing, observed_ratio

TRIGGER = 0.6
"""A queue that takes this part of the available latency is a need."""
TRIGGER_BURST = 0.3
"""The same when the arrivals alone prove that the capacity is too small."""
FAST_S = 0.3
KEEP_S = 1.0
UTILISATION = 0.9
"""Capacity is granted until the rate is this part of it."""
CALM_UTILISATION = 0.7
GAIN_MIN = 1.02
"""A further step of cores must give a replica this much more throughput."""
CANCEL_SHARE = 0.8
"""A start is given up if the latency without it is at most this part of what is available."""
SPLIT_GAIN_MIN = 1.05
RATIO_WINDOWS = 10


class StageNeed(NamedTuple):
    """One stage in need: rows a second to carry, and whether the rate alone proves a burst."""

    view: ServiceView
    sizing: StageSizing
    ratio: float
    need_rps: float
    burst: bool


class Reaction:
    """One window's grants; `cores` holds what each replica is to have, grants of this window included."""

    def __init__(self, snapshot: ClusterSnapshot, services: Mapping[str, Service], step: float) -> None:
        self._snapshot = snapshot
        self._services = services
        self._step = step
        self._node = snapshot.nodes[0]
        self.free = self._node.cores_free
        self.cores = {r.replica_id: r.cores_desired for view in snapshot.services for r in view.replicas}
        self.starts: list[Grant] = []
        self.cancels: list[Grant] = []
        self.reasons: list[str] = []
        self._starting: dict[str, float] = {}

    def grants(self) -> tuple[Grant, ...]:
        """Shrinks first, so that what they free can be granted."""
        before = {r.replica_id: r.cores_desired for view in self._snapshot.services for r in view.replicas}
        changed = [(self.cores[r] - before[r], r) for r in before if abs(self.cores[r] - before[r]) > 1e-9]
        resizes = [GrantCores(replica_id, self.cores[replica_id]) for _, replica_id in sorted(changed)]
        return (*self.cancels, *resizes, *self.starts)

    def need(self, view: ServiceView, sizing: StageSizing) -> StageNeed | None:
        """Whether a stage is in need at the end of this window."""
        stage = latest_stage(view, sizing.stage.name)
        ready = _ready(view, sizing.stage.name)
        if stage is None or not ready or stage.queue_rows == 0:
            return None
        service = self._services[view.service]
        ratio = observed_ratio(view, sizing, RATIO_WINDOWS)
        capacity = self._capacity(ready, sizing, ratio)
        rows, covered_s = rows_in_last(view, FAST_S, now_s=self._snapshot.now_s)
        rate = rows / covered_s if covered_s else 0.0
        left_s = max(1e-3, service.slo_s - service.reply_s - sizing.fastest_s * ratio)
        growth = max(0.0, rate - capacity) * self._snapshot.window_s
        waiting_s = (stage.queue_rows + growth) / max(capacity, 1e-9)
        late = stage.head_slack_s is not None and stage.head_slack_s < sizing.fastest_s * ratio
        noise = sqrt(rows) / covered_s if covered_s else 0.0
        burst = rate - noise > capacity
        if waiting_s <= (TRIGGER_BURST if burst else TRIGGER) * left_s and not late:
            return None
        sure = rate if burst else rate_over(view, KEEP_S, now_s=self._snapshot.now_s)
        inflow = (sure + stage.queue_rows / DRAIN_S) / UTILISATION
        backlog = stage.queue_rows / (left_s / 2)
        return StageNeed(view, sizing, ratio, max(inflow, backlog), burst)

    def serve(self, need: StageNeed) -> None:
        """Grant one stage what it needs, as far as there is something to grant."""
        view, sizing = need.view, need.sizing
        ready = _ready(view, sizing.stage.name)
        before = self._capacity(ready, sizing, need.ratio)
        taken = self._grow(need, ready)
        capacity = self._capacity(ready, sizing, need.ratio)
        starting = [r for r in live_replicas(view, sizing.stage.name) if r.state == "starting"]
        coming = self._capacity(starting, sizing, need.ratio)
        one = sizing.rate_rps(1.0) / need.ratio
        calm_capacity = len(ready) * one
        while (
            need.burst and min(capacity, calm_capacity) + coming < need.need_rps and self._may_take(view, 1.0)
        ):
            plan = ReplicaPlan(1.0, (sizing.variant.name,), self._node.name)
            self.starts.append(GrantStart(view.service, sizing.stage.name, plan))
            self._starting[view.service] = self._starting.get(view.service, 0.0) + 1.0
            self.free -= 1.0
            coming += one
        if need.burst and capacity < need.need_rps and not starting and not taken:
            self._split(need, ready)
        if taken or self.starts:
            self.reasons.append(
                f"{view.service}.{sizing.stage.name}: {need.need_rps:.1f} rows/s to carry, capacity "
                f"{before:.1f} -> {capacity:.1f}" + (f", {len(self.starts)} starting" if self.starts else "")
            )

    def collect(self, needs: Sequence[StageNeed], sizings: Mapping[str, Sequence[StageSizing]]) -> None:
        """Where nothing is free, take from services that have more than they need."""
        needy = {need.view.service for need in needs}
        for view in self._snapshot.services:
            if view.service in needy or self.free >= self._step:
                continue
            for sizing in sizings[view.service]:
                self._collect_from(view, sizing)

    def cancel(self, view: ServiceView, sizing: StageSizing) -> None:
        """Give up replicas that still start, youngest first, as long as the planned demand is met without."""
        live = live_replicas(view, sizing.stage.name)
        starting = [r for r in live if r.state == "starting"]
        stage = latest_stage(view, sizing.stage.name)
        if not starting or not _ready(view, sizing.stage.name) or stage is None or stage.queue_rows:
            return
        ratio = observed_ratio(view, sizing, PLANNED_OVER)
        demand = arrival_demand_rps(view, now_s=self._snapshot.now_s)
        cores = {r.replica_id: r.cores_desired for r in live}
        for replica in sorted(starting, key=lambda r: (r.started_s, r.replica_id), reverse=True):
            del cores[replica.replica_id]
            if not self._suffices(view, sizing, tuple(cores.values()), demand, ratio):
                return
            self.cancels.append(GrantCancel(replica.replica_id))
            self.reasons.append(
                f"{view.service}.{sizing.stage.name}: {demand:.1f} rows/s do not need starting replica "
                f"{replica.replica_id}"
            )

    def _suffices(
        self, view: ServiceView, sizing: StageSizing, cores: Sequence[float], demand: float, ratio: float
    ) -> bool:
        """Whether replicas of these cores hold the SLO, by the yardstick of the slow path and with a margin.

        By capacity alone, starts would be given up that the slow path wants for the latency, and wants again
        at its next decision.
        """
        if demand > CALM_UTILISATION * sum(sizing.rate_rps(c) for c in cores) / ratio:
            return False
        service = self._services[view.service]
        mean = sum(cores) / len(cores)
        choice = StageChoice(len(cores), mean, sizing.rows_max(mean))
        return sizing.latency_s(choice, demand, ratio) <= CANCEL_SHARE * (service.slo_s - service.reply_s)

    def _grow(self, need: StageNeed, ready: list[ReplicaView]) -> bool:
        """Grow the smallest replica by one step, again and again, until the need is met; whether any grew."""
        sizing, grew = need.sizing, False
        lacking = need.need_rps - self._capacity(ready, sizing, need.ratio)
        by_id = {r.replica_id: r for r in ready}
        useful = [(self.cores[i], i) for i in by_id if self._gains(sizing, self.cores[i])]
        heapify(useful)
        while lacking > 0 and useful and self._may_take(need.view, self._step):
            cores, smallest = heappop(useful)
            before = sizing.rate_rps(self._in_force(by_id[smallest]))
            self.cores[smallest] = cores + self._step
            self.free -= self._step
            lacking -= (sizing.rate_rps(self._in_force(by_id[smallest])) - before) / need.ratio
            if self._gains(sizing, self.cores[smallest]):
                heappush(useful, (self.cores[smallest], smallest))
            grew = True
        return grew

    def _split(self, need: StageNeed, ready: Sequence[ReplicaView]) -> None:
        """Nothing is free: turn a part of the largest replica into one more, if two carry more than one.

        The control machine leaves the large one its cores until the new one is ready.
        """
        largest = max(ready, key=lambda r: (self.cores[r.replica_id], -r.replica_id))
        cores = self.cores[largest.replica_id]
        part = min(1.0, cores // (2 * self._step) * self._step)
        if self.free >= self._step or part <= 0 or largest.cores != cores:
            return
        apart = need.sizing.rate_rps(part) + need.sizing.rate_rps(cores - part)
        if apart > SPLIT_GAIN_MIN * need.sizing.rate_rps(cores):
            self.cores[largest.replica_id] = cores - part
            plan = ReplicaPlan(part, (need.sizing.variant.name,), self._node.name)
            self.starts.append(GrantStart(need.view.service, need.sizing.stage.name, plan))

    def _gains(self, sizing: StageSizing, cores: float) -> bool:
        larger = cores + self._step
        if larger > sizing.variant.cores_max:
            return False
        return cores <= 0 or sizing.rate_rps(larger) > GAIN_MIN * sizing.rate_rps(cores)

    def _collect_from(self, view: ServiceView, sizing: StageSizing) -> None:
        live = live_replicas(view, sizing.stage.name)
        ready = _ready(view, sizing.stage.name)
        if not ready or len(live) != len(ready):
            return
        ratio = observed_ratio(view, sizing, RATIO_WINDOWS)
        rows, covered_s = rows_in_last(view, KEEP_S, now_s=self._snapshot.now_s)
        stage = latest_stage(view, sizing.stage.name)
        rate = (rows + sqrt(rows)) / covered_s if covered_s else 0.0
        keep_rps = (rate + (stage.queue_rows / KEEP_S if stage else 0.0)) / CALM_UTILISATION
        least = self._services[view.service].cores_min
        while True:
            largest = max(ready, key=lambda r: (self.cores[r.replica_id], -r.replica_id))
            held = sum(self.cores[r.replica_id] for r in ready)
            smaller = self.cores[largest.replica_id] - self._step
            if smaller < self._step - 1e-9 or held - self._step < least - 1e-9:
                return
            self.cores[largest.replica_id] = smaller
            if self._capacity(ready, sizing, ratio) < keep_rps:
                self.cores[largest.replica_id] += self._step
                return
            self.free += self._step
            self.reasons.append(f"{view.service} lends {self._step:g} cores")

    def _capacity(self, replicas: list[ReplicaView], sizing: StageSizing, ratio: float) -> float:
        return sum(sizing.rate_rps(self._in_force(r)) for r in replicas) / ratio

    def _in_force(self, replica: ReplicaView) -> float:
        """Cores that a replica works with: one that is to shrink keeps what it has until others are ready."""
        cores = self.cores[replica.replica_id]
        return cores if cores < replica.cores_desired else max(cores, replica.cores)

    def _may_take(self, view: ServiceView, cores: float) -> bool:
        limit = self._services[view.service].cores_max
        if self.free < cores - 1e-9 or limit is None:
            return self.free >= cores - 1e-9
        held = sum(self.cores[r.replica_id] for r in view.replicas) + self._starting.get(view.service, 0.0)
        return held + cores <= limit + 1e-9


def _ready(view: ServiceView, stage: str) -> list[ReplicaView]:
    return [r for r in live_replicas(view, stage) if r.state == "ready"]
