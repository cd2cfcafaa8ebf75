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
from steelyard.plan.queueing import stage_latency_s, stage_loss_ratio
from steelyard.policies.sensing import latest_stage

BATCH_SHARE_OF_SLO = 0.4
"""A batch may take this much of the SLO at most: who comes just after its start must still make it."""
GAIN_MIN = 1.02
"""A larger batch must give this much more throughput."""
LOSS_SHARE = 0.5
"""A plan may use this much of the violations that the SLO allows; the rest is for what no plan foresees."""
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
        self._loss_max = LOSS_SHARE * (1.0 - service.quantile)
        self._rows: dict[float, int] = {}
        self._rates: dict[float, float] = {}

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
        rate = self._rates.get(cores)
        if rate is None:
            rows = self.rows_max(cores) if cores > 0 else 0
            rate = self._rates[cores] = rows / self.median_s(rows, cores) if rows else 0.0
        return rate

    def latency_s(self, choice: StageChoice, demand_rps: float, ratio: float) -> float:
        """Seconds that all but the allowed violations keep; `UNSTABLE_S` or more if the queue grows."""
        best_s = min(
            stage_latency_s(
                demand_rps,
                rows,
                self.median_s(rows, choice.cores) * ratio,
                self.tail_s(rows, choice.cores) * ratio,
                choice.replicas,
                self._loss_max,
            )
            for rows in range(1, choice.rows + 1)
        )
        if best_s < UNSTABLE_S:
            return best_s
        return UNSTABLE_S * max(1.0, demand_rps * ratio / (choice.replicas * self.rate_rps(choice.cores)))

    def loss_ratio(self, choice: StageChoice, demand_rps: float, ratio: float, budget_s: float) -> float:
        """Share of rows that miss `budget_s`, by the batch size that loses least."""
        return min(
            stage_loss_ratio(
                demand_rps,
                rows,
                self.median_s(rows, choice.cores) * ratio,
                choice.replicas,
                budget_s - self.tail_s(rows, choice.cores) * ratio,
            )
            for rows in range(1, choice.rows + 1)
        )

    def choices(
        self, demand_rps: float, ratio: float, sizes: Iterable[float], cores_limit: float
    ) -> list[StageChoice]:
        """Every sensible (n, c): up to two replicas more than the demand keeps busy."""
        found: list[StageChoice] = []
        for cores in sizes:
            if cores > self.variant.cores_max:
                continue
            rows = self.rows_max(cores)
            enough = demand_rps * ratio / self.rate_rps(cores)
            counts = range(1, min(int(cores_limit / cores + 1e-9), int(enough) + 3) + 1)
            found += [StageChoice(count, cores, rows) for count in counts]
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
