"""The Kubernetes Vertical Pod Autoscaler, resizing in place (update mode `InPlaceOrRecreate`).

A fixed number of replicas a stage, by default the fewest that carry the first rate, and every minute:
- *Recommender*: the CPU usage of each replica over the last 15 s (what metrics-server would say) goes into a
  histogram whose weights halve every 24 h; a sample weighs as much as the cores that were requested when it
  was taken. target = 1.15 x its 0.9 quantile, lower bound = 1.15 x its median x (1 + 0.001 / days)^-2, upper
  bound = 1.15 x its 0.95 quantile x (1 + 1 / days), with days = min(age of the history, samples / 1440);
  then whole cores, rounded up (its integerCPU post-processor), 1 to what a replica can use.
- *Updater*: a replica gets the target if its cores are outside the bounds; or, after 12 hours of life, if
  the target differs from them by 10 % or more.

Sources: https://kubernetes.io/docs/concepts/workloads/autoscaling/vertical-pod-autoscale/, and in
https://github.com/kubernetes/autoscaler/tree/master/vertical-pod-autoscaler docs/features.md and
pkg/{recommender/logic,recommender/model,recommender/util,updater/priority}.

Simplified: a stage's replicas are alike and share its usage evenly; usage is busy time x cores; a single
replica is resized too (`--min-replicas=1`), and always in place, never by eviction; no memory. The history
begins with the run, which is in its favour: the bounds of a VPA that has watched for a day hardly move
within an hour.

Options: `replicas` of a stage (as above), `cores` to begin with at least (1), `half_life` (24h), `batch`.
"""

from math import ceil, inf, log

from steelyard.policies.base import PolicyContext
from steelyard.policies.options import duration_s, integer, refuse_unknown
from steelyard.policies.scaled import Group, Loop, ScaledPolicy, Seen, Wanted, groups_of

NAME = "vpa"
OPTIONS = ("replicas", "cores", "half_life", "batch")
TICK_S = 60.0
METRICS_S = 15.0
DAY_S = 86_400.0
MARGIN = 0.15
TARGET_QUANTILE, LOWER_QUANTILE, UPPER_QUANTILE = 0.9, 0.5, 0.95
LONG_LIFE_S = 12 * 3600.0
CHANGE_MIN = 0.1
SAMPLE_WEIGHT_MIN = 0.1
SAMPLES_A_DAY = 1440
BUCKET_FIRST = 0.01
BUCKET_GROWTH = 1.05
CORES_MAX = 1000.0


class DecayingHistogram:
    """Usage in cores by buckets that grow: the first is 0.01 wide, each is 5 % wider than the last."""

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._weights: dict[int, float] = {}
        self._at_s = 0.0

    def add(self, cores: float, weight: float, *, at_s: float) -> None:
        """Take one sample; `at_s` must not fall."""
        keep = 0.5 ** ((at_s - self._at_s) / self._half_life_s) if self._weights else 1.0
        self._weights = {bucket: was * keep for bucket, was in self._weights.items()}
        self._at_s = at_s
        bucket = _bucket(cores)
        self._weights[bucket] = self._weights.get(bucket, 0.0) + weight

    def quantile(self, share: float) -> float:
        """Cores at the end of the bucket that holds the quantile; 0 without samples."""
        threshold = share * sum(self._weights.values())
        passed = 0.0
        for bucket in sorted(self._weights):
            passed += self._weights[bucket]
            if passed >= threshold:
                return _bucket_end(bucket)
        return 0.0


class VpaScaler:
    """One VerticalPodAutoscaler: recommender and updater."""

    def __init__(self, group: Group, *, replicas: int | None, half_life_s: float) -> None:
        self._group = group
        self._replicas = replicas
        self._usage = DecayingHistogram(half_life_s)
        self._samples = 0
        self._first_s: float | None = None

    def begin(self, rate_rps: float) -> Wanted:
        """The fewest cores that exceed their own usage by the margin: rate x l(1, c) / n <= 1 / 1.15.

        Where no size does, all that a replica can use; and without the option, the n that then suffice.
        """
        most = self._group.variant.cores_max
        busy = rate_rps * self._group.time_s(1, most) * (1 + MARGIN)
        replicas = max(1, ceil(busy - 1e-9)) if self._replicas is None else self._replicas
        for cores in range(self._group.cores, most):
            share = rate_rps * self._group.time_s(1, cores) / replicas
            if share * (1 + MARGIN) <= 1:
                return Wanted(replicas, cores, f"busy {share:.0%}")
        return Wanted(replicas, most, f"busy {busy / (1 + MARGIN) / replicas:.0%}")

    def tick(self, seen: Seen, *, now_s: float) -> Wanted:
        """Recommend and update."""
        load = seen.meter.mean(METRICS_S, now_s=now_s)
        if load is None or seen.ready == 0:
            return Wanted(seen.replicas, seen.cores, "no metrics of ready replicas")
        self._first_s = now_s if self._first_s is None else self._first_s
        weight = seen.ready * max(float(seen.cores), SAMPLE_WEIGHT_MIN)
        self._usage.add(load.cores_busy / seen.ready, weight, at_s=now_s)
        self._samples += seen.ready
        age_s = now_s - self._first_s
        days = min(age_s / DAY_S, self._samples / SAMPLES_A_DAY)
        lower = self._whole(LOWER_QUANTILE, (1 + 0.001 / days) ** -2 if days > 0 else 0.0)
        target = self._whole(TARGET_QUANTILE, 1.0)
        upper = self._whole(UPPER_QUANTILE, 1 + 1 / days if days > 0 else inf)
        why = f"target {target:g}, bounds {lower:g} to {upper:g}"
        outside = not lower <= seen.cores <= upper
        differs = abs(seen.cores - target) / seen.cores >= CHANGE_MIN
        if outside or (age_s >= LONG_LIFE_S and differs):
            return Wanted(seen.replicas, int(target), why)
        return Wanted(seen.replicas, seen.cores, why)

    def _whole(self, share: float, factor: float) -> float:
        """A quantile with its margin and factor as whole cores within what a replica can use; or infinite."""
        cores = self._usage.quantile(share) * (1 + MARGIN) * factor
        if cores == inf:
            return inf
        return float(min(max(1, ceil(cores - 1e-9)), self._group.variant.cores_max))


def make_vpa(context: PolicyContext) -> ScaledPolicy:
    """The policy, for one service.

    Raises:
        SpecError: an option that it does not have, or out of range.
    """
    options = context.options
    refuse_unknown(NAME, options, OPTIONS)
    replicas = integer(NAME, options, "replicas", 1, least=1) if "replicas" in options else None
    half_life_s = duration_s(NAME, options, "half_life", DAY_S, least_s=1.0)
    return ScaledPolicy(
        NAME,
        context,
        groups_of(NAME, context),
        Loop(TICK_S, METRICS_S, cut="cores"),
        lambda group: VpaScaler(group, replicas=replicas, half_life_s=half_life_s),
    )


def _bucket(cores: float) -> int:
    """The bucket n with start(n) <= cores < start(n + 1), start(n) = 0.01 (1.05^n - 1) / 0.05."""
    if cores < BUCKET_FIRST:
        return 0
    inside = min(cores, CORES_MAX) * (BUCKET_GROWTH - 1) / BUCKET_FIRST + 1
    return int(log(inside) / log(BUCKET_GROWTH))


def _bucket_end(bucket: int) -> float:
    return BUCKET_FIRST * (BUCKET_GROWTH ** (bucket + 1) - 1) / (BUCKET_GROWTH - 1)
