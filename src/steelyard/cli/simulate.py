"""`steelyard simulate`: policies over traces, on the very code that serves, before any core is bought."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from steelyard.cli.output import SEED_MAX, JsonOption, check_outputs, output_file, say, write_json, write_text
from steelyard.core.errors import SpecError
from steelyard.core.types import Frozen
from steelyard.metrics.runs import RunSeries, RunSummary

if TYPE_CHECKING:
    from steelyard.config.load import LoadedSpec
    from steelyard.config.planning import Blueprint
    from steelyard.config.schema import PolicySpec
    from steelyard.core.types import Service
    from steelyard.sim.many import OnDecisions
    from steelyard.sim.result import SimulatedRun
    from steelyard.sim.scenario import Scenario
    from steelyard.workload.trace import Trace

SEEDS_MAX = 1000
PROCESSES_MAX = 1024


class Total(Frozen, frozen=True):
    """A run over all of its services; accounting as in `RunSummary`."""

    policy: str
    seed: int
    requests: int
    completed: int
    late: int
    shed: int
    rejected: int
    failed: int
    cancelled: int
    violations: int
    violation_ratio: float
    core_seconds: float


class Simulated(Frozen, frozen=True):
    """The JSON of `steelyard simulate`."""

    runs: list[RunSummary]
    totals: list[Total]


def simulate(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A spec file, or an ONNX file with --slo.")],
    trace: Annotated[
        list[str],
        typer.Option(
            metavar="[SERVICE=]FILE", help="Arrivals: one per service, or one file that names them."
        ),
    ],
    policy: Annotated[
        str | None,
        typer.Option(metavar="P,P...", help="Policies or configurations; default: the spec's."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Seed of arrivals and service times.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=SEEDS_MAX, help="Number of seeds, from --seed on.")] = 1,
    trace_scale: Annotated[float, typer.Option(help="Multiply the trace's counts.")] = 1.0,
    trace_slice: Annotated[
        str | None, typer.Option(metavar="A:B", help="Only seconds [A, B) of the trace.")
    ] = None,
    trace_gaps: Annotated[
        str, typer.Option(help="How to fill seconds without data: hold or silence.")
    ] = "silence",
    cold: Annotated[bool, typer.Option("--cold", help="Start on an empty cluster.")] = False,
    slo: Annotated[str | None, typer.Option(help="Latency objective of an ONNX file, such as 50ms.")] = None,
    profiles: Annotated[Path | None, typer.Option(metavar="DIR", help="Where profiles are stored.")] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=PROCESSES_MAX, help="Runs at a time; default: one per core."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML report.")] = None,
    decisions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every decision, for `steelyard explain`.")
    ] = None,
    json: JsonOption = None,
) -> int:
    """Run policies over arrival traces with the code that serves; compare violations and cost."""
    from steelyard.backend.cpu import usable_core_ids
    from steelyard.cli.decisions import decisions_file
    from steelyard.cli.replay import traces_of
    from steelyard.cli.serve import find_modules_beside, open_spec
    from steelyard.config.notices import notices
    from steelyard.config.planning import blueprint, check_objectives
    from steelyard.report.html import check_available

    def notice(line: str) -> None:
        say(line, err=True)

    if seed + seeds - 1 > SEED_MAX:
        raise SpecError(f"--seeds: want no seed above {SEED_MAX}, got {seeds} from {seed} on")
    outputs = {"--html": html, "--decisions": decisions, "--json": output_file(json)}
    check_outputs(
        outputs, read=[spec, *(Path(name) for one in trace for name in (one, one.partition("=")[2]))]
    )
    if html is not None:
        check_available()
    loaded = open_spec(spec, slo)
    find_modules_beside(loaded.folder)
    made = blueprint(loaded, cores_available=len(usable_core_ids()), profiles=profiles)
    check_objectives(loaded, made)
    chosen = _policies(loaded, made, policy)
    traces = traces_of(
        trace,
        made.services,
        made.classes,
        gaps=trace_gaps,
        cut=trace_slice,
        scale=trace_scale,
        on_notice=notice,
    )
    for line in notices(loaded.spec, "simulate"):
        notice(line)
    scenarios = [
        _scenario(made, traces, label, known, seed=number, cold=cold)
        for label, known in chosen.items()
        for number in range(seed, seed + seeds)
    ]
    try:
        with decisions_file(decisions, made.services, notice) as on_decisions:
            runs = list(_run(scenarios, processes, on_decisions))
    except RuntimeError as error:  # a policy's bug, or a law that did not hold: a failed run, not bad input
        notice(str(error))
        return 1
    for line in filter(None, map(_idle, runs)):
        notice(line)
    series = [of_service for run in runs for of_service in run.series]
    result = Simulated([found.summary for found in series], totals([found.summary for found in series]))
    write_json(json, result)
    if json != "-":
        _show(result, made.services)
    if html is not None:
        write_text(html, _report(spec, trace, series, cold=cold), "--html")
    return 0


def totals(runs: Sequence[RunSummary]) -> list[Total]:
    """The services of each (policy, seed) together, in the order of the runs."""
    groups: dict[tuple[str, int], list[RunSummary]] = {}
    for run in runs:
        groups.setdefault((run.policy, run.seed), []).append(run)
    return [_total(policy, seed, group) for (policy, seed), group in groups.items()]


def _total(policy: str, seed: int, runs: Sequence[RunSummary]) -> Total:
    requests, cancelled = sum(run.requests for run in runs), sum(run.cancelled for run in runs)
    violations = sum(run.violations for run in runs)
    return Total(
        policy=policy,
        seed=seed,
        requests=requests,
        completed=sum(run.completed for run in runs),
        late=sum(run.late for run in runs),
        shed=sum(run.shed for run in runs),
        rejected=sum(run.rejected for run in runs),
        failed=sum(run.failed for run in runs),
        cancelled=cancelled,
        violations=violations,
        violation_ratio=violations / (requests - cancelled) if requests > cancelled else 0.0,
        core_seconds=sum(run.core_seconds for run in runs),
    )


def _policies(loaded: "LoadedSpec", made: "Blueprint", names: str | None) -> "dict[str, PolicySpec]":
    """What to run, by the name it was asked for."""
    from steelyard.config.policy import asked_policy

    if names is None:
        return {loaded.spec.policy.name: asked_policy(loaded, None, made.services, clairvoyant=True)}
    chosen: dict[str, PolicySpec] = {}
    for name in (part.strip() for part in names.split(",")):
        if not name or name in chosen:
            message = f"{name} is given twice" if name else f"want names with a comma between, got {names!r}"
            raise SpecError(f"--policy: {message}")
        chosen[name] = asked_policy(loaded, name, made.services, clairvoyant=True)
    return chosen


def _scenario(
    made: "Blueprint", traces: "dict[str, Trace]", label: str, policy: "PolicySpec", *, seed: int, cold: bool
) -> "Scenario":
    from steelyard.sim.scenario import Scenario

    return Scenario(
        services=made.services,
        times=made.times,
        traces=traces,
        policy=policy.name,
        options=policy.options,
        nodes=made.nodes,
        classes=made.classes,
        seed=seed,
        cold=cold,
        physics=made.physics,
        label=label,
    )


def _run(
    scenarios: "Sequence[Scenario]", processes: int | None, on_decisions: "OnDecisions | None"
) -> "Iterator[SimulatedRun]":
    """Every scenario's run, in order."""
    from steelyard.cli.progress import progress_bar
    from steelyard.sim.many import simulate_many

    with progress_bar() as show:
        yield from simulate_many(
            scenarios,
            processes=processes,
            on_progress=lambda done_s, total_s: show(done_s, total_s, f"of {total_s:,.0f} simulated seconds"),
            on_decisions=on_decisions,
        )


def _idle(run: "SimulatedRun") -> str:
    """Why a run had no replica from beginning to end, if that is so: its violations are not the policy's."""
    if not run.decisions or any(summary.core_seconds for summary in run.summaries):
        return ""
    discarded = [decision for decision in run.decisions if decision.kind == "discarded"]
    reason = (discarded or run.decisions)[-1].reason
    return f"{run.label}, seed {run.seed}: nothing was ever started: {reason}"


def _report(spec: Path, traces: Sequence[str], series: Sequence[RunSeries], *, cold: bool) -> str:
    from steelyard.report.html import render

    seconds = series[0].summary.simulated_s
    start = (
        "from nothing" if cold else "warm, with the policy's own plan for the largest rate of the first 30 s"
    )
    notes = [
        f"Simulated from {spec} on the code that serves, {seconds:,.0f} s of arrivals: {', '.join(traces)}.",
        "Service times are drawn from the profile or the coefficients that the spec declares.",
        f"Every run starts {start}; the same seed gives every policy the same arrivals.",
        "Core-seconds are reserved ones: of every replica from its start to its end, cold starts included.",
    ]
    return render(series, title=f"{spec.stem}: simulated policies", notes=notes)


def _show(result: Simulated, services: "dict[str, Service]") -> None:
    """The runs as a table for the terminal; below it accuracies, where there is a choice, and totals."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("service", "policy") if len(services) > 1 else ("policy",):
        table.add_column(name, no_wrap=True)
    for name in ("seed", "requests", "violations", "", "p50 ms", "p99 ms", "core-s", "starts", "resizes"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in result.runs:
        table.add_row(
            *([run.service] if len(services) > 1 else []),
            run.policy,
            str(run.seed),
            f"{run.requests:,}",
            f"{run.violations:,}",
            f"{run.violation_ratio:.2%}",
            _ms(run.latency_ms["p50"]),
            _ms(run.latency_ms["p99"]),
            f"{run.core_seconds:,.0f}",
            str(run.cold_starts),
            str(run.resizes),
        )
    console = Console()
    console.print(table)
    for run in result.runs:
        if any(len(stage.variants) > 1 for stage in services[run.service].stages):
            known = "not known" if run.accuracy_mean is None else f"{run.accuracy_mean:.4f}"
            name = f"{run.service}, {run.policy}" if len(services) > 1 else run.policy
            line = f"{name}, seed {run.seed}: accuracy {known}, {run.switches:,} switches"
            console.print(line, highlight=False, soft_wrap=True)
    if len(services) > 1:
        for total in result.totals:
            console.print(
                f"{total.policy}, seed {total.seed}, all services: {total.violations:,} violations "
                f"of {total.requests:,} requests ({total.violation_ratio:.2%}), "
                f"{total.core_seconds:,.0f} core-seconds",
                highlight=False,
                soft_wrap=True,
            )


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
