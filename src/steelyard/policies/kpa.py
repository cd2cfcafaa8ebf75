"""The Knative Pod Autoscaler on concurrency, with its stable and panic windows.

Every 2 s, for each stage, with K(w) the mean concurrency over the last w seconds (rows that wait or run), r
>= 1 ready replicas, and target = target_concurrency x target_utilisation:
- stable = ceil(K(60) / target), panic = ceil(K(6) / target), both within [floor(r / 2), ceil(1000 r)];
- if panic (before those limits) >= 2 r, it panics: for as long as that holds and 60 s longer it wants the
  larger of the two and never less than before. Otherwise it wants `stable`.
- It starts in panic mode if it starts with more than one replica, so that a new autoscaler, which has no
  history, keeps what there is for a stable window.

Source: https://knative.dev/docs/serving/autoscaling/kpa-specific/ (windows, thresholds, rates) and
https://knative.dev/docs/serving/autoscaling/concurrency/ (targets); the order of the steps follows
pkg/autoscaler/scaling/autoscaler.go of knative/serving.

*target_concurrency* defaults to 1, as `containerConcurrency: 1` says of a replica that computes one batch at
a time. Knative's own soft default, 100, is for web servers that wait: a replica would have seconds of queue
before the second one is asked for. With such a hard limit Knative keeps the activator in the path, whose one
queue is what our stages have too.

Not there: scale to zero (the least is 1), and the activator's own concurrency.

Options: `target_concurrency` (1), `target_utilisation` (0.7), `stable_window` (60s), `panic_window` (a tenth
of it), `panic_threshold` (2.0), `cores` of a replica (1), `batch`.
"""

from math import ceil, floor

from steelyard.policies.base import PolicyContext
from steelyard.policies.options import duration_s, number, refuse_unknown
from steelyard.policies.scaled import Group, Loop, ScaledPolicy, Seen, Wanted, groups_of

NAME = "kpa"
OPTIONS = (
    "target_concurrency",
    "target_utilisation",
    "stable_window",
    "panic_window",
    "panic_threshold",
    "cores",
    "batch",
)
TICK_S = 2.0
TARGET_CONCURRENCY = 1.0
TARGET_UTILISATION = 0.7
STABLE_S = 60.0
PANIC_SHARE = 0.1
PANIC_THRESHOLD = 2.0
SCALE_OUT_RATE_MAX = 1000.0
SCALE_IN_RATE_MAX = 2.0


class KpaScaler:
    """One revision's autoscaler.

    Args:
        group: the stage.
        target: rows that wait or run, for each replica.
        stable_s: the stable window, seconds.
        panic_s: the panic window, seconds.
        threshold: replicas wanted over the panic window, over ready ones, from which it panics.
    """

    def __init__(
        self, group: Group, *, target: float, stable_s: float, panic_s: float, threshold: float
    ) -> None:
        self._group = group
        self._target = target
        self._stable_s = stable_s
        self._panic_s = panic_s
        self._threshold = threshold
        self._panicked_s: float | None = None
        self._kept = 0
        self._began = False

    def begin(self, rate_rps: float) -> Wanted:
        """Little's law for rows in service, K = rate x l(1): below saturation most batches are of one."""
        concurrency = rate_rps * self._group.time_s(1, self._group.cores)
        replicas = max(1, ceil(concurrency / self._target - 1e-9))
        return Wanted(replicas, self._group.cores, f"concurrency {concurrency:.3g}")

    def tick(self, seen: Seen, *, now_s: float) -> Wanted:
        """One tick of the autoscaler."""
        ready = max(1, seen.ready)
        if not self._began:
            self._began = True
            if ready > 1:
                self._panicked_s, self._kept = now_s, ready
        long, short = (seen.meter.mean(w, now_s=now_s) for w in (self._stable_s, self._panic_s))
        if long is None or short is None:
            return Wanted(seen.replicas, seen.cores, "no metrics yet")
        stable, panic = (ceil(load.rows / self._target - 1e-9) for load in (long, short))
        self._judge(panic / ready >= self._threshold, now_s=now_s)
        least, most = floor(ready / SCALE_IN_RATE_MAX), ceil(ready * SCALE_OUT_RATE_MAX)
        replicas = min(max(stable, least), most)
        mode = "stable"
        if self._panicked_s is not None:
            self._kept = max(self._kept, replicas, min(max(panic, least), most))
            replicas, mode = self._kept, "panic"
        why = f"{mode}, concurrency {long.rows:.3g} and {short.rows:.3g}, target {self._target:.3g}"
        return Wanted(max(1, replicas), seen.cores, why)

    def _judge(self, over: bool, *, now_s: float) -> None:
        """Begin, prolong or end the panic."""
        if over:
            self._panicked_s = now_s
        elif self._panicked_s is not None and self._panicked_s + self._stable_s < now_s - 1e-9:
            self._panicked_s, self._kept = None, 0


def make_kpa(context: PolicyContext) -> ScaledPolicy:
    """The policy, for one service.

    Raises:
        SpecError: an option that it does not have, or out of range.
    """
    options = context.options
    refuse_unknown(NAME, options, OPTIONS)
    share = number(NAME, options, "target_utilisation", TARGET_UTILISATION, least=0.01, most=1.0)
    threshold = number(NAME, options, "panic_threshold", PANIC_THRESHOLD, least=1.1, most=10.0)
    stable_s = duration_s(NAME, options, "stable_window", STABLE_S, least_s=6.0, most_s=3600.0)
    panic_s = duration_s(
        NAME, options, "panic_window", PANIC_SHARE * stable_s, least_s=TICK_S, most_s=stable_s
    )

    rows = number(NAME, options, "target_concurrency", TARGET_CONCURRENCY, least=0.01)
    return ScaledPolicy(
        NAME,
        context,
        groups_of(NAME, context),
        Loop(TICK_S, stable_s),
        lambda group: KpaScaler(
            group,
            target=share * rows,
            stable_s=stable_s,
            panic_s=max(TICK_S, panic_s),
            threshold=threshold,
        ),
    )
