"""Live runs beside their simulations, as in docs/results.md."""

from statistics import median
from typing import Any

from _markdown import table

HEAD = (
    "policy",
    "requests",
    "violations, live",
    "simulated",
    "core-s, live",
    "simulated",
    "p50 ms, live",
    "simulated",
    "p99 ms, live",
    "simulated",
    "service times, live / stated",
    "bands missed",
)
OUTSIDE = {
    "violations_points": "violations",
    "core_seconds_ratio": "core-seconds",
    "p50_ratio": "p50",
    "p99_ratio": "p99",
}


def parity(record: dict[str, Any]) -> str:
    """One row a policy: both sides, and which of the bands are not kept."""
    rows = [
        (
            row["policy"],
            f"{row['requests']:,}",
            *(f"{row[side]['violation_ratio']:.2%}" for side in ("live", "simulated")),
            *(f"{row[side]['core_seconds']:.1f}" for side in ("live", "simulated")),
            *(f"{row[side]['p50_ms']:.0f}" for side in ("live", "simulated")),
            f"{row['live']['p99_ms']:.0f} ({row['live_p99_ms'][0]:.0f} – {row['live_p99_ms'][-1]:.0f})",
            f"{row['simulated']['p99_ms']:.0f}",
            f"{median(run['service_ratio'] for run in row['constants']):.2f}",
            ", ".join(OUTSIDE[miss.split()[0]] for miss in row["misses"]) or "–",
        )
        for row in record["policies"]
    ]
    within = record["within"]
    points = within["violations_points"]
    bands = f"Wanted: violations within {points:g} point{'' if points == 1 else 's'}, " + ", ".join(
        f"{OUTSIDE[key]} within {share:.0%}" for key, share in within.items() if key != "violations_points"
    )
    runs = f"{record['seed']} seeds a policy, {record['seconds']} s a run"
    text = f"{runs}, each simulated {record['simulated_seeds']} times. {bands}."
    if "again" in record:
        text += (
            f" Live runs that were done again, as stalls had spoilt more than {record['stalled_max']:.0%}: "
        )
        text += f"{record['again']}."
    return f"{text}\n\n{table(HEAD, rows)}"


def slow_down(record: dict[str, Any]) -> str:
    """Violations by policy and side: before, in the first seconds of slowness, and after them."""
    spans = ("before", "first", "absorbed")
    rows = [
        (row["policy"], side, *(f"{row[side][span]:.2%}" for span in spans))
        for row in record["policies"]
        for side in ("live", "simulated")
    ]
    first = f"first {record['absorbed_s']:g} s"
    setting = (
        f"{record['seed']} seeds; {record['slower']:g} times slower, load {record['load_share']:g} of what "
        f"one core answers, SLO {record['slo_ms']:g} ms. Violations:"
    )
    return f"{setting}\n\n{table(('policy', '', 'before', first, 'the rest of the slow time'), rows)}"
