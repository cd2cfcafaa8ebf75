"""The page pipeline and requests' own bounds, as in docs/results.md."""

from typing import Any

from _markdown import table
from headlines_page import NONE, share

ARRANGEMENTS = {
    "all": "all variants",
    "accurate": "the accurate ones alone",
    "fast": "the fast ones alone",
    "all-capped": "all variants, parts of cores capped",
    "accurate-capped": "the accurate ones alone, capped",
}


def pages(record: dict[str, Any]) -> str:
    """Accuracies of every choice, then one row an arrangement."""
    choices = [
        (
            found["variants"]["detect"],
            found["variants"]["read"],
            f"{found['accuracy']:.3f}",
            f"{found['accuracy_low']:.3f} – {found['accuracy_high']:.3f}",
            found["examples"],
        )
        for found in sorted(record["accuracies"], key=lambda each: -each["accuracy"])
    ]
    rows = [
        (
            ARRANGEMENTS[name],
            share(row["violation_ratio"]),
            f"{row['accuracy_mean']:.3f}",
            f"{row['core_seconds']:.1f}",
            f"{row['p99_ms']:.0f}",
            row["requests"],
            row["failed"],
            row["switches"],
            row["void"],
        )
        for name, row in record["arrangements"].items()
    ]
    head = (
        "answered by",
        "violations",
        "accuracy",
        "core-s",
        "p99 ms",
        "pages",
        "failed",
        "switches",
        "void",
    )
    setting = (
        f"The surge: {record['seed']} seeds, {record['seconds']} s a run, SLO {record['slo_ms']:g} ms, on "
        f"two cores, which answer {record['capacity_rps']:.1f} pages a second with the best variants. "
        "Medians over the seeds; pages, failures, switches and void runs are sums."
    )
    return "\n\n".join(
        (
            "Accuracy of whole pages, measured with labels: lines that are right to the last character.",
            table(("detector", "reader", "accuracy", "95 % interval", "pages"), choices),
            setting,
            table(head, rows),
        )
    )


def switches(record: dict[str, Any]) -> str:
    """One sentence."""
    (row,) = record["arrangements"].values()
    return (
        f"{row['switches']} switches in {record['seed']} runs of {record['seconds']} s with all variants, "
        f"{row['requests']} pages: {row['failed']} failed, "
        f"{share(row['violation_ratio'])} violations (median)."
    )


def bounds(record: dict[str, Any]) -> str:
    """One row a load and spread: of the feasible bounded requests, how each ended."""
    rows = [
        (
            f"{row['load']:g}",
            f"{row['spread']:g}",
            row["feasible"],
            *(share(row.get(key, 0) / max(row["feasible"], 1)) for key in ("kept", "shed", "overshot")),
            row.get("not_now", 0),
            row.get("impossible", 0),
        )
        for row in record["rows"]
    ]
    head = ("load", "spread", "feasible", "kept", "shed", "overshot", "not now", "impossible")
    return f"{record['seeds']} seeds, {record['seconds']:g} s a run.\n\n{table(head, rows)}"


def label_bounds(record: dict[str, Any]) -> str:
    """One row a bound: how its pages ended, and how accurate its answers were said to be and were."""
    rows = [
        (
            "none" if row["bound"] is None else f"{row['bound']:g}",
            *(row[key] for key in ("pages", "refused", "dropped", "answered", "below")),
            *(NONE if row[key] is None else f"{row[key]:.3f}" for key in ("said", "right")),
            NONE if row["interval"] is None else " – ".join(f"{end:.3f}" for end in row["interval"]),
        )
        for row in record["rows"]
    ]
    head = (
        "least accuracy",
        "pages",
        "refused",
        "dropped",
        "answered",
        "of these, said to be below",
        "mean accuracy, as said",
        "by labels",
        "95 % interval",
    )
    setting = f"{record['pages']} pages by {record['callers']} callers at once, SLO {record['slo_ms']:g} ms."
    return f"{setting}\n\n{table(head, rows)}"
