"""One table of metrics: the page, the table and what the exporter serves are the same."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from steelyard.core.commands import Complete, Discard, Fail, Reject, RunBatch, Shed
from steelyard.core.types import Request, RequestId
from steelyard.metrics import names
from steelyard.metrics.app import PagesApp
from steelyard.metrics.exporter import CONTENT_TYPE, NOTED_MAX, Exporter
from steelyard.testing.http import ask_app

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
ID = RequestId(0, 1)
ENDS = (
    Complete(ID, "small", queue_s=0.002, service_s=0.04, late=False, answers={}, accuracy=0.97),
    Complete(ID, "small", queue_s=0.2, service_s=0.04, late=True, answers={}, accuracy=0.91),
    Shed(ID, "early"),
    Reject(ID, "queue_full", 0.5),
    Fail(ID, "worker_lost", "gone"),
    Discard(ID),
)


def exporter() -> Exporter:
    """All ends of `ocr` once, each of a request of 2 rows that arrived 0.25 s before."""
    made = Exporter({"ocr": 0.4, "asr": 1.0}, version="9.9", now_s=100.0, process=False)
    request = Request(ID, "ocr", 2, "k", arrived_s=109.75, deadline_s=110.15)
    for end in ENDS:
        made.observe_end("ocr", request, end, now_s=110.0)
    made.observe_http("ocr", 200)
    made.observe_http("ocr", 503)
    made.set_replica("ocr", 1, "starting", 1.0, now_s=100.0)
    made.set_replica("ocr", 1, "ready", 1.0, now_s=102.0)
    made.set_replica("ocr", 2, "ready", 2.0, now_s=104.0)
    made.set_replica("ocr", 2, "parked", 0.0, now_s=106.0)
    made.set_replica("ocr", 1, "gone", 0.0, now_s=108.0)
    return made


def samples(made: Exporter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = made.render(now_s=110.0).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(made: Exporter, name: str, **labels: Any) -> float:
    return samples(made)[name, tuple(sorted(labels.items()))]


def test_the_page_the_table_and_the_exporter_agree() -> None:
    rows = re.findall(
        r"^\| `(steelyard_\w+)` \| (\w+) \| (\S+) \| (.*?) \| (.*) \|$", DOCS.read_text(), re.MULTILINE
    )
    documented = {
        name: (kind, unit, tuple(re.findall(r"`(\w+)`", labels)), text)
        for name, kind, unit, labels, text in rows
    }
    assert documented == {m.name: (m.kind, m.unit, m.labels, m.help) for m in names.METRICS}
    text = exporter().render(now_s=110.0).decode()
    served: dict[str, tuple[str, str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        served[name] = (family.type, family.documentation, labels)
    assert served == {m.name: (m.kind, m.help, set(m.labels)) for m in names.METRICS}


def test_ends_are_counted_exactly() -> None:
    made = exporter()
    outcomes = {
        outcome: value(made, "steelyard_requests_total", service="ocr", outcome=outcome)
        for outcome in ("completed", "shed", "rejected", "failed", "cancelled")
    }
    assert outcomes == {"completed": 2, "shed": 1, "rejected": 1, "failed": 1, "cancelled": 1}
    assert value(made, "steelyard_late_total", service="ocr") == 1
    # 1 late + 1 shed + 1 rejected + 1 failed
    assert value(made, "steelyard_violations_total", service="ocr") == 4
    assert value(made, "steelyard_rows_total", service="ocr") == 12
    assert value(made, "steelyard_answers_total", service="ocr", variant="small") == 2
    assert value(made, "steelyard_refused_total", service="ocr", outcome="failed", reason="worker_lost") == 1
    assert value(made, "steelyard_http_responses_total", service="ocr", code="503") == 1
    assert value(made, "steelyard_requests_total", service="asr", outcome="completed") == 0


def test_times_are_in_histograms() -> None:
    made = exporter()
    # two completed requests took 0.25 s each; they waited 2 and 200 ms
    assert value(made, "steelyard_latency_seconds_sum", service="ocr") == 0.5
    assert value(made, "steelyard_latency_seconds_bucket", service="ocr", le="0.1") == 0
    assert value(made, "steelyard_latency_seconds_bucket", service="ocr", le="0.25") == 2
    assert value(made, "steelyard_queueing_seconds_bucket", service="ocr", le="0.0025") == 1
    assert value(made, "steelyard_queueing_seconds_bucket", service="ocr", le="+Inf") == 2
    assert value(made, "steelyard_service_time_seconds_count", service="ocr") == 2


def test_cores_are_reserved_from_start_to_end() -> None:
    made = exporter()
    # 100-104: 1 core; 104-106: 3; 106-108: 1; then the parked replica alone, without cores: 4 + 6 + 2
    assert value(made, "steelyard_core_seconds_total", service="ocr") == 12
    assert value(made, "steelyard_cores", service="ocr") == 0
    states = {
        state: value(made, "steelyard_replicas", service="ocr", state=state)
        for state in ("starting", "ready", "parked", "draining")
    }
    assert states == {"starting": 0, "ready": 0, "parked": 1, "draining": 0}
    # Two replicas appeared; the second went from 2 cores to none; an end is not a resize.
    assert value(made, "steelyard_cold_starts_total", service="ocr") == 2
    assert value(made, "steelyard_resizes_total", service="ocr") == 1


def test_the_live_view_reads_the_same_sums() -> None:
    view = exporter().services["ocr"].summary.view(now_s=110.0)
    assert (view.count, view.violations, view.max_s) == (6, 4, 0.25)


def test_the_port_serves_metrics_and_says_what_else_is_wrong() -> None:
    made = exporter()
    app = PagesApp({"/metrics": (CONTENT_TYPE, lambda: made.render(now_s=110.0))})
    answer = ask_app(app, "GET", "/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    assert b'steelyard_build_info{version="9.9"} 1.0' in answer.body
    assert ask_app(app, "GET", "/").body == b"there is: /metrics\n"
    wrong = ask_app(app, "POST", "/metrics")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET")


def test_a_scrape_reads_each_service_once() -> None:
    class Read(Counter[int]):
        times = 0

        def items(self) -> Any:
            self.times += 1
            return super().items()

    made = exporter()
    read = made.services["ocr"].http = Read()
    made.render(now_s=110.0)
    assert read.times == 1


def test_cpu_and_memory_of_the_process_are_there_unless_not_wanted() -> None:
    with_process = Exporter({}, version="1", now_s=0.0)
    assert b"process_cpu_seconds_total" in with_process.render(now_s=1.0)
    assert b"process_" not in exporter().render(now_s=110.0)


def test_accuracy_is_a_histogram_of_completed_requests() -> None:
    made = exporter()
    # 0.97 and 0.91; others were not answered
    assert value(made, "steelyard_accuracy_count", service="ocr") == 2
    assert value(made, "steelyard_accuracy_sum", service="ocr") == pytest.approx(1.88)
    assert value(made, "steelyard_accuracy_bucket", service="ocr", le="0.925") == 1
    assert made.services["ocr"].summary.accuracy.mean == pytest.approx(0.94)
    assert made.services["ocr"].summary.view(now_s=110.0).accuracy == pytest.approx(0.94)


def test_a_switch_is_a_batch_on_another_variant_than_the_one_before_on_its_replica() -> None:
    made = exporter()
    for replica_id, variant in ((1, "base"), (2, "tiny"), (1, "base"), (1, "tiny"), (1, "base"), (2, "tiny")):
        made.observe_batch("ocr", RunBatch(1, replica_id, "read", variant, 1, (), 0.01))
    assert value(made, "steelyard_switches_total", service="ocr") == 2
    made.set_replica("ocr", 1, "gone", 0.0, now_s=110.0)
    made.observe_batch("ocr", RunBatch(1, 1, "read", "tiny", 1, (), 0.01))  # of another replica
    assert value(made, "steelyard_switches_total", service="ocr") == 2


def test_what_was_answered_is_counted_whenever_somebody_looks() -> None:
    made = Exporter({"ocr": 0.4}, version="1", now_s=0.0, process=False)
    for index in range(2 * NOTED_MAX + 7):  # 519 answers in 5.19 s, and one shed in between
        now_s = index / 100
        end = Complete(ID, "small", queue_s=0.0, service_s=0.001, late=index % 3 == 0, answers={})
        request = Request(ID, "ocr", 2, "k", arrived_s=now_s - 0.25, deadline_s=now_s)
        made.observe_end("ocr", request, end, now_s=now_s)
        if index == 450:
            made.observe_end("ocr", request, Shed(ID, "early"), now_s=now_s)
    found = made.services["ocr"]
    # every third is late, the first one included: 519 / 3 = 173; rows: 2 each
    assert found.summary.counts.as_dict() == {
        "requests": 520, "completed": 519, "late": 173, "shed": 1, "rejected": 0, "failed": 0,
        "cancelled": 0, "violations": 174,
    }  # fmt: skip
    assert found.summary.counts.rows == 2 * 520
    assert sum(found.latency.counts) == found.summary.latency.count == found.answers["small"] == 519
    assert found.latency.sum_s == pytest.approx(519 * 0.25)
    # 10 s after the third second began, what ended before has left the window: 200 of the answers
    view = found.summary.view(now_s=11.5)
    assert view.count == 520 - 200
