"""Violations against cost: a mark a run, and where settings are swept a line through them.

Down and to the left is better. The axis of violations is logarithmic where they span more than a factor of
twenty, since a policy with 0.01 % and one with 0.1 % differ as much as one with 1 % and one with 10 %; no
violation at all has no logarithm and is drawn at half of one, at the foot of the chart, marked 0.
"""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any, NamedTuple

from steelyard.report.labels import Box, sides
from steelyard.report.palette import Style

_LOG_OVER = 20
_FEW_DECADES = 2.2
_NAMED_MAX = 6
"""Marks that carry their name; more of them run into each other, and the legend names them."""
_CHART = Box(0.0, 0.0, 640.0, 268.0)
"""Its marks' part of the page, about: wider on wide screens, where names have more room."""
_BEYOND = 0.15
"""Decades that a logarithmic axis goes on at either end."""


class SweepPoint(NamedTuple):
    """What one setting of a policy came to, over all its runs.

    Attributes:
        label: the policy; points of one label are joined.
        setting: of the knob, empty where there is none.
        requests: of which `violation_ratio` is a share.
        core_seconds: reserved.
    """

    label: str
    setting: str
    requests: int
    violation_ratio: float
    core_seconds: float


def cost_curves(points: Sequence[SweepPoint], style: Mapping[str, Style]) -> dict[str, Any]:
    """One figure; points of a label are joined in order of cost if they are of several settings."""
    logarithmic = _spans(points)
    by_label: dict[str, list[SweepPoint]] = {}
    for point in points:
        by_label.setdefault(point.label, []).append(point)
    traces = [
        _curve(label, sorted(own, key=lambda point: point.core_seconds), style[label], index, logarithmic)
        for index, (label, own) in enumerate(by_label.items())
    ]
    named = len(by_label) <= _NAMED_MAX
    if named:
        _name(traces, points, logarithmic)
    layout: dict[str, Any] = {
        "height": 340 if named else 500,
        "margin": {"l": 62, "r": 24, "t": 28, "b": 44},
        "showlegend": not named,
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom"},
        "xaxis": {
            "title": {"text": "core-seconds reserved", "font": {"size": 13}},
            "fixedrange": True,
            "tickformat": ",~g",
        },
        "yaxis": {"title": {"text": "violations, %", "font": {"size": 13}}, "fixedrange": True},
    }
    layout["xaxis"] |= {"rangemode": "tozero"} if named else {}
    layout["yaxis"] |= _decades(points) if logarithmic else {"rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def _curve(
    label: str, own: Sequence[SweepPoint], style: Style, index: int, logarithmic: bool
) -> dict[str, Any]:
    swept = len({point.setting for point in own}) > 1
    shown = label.replace("&", "&amp;").replace("<", "&lt;")
    hover = [
        f"{point.violation_ratio:.3%} violations<br>{point.core_seconds:,.1f} core-seconds"
        + (f"<br>{point.setting}" if point.setting else "")
        for point in own
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers" if swept else "markers",
        "name": shown,
        "legendrank": index,
        "x": [point.core_seconds for point in own],
        "y": [_percent(point, logarithmic) for point in own],
        "customdata": hover,
        "cliponaxis": False,
        "line": {"color": style.colour, "width": 2, "dash": style.dash},
        "marker": {
            "color": style.colour,
            "symbol": style.mark,
            "size": 8 if swept else 13,
            "line": {"width": 2 if style.mark.endswith("open") else 0, "color": style.colour},
        },
        "hovertemplate": "%{customdata}<extra>" + shown + "</extra>",
    }


def _name(traces: Sequence[dict[str, Any]], points: Sequence[SweepPoint], logarithmic: bool) -> None:
    """Write a trace's name beside its first mark, where it covers nothing."""
    texts = [[trace["name"], *[""] * (len(trace["x"]) - 1)] for trace in traces]
    most_x = 1.06 * max(max(trace["x"]) for trace in traces) or 1.0
    heights = [_percent(point, logarithmic) for point in points]
    low, high = (log10(min(heights)), log10(max(heights))) if logarithmic else (0.0, 1.06 * max(heights))
    if logarithmic:
        low, high = low - _BEYOND, high + _BEYOND

    def place(x: float, y: float) -> tuple[float, float]:
        along = ((log10(y) if logarithmic else y) - low) / ((high - low) or 1.0)
        return x / most_x * _CHART.width, along * _CHART.height

    places = [place(x, y) for trace in traces for x, y in zip(trace["x"], trace["y"], strict=True)]
    chosen = iter(sides([text for of_trace in texts for text in of_trace], places, _CHART))
    for trace, of_trace in zip(traces, texts, strict=True):
        trace["mode"] += "+text"
        trace["text"] = of_trace
        trace["textposition"] = [next(chosen) for _ in of_trace]


def _percent(point: SweepPoint, logarithmic: bool) -> float:
    """In percent; on a logarithmic axis half a violation where there is none."""
    if logarithmic and point.violation_ratio == 0:
        return 50 / max(point.requests, 1)
    return 100 * point.violation_ratio


def _spans(points: Sequence[SweepPoint]) -> bool:
    """Whether the violations span more than an axis in percent shows."""
    found = [_percent(point, True) for point in points]
    return bool(found) and max(found) > _LOG_OVER * min(found) and any(p.violation_ratio for p in points)


def _decades(points: Sequence[SweepPoint]) -> dict[str, Any]:
    """A logarithmic axis marked at powers of ten in percent; where they are few, at 2 and 5 times too."""
    found = [_percent(point, True) for point in points]
    low, high = log10(min(found)), log10(max(found))
    steps = (1, 2, 5) if high - low < _FEW_DECADES else (1,)
    marks = [step * 10.0**exponent for exponent in range(floor(low), floor(high) + 2) for step in steps]
    named = {mark: f"{mark:g}" for mark in marks}
    if any(point.violation_ratio == 0 for point in points):
        named = {min(found): "0", **{mark: text for mark, text in named.items() if mark > 1.5 * min(found)}}
    return {
        "type": "log",
        "range": [low - _BEYOND, high + _BEYOND],
        "tickvals": list(named),
        "ticktext": list(named.values()),
    }
