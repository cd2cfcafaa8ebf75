"""The page as text: what it says, that it loads nothing, and that no label can break out of it."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.metrics.runs import RunSeries, RunSummary
from steelyard.report.curves import SweepPoint
from steelyard.report.html import render, render_sweep


def run_of(label: str, *, seed: int = 1, violations: int = 4, service: str = "lines") -> RunSeries:
    """Three seconds: 10 + 20 + 10 requests, of which 4 violate the SLO of 100 ms."""
    summary = RunSummary(
        policy=label,
        service=service,
        seed=seed,
        requests=40,
        completed=38,
        late=2,
        shed=1,
        rejected=1,
        failed=0,
        cancelled=0,
        violations=violations,
        violation_ratio=violations / 40,
        core_seconds=4.5,
        accuracy_mean=0.975,
        latency_ms={"p50": 40.0, "p90": 80.0, "p99": 120.0, "max": 130.0},
        cold_starts=1,
    )
    return RunSeries(
        label=label,
        slo_ms=100.0,
        summary=summary,
        rate_rps=[10.0, 20.0, 10.0],
        p50_ms=[40.0, 45.0, None],
        p99_ms=[60.0, 120.0, None],
        violations=[0, 4, 0],
        cores=[1.0, 2.0, 1.5],
        replicas=[1, 2, 2],
    )


def figures(page: str) -> dict[str, Any]:
    data = re.findall(r'<script id="figures" type="application/json">(.*?)</script>', page, re.DOTALL)[0]
    found: dict[str, Any] = json.loads(data)
    return found


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
    drawn = figures(page)["trade"]["data"][0]["name"]
    assert drawn == "&lt;/script>&lt;script>alert(1)&lt;/script>"  # Plotly reads tags, but not these


def test_seeds_of_one_label_are_one_run_on_the_page() -> None:
    page = render([run_of("a", seed=1), run_of("b"), run_of("a", seed=2, violations=8)], title="", notes=[])
    # 4 + 8 of 40 + 40 requests; the spread over seeds has a column of its own.
    assert Page(page).cells[:4] == ["80", "12", "15.00%", "10.00% – 20.00%"]
    assert "mean of 2 seeds" in page
    assert len([t for t in figures(page)["time"]["data"] if t["name"] == "a"]) == 4
    assert len(figures(page)["trade"]["data"][0]["x"]) == 2


def test_many_runs_stand_side_by_side_and_wait_in_the_legend() -> None:
    runs = [run_of(f"policy {number}") for number in range(12)]
    page = render(runs, title="", notes=[])
    latency = [trace for trace in figures(page)["time"]["data"] if trace["yaxis"] == "y2"]
    assert sum(trace["visible"] is True for trace in latency) == 6
    assert len(figures(page)["panels"]["layout"]["annotations"]) == 12
    assert figures(page)["trade"]["layout"]["showlegend"]
    assert 'class="card"' not in page


def test_each_service_has_its_own_charts() -> None:
    runs = [run_of("a", service="ocr"), run_of("a", service="video")]
    page = render(runs, title="", notes=[])
    assert set(figures(page)) == {"time", "time-2", "trade"}
    assert "<h3>video</h3>" in page
    assert "ocr: a" in Page(page).text


def test_a_sweep_has_a_chart_a_heading() -> None:
    points = [SweepPoint("steelyard", "target 0.1 %", 1000, 0.001, 90.0)]
    page = render_sweep({"video": points, "nlp": points, "none": []}, title="Sweep", notes=["n"])
    assert set(figures(page)) == {"trade", "trade-2"}
    assert Page(page).fetched == []


def test_a_report_needs_a_run() -> None:
    with pytest.raises(SteelyardError, match="at least one run"):
        render([], title="", notes=[])
    with pytest.raises(SteelyardError, match="at least one point"):
        render_sweep({"video": []}, title="", notes=[])
