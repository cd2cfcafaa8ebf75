"""One surge, several policies: violations and core-seconds side by side, on the demo's real recogniser.

The trace is the demo's (docs/demo.md): 0.4 of what one core can answer, then 1.3 of it, then 0.4. Each seed
draws its own arrivals and lines; all policies of a seed replay the same ones, in an order that changes.
`static` holds the whole number of cores below and above the mean that `steelyard` used.

Where it runs: generator, front end and decisions at nice 0, unpinned; workers at nice 5 on the cores they
were given; one machine, nothing else running.
"""

import argparse
import tempfile
from collections.abc import Sequence
from math import ceil, floor
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from _record import write
from rich.console import Console

from steelyard.demo.client import Job
from steelyard.demo.lines import find_font
from steelyard.demo.plan import Surge, plan_surge
from steelyard.demo.recogniser import find_shipped, prepare_recogniser
from steelyard.demo.replay import replay
from steelyard.demo.spec import SERVICE, write_spec
from steelyard.demo.tour import measured_cells
from steelyard.metrics.runs import RunSummary

POLICIES = ("steelyard", "themis", "themis+ours", "fixed-1", "fixed-2")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=40, help="length of each run")
    parser.add_argument("--policies", default=",".join(POLICIES))
    options = parser.parse_args()
    policies = options.policies.split(",")
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        spec = folder / "spec.yaml"
        recogniser = prepare_recogniser(Path.home() / ".cache" / "steelyard" / "demo")
        cells = measured_cells(spec, recogniser, folder, ())
        runs: list[RunSummary] = []
        plan: Surge | None = None
        for seed in range(1, options.seeds + 1):
            plan = plan_surge(cells, seconds=options.seconds, seed=seed)
            write_spec(spec, recogniser.model, slo_ms=plan.slo_ms, fixed_batch=plan.best_batch)
            job = Job(
                "",
                SERVICE,
                plan.counts,
                plan.slo_ms,
                seed,
                str(find_font()),
                characters=str(find_shipped().characters),
            )
            for policy in policies[seed % len(policies) :] + policies[: seed % len(policies)]:
                series = replay(
                    spec, policy, job, plan, label=policy, title="", folder=folder, options=(), console=quiet
                )
                runs.append(series.summary)
                print(line(series.summary), flush=True)
        assert plan is not None
        table = [
            row(policy, [run for run in runs if run.policy == policy], options.seconds) for policy in policies
        ]
        for found in table:
            print(found)
        write(
            "surge",
            {
                "slo_ms": plan.slo_ms,
                "one_line_ms": plan.one_line_ms,
                "capacity_rps": plan.capacity_rps,
                "seconds": options.seconds,
                "placement": "generator, front end: nice 0, unpinned; workers: nice 5, pinned; one machine",
                "policies": table,
                "runs": [msgspec.to_builtins(run) for run in runs],
            },
            seed=options.seeds,
        )


def row(policy: str, runs: Sequence[RunSummary], seconds: int) -> dict[str, Any]:
    """Medians over the seeds, and the sum of violations over the sum of requests."""
    cores = median(run.core_seconds for run in runs) / seconds
    return {
        "policy": policy,
        "violations": sum(run.violations for run in runs) / sum(run.requests for run in runs),
        "violations_min": min(run.violation_ratio for run in runs),
        "violations_max": max(run.violation_ratio for run in runs),
        "core_seconds": median(run.core_seconds for run in runs),
        "mean_cores": cores,
        "floor_ceil": [max(1, floor(cores)), ceil(cores)],
        "p50_ms": median(run.latency_ms["p50"] or 0.0 for run in runs),
        "p99_ms": median(run.latency_ms["p99"] or 0.0 for run in runs),
        "accuracy": median(run.accuracy_mean or 0.0 for run in runs),
    }


def line(run: RunSummary) -> str:
    """One run in one line."""
    return (
        f"seed {run.seed} {run.policy:12} violations {run.violation_ratio:6.2%} of {run.requests} "
        f"(late {run.late} shed {run.shed} rejected {run.rejected}) core-seconds {run.core_seconds:6.1f} "
        f"p50 {run.latency_ms['p50'] or 0:.0f} p99 {run.latency_ms['p99'] or 0:.0f} ms resizes {run.resizes}"
    )


if __name__ == "__main__":
    main()
