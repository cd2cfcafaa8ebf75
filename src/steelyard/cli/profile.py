"""`steelyard profile`: measure every variant of a spec, thoroughly and once."""

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from steelyard.cli.output import JsonOption, say, write_json
from steelyard.profile.types import Profile
from steelyard.profiler.subject import Subject


def profile(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A spec file, or an ONNX file.")],
    profiles: Annotated[Path | None, typer.Option(metavar="DIR", help="Where profiles are stored.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The short form that serve uses.")] = False,
    json: JsonOption = None,
) -> None:
    """Measure service times over rows and cores, cold start and resize; resumes where it was interrupted."""
    from steelyard.backend.cpu import usable_core_ids
    from steelyard.cli.measure import measure
    from steelyard.cli.serve import find_modules_beside
    from steelyard.config.load import is_onnx, load_spec, spec_for_onnx
    from steelyard.config.measuring import measurable
    from steelyard.config.resolve import resolve
    from steelyard.profiler.words import table_rows

    loaded = spec_for_onnx(spec, slo_s=1.0) if is_onnx(spec) else load_spec(spec)
    find_modules_beside(loaded.folder)
    core_ids = usable_core_ids()
    here = measurable(loaded, cores_available=len(core_ids))
    deployment = resolve(here, cores_available=len(core_ids))
    measured = measure(deployment, profiles, core_ids=core_ids, form="quick" if quick else "full")
    if not measured:
        say(f"{spec}: every variant declares its latency; nothing to measure", err=True)
    once = {(m.profile.model_hash, m.profile.variant): m for m in measured}.values()
    if json != "-":
        for found in once:
            _show(found.subject, found.profile)
    write_json(json, {"profiles": [row for found in once for row in table_rows(found.profile)]})


def _show(subject: Subject, profile: Profile) -> None:
    """One variant as a table for the terminal."""
    from steelyard.profiler.words import coverage, table_rows

    buckets = subject.bucket_count > 1
    columns = [*(["bucket"] if buckets else []), "rows", "cores", "p50 ms", "p99 ms", "width", "batches"]
    title = f"{profile.model}/{profile.variant}"
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD)
    for row in table_rows(profile):
        times = row["latency_ms"]
        table.add_row(
            *([str(row["bucket"])] if buckets else []),
            str(row["batch"]),
            f"{row['cores']:g}",
            f"{times['p50']:.2f}",
            f"{times['p99']:.2f}",
            row["width"],
            str(row["runs"]),
        )
    console = Console()
    console.print(table)
    limits = {"batch_rows_max": subject.batch_rows_max, "cores_max": subject.spec.cores_max}
    console.print(coverage(profile, **limits), soft_wrap=True)
    times_ms = (profile.cold_start_s * 1e3, profile.resize_s * 1e3)
    console.print("cold start {:.0f} ms, resize {:.2f} ms".format(*times_ms))
