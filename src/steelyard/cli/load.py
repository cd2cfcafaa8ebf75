"""`steelyard load`: offer open-loop load to a server and say what its clients would have seen."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from steelyard.cli.output import SEED_MAX, JsonOption, check_json, duration_option, say, write_json
from steelyard.cli.trace import open_trace
from steelyard.client.wire import Body
from steelyard.core.errors import InputError, TraceError
from steelyard.load.generator import LoadSettings, fetch_input_names, run, run_load
from steelyard.load.payload import load_payload
from steelyard.load.result import LATENESS_MAX_S, LoadResult, Seconds
from steelyard.workload.trace import Arrival, poisson_times

_PROGRESS_AFTER_S = 2.0


def load(
    url: Annotated[str, typer.Argument(help="Where the server listens, for example http://127.0.0.1:8080.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Service to call.")],
    inputs: Annotated[
        list[Path],
        typer.Option("--input", help="Request to send: .npy, .npz or .json; several: chosen at random."),
    ],
    rate: Annotated[float | None, typer.Option(help="Poisson arrivals, requests per second.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length, with --rate.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Arrivals from a trace file instead.")] = None,
    trace_scale: Annotated[float, typer.Option(help="Multiply the trace's counts.")] = 1.0,
    trace_slice: Annotated[str | None, typer.Option(help="Only seconds [A, B) of the trace.")] = None,
    trace_gaps: Annotated[
        str, typer.Option(help="How to fill seconds without data: hold or silence.")
    ] = "silence",
    slo: Annotated[str | None, typer.Option(help="Latency objective to count against, such as 50ms.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Latency bound sent with every request.")
    ] = None,
    in_flight_max: Annotated[int, typer.Option(help="Most requests open at a time.")] = 512,
    timeout: Annotated[str, typer.Option(help="Give up a request after this time.")] = "30s",
    seed: Annotated[
        int, typer.Option(min=0, max=SEED_MAX, help="Seed of the arrivals and of the choice of inputs.")
    ] = 0,
    json: JsonOption = None,
) -> int:
    """Send requests at their intended times, whatever the server does, and measure from those times."""
    check_json(json, trace, *inputs)
    settings = LoadSettings(
        slo_s=None if slo is None else duration_option("--slo", slo),
        max_latency_s=None if max_latency_ms is None else _positive("--max-latency-ms", max_latency_ms) / 1e3,
        in_flight_max=in_flight_max,
        timeout_s=duration_option("--timeout", timeout),
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    if (rate is None) == (trace is None):
        raise InputError("want either --rate with --seconds, or --trace")
    if trace is not None:
        cut = open_trace(trace, gaps=trace_gaps, cut=trace_slice, scale=trace_scale)
        arrivals = _of_service(cut.arrivals(rng), model, trace)
        at_s, length_s = np.array([arrival.at_s for arrival in arrivals]), float(cut.seconds)
        budgets_s = np.array([arrival.mark.latency_s or np.nan for arrival in arrivals])
    else:
        assert rate is not None
        if seconds is None:
            raise InputError("--rate needs --seconds")
        at_s, length_s, budgets_s = poisson_times(rate, seconds, rng), seconds, None

    names = run(fetch_input_names(url, model))
    bodies = [load_payload(path, names) for path in inputs]
    result = run(_offer(url, model, at_s, bodies, length_s, budgets_s, settings))
    write_json(json, result)
    say(summary(result), err=json == "-")
    return 1 if result.void or (result.offered and not result.completed) else 0


async def _offer(
    url: str,
    model: str,
    at_s: Seconds,
    bodies: list[Body],
    seconds: float,
    budgets_s: Seconds | None,
    settings: LoadSettings,
) -> LoadResult:
    progress = asyncio.create_task(_show_progress(seconds))
    try:
        return await run_load(
            url, model, at_s, bodies, seconds=seconds, budgets_s=budgets_s, settings=settings
        )
    finally:
        progress.cancel()
        with suppress(asyncio.CancelledError):
            await progress


async def _show_progress(seconds: float) -> None:
    """One cheap line twice a second: drawing anything richer here would make requests late."""
    if not sys.stderr.isatty() or seconds < _PROGRESS_AFTER_S:
        return
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    try:
        while True:
            elapsed_s = min(loop.time() - start_s, seconds)
            filled = int(30 * elapsed_s / seconds)
            sys.stderr.write(f"\r  {'━' * filled}{'╌' * (30 - filled)} {elapsed_s:.0f} of {seconds:.0f} s ")
            sys.stderr.flush()
            await asyncio.sleep(0.5)
    finally:
        sys.stderr.write("\r\x1b[2K")


def _of_service(arrivals: list[Arrival], model: str, path: Path) -> list[Arrival]:
    """The arrivals of one service: all of a trace that names none, else those that name it."""
    services = {arrival.mark.service for arrival in arrivals} - {""}
    kept = [arrival for arrival in arrivals if arrival.mark.service in ("", model)]
    if arrivals and not kept:
        raise TraceError(f"{path}: no arrivals for {model!r}; it has {', '.join(sorted(services))}")
    return kept


def _positive(option: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise InputError(f"{option}: want a positive number, got {value:g}")
    return value


def summary(result: LoadResult) -> str:
    """The result in a few lines for people."""
    latency, lateness = result.latency_ms, result.lateness_ms
    share = f"{result.violation_ratio:.2%}"
    bound = "" if result.slo_ms is None else f" (SLO {result.slo_ms:g} ms)"
    lines = [
        f"offered     {result.offered} requests in {result.seconds:g} s",
        f"completed   {result.completed}, goodput {result.goodput_rps:.1f} requests/s",
        f"violations  {result.violations} ({share}), {result.late} of them late{bound}",
        f"latency     {_shown(latency, 'p50', 'p90', 'p99', 'max')}",
        f"lateness    {_shown(lateness, 'p50', 'p99', 'max')} of the generator itself",
    ]
    if result.errors:
        lines.append("errors      " + ", ".join(f"{kind}: {count}" for kind, count in result.errors.items()))
    if result.void:
        lines.append(
            f"void: the generator itself was late (p99 over {LATENESS_MAX_S * 1e3:g} ms); "
            "give it a core of its own or lower the rate"
        )
    return "\n".join(lines)


def _shown(ranks: dict[str, float | None], *names: str) -> str:
    values = [f"{name} {'-' if ranks[name] is None else format(ranks[name], '.1f')} ms" for name in names]
    return ", ".join(values)
