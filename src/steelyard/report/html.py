"""One HTML file that needs nothing else: no network, no fonts to fetch, no server.

The rule of this file: everything on the page comes from the runs, points and notes given and is escaped, and
the page loads nothing. Plotly's script is written into it, which makes it large (5 MB) and readable in ten
years.
"""

import html
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from steelyard.core.errors import SteelyardError, how_to_install
from steelyard.metrics.runs import RunSeries
from steelyard.report.charts import TOGETHER_MAX, over_time, panels
from steelyard.report.courses import Course, courses
from steelyard.report.curves import SweepPoint, cost_curves
from steelyard.report.numbers import Group, cards, groups_of, table
from steelyard.report.page import PAGE, SCRIPT, STYLE
from steelyard.report.palette import styles

Figures = dict[str, dict[str, Any]]


def render(runs: Sequence[RunSeries], *, title: str, notes: Sequence[str]) -> str:
    """The page: verdict, charts over time, violations against core-seconds, the table, how it was measured.

    Runs of one label are seeds of the same thing and drawn as one; the first label is the one that the others
    are compared with. Each service has its own charts over time.

    Raises:
        SteelyardError: there is no run, or plotly is not installed.
    """
    if not runs:
        raise SteelyardError("a report needs at least one run")
    style = styles(run.label for run in runs)
    groups = groups_of(runs)
    figures: Figures = {}
    body = [cards(groups, style), "<h2>Over time</h2>", f"<p>{_caption(courses(runs))}</p>"]
    for service in dict.fromkeys(group.service for group in groups):
        own = [course for course in courses(runs) if course.service == service]
        heading = html.escape(service) if len({group.service for group in groups}) > 1 else ""
        body.append(_figure(figures, "time", over_time(own, style), heading))
        if len(own) > TOGETHER_MAX:
            of_service = [group for group in groups if group.service == service]
            body.append(_figure(figures, "panels", panels(own, style, _subtitles(of_service)), heading))
    body += [
        "<h2>Violations against cost</h2>",
        "<p>Each mark is one run; down and to the left is better.</p>",
        _figure(figures, "trade", cost_curves([_point(run) for run in runs], style)),
        "<h2>In numbers</h2>",
        f'<section class="wide">{table(groups, style)}</section>',
    ]
    return _page(title, body, notes, figures)


def render_sweep(
    points: Mapping[str, Sequence[SweepPoint]], *, title: str, notes: Sequence[str], introduction: str = ""
) -> str:
    """The page of a sweep: a chart of violations against cost for each heading, and how it was measured.

    Raises:
        SteelyardError: there is no point, or plotly is not installed.
    """
    if not any(points.values()):
        raise SteelyardError("a report needs at least one point")
    style = styles(point.label for own in points.values() for point in own)
    figures: Figures = {}
    body = ["<h2>Violations against cost</h2>"]
    body.append(
        f"<p>{html.escape(introduction)} Down and to the left is better; a line joins the settings of "
    )
    body.append("one knob. Click a name to hide its marks, twice to see them alone.</p>")
    for heading, own in points.items():
        if own:
            body.append(_figure(figures, "trade", cost_curves(own, style), html.escape(heading)))
    return _page(title, body, notes, figures)


def _page(title: str, body: Sequence[str], notes: Sequence[str], figures: Figures) -> str:
    return PAGE.format(
        title=html.escape(title),
        style=STYLE,
        body="\n".join(body),
        notes="".join(f"<li>{html.escape(note)}</li>" for note in notes),
        figures=_embedded(figures),
        plotly=_plotly(),
        script=SCRIPT,
    )


def _figure(figures: Figures, name: str, figure: dict[str, Any], heading: str = "") -> str:
    """Note a figure under a name of its own, numbered from the second of a kind on; its place on the page."""
    known = sum(key.partition("-")[0] == name for key in figures)
    key = f"{name}-{known + 1}" if known else name
    figures[key] = figure
    return f'<section>{f"<h3>{heading}</h3>" if heading else ""}<div id="{key}"></div></section>'


def _caption(drawn: Sequence[Course]) -> str:
    """What the charts over time show."""
    text = "The same requests at the same times in every run, by second of arrival."
    seeds, step_s = max(course.seeds for course in drawn), drawn[0].step_s
    if seeds > 1:
        text = (
            f"By second of arrival; a line is the mean of {seeds} seeds, in each of which all see the same."
        )
    if step_s > 1:
        text += f" Drawn in steps of {step_s} s: the mean, of latency the worst second."
    if len(drawn) > TOGETHER_MAX:
        text += (
            " Click a name in the legend to show or hide its lines. Below, each one beside the first (grey)."
        )
    return text


def _subtitles(groups: Sequence[Group]) -> dict[str, str]:
    return {group.label: f"{group.ratio:.2%} · {group.core_seconds:,.0f} core-s" for group in groups}


def _point(run: RunSeries) -> SweepPoint:
    requests = run.summary.requests - run.summary.cancelled
    return SweepPoint(run.label, "", requests, run.summary.violation_ratio, run.summary.core_seconds)


def check_available() -> None:
    """See that a report could be made, before what it is to show is computed.

    Raises:
        SteelyardError: plotly, an extra, is not installed.
    """
    if find_spec("plotly") is None:
        raise SteelyardError(f"the report needs plotly: {how_to_install('report')}")


def _plotly() -> str:
    check_available()
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def _embedded(figures: Figures) -> str:
    """JSON that no label can break out of: `<` never appears in it."""
    return json.dumps(figures, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
