"""`steelyard profile`: measure every variant of a spec, thoroughly and once."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from steelyard.cli.output import JsonOption, check_json, say, write_json
from steelyard.core.errors import SpecError
from steelyard.profile.types import Profile
from steelyard.profiler.accuracies import Accuracy
from steelyard.profiler.subject import Subject

if TYPE_CHECKING:
    from steelyard.config.load import LoadedSpec
    from steelyard.profiler.grid import Form
    from steelyard.profiler.recorded import Recorded
    from steelyard.serve.base import Deployment


def profile(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A spec file, or an ONNX file.")],
    profiles: Annotated[Path | None, typer.Option(metavar="DIR", help="Where profiles are stored.")] = None,
    examples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure on the stages' inputs made from these requests."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The short form that serve uses.")] = False,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure accuracies instead, on these examples.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="exact (default), top1 or module:function; with --labels."),
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="NAME", help="The output that exact and top1 compare.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="The service of the labels or examples.")] = None,
    json: JsonOption = None,
) -> None:
    """Measure service times over rows and cores, or accuracies. An interrupted run resumes."""
    from steelyard.backend.cpu import usable_core_ids
    from steelyard.cli.measure import measure
    from steelyard.cli.serve import find_modules_beside, open_spec
    from steelyard.config.load import is_onnx
    from steelyard.config.measuring import measurable
    from steelyard.config.resolve import resolve
    from steelyard.profiler.words import table_rows

    for option, given in (("--metric", metric), ("--output", output)):
        if labels is None and given is not None:
            raise SpecError(f"{option} goes with --labels")
    if labels is None and examples is None and service is not None:
        raise SpecError("--service goes with --labels or --examples")
    if labels is not None and examples is not None:
        raise SpecError("--examples does not go with --labels: one measures times, the other accuracies")
    if labels is not None and quick:
        raise SpecError("--quick does not go with --labels: accuracies are measured on all examples")
    check_json(json, spec, examples, labels)
    loaded = open_spec(spec, "1s" if is_onnx(spec) else None)
    find_modules_beside(loaded.folder)
    core_ids = usable_core_ids()
    if labels is not None:
        accuracies = _accuracies(loaded, labels, service, metric or "exact", output, profiles, core_ids)
        write_json(json, {"profiles": [], "accuracies": accuracies})
        if json != "-":
            _show_accuracies(accuracies)
        return
    recorded: dict[tuple[str, str], Recorded] = {}
    if examples is not None:
        deployment, recorded = _recorded(loaded, examples, service, profiles, core_ids)
    else:
        here = measurable(loaded, cores_available=len(core_ids))
        deployment = resolve(here, cores_available=len(core_ids), known_only=True)
        for name in here.spec.services.keys() - deployment.services.keys():
            message = "a Python stage without a signature is not measured; give its latency, or --examples"
            say(f"{name}: {message}", err=True)
    form: Form = "quick" if quick else "full"
    measured = measure(deployment, profiles, core_ids=core_ids, form=form, recorded=recorded)
    if not measured:
        say(f"{spec}: every variant declares its latency; nothing to measure", err=True)
    once = {(m.profile.model_hash, m.profile.variant): m for m in measured}.values()
    if json != "-":
        for found in once:
            _show(found.subject, found.profile)
    write_json(json, {"profiles": [row for found in once for row in table_rows(found.profile)]})


def _recorded(
    loaded: "LoadedSpec",
    examples: Path,
    service: str | None,
    profiles: Path | None,
    core_ids: Sequence[int],
) -> tuple["Deployment", "dict[tuple[str, str], Recorded]"]:
    """A service alone, and what its stages are given of the examples."""
    import asyncio

    from msgspec.structs import replace

    from steelyard.cli.accuracy import service_named
    from steelyard.cli.examples import read_examples
    from steelyard.cli.recording import most_accurate, recorded_inputs, source_of
    from steelyard.config.measured import with_accuracies
    from steelyard.config.measuring import runnable
    from steelyard.config.resolve import resolve
    from steelyard.profiler.store import default_directory

    deployment = resolve(runnable(loaded, cores_available=len(core_ids)), cores_available=len(core_ids))
    name = service_named(service, tuple(deployment.services))
    deployed = deployment.services[name]
    given = read_examples(examples, deployed.served.signature, option="--examples", labelled=False)
    known = with_accuracies(loaded, deployed.served.service, profiles or default_directory())
    chosen = most_accurate(known)
    found = asyncio.run(recorded_inputs(deployed, chosen, given, core_ids, source=source_of(examples)))
    for stage in deployed.stages.keys() - found.keys():
        say(f"{name}.{stage}: none of the examples reaches it: measured on random inputs", err=True)
    recorded = {(name, stage): rows for stage, rows in found.items()}
    return replace(deployment, services={name: deployed}), recorded


def _accuracies(
    loaded: "LoadedSpec",
    labels: Path,
    service: str | None,
    metric: str,
    output: str | None,
    profiles: Path | None,
    core_ids: Sequence[int],
) -> list[Accuracy]:
    from steelyard.cli.accuracy import measure_accuracies
    from steelyard.config.measuring import runnable
    from steelyard.config.resolve import resolve
    from steelyard.profiler.store import default_directory

    return measure_accuracies(
        loaded,
        resolve(runnable(loaded, cores_available=len(core_ids)), cores_available=len(core_ids)),
        labels,
        service=service,
        metric=metric,
        output=output,
        directory=profiles or default_directory(),
        core_ids=core_ids,
    )


def _show_accuracies(found: Sequence[Accuracy]) -> None:
    """A table for the terminal, the most accurate choice first."""
    stages = list(found[0].variants)
    table = Table(*stages, "accuracy", "95 % interval", "examples", box=SIMPLE_HEAD)
    for each in sorted(found, key=lambda each: -each.accuracy):
        table.add_row(
            *(each.variants[stage] for stage in stages),
            f"{each.accuracy:.4f}",
            f"{each.accuracy_low:.4f} to {each.accuracy_high:.4f}",
            str(each.examples),
        )
    Console().print(table)


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
