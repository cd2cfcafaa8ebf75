"""The figures as data: courses over seeds and steps, rows and panels over time, curves of cost."""

from itertools import pairwise
from math import log10
from typing import Any

import pytest

from steelyard.metrics.runs import RunSeries, RunSummary
from steelyard.report import courses as module
from steelyard.report.charts import over_time, panels
from steelyard.report.courses import courses
from steelyard.report.curves import SweepPoint, cost_curves
from steelyard.report.palette import COLOURS, styles


def run_of(label: str, **changes: Any) -> RunSeries:
    """Three seconds; the third without a completed request."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("requests", "completed", "late", "shed", "rejected", "failed", "cancelled", "violations"), 0
    )
    summary = RunSummary(
        policy=label,
        service="lines",
        seed=1,
        violation_ratio=0.0,
        core_seconds=4.5,
        accuracy_mean=None,
        latency_ms={},
        **nothing,
    )
    series: dict[str, Any] = {
        "rate_rps": [10.0, 20.0, 10.0],
        "p50_ms": [40.0, 45.0, None],
        "p99_ms": [60.0, 120.0, None],
        "violations": [0, 4, 0],
        "cores": [1.0, 2.0, 1.5],
        "replicas": [1, 2, 2],
    }
    return RunSeries(label=label, slo_ms=100.0, summary=summary, **(series | changes))


def drawn(*runs: RunSeries) -> dict[str, Any]:
    return over_time(courses(runs), styles(run.label for run in runs))


def test_seeds_are_drawn_as_their_mean() -> None:
    course = courses([run_of("a"), run_of("a", cores=[3.0, 2.0, 2.5], p99_ms=[80.0, None, None])])[0]
    assert course.seeds == 2
    assert course.cores == [2.0, 2.0, 2.0]
    # The second of the two knows nothing of second 1, so the first one's stands; nobody knows second 2.
    assert course.p99_ms == [70.0, 120.0, None]


def test_long_traces_are_drawn_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS_MAX", 2)
    course = courses([run_of("a")])[0]
    assert course.step_s == 2
    # Seconds 0-1 and 2: the mean of the rates, the worst of the latencies.
    assert course.rate_rps == [15.0, 10.0]
    assert course.p99_ms == [120.0, None]


def test_rows_over_time_share_the_axis_and_show_the_slo() -> None:
    figure = drawn(run_of("a"), run_of("b"))
    # Arrivals once, and four rows for each of the two runs.
    assert len(figure["data"]) == 1 + 4 * 2
    assert [shape["y0"] for shape in figure["layout"]["shapes"]] == [100.0]
    assert figure["layout"]["xaxis5"]["matches"] == "x"
    latency = [trace for trace in figure["data"] if trace["yaxis"] == "y2"]
    assert latency[0]["y"] == [60.0, 120.0, None]
    # The first run is drawn last, on top, and comes first in the legend.
    assert [trace["name"] for trace in latency] == ["b", "a"]
    assert [trace["legendrank"] for trace in latency] == [1, 0]


def test_accuracy_has_a_row_where_it_is_not_always_the_same() -> None:
    known = run_of("a", accuracy=[0.9, 0.8, None])
    figure = drawn(known, run_of("b"))
    # Arrivals, four rows of each run, and the accuracy of the one of which it is known.
    assert len(figure["data"]) == 1 + 4 * 2 + 1
    (row,) = (trace for trace in figure["data"] if trace["yaxis"] == "y6")
    assert (row["name"], row["y"]) == ("a", [0.9, 0.8, None])
    assert figure["layout"]["xaxis6"]["title"]["text"] == "seconds"
    assert figure["layout"]["height"] > drawn(run_of("b"))["layout"]["height"]
    assert "yaxis6" not in drawn(run_of("a", accuracy=[0.9, 0.9, None]))["layout"]


def test_latency_far_beyond_the_slo_gets_a_logarithmic_axis() -> None:
    assert "type" not in drawn(run_of("a"))["layout"]["yaxis2"]
    # 2000 ms is more than ten times the SLO of 100 ms; 10 ** 2 = 100 places the SLO's name.
    layout = drawn(run_of("a", p99_ms=[60.0, 2000.0, None]))["layout"]
    assert layout["yaxis2"]["type"] == "log"
    assert layout["annotations"][-1]["y"] == pytest.approx(2)


def test_panels_share_one_scale_and_do_not_overlap() -> None:
    runs = [run_of(f"p{number}") for number in range(8)]
    layout = panels(courses(runs), styles(run.label for run in runs), {"p0": "0.10%"})["layout"]
    # Three columns, so three rows; each panel has an axis of cores and one of violations.
    cores = [layout[f"yaxis{2 * index + 1}"] for index in range(8)]
    assert {tuple(axis["range"]) for axis in cores} == {(0, 1.2 * 2)}
    tops = [axis["domain"] for axis in cores[::3]]
    assert all(lower[1] < upper[0] for upper, lower in pairwise(tops))
    assert all(0 <= low < high <= 1 for low, high in (axis["domain"] for axis in cores))
    assert layout["annotations"][0]["text"] == "<b>p0</b><br>0.10%"


def test_both_forms_of_a_policy_share_a_colour_and_differ_in_dash_and_mark() -> None:
    style = styles(["steelyard", "themis", "themis+ours"])
    assert style["themis"].colour == style["themis+ours"].colour != style["steelyard"].colour
    assert style["themis"].dash != style["themis+ours"].dash
    assert style["themis+ours"].mark == f"{style['themis'].mark}-open"
    assert len(set(COLOURS)) == len(COLOURS)


def curve_of(*points: tuple[str, str, float, float]) -> dict[str, Any]:
    made = [SweepPoint(label, setting, 1000, ratio, cost) for label, setting, ratio, cost in points]
    return cost_curves(made, styles(point.label for point in made))


def test_settings_of_one_knob_are_joined_in_order_of_cost() -> None:
    data = curve_of(("s", "0.01", 0.01, 90.0), ("s", "0.1", 0.1, 70.0), ("p", "", 0.05, 80.0))["data"]
    assert data[0]["x"] == [70.0, 90.0]
    assert "lines" in data[0]["mode"]
    assert "lines" not in data[1]["mode"]


def test_violations_of_several_magnitudes_get_a_logarithmic_axis() -> None:
    assert "type" not in curve_of(("a", "", 0.10, 1.0), ("b", "", 0.11, 1.0))["layout"]["yaxis"]
    figure = curve_of(("a", "", 0.10, 1.0), ("b", "", 0.0, 2.0))
    assert figure["layout"]["yaxis"]["type"] == "log"
    # None of 1000 requests is drawn at half of one: 0.05 %; the axis begins below that.
    assert figure["data"][1]["y"] == [0.05]
    assert figure["layout"]["yaxis"]["range"][0] < log10(0.05)
    assert (figure["layout"]["yaxis"]["tickvals"][0], figure["layout"]["yaxis"]["ticktext"][0]) == (0.05, "0")
    assert figure["data"][1]["customdata"][0].startswith("0.000% violations")


def test_runs_without_violations_need_no_logarithm() -> None:
    assert "type" not in curve_of(("a", "", 0.0, 1.0), ("b", "", 0.0, 2.0))["layout"]["yaxis"]
