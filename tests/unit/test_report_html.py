"""The page as text: what it says, that it loads nothing, and that no label can break out of it."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.metrics.runs import RunSeries, RunSummary
from steelyard.report.charts import over_time, trade_off
from steelyard.report.html import render


def run_of(label: str, **changes: Any) -> RunSeries:
    """Three seconds: 10 + 20 + 10 requests, of which 4 violate the SLO of 100 ms."""
    summary = RunSummary(
        policy=label,
        service="lines",
        seed=1,
        requests=40,
        completed=38,
        late=2,
        shed=1,
        rejected=1,
        failed=0,
        cancelled=0,
        violations=4,
        violation_ratio=0.1,
        core_seconds=4.5,
        accuracy_mean=0.975,
        latency_ms={"p50": 40.0, "p90": 80.0, "p99": 120.0, "max": 130.0},
        cold_starts=1,
    )
    series: dict[str, Any] = {
        "label": label,
        "slo_ms": 100.0,
        "summary": summary,
        "rate_rps": [10.0, 20.0, 10.0],
        "p50_ms": [40.0, 45.0, None],
        "p99_ms": [60.0, 120.0, None],
        "violations": [0, 4, 0],
        "cores": [1.0, 2.0, 1.5],
        "replicas": [1, 2, 2],
    }
    return RunSeries(**(series | changes))


class Page(HTMLParser):
    """Everything a browser would fetch, the table's cells, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self._tag = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "data", "poster")]
        if tag in ("link", "iframe", "img", "object"):
            self.fetched.append(tag)

    def handle_data(self, data: str) -> None:
        if self._tag in ("style", "script"):
            return
        self.text += data
        if self._tag == "td":
            self.cells.append(data)


def test_the_page_shows_every_number_of_a_run() -> None:
    page = Page(render([run_of("steelyard"), run_of("fixed 1 core")], title="Surge", notes=["seed 1"]))
    assert page.cells[:10] == ["40", "4", "10.00%", "2", "40", "120", "4.5", "97.5%", "1", "–"]
    for text in ("Surge", "steelyard", "fixed 1 core", "seed 1", "How it was measured"):
        assert text in page.text


def test_the_page_loads_nothing() -> None:
    page = render([run_of("steelyard")], title="Surge", notes=[])
    assert Page(page).fetched == []
    own = page.replace(re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0], "")
    assert "http" not in own.replace("http-equiv", "")
    assert "@import" not in page.partition("</style>")[0]
    assert "url(" not in page.partition("</style>")[0]


def test_labels_cannot_break_out() -> None:
    evil = "</script><script>alert(1)</script>"
    page = render([run_of(evil)], title=evil, notes=[evil])
    assert evil not in page
    data = re.findall(r'<script id="figures" type="application/json">(.*?)</script>', page, re.DOTALL)[0]
    assert json.loads(data)["trade"]["data"][0]["name"] == evil


def test_rows_over_time_share_the_axis_and_show_the_slo() -> None:
    figure = over_time([run_of("a"), run_of("b")])
    # Arrivals once, and four rows for each of the two runs.
    assert len(figure["data"]) == 1 + 4 * 2
    assert [shape["y0"] for shape in figure["layout"]["shapes"]] == [100.0]
    assert figure["layout"]["xaxis5"]["matches"] == "x"
    latency = [trace for trace in figure["data"] if trace["yaxis"] == "y2"]
    assert latency[0]["y"] == [60.0, 120.0, None]
    # The first run is drawn last, on top, and comes first in the legend.
    assert [trace["name"] for trace in latency] == ["b", "a"]
    assert [trace["legendrank"] for trace in latency] == [1, 0]


def test_latency_far_beyond_the_slo_gets_a_logarithmic_axis() -> None:
    assert "type" not in over_time([run_of("a")])["layout"]["yaxis2"]
    # 2000 ms is more than ten times the SLO of 100 ms; 10 ** 2 = 100 places the SLO's name.
    layout = over_time([run_of("a", p99_ms=[60.0, 2000.0, None])])["layout"]
    assert layout["yaxis2"]["type"] == "log"
    assert layout["annotations"][-1]["y"] == pytest.approx(2)


def test_runs_of_one_label_share_a_colour_and_one_name() -> None:
    marks = trade_off([run_of("a"), run_of("b"), run_of("a")])["data"]
    assert [(mark["name"], len(mark["x"]), mark["text"][0]) for mark in marks] == [
        ("a", 2, "a"),
        ("b", 1, "b"),
    ]


def test_a_report_needs_a_run() -> None:
    with pytest.raises(SteelyardError, match="at least one run"):
        render([], title="", notes=[])
