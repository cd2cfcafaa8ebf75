"""The report's charts as plain Plotly figures: data and layout, without the colours of text and ground.

Rows share one time axis: what arrived, how long it took, what was reserved, what went wrong. The colours of
the page follow the reader's light or dark setting and are set by the page's script; only the runs' own are
fixed here, chosen to be told apart on both grounds and, with the dashes, by people who do not see all colours
(after Okabe and Ito, "Color Universal Design", 2008).
"""

from collections.abc import Sequence
from math import log10
from typing import Any

from steelyard.metrics.runs import RunSeries

COLOURS = ("#0f9d7e", "#e08a00", "#4d8fdb", "#c7609d", "#8a7be0", "#7a7f87")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_ROWS = (
    ("rate", "Arrivals, requests/s"),
    ("p99", "Latency p99, ms"),
    ("cores", "Cores reserved"),
    ("replicas", "Replicas"),
    ("violations", "Violations, requests/s"),
)
_WHOLE = ("cores", "replicas")
_HEIGHTS = (1.0, 1.3, 1.0, 0.7, 0.8)
_GAP = 0.055
_LOG_OVER = 10


def colour_of(index: int) -> str:
    """The colour of the run at `index`; they repeat when there are more runs than colours."""
    return COLOURS[index % len(COLOURS)]


def over_time(runs: Sequence[RunSeries]) -> dict[str, Any]:
    """One figure of five rows over the seconds of the trace; arrivals are the same in every run."""
    traces = [_line(runs[0], 0, "rate", runs[0].rate_rps, name="arrivals", fill=True)]
    for index, run in reversed(list(enumerate(runs))):  # the first run is drawn last, on top
        traces.append(_line(run, index, "p99", run.p99_ms, legend=True))
        traces.append(_line(run, index, "cores", run.cores, step=True))
        traces.append(_line(run, index, "replicas", run.replicas, step=True))
        traces.append(_line(run, index, "violations", run.violations, step=True))
    layout: dict[str, Any] = {
        "height": 900,
        "margin": {"l": 52, "r": 16, "t": 34, "b": 36},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "x": 0, "y": 1.045, "yanchor": "bottom"},
        "annotations": [],
        "shapes": [],
    }
    for index, (low, high) in enumerate(_domains()):
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
            "showticklabels": index == len(_ROWS) - 1,
            "fixedrange": True,
        }
        if _ROWS[index][0] in _WHOLE:
            layout[f"yaxis{number}"] |= {
                "range": [0, 1.15 * _most(runs, _ROWS[index][0])],
                "tickformat": "~g",
            }
        layout["annotations"].append(
            {"text": _ROWS[index][1], "x": 0, "xref": "paper", "y": high, "yref": "paper"}
            | {"xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}
        )
    layout[f"xaxis{len(_ROWS)}"]["title"] = {"text": "seconds", "font": {"size": 13}}
    _bound_latency(runs, layout)
    return {"data": traces, "layout": layout}


def trade_off(runs: Sequence[RunSeries]) -> dict[str, Any]:
    """Violations against core-seconds, one mark a run: down and to the left is better."""
    labels = list(dict.fromkeys(run.label for run in runs))
    traces = []
    for index, label in enumerate(labels):
        own = [run.summary for run in runs if run.label == label]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": label,
                "x": [run.core_seconds for run in own],
                "y": [run.violation_ratio * 100 for run in own],
                "text": [label if number == 0 else "" for number in range(len(own))],
                "textposition": "top center",
                "cliponaxis": False,
                "marker": {"color": colour_of(index), "size": 14, "line": {"width": 0}},
                "hovertemplate": "%{y:.2f} % violations<br>%{x:.1f} core-seconds<extra>" + label + "</extra>",
            }
        )
    layout = {
        "height": 340,
        "margin": {"l": 52, "r": 24, "t": 28, "b": 44},
        "showlegend": False,
        "xaxis": {
            "title": {"text": "core-seconds reserved", "font": {"size": 13}},
            "rangemode": "tozero",
            "fixedrange": True,
        },
        "yaxis": {
            "title": {"text": "violations, %", "font": {"size": 13}},
            "rangemode": "tozero",
            "fixedrange": True,
        },
    }
    return {"data": traces, "layout": layout}


def _line(
    run: RunSeries,
    index: int,
    row: str,
    values: Sequence[float | None],
    *,
    name: str = "",
    legend: bool = False,
    step: bool = False,
    fill: bool = False,
) -> dict[str, Any]:
    number = [key for key, _ in _ROWS].index(row)
    axis = _axis(number)
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": name or run.label,
        "x": list(range(len(values))),
        "y": list(values),
        "xaxis": axis.replace("y", "x"),
        "yaxis": axis,
        "legendgroup": run.label,
        "showlegend": legend,
        "legendrank": index,
        "connectgaps": False,
        "line": {
            "color": "#8a8f98" if fill else colour_of(index),
            "width": 2.5 if index == 0 and not fill else 2,
            "shape": "hv" if step else "linear",
            "dash": "solid" if fill else _DASHES[index % len(_DASHES)],
        },
        "hovertemplate": "%{y:.4~g}<extra>" + (name or run.label) + "</extra>",
    }
    if fill:
        trace |= {"fill": "tozeroy", "fillcolor": "rgba(138,143,152,0.18)"}
    return trace


def _bound_latency(runs: Sequence[RunSeries], layout: dict[str, Any]) -> None:
    """Draw the SLO across the latency row; a logarithmic axis where a run leaves it far behind."""
    slo_ms = runs[0].slo_ms
    layout["shapes"].append(
        {"type": "line", "xref": "x2 domain", "yref": "y2", "x0": 0, "x1": 1, "y0": slo_ms, "y1": slo_ms}
        | {"line": {"color": "#d4483b", "width": 1.5, "dash": "dash"}}
    )
    layout["annotations"].append(
        {"text": f"SLO {slo_ms:g} ms", "xref": "x2 domain", "yref": "y2", "x": 0.005, "y": slo_ms}
        | {
            "xanchor": "left",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"color": "#d4483b", "size": 12},
        }
    )
    worst_ms = max((p99 for run in runs for p99 in run.p99_ms if p99 is not None), default=0.0)
    if worst_ms > _LOG_OVER * slo_ms:
        layout["yaxis2"] |= {"type": "log", "rangemode": "normal"}
        layout["annotations"][-1]["y"] = log10(slo_ms)  # Plotly places annotations there by exponent
    else:
        layout["yaxis2"]["range"] = [0, 1.15 * max(worst_ms, slo_ms)]


def _most(runs: Sequence[RunSeries], row: str) -> float:
    """The largest value of a row in any run, at least 1."""
    values: list[float] = [value for run in runs for value in getattr(run, row)]
    return max([1.0, *values])


def _domains() -> list[tuple[float, float]]:
    """Vertical extent of each row, from the top of the figure down, in shares of its height."""
    unit = (1 - _GAP * (len(_ROWS) - 1)) / sum(_HEIGHTS)
    domains, top = [], 1.0
    for height in _HEIGHTS:
        domains.append((max(top - height * unit, 0.0), top))
        top -= height * unit + _GAP
    return domains


def _axis(index: int) -> str:
    return "y" if index == 0 else f"y{index + 1}"
