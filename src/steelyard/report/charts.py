"""The charts over time as plain Plotly figures: data and layout, without the colours of text and ground.

Rows share one time axis: what arrived, how long it took, what was reserved, what went wrong; and how accurate
the answers were, where that is not always the same. The colours of the page follow the reader's light or dark
setting and are set by the page's script; only the runs' own are fixed here. Where there are many runs, the
first few are drawn together and the others wait in the legend; all of them stand side by side in the panels.
"""

from collections.abc import Mapping, Sequence
from math import ceil, log10
from typing import Any

from steelyard.report.courses import Course, Values
from steelyard.report.palette import Style

TOGETHER_MAX = 6
"""Runs that are drawn over each other; more than that nobody can follow."""
_ROWS = (
    ("rate_rps", "Arrivals, requests/s"),
    ("p99_ms", "Latency p99, ms"),
    ("cores", "Cores reserved"),
    ("replicas", "Replicas"),
    ("violations", "Violations, requests/s"),
)
_ACCURACY = ("accuracy", "Accuracy of the answers")
_WHOLE = ("cores", "replicas")
_HEIGHTS = (1.0, 1.3, 1.0, 0.7, 0.8, 0.8)
_ROW_PX = 180
_GAP = 0.055
_LOG_OVER = 10
RED = "#d4483b"
GREY = "#8a8f98"
_COLUMNS, _PANEL_PX, _PANEL_GAP_PX = 3, 118, 46


def over_time(runs: Sequence[Course], style: Mapping[str, Style]) -> dict[str, Any]:
    """One figure of rows over the seconds of the trace; arrivals are the same in every run."""
    traces = [_arrivals(runs[0])]
    rows = (*_ROWS, _ACCURACY) if _varies(runs) else _ROWS
    for index, run in reversed(list(enumerate(runs))):  # the first run is drawn last, on top
        for row, _ in rows[1:]:
            if getattr(run, row):
                traces.append(_line(run, index, row, style[run.label], shown=index < TOGETHER_MAX))
    layout: dict[str, Any] = {
        "height": _ROW_PX * len(rows),
        "margin": {"l": 52, "r": 16, "t": 34, "b": 36},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "x": 0, "y": 1.045, "yanchor": "bottom"},
        "annotations": [],
        "shapes": [],
    }
    for index, (low, high) in enumerate(_domains(len(rows))):
        name, title = rows[index]
        axis, number = _axis(index), "" if index == 0 else str(index + 1)
        layout[f"yaxis{number}"] = {
            "domain": [low, high],
            "rangemode": "tozero",
            "nticks": 5,
            "fixedrange": True,
        }
        layout[f"xaxis{number}"] = {
            "anchor": axis,
            "matches": "x",
            "showticklabels": index == len(rows) - 1,
            "fixedrange": True,
        }
        if name in _WHOLE:
            layout[f"yaxis{number}"] |= {"range": [0, 1.15 * _most(runs, name)], "tickformat": "~g"}
        if name == "accuracy":
            layout[f"yaxis{number}"] |= {"rangemode": "normal", "tickformat": ".0%"}
        layout["annotations"].append(
            {"text": title, "x": 0, "xref": "paper", "y": high, "yref": "paper"}
            | {"xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}
        )
    layout[f"xaxis{len(rows)}"]["title"] = {"text": "seconds", "font": {"size": 13}}
    _bound_latency(runs, layout)
    return {"data": traces, "layout": layout}


def panels(
    runs: Sequence[Course], style: Mapping[str, Style], subtitles: Mapping[str, str]
) -> dict[str, Any]:
    """A panel a run: its cores over those of the first run, and its violations a second in red below."""
    rows = ceil(len(runs) / _COLUMNS)
    height = rows * (_PANEL_PX + _PANEL_GAP_PX)
    layout: dict[str, Any] = {
        "height": height + 30,
        "margin": {"l": 36, "r": 12, "t": 4, "b": 26},
        "showlegend": False,
        "annotations": [],
        "barmode": "overlay",
        "bargap": 0,
    }
    cores_max, lost_max = 1.2 * _most(runs, "cores"), 3.0 * _most(runs, "violations")
    traces: list[dict[str, Any]] = []
    for index, run in enumerate(runs):
        row, column = divmod(index, _COLUMNS)
        left, width = column * (1 + 0.04) / _COLUMNS, (1 - 0.04 * (_COLUMNS - 1)) / _COLUMNS
        top = 1 - (row * (_PANEL_PX + _PANEL_GAP_PX) + _PANEL_GAP_PX) / height
        bottom = max(0.0, top - _PANEL_PX / height)
        x, cores, lost = f"x{index + 1}", f"y{2 * index + 1}", f"y{2 * index + 2}"
        traces += _panel(run, runs[0], style[run.label], (x, cores, lost))
        last = index + _COLUMNS >= len(runs)
        layout[f"xaxis{index + 1}"] = {"domain": [left, min(1.0, left + width)], "anchor": cores}
        layout[f"xaxis{index + 1}"] |= {"fixedrange": True, "showticklabels": last, "nticks": 5}
        layout[f"yaxis{2 * index + 1}"] = {"domain": [bottom, top], "anchor": x, "range": [0, cores_max]}
        layout[f"yaxis{2 * index + 1}"] |= {"fixedrange": True, "nticks": 4, "showticklabels": column == 0}
        layout[f"yaxis{2 * index + 2}"] = {"overlaying": cores, "anchor": x, "range": [0, lost_max]}
        layout[f"yaxis{2 * index + 2}"] |= {"visible": False, "fixedrange": True}
        text = f"<b>{_plain(run.label)}</b><br>{_plain(subtitles.get(run.label, ''))}"
        layout["annotations"].append(
            {"text": text, "x": left, "xref": "paper", "y": top, "yref": "paper", "align": "left"}
            | {"xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 12}}
        )
    return {"data": traces, "layout": layout}


def _panel(run: Course, first: Course, style: Style, axes: tuple[str, str, str]) -> list[dict[str, Any]]:
    x, cores, lost = axes
    line: dict[str, Any] = {"type": "scatter", "mode": "lines", "x0": 0, "hoverinfo": "skip"}
    line |= {"xaxis": x, "yaxis": cores}
    return [
        {"type": "bar", "x0": 0, "dx": run.step_s, "y": run.violations, "xaxis": x, "yaxis": lost}
        | {"marker": {"color": RED, "line": {"width": 0}}, "width": run.step_s, "name": run.label}
        | {"hovertemplate": "%{x} s: %{y:.3~g} violations/s<extra></extra>"},
        line
        | {"dx": first.step_s, "y": first.cores, "name": first.label}
        | {"line": {"color": GREY, "width": 1, "shape": "hv"}, "opacity": 0.7},
        line
        | {"dx": run.step_s, "y": run.cores, "name": run.label}
        | {"line": {"color": style.colour, "width": 1.8, "shape": "hv"}},
    ]


def _arrivals(run: Course) -> dict[str, Any]:
    return _row_of(run, "rate_rps", run.rate_rps, "arrivals") | {
        "line": {"color": GREY, "width": 2, "shape": "linear", "dash": "solid"},
        "fill": "tozeroy",
        "fillcolor": "rgba(138,143,152,0.18)",
        "showlegend": False,
    }


def _varies(runs: Sequence[Course]) -> bool:
    """Whether accuracy is known, and not always the same."""
    return len({value for run in runs for value in run.accuracy if value is not None}) > 1


def _line(run: Course, index: int, row: str, style: Style, *, shown: bool) -> dict[str, Any]:
    return _row_of(run, row, getattr(run, row), _plain(run.label)) | {
        "legendgroup": run.label,
        "showlegend": row == "p99_ms",
        "legendrank": index,
        "connectgaps": False,
        "visible": True if shown else "legendonly",
        "line": {
            "color": style.colour,
            "width": 2.5 if index == 0 else 2,
            "shape": "linear" if row == "p99_ms" else "hv",
            "dash": style.dash,
        },
    }


def _row_of(run: Course, row: str, values: Values, name: str) -> dict[str, Any]:
    axis = _axis([key for key, _ in (*_ROWS, _ACCURACY)].index(row))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x0": 0,
        "dx": run.step_s,
        "y": values,
        "xaxis": axis.replace("y", "x"),
        "yaxis": axis,
        "hovertemplate": "%{y:.4~g}<extra>" + name + "</extra>",
    }


def _bound_latency(runs: Sequence[Course], layout: dict[str, Any]) -> None:
    """Draw the SLO across the latency row; a logarithmic axis where a run leaves it far behind."""
    slo_ms = runs[0].slo_ms
    layout["shapes"].append(
        {"type": "line", "xref": "x2 domain", "yref": "y2", "x0": 0, "x1": 1, "y0": slo_ms, "y1": slo_ms}
        | {"line": {"color": RED, "width": 1.5, "dash": "dash"}}
    )
    layout["annotations"].append(
        {"text": f"SLO {slo_ms:g} ms", "xref": "x2 domain", "yref": "y2", "x": 0.005, "y": slo_ms}
        | {"xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"color": RED, "size": 12}}
    )
    worst_ms = max((p99 for run in runs for p99 in run.p99_ms if p99 is not None), default=0.0)
    if worst_ms > _LOG_OVER * slo_ms:
        layout["yaxis2"] |= {"type": "log", "rangemode": "normal"}
        layout["annotations"][-1]["y"] = log10(slo_ms)  # Plotly places annotations there by exponent
    else:
        layout["yaxis2"]["range"] = [0, 1.15 * max(worst_ms, slo_ms)]


def _most(runs: Sequence[Course], row: str) -> float:
    """The largest value of a row in any run, at least 1."""
    values: list[float] = [value for run in runs for value in getattr(run, row) if value is not None]
    return max([1.0, *values])


def _domains(rows: int) -> list[tuple[float, float]]:
    """Vertical extent of each row, from the top of the figure down, in shares of its height."""
    heights = _HEIGHTS[:rows]
    unit = (1 - _GAP * (rows - 1)) / sum(heights)
    domains, top = [], 1.0
    for height in heights:
        domains.append((max(top - height * unit, 0.0), top))
        top -= height * unit + _GAP
    return domains


def _axis(index: int) -> str:
    return "y" if index == 0 else f"y{index + 1}"


def _plain(text: str) -> str:
    """Text in which Plotly finds no tag."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
