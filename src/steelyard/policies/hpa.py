"""The Kubernetes Horizontal Pod Autoscaler (autoscaling/v2) on CPU utilisation.

Every `period` (15 s), for each stage, with U the cores that were busy over the last 15 s, n replicas of c
cores of which r are ready:
- ratio = U / (r c) / target; nothing changes where |1 - ratio| <= 0.1 (the tolerance);
- desired = ceil(r x ratio). If that would scale out while replicas are not ready, those count with a
  utilisation of 0: ratio' = U / (n c) / target, desired = ceil(n x ratio'), and nothing changes where ratio'
  is within the tolerance or would scale in;
- scale in: never below the largest recommendation of the last 300 s (stabilisation);
- scale out: to at most max(m + 4, 2 m), with m the replicas of 15 s ago.

Source: https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/ ("Algorithm
details", "Default behavior"); the order of the steps follows pkg/controller/podautoscaler of
kubernetes/kubernetes.

Simplified, all in its favour: usage is that of the very last 15 s, where metrics-server's is up to 15 s
older; a replica's metrics count from the moment it is ready on; maxReplicas is what the node holds,
minReplicas is 1.

Options: `target_utilisation` (0.7), `period` (15s), `stabilisation` (300s), `cores` of a replica (1),
`batch`.
"""

from collections import deque
from math import ceil

from steelyard.policies.base import PolicyContext
from steelyard.policies.options import duration_s, number, refuse_unknown
from steelyard.policies.scaled import Group, Loop, ScaledPolicy, Seen, Wanted, groups_of

NAME = "hpa"
OPTIONS = ("target_utilisation", "period", "stabilisation", "cores", "batch")
TARGET_UTILISATION = 0.7
PERIOD_S = 15.0
METRICS_S = 15.0
"""Resolution of metrics-server."""
STABILISATION_S = 300.0
TOLERANCE = 0.1
SCALE_OUT_S = 15.0
SCALE_OUT_REPLICAS = 4
SCALE_OUT_FACTOR = 2


class HpaScaler:
    """One HorizontalPodAutoscaler.

    Args:
        group: the stage.
        target: utilisation of the ready replicas' cores, in (0, 1].
        stabilisation_s: seconds for which a recommendation holds up scaling in.
    """

    def __init__(self, group: Group, *, target: float, stabilisation_s: float) -> None:
        self._group = group
        self._target = target
        self._stabilisation_s = stabilisation_s
        self._recommended: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()
        self._last: tuple[float, int] | None = None

    def begin(self, rate_rps: float) -> Wanted:
        """Utilisation is rate x l(1) / n: below saturation most batches are of one row."""
        busy = rate_rps * self._group.time_s(1, self._group.cores)
        return Wanted(max(1, ceil(busy / self._target - 1e-9)), self._group.cores, f"{busy:.3g} busy")

    def tick(self, seen: Seen, *, now_s: float) -> Wanted:
        """One synchronisation of the controller."""
        self._note(seen.replicas, now_s=now_s)
        desired, why = self._desired(seen, now_s=now_s)
        stable = self._stabilised(desired, seen.replicas, now_s=now_s)
        replicas = min(stable, max(seen.replicas, self._most(seen.replicas, now_s=now_s)))
        return Wanted(max(1, replicas), seen.cores, why)

    def _desired(self, seen: Seen, *, now_s: float) -> tuple[int, str]:
        """What the ratio asks for, before stabilisation and limits."""
        load = seen.meter.mean(METRICS_S, now_s=now_s)
        if load is None or seen.ready == 0:
            return seen.replicas, "no metrics of ready replicas"
        utilisation = load.cores_busy / (seen.ready * seen.cores)
        why = f"utilisation {utilisation:.0%} of {seen.ready} ready, target {self._target:.0%}"
        ratio, counted = utilisation / self._target, seen.ready
        if ratio > 1 and seen.ready < seen.replicas:
            counted = seen.replicas
            ratio = load.cores_busy / (counted * seen.cores) / self._target
            if ratio < 1:
                return seen.replicas, why
        if abs(1 - ratio) <= TOLERANCE + 1e-9:
            return seen.replicas, why
        return ceil(ratio * counted - 1e-9), why

    def _stabilised(self, desired: int, present: int, *, now_s: float) -> int:
        """Scaling in waits until no recommendation of the window was larger; scaling out does not wait."""
        if not self._recommended:
            self._recommended.append((now_s, present))
        while self._recommended and self._recommended[0][0] <= now_s - self._stabilisation_s + 1e-6:
            self._recommended.popleft()
        largest = max([desired, *(replicas for _, replicas in self._recommended)])
        self._recommended.append((now_s, desired))
        return max(desired, min(present, largest))

    def _most(self, present: int, *, now_s: float) -> int:
        """The larger of 4 more and twice as many as there were at the start of the last 15 s."""
        while self._changes and self._changes[0][0] <= now_s - SCALE_OUT_S + 1e-6:
            self._changes.popleft()
        before = present - sum(change for _, change in self._changes)
        return max(before + SCALE_OUT_REPLICAS, before * SCALE_OUT_FACTOR)

    def _note(self, present: int, *, now_s: float) -> None:
        """Remember what became of the last tick: the plan may have been cut to the node, or discarded."""
        if self._last is not None and present != self._last[1]:
            self._changes.append((self._last[0], present - self._last[1]))
        self._last = (now_s, present)


def make_hpa(context: PolicyContext) -> ScaledPolicy:
    """The policy, for one service.

    Raises:
        SpecError: an option that it does not have, or out of range.
    """
    options = context.options
    refuse_unknown(NAME, options, OPTIONS)
    target = number(NAME, options, "target_utilisation", TARGET_UTILISATION, least=0.01, most=1.0)
    period_s = duration_s(NAME, options, "period", PERIOD_S, least_s=0.1)
    stabilisation_s = duration_s(NAME, options, "stabilisation", STABILISATION_S, most_s=3600.0)
    return ScaledPolicy(
        NAME,
        context,
        groups_of(NAME, context),
        Loop(period_s, METRICS_S),
        lambda group: HpaScaler(group, target=target, stabilisation_s=stabilisation_s),
    )
