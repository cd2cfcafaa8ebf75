"""`steelyard trace`: make arrival traces, and say what is in one."""

import gzip
import zlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer

from steelyard.cli.output import (
    SEED_MAX,
    JsonOption,
    check_json,
    check_outputs,
    output_file,
    say,
    write_json,
    write_text,
)
from steelyard.config.source import nearest
from steelyard.core.errors import TraceError
from steelyard.workload.read import Gaps, read_trace
from steelyard.workload.stats import TraceStats, describe
from steelyard.workload.synth import SHAPES, counts_of
from steelyard.workload.trace import Times, Trace

app = typer.Typer(help="Make and describe arrival traces.", add_completion=False, rich_markup_mode=None)


@app.command()
def synth(
    shape: Annotated[str, typer.Argument(help=f"One of {', '.join(SHAPES)}.")],
    seconds: Annotated[int, typer.Option(help="Length of the trace.")] = 60,
    base: Annotated[float, typer.Option(help="Base rate, requests/s: low of diurnal, start of ramp.")] = 10.0,
    peak: Annotated[float | None, typer.Option(help="Highest rate; by default three times the base.")] = None,
    start: Annotated[
        int | None, typer.Option("--from", help="Second at which a surge or spike begins.")
    ] = None,
    end: Annotated[int | None, typer.Option("--to", help="Second at which a surge ends.")] = None,
    period: Annotated[
        float | None, typer.Option(help="Seconds of one diurnal wave; by default the length.")
    ] = None,
    decay: Annotated[float | None, typer.Option(help="Seconds in which a spike falls to 1/e.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Seed of the Poisson counts.")] = 0,
    even: Annotated[
        bool, typer.Option("--even", help="Counts as even as whole numbers allow, not Poisson.")
    ] = False,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="Where to write the counts; - is standard output.")
    ] = "-",
    json: JsonOption = None,
) -> None:
    """Make a trace: each line is the number of requests in one second."""
    if out == "-" and json == "-":
        raise TraceError("--out and --json cannot both be standard output")
    check_outputs({"--out": output_file(out), "--json": output_file(json)}, [])
    rates = _rates(
        shape,
        seconds,
        base=base,
        peak=3 * base if peak is None else peak,
        start=start,
        end=end,
        period=period,
        decay=decay,
    )
    trace = counts_of(rates, None if even else np.random.default_rng(seed))
    text = "".join(f"{count}\n" for count in trace.counts.tolist())
    if out == "-":
        typer.echo(text, nl=False)
    else:
        write_text(Path(out), text, "--out")
        say(_summary(out, describe(trace)), err=json == "-")
    write_json(
        json, {"shape": shape, "seed": None if even else seed, "file": out, **_fields(describe(trace))}
    )


@app.command()
def info(
    file: Annotated[
        Path, typer.Argument(help="One count per second, or CSV with t_s or timestamp; may be gzip.")
    ],
    scale: Annotated[float, typer.Option("--trace-scale", help="Multiply every count.")] = 1.0,
    cut: Annotated[
        str | None, typer.Option("--trace-slice", metavar="A:B", help="Seconds [A, B) only.")
    ] = None,
    gaps: Annotated[
        str, typer.Option("--trace-gaps", help="How to fill seconds without data: hold or silence.")
    ] = "silence",
    json: JsonOption = None,
) -> None:
    """Show how long a trace is, how many requests it has, and how bursty it is."""
    check_json(json, file)
    trace = open_trace(file, gaps=gaps, cut=cut, scale=scale)
    stats = describe(trace)
    if json != "-":
        say(_summary(str(file), stats))
    write_json(json, {"file": str(file), **_fields(stats)})


def open_trace(file: Path, *, gaps: str = "silence", cut: str | None = None, scale: float = 1.0) -> Trace:
    """Read a trace file, cut it, then scale it.

    Args:
        file: text or CSV; a name that ends in `.gz` is unpacked.
        gaps: `hold` or `silence`.
        cut: `A:B` in seconds, half-open.
        scale: factor on every count.

    Raises:
        TraceError: one line that names file, line and value.
    """
    known: tuple[Gaps, ...] = ("hold", "silence")
    if gaps not in known:
        raise TraceError(f"--trace-gaps: unknown value {gaps}{nearest(gaps, known)}")
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as lines:
            trace = read_trace(lines, name=str(file), gaps="hold" if gaps == "hold" else "silence")
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(
            f"{file}: cannot read the trace: {getattr(error, 'strerror', None) or error}"
        ) from None
    except UnicodeDecodeError:
        raise TraceError(f"{file}: not a text file; a packed trace's name ends in .gz") from None
    try:
        trace = trace if cut is None else trace.slice(*_bounds(cut))
    except TraceError as error:
        raise TraceError(f"--trace-slice: {file}: {error}") from None
    return scaled(trace, scale)


def scaled(trace: Trace, factor: float) -> Trace:
    """The trace with every count times `factor`.

    Raises:
        TraceError: `--trace-scale` is not a positive number.
    """
    try:
        return trace if factor == 1 else trace.scale(factor)
    except TraceError as error:
        raise TraceError(f"--trace-scale: {error}") from None


def _bounds(cut: str) -> tuple[int, int]:
    first, _, last = cut.partition(":")
    if not (first.isdecimal() and last.isdecimal()):
        raise TraceError(f"want two whole seconds such as 60:120, got {cut}")
    return int(first), int(last)


def _rates(
    shape: str,
    seconds: int,
    *,
    base: float,
    peak: float,
    start: int | None,
    end: int | None,
    period: float | None,
    decay: float | None,
) -> Times:
    """The shape's rates; what is not given divides the trace: a surge is its middle third."""
    third = max(1, seconds // 3)
    options: dict[str, dict[str, Any]] = {
        "constant": {"rate_rps": base},
        "ramp": {"from_rps": base, "to_rps": peak},
        "surge": {
            "base_rps": base,
            "surge_rps": peak,
            "from_s": third if start is None else start,
            "to_s": 2 * third if end is None else end,
        },
        "spike": {
            "base_rps": base,
            "peak_rps": peak,
            "at_s": seconds // 3 if start is None else start,
            "decay_s": seconds / 10 if decay is None else decay,
        },
        "diurnal": {"low_rps": base, "high_rps": peak, "period_s": seconds if period is None else period},
    }
    if shape not in options:
        raise TraceError(f"unknown shape {shape}{nearest(shape, tuple(SHAPES))}")
    return SHAPES[shape](seconds, **options[shape])


def _fields(stats: TraceStats) -> dict[str, Any]:
    return msgspec.structs.asdict(stats)


def _summary(name: str, stats: TraceStats) -> str:
    return (
        f"{name}: {stats.requests} requests in {stats.seconds} s\n"
        f"  rate     mean {stats.mean_rps:.4g}/s, p99 {stats.p99_rps:.4g}/s, max {stats.max_rps}/s "
        f"({stats.peak_ratio:.3g}x the mean)\n"
        f"  bursts   variance over mean {stats.dispersion:.3g} (1 is a steady Poisson process)\n"
        f"  silence  {stats.silent_seconds} s without a request, {stats.gaps} s without data"
    )
