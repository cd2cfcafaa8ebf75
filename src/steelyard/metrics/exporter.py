"""Metrics of one server, kept as plain numbers and turned into Prometheus' text when it is asked for.

The rules of this file:
- The request path only notes what was answered. The notes are counted many at a time: when there are
  `NOTED_MAX`, when the sliding window moves on, or when somebody looks (`Exporter.services`).
- Prometheus' own objects are made at a scrape, from the same summaries that the live view reads, so the two
  cannot disagree.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from steelyard.core.commands import Complete, Discard, Fail, Reject, RunBatch, Shed
from steelyard.core.types import Request
from steelyard.metrics import names
from steelyard.metrics.summary import OUTCOMES, FixedHistogram, Outcome, ServiceSummary
from steelyard.metrics.sums import CoreSeconds

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REPLICA_STATES = ("starting", "ready", "parked", "draining")

NOTED_MAX = 256
"""Answers that wait to be counted: about 0.2 ms of the serving loop."""

End = Complete | Reject | Shed | Fail | Discard


_Noted = tuple[float, float, float, bool, int, float | None, str]
"""An answer that is yet to be counted: latency, queueing, service, late, rows, accuracy, variant.

A plain tuple: one is made for every answer, and a named one takes a call.
"""


class ServiceMetrics:
    """Everything measured of one service.

    Attributes:
        summary: accounting and latency, read by the live view too.
        core_seconds: reserved cores over time.
        replicas: id -> (state, cores) of those that are not gone.
        cold_starts: replicas that were started.
        resizes: changes of a live replica's cores.
        switches: batches on another variant than the batch before them on the same replica.
        rows_answered: of requests that were answered.
        refused_s: seconds that requests took which were rejected, shed or failed.
        answered_s: when the latest request was answered; None before the first.
    """

    def __init__(self, slo_s: float, *, now_s: float) -> None:
        self.slo_s = slo_s
        self.summary = ServiceSummary()
        self.core_seconds = CoreSeconds(now_s=now_s)
        self.replicas: dict[int, tuple[str, float]] = {}
        self.cold_starts = 0
        self.resizes = 0
        self.refused: Counter[tuple[Outcome, str]] = Counter()
        self.answers: Counter[str] = Counter()
        self.http: Counter[int] = Counter()
        self.latency = FixedHistogram()
        self.queueing = FixedHistogram()
        self.service_time = FixedHistogram()
        self.accuracy = FixedHistogram(names.BUCKETS_ACCURACY)
        self.switches = 0
        self.rows_answered = 0
        self.refused_s = 0.0
        self.answered_s: float | None = None
        self.variants: dict[int, str] = {}
        """Of the latest batch of each replica that is not gone."""
        self._noted: list[_Noted] = []
        self._until_s = float("-inf")
        """When the slice of the latest note ends."""

    def note(self, request: Request, end: Complete, *, now_s: float) -> None:
        """A request was answered."""
        if now_s >= self._until_s or len(self._noted) >= NOTED_MAX:
            self.count()
            self._until_s = self.summary.slice_end_s(now_s)
        self.answered_s = now_s
        latency_s = now_s - request.arrived_s
        self._noted.append(
            (latency_s, end.queue_s, end.service_s, end.late, request.rows, end.accuracy, end.variant)
        )

    def observe(self, request: Request, end: Reject | Shed | Fail | Discard, *, now_s: float) -> None:
        """A request ended without an answer."""
        if now_s >= self._until_s:  # the summary's times never go back
            self.count()
        outcome = _OUTCOME_OF[type(end)]
        self.summary.observe(outcome, now_s=now_s, rows=request.rows)
        if not isinstance(end, Discard):
            self.refused[outcome, end.reason] += 1
            self.refused_s += now_s - request.arrived_s

    def count(self) -> None:
        """Count what was noted."""
        if not self._noted or self.answered_s is None:
            return
        latencies_s, queues_s, services_s, lates, rows, accuracies, variants = zip(*self._noted, strict=True)
        self._noted.clear()
        row_count = sum(rows)
        self.rows_answered += row_count
        self.summary.observe_completed(
            latencies_s, accuracies, now_s=self.answered_s, late=sum(lates), rows=row_count
        )
        self.accuracy.add([accuracy for accuracy in accuracies if accuracy is not None])
        self.latency.add(latencies_s)
        self.queueing.add(queues_s)
        self.service_time.add(services_s)
        self.answers.update(variants)


class Exporter:
    """The metrics of one server process.

    Args:
        slo_s: latency bound by service: the services there are.
        version: of this package.
        now_s: when counting begins, on the clock of all later calls.
        process: also export CPU and memory of this process (`process_*`).
    """

    def __init__(
        self, slo_s: Mapping[str, float], *, version: str, now_s: float, process: bool = True
    ) -> None:
        self._services = {name: ServiceMetrics(bound_s, now_s=now_s) for name, bound_s in slo_s.items()}
        self._version = version
        self._scraped_s = now_s
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Scrape(self))
        if process:
            ProcessCollector(registry=self._registry)

    @property
    def services(self) -> Mapping[str, ServiceMetrics]:
        """What was measured so far, by service; to look at."""
        for metrics in self._services.values():
            metrics.count()
        return self._services

    def observe_end(self, service: str, request: Request, end: End, *, now_s: float) -> None:
        """Count the end of a request."""
        metrics = self._services[service]
        if isinstance(end, Complete):
            metrics.note(request, end, now_s=now_s)
        else:
            metrics.observe(request, end, now_s=now_s)

    def observe_batch(self, service: str, batch: RunBatch) -> None:
        """A batch starts on a replica."""
        metrics = self._services[service]
        before = metrics.variants.get(batch.replica_id, batch.variant)
        metrics.switches += before != batch.variant
        metrics.variants[batch.replica_id] = batch.variant

    def observe_http(self, service: str, status: int, count: int = 1) -> None:
        """Count the status of inference requests over HTTP."""
        self._services[service].http[status] += count

    def set_replica(self, service: str, replica_id: int, state: str, cores: float, *, now_s: float) -> None:
        """A replica has this state and these reserved cores from now on; state `gone` ends it."""
        metrics = self._services[service]
        if state == "gone":
            metrics.replicas.pop(replica_id, None)
            metrics.variants.pop(replica_id, None)
        else:
            before = metrics.replicas.get(replica_id)
            metrics.cold_starts += before is None
            metrics.resizes += before is not None and before[1] != cores
            metrics.replicas[replica_id] = (state, cores)
        self.set_cores(service, sum(held for _, held in metrics.replicas.values()), now_s=now_s)

    def set_cores(self, service: str, cores: float, *, now_s: float) -> None:
        """Cores reserved for a service from now on, where replicas are not told one by one."""
        self._services[service].core_seconds.set(cores, now_s=now_s)

    def render(self, *, now_s: float) -> bytes:
        """The answer to a scrape, of type `CONTENT_TYPE`."""
        self._scraped_s = now_s
        return generate_latest(self._registry)

    def families(self) -> Iterator[Family]:
        """Every metric of `names.METRICS`, as of the last scrape."""
        samples = {name: _samples(metrics, self._scraped_s) for name, metrics in self.services.items()}
        for metric in names.METRICS:
            family = _FAMILY_OF[metric.kind](metric.name, metric.help, labels=metric.labels)
            if metric is names.BUILD:
                family.add_metric([self._version], 1)
            for service, of_service in samples.items():
                for labels, value in of_service.get(metric, ()):
                    _add(family, [service, *labels], value)
            yield family


class _Scrape(Collector):
    """What the registry asks at a scrape."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def collect(self) -> Iterator[Family]:
        return self._exporter.families()


Value = float | FixedHistogram
Samples = list[tuple[tuple[str, ...], Value]]
_FAMILY_OF: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
_OUTCOME_OF: dict[type[End], Outcome] = {
    Shed: "shed",
    Reject: "rejected",
    Fail: "failed",
    Discard: "cancelled",
}


def _samples(metrics: ServiceMetrics, now_s: float) -> dict[names.Metric, Samples]:
    """Values of one service by metric, with the labels after `service`."""
    counts = metrics.summary.counts
    states: dict[str, int] = defaultdict(int, dict.fromkeys(REPLICA_STATES, 0))
    for state, _ in metrics.replicas.values():
        states[state] += 1
    return {
        names.REQUESTS: [((outcome,), getattr(counts, outcome)) for outcome in OUTCOMES],
        names.REFUSED: [(key, value) for key, value in metrics.refused.items()],
        names.LATE: [((), counts.late)],
        names.VIOLATIONS: [((), counts.violations)],
        names.ROWS: [((), counts.rows)],
        names.ANSWERS: [((variant,), value) for variant, value in metrics.answers.items()],
        names.LATENCY: [((), metrics.latency)],
        names.QUEUEING: [((), metrics.queueing)],
        names.SERVICE_TIME: [((), metrics.service_time)],
        names.HTTP: [((str(code),), value) for code, value in metrics.http.items()],
        names.SLO: [((), metrics.slo_s)],
        names.REPLICAS: [((state,), value) for state, value in states.items()],
        names.CORES: [((), metrics.core_seconds.cores)],
        names.CORE_SECONDS: [((), metrics.core_seconds.total(now_s=now_s))],
        names.COLD_STARTS: [((), metrics.cold_starts)],
        names.RESIZES: [((), metrics.resizes)],
        names.SWITCHES: [((), metrics.switches)],
        names.ACCURACY: [((), metrics.accuracy)],
    }


def _add(family: Any, labels: list[str], value: Value) -> None:
    if not isinstance(value, FixedHistogram):
        family.add_metric(labels, value)
        return
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, value.bounds_s), "+Inf"), value.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric(labels, buckets=buckets, sum_value=value.sum_s)
