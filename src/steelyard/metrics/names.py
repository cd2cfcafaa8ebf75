"""Every metric: name, kind, unit, labels and meaning, in one table.

The rule of this file: a metric exists if and only if it has a row here, and a row in docs/metrics.md; a test
compares this table, that page and what the exporter serves. Names follow Prometheus: base units, `_total` for
counters, `steelyard_` in front.
"""

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """One row; `unit` is what one step of the value means."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str


REQUESTS = Metric(
    "steelyard_requests_total",
    "counter",
    "requests",
    ("service", "outcome"),
    "Requests by how they ended: completed, shed, rejected, failed or cancelled; each ends exactly once.",
)
REFUSED = Metric(
    "steelyard_refused_total",
    "counter",
    "requests",
    ("service", "outcome", "reason"),
    "Shed, rejected and failed requests by reason.",
)
LATE = Metric(
    "steelyard_late_total",
    "counter",
    "requests",
    ("service",),
    "Completed requests that missed their deadline.",
)
VIOLATIONS = Metric(
    "steelyard_violations_total",
    "counter",
    "requests",
    ("service",),
    "Requests that did not get what the SLO promises: late, shed, rejected or failed.",
)
ROWS = Metric(
    "steelyard_rows_total",
    "counter",
    "rows",
    ("service",),
    "Rows of ended requests: what capacity and batches count.",
)
ANSWERS = Metric(
    "steelyard_answers_total",
    "counter",
    "requests",
    ("service", "variant"),
    "Completed requests by the variant that answered.",
)
LATENCY = Metric(
    "steelyard_latency_seconds",
    "histogram",
    "seconds",
    ("service",),
    "Latency of completed requests: from arrival to answer.",
)
QUEUEING = Metric(
    "steelyard_queueing_seconds",
    "histogram",
    "seconds",
    ("service",),
    "Queueing delay of completed requests: from arrival to the start of their batch.",
)
SERVICE_TIME = Metric(
    "steelyard_service_time_seconds",
    "histogram",
    "seconds",
    ("service",),
    "Service time of completed requests: how long their batch ran.",
)
HTTP = Metric(
    "steelyard_http_responses_total",
    "counter",
    "requests",
    ("service", "code"),
    "Inference requests by HTTP status code (of gRPC: what HTTP would say); 499 if the client left first.",
)
SLO = Metric(
    "steelyard_slo_seconds", "gauge", "seconds", ("service",), "The service's latency bound, as configured."
)
REPLICAS = Metric(
    "steelyard_replicas",
    "gauge",
    "replicas",
    ("service", "state"),
    "Replicas by state: starting, ready, parked or draining.",
)
CORES = Metric(
    "steelyard_cores", "gauge", "cores", ("service",), "Cores reserved for the service's replicas now."
)
CORE_SECONDS = Metric(
    "steelyard_core_seconds_total",
    "counter",
    "core-seconds",
    ("service",),
    "Cores reserved, over time: the cost, cold starts included.",
)
COLD_STARTS = Metric(
    "steelyard_cold_starts_total", "counter", "replicas", ("service",), "Replicas that were started."
)
RESIZES = Metric(
    "steelyard_resizes_total",
    "counter",
    "resizes",
    ("service",),
    "Changes of a live replica's cores in place, parking and waking included.",
)
SWITCHES = Metric(
    "steelyard_switches_total",
    "counter",
    "batches",
    ("service",),
    "Batches on another variant than the batch before them on the same replica.",
)
ACCURACY = Metric(
    "steelyard_accuracy",
    "histogram",
    "1",
    ("service",),
    "Estimated accuracy of completed requests, where it is known, by the variants that answered.",
)
BUILD = Metric("steelyard_build_info", "gauge", "1", ("version",), "Always 1; the version is the label.")

METRICS = (
    REQUESTS,
    REFUSED,
    LATE,
    VIOLATIONS,
    ROWS,
    ANSWERS,
    LATENCY,
    QUEUEING,
    SERVICE_TIME,
    HTTP,
    SLO,
    REPLICAS,
    CORES,
    CORE_SECONDS,
    COLD_STARTS,
    RESIZES,
    SWITCHES,
    ACCURACY,
    BUILD,
)

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms' buckets, seconds; the live view has finer quantiles of its own."""

BUCKETS_ACCURACY = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0)
"""The same for accuracies."""
