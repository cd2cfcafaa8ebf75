"""`steelyard demo`: a real model through a surge, against fixed allocations, with a report."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from steelyard.cli.output import SEED_MAX, JsonOption, check_json, write_json
from steelyard.core.errors import SteelyardError


def demo(
    seconds: Annotated[int, typer.Option(help="Length of each run; there are up to three.")] = 50,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where to write the report, the spec and the logs.")
    ] = Path("out/demo"),
    seed: Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Seed of the lines and their arrivals.")] = 1,
    profiles: Annotated[Path | None, typer.Option(metavar="DIR", help="Where profiles are stored.")] = None,
    pipeline: Annotated[
        bool, typer.Option("--pipeline", help="Serve whole pages through a pipeline with variants.")
    ] = False,
    json: JsonOption = None,
) -> int:
    """Serve a text recogniser through a surge, show it hold its SLO, and compare with fixed cores."""
    from steelyard.backend.cpu import usable_core_ids
    from steelyard.demo.pages.tour import pages_tour
    from steelyard.demo.spec import CORES
    from steelyard.demo.tour import Settings, tour

    check_json(json)
    usable = len(usable_core_ids())
    if usable < CORES:
        raise SteelyardError(f"the demo moves {CORES} cores; this process may use {usable}")
    # A demo that is told to end unwinds like one that is interrupted: its processes go with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelyard" / "demo"
    settings = Settings(seconds=seconds, out=out, cache=cache, profiles=profiles, seed=seed)
    give = pages_tour if pipeline else tour
    outcome = give(settings, Console(stderr=json == "-"))
    write_json(json, outcome)
    return 0 if all(run.completed for run in outcome.runs) else 1
