"""How many rows a second a stage carries, and how long they take: the options that the policy chooses from.

The data plane is work-conserving: `rows_max` is a limit, not a wish, and batches form only as far as rows
are queued. So a stage may use the largest batch that still gains throughput (on many convolutional models
that is 1 or 2 rows, on GEMM-bound ones the limit), and its latency is the least bound over the batches that
it may form.

Service times are the profile's, times the ratio of what was observed lately to what was profiled. That ratio
takes in everything the profile does not know: neighbours, throttling, and the mix of shape buckets.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from steelyard.core.snapshot import ServiceView
from steelyard.core.types import Service, ServiceTimes, Stage
from steelyard.plan.chain import Option
from steelyard.plan.queueing import stage_latency_s
from steelyard.policies.sensing import latest_stage

BATCH_SHARE_OF_SLO = 0.4
"""A batch may take this much of the SLO at most: who comes just after its start must still make it."""
GAIN_MIN = 1.02
"""A larger batch must give this much more throughput."""
RATIO_MIN, RATIO_MAX = 0.25, 8.0
BATCHES_MIN = 10
UNSTABLE_S = 1e6
"""Seconds that stand for a queue without bound; times the utilisation, so that less of it is better."""


class StageChoice(NamedTuple):
    """`replicas` of `cores` each, with batches of at most `rows`."""

    replicas: int
    cores: float
    rows: int

    @property
    def total_cores(self) -> float:
        """Cores of all replicas together."""
        return self.replicas * self.cores


class StageSizing:
    """One stage of a service on the first of its variants, which is the one its owner prefers."""

    def __init__(self, service: Service, stage: Stage, times: ServiceTimes) -> None:
        self.stage = stage
        self.variant = stage.variants[0]
        self._times = times
        self._available_s = service.slo_s - service.reply_s
        self._quantile = service.quantile
        self._rows: dict[float, int] = {}

    @cached_property
    def fastest_s(self) -> float:
        """The least tail service time of one row at any number of whole cores."""
        return min(self.tail_s(1, float(c)) for c in range(1, self.variant.cores_max + 1))

    def median_s(self, rows: int, cores: float) -> float:
        """Median seconds of a batch, as profiled."""
        return self._times.service_time_s(self.variant.name, 0, rows, cores)

    def tail_s(self, rows: int, cores: float) -> float:
        """0.99 quantile of the same."""
        return self._times.service_time_s_p99(self.variant.name, 0, rows, cores)

    def rows_max(self, cores: float) -> int:
        """The smallest batch within `GAIN_MIN` of the best throughput that a part of the SLO allows."""
        known = self._rows.get(cores)
        if known is None:
            limit_s = BATCH_SHARE_OF_SLO * self._available_s
            best = 1
            for rows in range(2, self.variant.batch_rows_max + 1):
                if self.tail_s(rows, cores) > limit_s:
                    break
                if rows / self.median_s(rows, cores) > GAIN_MIN * best / self.median_s(best, cores):
                    best = rows
            known = self._rows[cores] = best
        return known

    def rate_rps(self, cores: float) -> float:
        """Rows a second of one replica that is never idle, as profiled."""
        rows = self.rows_max(cores)
        return rows / self.median_s(rows, cores) if cores > 0 else 0.0

    def latency_s(self, choice: StageChoice, demand_rps: float, ratio: float) -> float:
        """Queueing delay plus service time at the service's quantile; `UNSTABLE_S` or more without bound."""
        best_s = min(
            stage_latency_s(
                demand_rps,
                rows,
                self.median_s(rows, choice.cores) * ratio,
                self.tail_s(rows, choice.cores) * ratio,
                choice.replicas,
                self._quantile,
            )
            for rows in range(1, choice.rows + 1)
        )
        if best_s < UNSTABLE_S:
            return best_s
        return UNSTABLE_S * max(1.0, demand_rps * ratio / (choice.replicas * self.rate_rps(choice.cores)))

    def options(
        self, demand_rps: float, ratio: float, sizes: Iterable[float], cores_limit: float, present: int
    ) -> list[Option[StageChoice]]:
        """Every sensible (n, c), cost in cores; a replica to start or to drain costs a little more.

        The surcharges decide between plans of equal cores only: what a switch costs is weighed in `patience`.
        """
        found: list[Option[StageChoice]] = []
        for cores in sizes:
            if cores > self.variant.cores_max:
                continue
            rows = self.rows_max(cores)
            enough = demand_rps * ratio / self.rate_rps(cores)
            for count in range(1, min(int(cores_limit / cores + 1e-9), int(enough) + 3) + 1):
                choice = StageChoice(count, cores, rows)
                surcharge = 0.02 * max(0, count - present) + 0.01 * max(0, present - count)
                time_s = self.latency_s(choice, demand_rps, ratio)
                found.append(Option(time_s, choice.total_cores + surcharge, choice))
        return found


def observed_ratio(view: ServiceView, sizing: StageSizing, windows: int) -> float:
    """Busy seconds over what the profile says for the same batches, in the last windows.

    With fewer than `BATCHES_MIN` batches, what the data plane reports (`service_ratio`).
    """
    batches, busy_s, profiled_s = 0, 0.0, 0.0
    for window in view.windows[-windows:]:
        for cell in window.busy:
            if cell.stage == sizing.stage.name and cell.variant == sizing.variant.name and cell.cores > 0:
                batches += cell.batches
                busy_s += cell.busy_s
                profiled_s += cell.batches * sizing.median_s(cell.rows, cell.cores)
    if batches >= BATCHES_MIN and profiled_s > 0:
        ratio = busy_s / profiled_s
    else:
        stage = latest_stage(view, sizing.stage.name)
        ratio = stage.service_ratio if stage is not None else 1.0
    return min(RATIO_MAX, max(RATIO_MIN, ratio))
