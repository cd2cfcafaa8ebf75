"""What a running server shows of itself: Prometheus text for machines, a status JSON for people's tools.

Both are read from the same numbers (`metrics.Exporter`), at the time somebody asks.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from steelyard import __version__
from steelyard.core.snapshot import ServiceWindow
from steelyard.core.types import Request, Service
from steelyard.metrics.app import PagesApp
from steelyard.metrics.exporter import CONTENT_TYPE, Exporter, ServiceMetrics
from steelyard.serve.base import End
from steelyard.serve.statistics import BatchSums, ServiceStatistics, add_batches

STATUS_PATH = "/v2/steelyard/status"


class Account:
    """Hears of every request's end and of every change of a replica.

    Attributes:
        app: the ASGI application of the metrics port.
        queue_rows: by service, told by each sensing window.
        front_ends: tells of those in processes of their own.
        on_batch: to be told (service, batch) when a batch starts.
        on_status: to be told (service, status, count) when HTTP answers were sent.
    """

    def __init__(self, services: Mapping[str, Service], *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_s = clock()
        slo_s = {name: service.slo_s for name, service in services.items()}
        self._exporter = Exporter(slo_s, version=__version__, now_s=self._started_s)
        self.queue_rows = dict.fromkeys(services, 0)
        self._batches: dict[str, dict[int, BatchSums]] = {name: {} for name in services}
        self.front_ends: Callable[[], list[dict[str, Any]]] = list
        self.on_batch = self._exporter.observe_batch
        self.on_status = self._exporter.observe_http
        self.app = PagesApp(
            {
                "/metrics": (CONTENT_TYPE, lambda: self._exporter.render(now_s=self._clock())),
                STATUS_PATH: ("application/json", lambda: msgspec.json.encode(self.status())),
            }
        )

    def on_end(self, request: Request, end: End) -> None:
        """A request has ended."""
        self._exporter.observe_end(request.service, request, end, now_s=self._clock())

    def on_window(self, window: ServiceWindow) -> None:
        """A sensing window has ended."""
        self.queue_rows[window.service] = sum(stage.queue_rows for stage in window.stages)
        add_batches(self._batches[window.service], window.busy)

    def statistics(self, service: str) -> ServiceStatistics:
        """What the protocol tells of a service's requests so far."""
        metrics = self._exporter.services[service]
        counts = metrics.summary.counts
        return ServiceStatistics(
            completed=counts.completed,
            rows=metrics.rows_answered,
            refused=counts.rejected + counts.shed + counts.failed,
            latency_s=metrics.latency.sum_s,
            queue_s=metrics.queueing.sum_s,
            service_s=metrics.service_time.sum_s,
            refused_s=metrics.refused_s,
            last_end_s=metrics.answered_s,
            batches=self._batches[service],
        )

    def on_replica(self, service: str, replica_id: int, state: str, cores: float) -> None:
        """A replica has this state and these reserved cores from now on."""
        self._exporter.set_replica(service, replica_id, state, cores, now_s=self._clock())

    def status(self) -> dict[str, Any]:
        """Replicas, cores, core-seconds, counters and the last seconds' rate and latency, by service."""
        now_s = self._clock()
        return {
            "now_s": now_s,
            "uptime_s": now_s - self._started_s,
            "front_ends": self.front_ends(),
            "services": {
                name: self._service(name, metrics, now_s) for name, metrics in self._exporter.services.items()
            },
        }

    def _service(self, name: str, metrics: ServiceMetrics, now_s: float) -> dict[str, Any]:
        view = metrics.summary.view(now_s=now_s)
        replicas = [
            {"id": replica_id, "state": state, "cores": cores}
            for replica_id, (state, cores) in sorted(metrics.replicas.items())
        ]
        return {
            "slo_ms": metrics.slo_s * 1e3,
            "replicas": replicas,
            "cores": metrics.core_seconds.cores,
            "core_seconds": metrics.core_seconds.total(now_s=now_s),
            "counters": metrics.summary.counts.as_dict(),
            "cold_starts": metrics.cold_starts,
            "resizes": metrics.resizes,
            "switches": metrics.switches,
            "accuracy_mean": metrics.summary.accuracy.mean,
            "answers": dict(metrics.answers),
            "queue_rows": self.queue_rows[name],
            "rate_rps": view.rate_rps,
            "p50_ms": None if view.p50_s is None else view.p50_s * 1e3,
            "p99_ms": None if view.p99_s is None else view.p99_s * 1e3,
            "accuracy": view.accuracy,
        }
