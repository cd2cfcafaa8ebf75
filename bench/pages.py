"""The page pipeline through a surge beyond its cores, live: all variants, the accurate alone, the fast alone.

Real models, real processes, answers checked against what was drawn: violations, accuracy (share of lines that
are right to the last character), reserved core-seconds, switches and failures, seeds interleaved. Before it,
the accuracy of every choice of detector and reader on `--labelled` pages, with intervals.

Where it runs: client, front end and workers on one machine; the client in a process of its own, nice 0 as the
front end; workers at nice 5.

    python bench/pages.py [--seeds 5] [--seconds 30] [--labelled 130] [--fractions | --switches]
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from _record import write
from rich.console import Console

from steelyard.demo.lines import find_font
from steelyard.demo.pages.models import READERS, prepare_models
from steelyard.demo.pages.tour import (
    ARRANGEMENTS,
    Arrangement,
    measured_accuracies,
    measured_times,
    plan_pages,
    run_once,
    spec_of,
)
from steelyard.demo.tour import Settings
from steelyard.metrics.runs import RunSeries

PROVISIONAL_SLO_MS = 10_000.0
FAMILY = Arrangement("family", "every reader", ("small", "tiny"), tuple(READERS))
CAPPED = tuple(
    each._replace(name=f"{each.name}-capped", fractions="capped")
    for each in ARRANGEMENTS
    if each.name != "fast"
)
"""The same with quotas in place of weights where stages share a core (ADR 12)."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=30, help="length of each run")
    parser.add_argument("--labelled", type=int, default=130, help="pages whose accuracy is measured first")
    parser.add_argument("--fractions", action="store_true", help="also with parts of a core capped")
    parser.add_argument("--switches", action="store_true", help="all variants alone; a record of its own")
    options = parser.parse_args()
    arrangements = (*ARRANGEMENTS, *(CAPPED if options.fractions else ()))
    if options.switches:
        arrangements = ARRANGEMENTS[:1]
    models, font = prepare_models(Path.home() / ".cache" / "steelyard" / "demo"), find_font()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        profiles = ("--profiles", str(folder / "profiles"))
        spec = spec_of(FAMILY, models, folder, PROVISIONAL_SLO_MS)
        cells = measured_times(spec, folder, font, profiles)
        accuracies = measured_accuracies(spec, folder, font, profiles, pages=options.labelled)
        for found in accuracies:
            print(found, flush=True)
        runs: list[tuple[str, RunSeries]] = []
        surge = plan_pages(cells, seconds=options.seconds, seed=1)
        for seed in range(1, options.seeds + 1):
            surge = plan_pages(cells, seconds=options.seconds, seed=seed)
            settings = Settings(options.seconds, folder, folder, folder / "profiles", seed)
            for place in range(len(arrangements)):
                arrangement = arrangements[(place + seed) % len(arrangements)]
                series = run_once(
                    arrangement,
                    models,
                    surge,
                    settings,
                    font=font,
                    options=profiles,
                    console=Console(quiet=True),
                )
                runs.append((arrangement.name, series))
                print(arrangement.name, seed, row([series]), flush=True)
    table = {each.name: row([run for name, run in runs if name == each.name]) for each in arrangements}
    for name, found in table.items():
        print(name, found)
    write(
        "pages_switches" if options.switches else "pages",
        {
            "slo_ms": surge.slo_ms,
            "capacity_rps": surge.capacity_rps,
            "seconds": options.seconds,
            "accuracies": accuracies,
            "arrangements": table,
            "runs": [
                {"arrangement": name, "label": run.label, **msgspec.to_builtins(run.summary)}
                for name, run in runs
            ],
            "placement": "client, front end: nice 0, unpinned; workers: nice 5, pinned; one machine",
        },
        seed=options.seeds,
    )


def row(series: list[RunSeries]) -> dict[str, Any]:
    """Medians over the seeds; requests, failures, switches and void runs are summed."""
    runs = [each.summary for each in series]
    return {
        "violation_ratio": median(run.violation_ratio for run in runs),
        "accuracy_mean": median(run.accuracy_mean or 0.0 for run in runs),
        "core_seconds": median(run.core_seconds for run in runs),
        "p99_ms": median(run.latency_ms["p99"] or 0.0 for run in runs),
        "requests": sum(run.requests for run in runs),
        "failed": sum(run.failed for run in runs),
        "switches": sum(run.switches for run in runs),
        "void": sum("(void)" in each.label for each in series),
    }


if __name__ == "__main__":
    main()
