"""The page's frame: its style, the script that draws the figures in the reader's colours, and the template.

Nothing in here refers to anything outside of the page.
"""

STYLE = """
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
section { padding: 12px 12px 4px; margin-bottom: 14px; }
section h3 { margin: 2px 4px 0; font-size: 15px; font-weight: 600; }
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
table.tight th, table.tight td { padding: 7px 8px; font-size: 13px; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 500; cursor: help; }
th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 600; }
tbody th i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 9px; }
ul { margin: 10px 0 0; padding-left: 20px; color: var(--soft); max-width: 52em; }
li { margin: 5px 0; }
"""


SCRIPT = """
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
  if (layout.legend) layout.legend.font = { size: 12 };
  return layout;
}
function draw() {
  for (const [name, figure] of Object.entries(figures))
    Plotly.react(name, figure.data, themed(figure), { displayModeBar: false, responsive: true });
}
draw();
dark.addEventListener("change", draw);
"""


PAGE = """<!doctype html>
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
{body}
<h2>How it was measured</h2>
<ul>{notes}</ul>
</main>
<script id="figures" type="application/json">{figures}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""
