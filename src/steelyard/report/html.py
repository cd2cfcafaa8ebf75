"""One HTML file that needs nothing else: no network, no fonts to fetch, no server.

The rule of this file: everything on the page comes from the runs and notes given and is escaped, and the page
loads nothing. Plotly's script is written into it, which makes it large (5 MB) and readable in ten years.
"""

import html
import json
from collections.abc import Sequence
from typing import Any

from steelyard.core.errors import SteelyardError
from steelyard.metrics.runs import RunSeries, RunSummary
from steelyard.report.charts import colour_of, over_time, trade_off

_COLUMNS = (
    ("run", ""),
    ("requests", "in the trace"),
    ("violations", "late, shed, rejected or failed"),
    ("share", "of requests"),
    ("late", "answered after the SLO"),
    ("p50, ms", "of completed requests"),
    ("p99, ms", "of completed requests"),
    ("core-seconds", "reserved"),
    ("accuracy", "of what was answered"),
    ("cold starts", "replicas started"),
    ("resizes", "in place"),
)


def render(runs: Sequence[RunSeries], *, title: str, notes: Sequence[str]) -> str:
    """The page: verdict, charts over time, violations against core-seconds, the table, how it was measured.

    The first run is the one that the others are compared with.

    Raises:
        SteelyardError: there is no run, or plotly is not installed.
    """
    if not runs:
        raise SteelyardError("a report needs at least one run")
    return _PAGE.format(
        title=html.escape(title),
        style=_STYLE,
        verdict=_verdict(runs),
        table=_table(runs),
        notes="".join(f"<li>{html.escape(note)}</li>" for note in notes),
        figures=_embedded({"time": over_time(runs), "trade": trade_off(runs)}),
        plotly=_plotly(),
        script=_SCRIPT,
    )


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise SteelyardError("the report needs plotly: pip install 'steelyard[report]'") from None
    script: str = get_plotlyjs()
    return script


def _embedded(figures: dict[str, Any]) -> str:
    """JSON that no label can break out of: `<` never appears in it."""
    return json.dumps(figures, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _verdict(runs: Sequence[RunSeries]) -> str:
    """A card a run: the share of violations and what was reserved for it."""
    cards = [
        f'<div class="card" style="--run:{colour_of(index)}"><h3>{html.escape(run.label)}</h3>'
        f'<p class="big">{run.summary.violation_ratio:.2%}</p><p>violations</p>'
        f'<p class="big">{run.summary.core_seconds:.1f}</p><p>core-seconds</p></div>'
        for index, run in enumerate(runs)
    ]
    return "".join(cards)


def _table(runs: Sequence[RunSeries]) -> str:
    head = "".join(f'<th title="{html.escape(meaning)}">{name}</th>' for name, meaning in _COLUMNS)
    rows = "".join(
        f'<tr><th scope="row"><i style="background:{colour_of(index)}"></i>{html.escape(run.label)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in _cells(run.summary))
        + "</tr>"
        for index, run in enumerate(runs)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(run: RunSummary) -> list[str]:
    return [
        f"{run.requests:,}",
        f"{run.violations:,}",
        f"{run.violation_ratio:.2%}",
        f"{run.late:,}",
        _number(run.latency_ms.get("p50")),
        _number(run.latency_ms.get("p99")),
        f"{run.core_seconds:,.1f}",
        "–" if run.accuracy_mean is None else f"{run.accuracy_mean:.1%}",
        _number(run.cold_starts),
        _number(run.resizes),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


_STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --sheet: #ffffff; --ink: #1d2127; --soft: #626a75;
  --rule: #e4e2dd; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --sheet: #1b1f25; --ink: #e8e6e1;
  --soft: #9aa2ad; --rule: #2d333b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 ui-sans-serif, system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 64px; }
header p { margin: 0; color: var(--soft); letter-spacing: .08em; text-transform: uppercase; font-size: 12px; }
h1 { margin: 4px 0 24px; font-size: 30px; line-height: 1.2; letter-spacing: -.01em; font-weight: 650; }
h2 { margin: 40px 0 4px; font-size: 19px; font-weight: 650; }
h2 + p { margin: 0 0 12px; color: var(--soft); max-width: 46em; }
section, .card { background: var(--sheet); border: 1px solid var(--rule); border-radius: 10px; }
section { padding: 12px 12px 4px; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); }
.card { padding: 14px 18px 12px; border-top: 4px solid var(--run); display: grid; column-gap: 12px;
  grid-template-columns: auto 1fr; align-items: baseline; }
.card h3 { grid-column: 1 / -1; margin: 0 0 2px; font-size: 15px; font-weight: 600; }
.card p { margin: 0; color: var(--soft); font-size: 14px; }
.card .big { color: var(--ink); font-size: 24px; font-weight: 650; font-variant-numeric: tabular-nums;
  text-align: right; }
.wide { overflow-x: auto; padding: 4px 16px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 500; cursor: help; }
th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 600; }
tbody th i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 9px; }
ul { margin: 10px 0 0; padding-left: 20px; color: var(--soft); max-width: 52em; }
li { margin: 5px 0; }
"""

_SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function themed(figure) {
  const css = getComputedStyle(document.documentElement);
  const ink = css.getPropertyValue("--ink").trim(), soft = css.getPropertyValue("--soft").trim();
  const rule = css.getPropertyValue("--rule").trim(), sheet = css.getPropertyValue("--sheet").trim();
  const layout = structuredClone(figure.layout);
  Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 13, family: getComputedStyle(document.body).fontFamily },
    hoverlabel: { bgcolor: sheet, bordercolor: rule, font: { color: ink } } });
  for (const name of Object.keys(layout).filter(name => /^[xy]axis/.test(name)))
    Object.assign(layout[name], { gridcolor: rule, zerolinecolor: rule, linecolor: rule,
      tickfont: { color: soft }, automargin: false });
  return layout;
}
function draw() {
  for (const [name, figure] of Object.entries(figures))
    Plotly.react(name, figure.data, themed(figure), { displayModeBar: false, responsive: true });
}
draw();
dark.addEventListener("change", draw);
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} – Steelyard</title>
<style>{style}</style>
</head>
<body>
<main>
<header><p>Steelyard report</p><h1>{title}</h1></header>
<div class="cards">{verdict}</div>
<h2>Over time</h2>
<p>The same requests at the same times in every run, by second of arrival.</p>
<section><div id="time"></div></section>
<h2>Violations against cost</h2>
<p>Each mark is one run; down and to the left is better.</p>
<section><div id="trade"></div></section>
<h2>In numbers</h2>
<section class="wide">{table}</section>
<h2>How it was measured</h2>
<ul>{notes}</ul>
</main>
<script id="figures" type="application/json">{figures}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""
