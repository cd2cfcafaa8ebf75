"""What sharing devices and servers is worth, as in docs/results.md: Proteus' and Loki's cases."""

from collections.abc import Iterator, Mapping
from typing import Any

from _markdown import table
from headlines_page import share

OURS = "+ours"


def proteus(record: dict[str, Any]) -> str:
    """Policies by factor, then batching; ratios of each data plane's baselines to Proteus."""
    rows = [
        (
            f"{row['factor']:g}×",
            row["case"],
            f"{row['accuracy']:.4f}",
            f"{100 * row['accuracy_drop_max']:.2f}",
            share(row["violations"]),
            f"{row['starts']:.0f}",
        )
        for row in record["policies"]
    ]
    batching = [
        (row["gaps"], row["case"], f"{row['accuracy']:.4f}", share(row["violations"]))
        for row in record["batching"]
    ]
    head = ("peak", "policy", "accuracy", "largest drop, points", "violations", "starts")
    return "\n\n".join(
        (
            f"A wave of {record['seconds']} s up to {record['peak_rps']:g} requests a second × the factor.",
            table(head, rows),
            "Over `proteus` on the same data plane, all factors together:",
            table(("policy", "largest drop", "violations"), _ratios(record["policies"])),
            "Batches, at once the peak:",
            table(("gaps", "batching", "accuracy", "violations"), batching),
        )
    )


def loki(record: dict[str, Any]) -> str:
    """Capacities at steady rates, then the day."""
    capacity = record["capacity_rps"]
    accuracy = {(row["case"], row["rate_rps"]): row["accuracy"] for row in record["steady"]}
    carried = [
        (name, f"{rate:g}", f"{accuracy[name, rate]:.3f}" if rate else "–") for name, rate in capacity.items()
    ]
    days = [
        (
            row["case"],
            share(row["violations"]),
            f"{row['accuracy']:.4f}",
            f"{row['servers']:.1f}",
            f"{row['servers_off_peak']:.1f}",
        )
        for row in record["days"]
    ]
    return "\n\n".join(
        (
            "Steady requests a second with at most 1 % violations:",
            table(("policy", "requests a second", "accuracy there"), carried),
            _gains(record),
            f"A day of {record['seconds']} s:",
            table(("policy", "violations", "accuracy", "servers, mean", "off-peak"), days),
        )
    )


def _ratios(rows: list[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Means over the factors, each baseline's over Proteus' on its data plane."""
    for plane in ("", OURS):
        own = [row for row in rows if row["case"] == f"proteus{plane}"]
        cases = dict.fromkeys(row["case"] for row in rows if row["case"].endswith(OURS) == bool(plane))
        for case in cases:
            those = [row for row in rows if row["case"] == case]
            if those != own:
                yield (
                    case,
                    _times(those, own, "accuracy_drop_max"),
                    _times(those, own, "violations"),
                )


def _times(those: list[Mapping[str, Any]], own: list[Mapping[str, Any]], what: str) -> str:
    base = sum(row[what] for row in own)
    return f"{sum(row[what] for row in those) / base:.2f}×" if base else "–"


def _gains(record: dict[str, Any]) -> str:
    """Effective capacity, violations and servers against the baselines, in a sentence."""
    capacity, days = record["capacity_rps"], {row["case"]: row for row in record["days"]}
    words = []
    for plane in ("", OURS):
        hardware, own = capacity[f"hardware{plane}"], capacity[f"loki{plane}"]
        over = f"{own / hardware:.1f} times" if hardware else "more than"
        words.append(f"`loki{plane}` carries {over} what the best variants alone carry")
    apart, own_day = days["tasks apart"]["violations"], days["loki"]["violations"]
    words.append(f"stages planned apart have {apart / own_day:.1f} times the violations" if own_day else "")
    off_peak = days["loki"]["servers_off_peak"]
    words.append(f"off-peak it uses {record['servers'] / off_peak:.2f} times fewer servers than there are")
    words.append(
        f"with the best variants {record['servers_best_off_peak']} are the fewest, without any headroom"
    )
    return "; ".join(word for word in words if word) + "."
