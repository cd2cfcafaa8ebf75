"""Warm switches of the variant, as in docs/results.md."""

from typing import Any

from _markdown import table

TIMED = {
    "dispatch": "sent to started",
    "service": "service time",
    "latency": "latency at the caller",
}


def switch(record: dict[str, Any]) -> str:
    """One row a place, variant and what was timed: first batches after a switch against later ones."""
    runs = [
        *((_cores(run["cores"]), run) for run in record["workers"]),
        ("server, 1 core", record["server"]),
    ]
    rows = [
        (
            f"{where}: {variant}",
            TIMED[what],
            *(
                f"{round(ms[key], 2) + 0.0:.2f}"
                for key in ("first_p50", "later_p50", "added", "first_p99", "later_p99")
            ),
        )
        for where, run in runs
        for variant, timed in run["variants"].items()
        for what, ms in sorted(timed.items(), key=lambda item: list(TIMED).index(item[0]))
    ]
    head = ("batches of", "ms", "first", "later", "added", "first, p99", "later, p99")
    cold = " and ".join(f"{run['cold_ms']:.0f} ms" for run in record["workers"])
    counts = "; ".join(
        f"{where}: {run['switches']} switches, {run.get('batches', run.get('requests'))} batches, "
        f"{run['failed']} failed"
        for where, run in runs
    )
    return (
        f"{counts}. Batches of {record['rows']} lines; a switch every {record['run']} batches. Medians, and "
        f"what the first batch adds. Starting a replica for the variant instead takes {cold}."
        f"\n\n{table(head, rows)}"
    )


def _cores(cores: int) -> str:
    return f"worker, {cores} core{'' if cores == 1 else 's'}"
