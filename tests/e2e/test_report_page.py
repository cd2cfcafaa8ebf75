"""The page in a real browser without a network: charts are drawn, light and dark, and nothing is fetched."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from steelyard.metrics.runs import RunSeries, RunSummary
from steelyard.report.html import render

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Asked of the page once it has drawn: how many curves, what it fetched, its colours, and any error.
QUESTION = """
<script>
function click(element) {
  for (const kind of ["mousedown", "mouseup"])
    element.dispatchEvent(new MouseEvent(kind, { bubbles: true, clientX: 0, clientY: 0 }));
}
addEventListener("load", () => setTimeout(() => {
  const shown = document.querySelectorAll("#time .scatterlayer .trace").length;
  const waiting = document.querySelectorAll("#time .legendtoggle");
  if (waiting.length) click(waiting[waiting.length - 1]);
  setTimeout(() => {
  const answer = document.createElement("output");
  answer.id = "answer";
  answer.textContent = [
    "curves=" + shown,
    "clicked=" + document.querySelectorAll("#time .scatterlayer .trace").length,
    "panels=" + document.querySelectorAll("#panels .barlayer .trace").length,
    "marks=" + document.querySelectorAll("#trade .point").length,
    "fetched=" + performance.getEntriesByType("resource").length,
    "ground=" + getComputedStyle(document.body).backgroundColor,
    "wider=" + (document.documentElement.scrollWidth > innerWidth),
    "errors=" + window.problems.length,
  ].join(";");
  document.body.append(answer);
  }, 800);
}, 500));
</script>
"""
WATCH = "<script>window.problems = []; addEventListener('error', e => problems.push(e.message));</script>"


def summary(policy: str) -> RunSummary:
    return RunSummary(
        policy=policy,
        service="lines",
        seed=1,
        requests=60,
        completed=60,
        late=0,
        shed=0,
        rejected=0,
        failed=0,
        cancelled=0,
        violations=0,
        violation_ratio=0.0,
        core_seconds=3.0,
        accuracy_mean=1.0,
        latency_ms={"p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0},
    )


def series(label: str) -> RunSeries:
    return RunSeries(
        label=label,
        slo_ms=100.0,
        summary=summary(label),
        rate_rps=[10.0, 40.0, 10.0],
        p50_ms=[1.0, 2.0, None],
        p99_ms=[2.0, 90.0, None],
        violations=[0, 0, 0],
        cores=[1.0, 2.0, 1.0],
        replicas=[1, 2, 1],
    )


def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, "the page test needs a browser: apt-get install chromium"
    return found


def dump(page: Path, *options: str, home: Path) -> dict[str, str]:
    """Open the page and give its answers; name resolution is off, so that nothing can be fetched."""
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={home}"]
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=5000",
        "--window-size=1100,900",
    ]
    environment = {**os.environ, "HOME": str(home)}
    dom = subprocess.run(
        [*command, *options, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment,
    ).stdout
    answer = dom.rpartition('<output id="answer">')[2].partition("</output>")[0]
    return dict(pair.split("=", 1) for pair in answer.split(";"))


def answers(runs: list[RunSeries], folder: Path, *options: str) -> dict[str, str]:
    page = folder / "report.html"
    content = render(runs, title="Surge", notes=["a note"])
    page.write_text(content.replace("<head>", "<head>" + WATCH).replace("</body>", QUESTION + "</body>"))
    return dump(page, *options, home=folder / "home")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "ground"),
    [((), "rgb(251, 250, 248)"), (("--blink-settings=preferredColorScheme=0",), "rgb(20, 23, 27)")],
    ids=["light", "dark"],
)
def test_the_page_draws_itself_offline(tmp_path: Path, options: tuple[str, ...], ground: str) -> None:
    assert answers([series("steelyard"), series("fixed 1 core")], tmp_path, *options) == {
        "curves": "9",  # arrivals, and four rows for each of two runs
        "clicked": "5",  # without those of the last one in the legend
        "panels": "0",
        "marks": "2",
        "fetched": "0",
        "ground": ground,
        "wider": "false",
        "errors": "0",
    }


@pytest.mark.slow
def test_a_page_of_many_runs_stays_legible(tmp_path: Path) -> None:
    answer = answers([series(f"policy {number}") for number in range(12)], tmp_path)
    assert answer == {
        "curves": "25",  # arrivals, and four rows for each of the first six
        "clicked": "29",  # and of one that waited in the legend
        "panels": "12",
        "marks": "12",
        "fetched": "0",
        "ground": "rgb(251, 250, 248)",
        "wider": "false",
        "errors": "0",
    }
