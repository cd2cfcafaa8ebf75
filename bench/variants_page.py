"""Three axes against two, as in docs/results/accuracy.md."""

from typing import Any

from _markdown import table
from headlines_page import share


def variants(record: dict[str, Any]) -> str:
    """One row a case and surge; the figures are means over the seeds."""
    rows = (
        (
            row["case"],
            f"{row['surge']:g}",
            share(row["violations"]),
            share(row["violations_max"]),
            f"{row['accuracy']:.3f}",
            f"{row['core_seconds']:.0f}",
            f"{row['p99_ms']:.0f}",
            f"{row['switches']:.0f}",
        )
        for row in record["rows"]
    )
    head = (
        "case",
        "surge",
        "violations",
        "worst seed",
        "mean accuracy",
        "core-seconds",
        "p99 ms",
        "switches",
    )
    costs = ", ".join(
        f"{name} {cost:g} ms at {record['accuracies'][name]:.2f}" for name, cost in record["cost_ms"].items()
    )
    return (
        f"{record['seed']} seeds, {record['seconds']} s a run, SLO {record['slo_ms']:g} ms, "
        f"{record['cores']} cores; {costs}. Rates are {record['base']:g} of what the cores carry at full "
        f"accuracy, and in the surge as given.\n\n{table(head, rows)}"
    )
