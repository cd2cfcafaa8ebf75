"""What each ingredient of the default policy buys: the same cases with one of them left out.

Runs `steelyard` as it comes and with `without: [ingredient]`, on the surges, pipelines and seeds of
bench/headlines.py, in the same file of runs, so that what both need is run once. An ingredient that changes
neither violations nor cost buys nothing.

    python bench/ablation.py INGREDIENT ... [--quick] [--surges 4] [--seeds 2]
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _record import write
from headlines import RUNS, Matrix, run_missing, runs_of
from headlines_cases import DIVISORS, OURSELVES, Candidate, refusal
from headlines_judge import Total, totals
from headlines_store import Store
from surges import TRACE, like_the_papers, surges


def main() -> None:
    options = _arguments()
    whole = Candidate(OURSELVES)
    variants = [Candidate(OURSELVES, json.dumps({"without": [name]})) for name in options.ingredients]
    for candidate in variants:
        if why := refusal(candidate):
            raise SystemExit(why)
    matrix = Matrix(
        surges(options.trace, options.surges),
        like_the_papers(options.trace),
        tuple(float(part) for part in options.cold_starts.split(",")),
        range(1, options.seeds + 1),
        list(DIVISORS),
        [whole, *variants],
        options.trace,
        options.quick,
    )
    store = Store(options.runs)
    run_missing(store, matrix.jobs(), options.processes)
    surge_runs, _ = runs_of(store, matrix)
    pipelines = {}
    for name, runs in surge_runs.items():
        pipelines[name] = _rows(totals(runs), [whole, *variants])
        for row in pipelines[name]:
            print(
                f"{name:22} {row['policy']:45} {row['violations']:8.3%} {row['core_seconds']:10,.0f} core-s"
            )
    payload = {
        "surges": options.surges,
        "quick": options.quick,
        "cold_starts_s": list(matrix.cold_starts_s),
        "ingredients": options.ingredients,
        "pipelines": pipelines,
    }
    write("ablation", payload, seed=options.seeds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ingredients", nargs="+")
    parser.add_argument("--quick", action="store_true", help="300 s of each surge, as headlines.py --quick")
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--surges", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cold-starts", default="6", help="seconds")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def _rows(found: dict[str, Total], candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Each one's sums, and its ratios to the whole policy's; absent where a candidate has no runs."""
    whole = found.get(candidates[0].label)
    rows: list[dict[str, Any]] = []
    for candidate in candidates:
        total = found.get(candidate.label)
        if total is None or whole is None:
            continue
        rows.append(
            {
                "policy": candidate.label,
                "violations": total.ratio,
                "core_seconds": total.core_seconds,
                "violations_ratio": total.ratio_counted / whole.ratio_counted,
                "cost_ratio": total.core_seconds / whole.core_seconds,
            }
        )
    return rows


if __name__ == "__main__":
    main()
