"""Violations against cost: a mark a run, and where settings are swept a line through them.

Down and to the left is better. The axis of violations is logarithmic where they span more than a factor of
twenty, since a policy with 0.01 % and one with 0.1 % differ as much as one with 1 % and one with 10 %; no
violation at all has no logarithm and is drawn at half of one, at the foot of the chart, marked 0.
"""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any, NamedTuple

from steelyard.report.palette import Style

_LOG_OVER = 20
_FEW_DECADES = 2.2
_NAMED_MAX = 6
"""Marks that carry their name; more of them run into each other, and the legend names them."""


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
        | {"textposition": "top center" if len(by_label) <= _NAMED_MAX else "middle right"}
        for index, (label, own) in enumerate(by_label.items())
    ]
    named = len(by_label) <= _NAMED_MAX
    for trace in traces:
        if not named:
            trace["mode"] = trace["mode"].replace("+text", "")
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
        "mode": "lines+markers+text" if swept else "markers+text",
        "name": shown,
        "legendrank": index,
        "x": [point.core_seconds for point in own],
        "y": [_percent(point, logarithmic) for point in own],
        "text": [shown if number == 0 else "" for number in range(len(own))],
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
        "range": [low - 0.15, high + 0.15],
        "tickvals": list(named),
        "ticktext": list(named.values()),
    }
