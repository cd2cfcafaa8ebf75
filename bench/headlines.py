"""The headline matrix: surges x pipelines x cold starts x seeds x policies, in simulation, resumable.

Each surge is a slice of 660 s of the Twitter series (bench/surges.py), divided by the pipeline's divisor, on
one node of 64 cores, started warm. A run is one JSON line in `--runs`, and what has a line for the present
sources is not run again (bench/headlines_code.py), so the command can be stopped, repeated and widened. How
policies are compared: bench/headlines_judge.py. On the slice most like the papers' only Themis, FA2, Sponge,
`steelyard` and the oracle run; it is not among the sums. The record of the full matrix has each seed by
itself, and their sum: `--from-seed 3` adds seeds to those that were recorded before, or elsewhere.

    python bench/headlines.py [--quick] [--seeds 5] [--from-seed 1]
        [--only pipeline=video-t24,nlp-t24 policy=steelyard,themis]
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from _record import environment, write
from headlines_cases import (
    DIVISORS,
    ORACLE,
    OURSELVES,
    TARGETS,
    TARGETS_QUICK,
    Candidate,
    Job,
    candidates,
    refusal,
)
from headlines_fa2 import savings
from headlines_judge import OURS, Case, Run
from headlines_store import Line, Store
from headlines_summary import added, summary_of
from rich.console import Console
from rich.table import Table
from surges import SLICE_S, TRACE, Slice, like_the_papers, surges

from steelyard.report.curves import SweepPoint
from steelyard.report.html import render_sweep

RUNS = Path(__file__).parent.parent / "out" / "headlines.jsonl"
RECORD = Path(__file__).parent / "results" / "headlines.json"
PAPERS_SLICE = "papers"
PAPERS_POLICIES = ("themis", "fa2", "sponge", OURSELVES, ORACLE)
SAY_EVERY_S = 15.0
QUICK_FROM_S, QUICK_SECONDS = 90, 300
"""The part of each slice that `--quick` replays: 90 s before the onset and 210 s after it."""


class Matrix(NamedTuple):
    """What is crossed with what."""

    slices: list[Slice]
    papers: Slice
    cold_starts_s: tuple[float, ...]
    seeds: range
    pipelines: list[str]
    candidates: list[Candidate]
    trace: Path
    is_quick: bool = False

    def jobs(self) -> list[Job]:
        """All runs; seeds and slices outermost, so that an interrupted matrix is an even one."""
        return list(self._jobs())

    def _jobs(self) -> Iterator[Job]:
        slices = [(each.name, each) for each in self.slices]
        if not self.is_quick:
            slices.append((PAPERS_SLICE, self.papers))
        from_s, seconds = (QUICK_FROM_S, QUICK_SECONDS) if self.is_quick else (0, SLICE_S)
        for seed, (name, slice_) in product(self.seeds, slices):
            for cold_start_s, pipeline in product(self.cold_starts_s, self.pipelines):
                for candidate in self.candidates:
                    if name != PAPERS_SLICE or candidate.label in PAPERS_POLICIES:
                        case = Case(name, cold_start_s, seed)
                        yield Job(pipeline, candidate, case, slice_.from_s + from_s, self.trace, seconds)


def main() -> None:
    options = _arguments()
    only = _only(options.only)
    targets = TARGETS_QUICK if options.quick else TARGETS
    wanted = [c for c in candidates(targets) if _is_wanted(c, only.get("policy"))]
    refused = {c.label: why for c in wanted if (why := refusal(c))}
    matrix = Matrix(
        surges(options.trace, 4 if options.quick else options.surges),
        like_the_papers(options.trace),
        (6.0,) if options.quick else tuple(float(part) for part in options.cold_starts.split(",")),
        range(1, 3) if options.quick else range(options.from_seed, options.from_seed + options.seeds),
        [name for name in DIVISORS if name in only.get("pipeline", DIVISORS)],
        [c for c in wanted if c.label not in refused],
        options.trace,
        options.quick,
    )
    store, jobs = Store(options.runs), matrix.jobs()
    if not options.report:
        run_missing(store, jobs, options.processes)
    if options.only or options.quick:
        summary = _summary(store, matrix, refused)
        if not options.only:
            write("headlines_quick", summary, seed=len(matrix.seeds))
    else:
        by_seed = json.loads(RECORD.read_text())["by_seed"] if RECORD.exists() else {}
        known = environment()
        for seed in matrix.seeds:
            found = _summary(store, matrix._replace(seeds=range(seed, seed + 1)), refused)
            by_seed[str(seed)] = {"commit": known["commit"], **found}
        summary = added_up(list(by_seed.values()))
        write("headlines", {**summary, "by_seed": by_seed}, seed=len(by_seed))
    _show(summary)
    if options.html:
        options.html.write_text(_page(summary))
        print(f"wrote {options.html}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="300 s of 4 surges, one cold start, 2 seeds, fewer targets",
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="KEY=A,B", help="pipeline=..., policy=...")
    parser.add_argument("--report", action="store_true", help="run nothing; judge what there is")
    parser.add_argument("--html", type=Path, help="a page with the curves")
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--surges", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--from-seed", type=int, default=1)
    parser.add_argument("--cold-starts", default="3,6,10", help="seconds")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def _only(given: Sequence[str]) -> dict[str, list[str]]:
    only = {key: names.split(",") for key, _, names in (part.partition("=") for part in given)}
    unknown = set(only) - {"pipeline", "policy"}
    unknown |= set(only.get("pipeline", ())) - set(DIVISORS)
    if unknown:
        known = f"pipeline=A,B or policy=A,B; pipelines are {', '.join(DIVISORS)}"
        raise SystemExit(f"--only: {', '.join(sorted(unknown))}: want {known}")
    return only


def _is_wanted(candidate: Candidate, policies: Sequence[str] | None) -> bool:
    """By name: both forms of a policy, and all settings of ours."""
    return policies is None or candidate.policy in policies or candidate.policy.removesuffix(OURS) in policies


def run_missing(store: Store, jobs: Sequence[Job], processes: int) -> None:
    """What is missing, with a line now and then on how far it is."""
    missing = store.missing(jobs)
    print(f"{len(jobs)} runs, {len(missing)} of them missing", flush=True)
    began_s = said_s = monotonic()
    done = failed = 0

    def on_done(line: Line) -> None:
        nonlocal done, failed, said_s
        done += 1
        failed += "error" in line
        if "error" in line and failed <= 5:
            print(f"{line['pipeline']} {line['policy']} {line['slice']}: {line['error']}", flush=True)
        if monotonic() - said_s > SAY_EVERY_S:
            said_s = monotonic()
            left_s = (said_s - began_s) / done * (len(missing) - done)
            print(f"{done} of {len(missing)}, {failed} failed, {left_s / 60:.0f} min left", flush=True)

    known = environment()
    stamp = {key: known[key] for key in ("commit", "dirty", "time")}
    store.run(missing, stamp=stamp, processes=processes, on_done=on_done)


def runs_of(store: Store, matrix: Matrix) -> tuple[dict[str, list[Run]], dict[str, list[Run]]]:
    """By pipeline: the runs on surges, and those on the slice most like the papers'."""
    runs: dict[str, list[Run]] = {name: [] for name in matrix.pipelines}
    papers: dict[str, list[Run]] = {name: [] for name in matrix.pipelines}
    for job, line in store.of(matrix.jobs()):
        if "summary" not in line:
            continue
        found = line["summary"]
        run = Run(
            job.candidate.label,
            job.case,
            found["requests"] - found["cancelled"],
            found["violations"],
            found["core_seconds"],
            line["bound"],
        )
        (papers if job.case.slice == PAPERS_SLICE else runs)[job.pipeline].append(run)
    return runs, papers


def _summary(store: Store, matrix: Matrix, refused: dict[str, str]) -> dict[str, Any]:
    """The record: how it was run, what is missing, and each pipeline's sums."""
    runs, papers = runs_of(store, matrix)
    lines = list(store.of(matrix.jobs()))
    failed = Counter(job.candidate.label for job, line in lines if "error" in line)
    speeds = [line["summary"]["requests_per_wall_s"] for _, line in lines if "summary" in line]
    return {
        "slices": [{"from_s": each.from_s, "growth": each.growth} for each in matrix.slices],
        "papers_slice": {"from_s": matrix.papers.from_s, "growth": matrix.papers.growth},
        "seconds": QUICK_SECONDS if matrix.is_quick else SLICE_S,
        "cold_starts_s": list(matrix.cold_starts_s),
        "runs": sum(map(len, runs.values())),
        "refused": refused,
        "failed": dict(failed),
        "fa2": {name: savings(name, matrix.trace, matrix.slices) for name in matrix.pipelines},
        "requests_per_wall_s": sum(speeds) / len(speeds) if speeds else None,
        "pipelines": {name: summary_of(found) for name, found in runs.items() if found},
        "papers": {name: summary_of(found) for name, found in papers.items() if found},
    }


def added_up(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of all seeds from those of each.

    Raises:
        SystemExit: they are not of the same surges and cold starts.
    """
    for key in ("slices", "seconds", "cold_starts_s"):
        if len({json.dumps(record[key]) for record in records}) > 1:
            raise SystemExit(f"the seeds in {RECORD} differ in {key}: run them alike, or remove it")
    first = records[0]
    return {
        **{
            key: first[key]
            for key in ("slices", "papers_slice", "seconds", "cold_starts_s", "refused", "fa2")
        },
        "runs": sum(record["runs"] for record in records),
        "failed": dict(sum((Counter(record["failed"]) for record in records), Counter())),
        "requests_per_wall_s": sum(record["requests_per_wall_s"] for record in records) / len(records),
        **{
            part: {name: added([record[part][name] for record in records]) for name in first[part]}
            for part in ("pipelines", "papers")
        },
    }


def _show(summary: dict[str, Any]) -> None:
    """On the terminal; the page has the same from the record."""
    console = Console()
    for name, found in summary["pipelines"].items():
        table = Table(
            "policy", "violations", "core-s", "/ bound", "/ oracle", title=f"{name}, {found['cases']} cases"
        )
        for row in found["policies"]:
            to_oracle = "" if row["to_oracle"] is None else f"{row['to_oracle']:.2f}"
            cells = (
                f"{row['violations']:.3%}",
                f"{row['core_seconds']:,.0f}",
                f"{row['to_bound']:.2f}",
                to_oracle,
            )
            table.add_row(row["policy"], *cells)
        console.print(table)
        for verdict in found["verdicts"]:
            console.print(_sentence(verdict), highlight=False)
    for label, why in summary["refused"].items():
        console.print(f"missing: {label}: {why}", highlight=False)
    for label, count in summary["failed"].items():
        console.print(f"failed: {label}: {count} runs", highlight=False)


def _sentence(verdict: dict[str, Any]) -> str:
    if verdict["form"] is None:
        return f"{verdict['policy']}: not compared ({verdict['why']})"
    at_cost = "outside" if verdict["at_cost"] is None else f"{verdict['at_cost']:.3%}"
    at_violations = "outside" if verdict["at_violations"] is None else f"{verdict['at_violations']:,.0f}"
    outcome = "holds" if verdict["holds"] else "DOES NOT HOLD"
    return (
        f"{verdict['form']}: {outcome}: {at_cost} violations against "
        f"{verdict['violations']:.3%} at its cost, {at_violations} core-s against {verdict['cost']:,.0f}"
    )


def _page(summary: dict[str, Any]) -> str:
    points = {
        name: [
            SweepPoint(
                row["policy"].split(" ")[0] if "=" in row["policy"] else _named(row["policy"]),
                row["policy"].partition(" ")[2],
                row["requests"],
                row["violations"],
                row["core_seconds"],
            )
            for row in found["policies"]
        ]
        for name, found in summary["pipelines"].items()
    }
    starts = ", ".join(f"{seconds:g}" for seconds in summary["cold_starts_s"])
    notes = [
        (
            f"{len(summary['slices'])} surges of the public Twitter sample of August 2021, "
            f"{summary['seconds']} s each."
        ),
        "Pipelines as published (arXiv 2407.14843 and its code), on one node of 64 cores.",
        f"Cold starts {starts} s; started warm.",
        "Violations are late, shed, rejected or failed requests, over all requests; cost is cores reserved.",
    ]
    return render_sweep(
        points, title="Policies on surges", notes=notes, introduction="All surges, seeds and cold starts."
    )


def _named(label: str) -> str:
    return f"{label}, as it comes" if label == OURSELVES else label


if __name__ == "__main__":
    main()
