"""What sharing devices and servers is worth, as in docs/results/accuracy.md: Proteus' and Loki's cases."""

from collections.abc import Iterator, Mapping
from typing import Any

from _markdown import table
from headlines_page import share

OURS = "+ours"
AT_HAND = "families at hand"


def proteus(record: dict[str, Any]) -> str:
    """As released, one switch at a time, then ours by factor with ratios, then batching."""
    released = [
        (row["case"], *_served(row), share(row["violations"]), share(row["missed"]))
        for row in record["released"]
    ]
    names = {row["case"] for row in record["switches"]} | {"proteus", f"proteus{OURS}", AT_HAND}
    switches = [
        (row["case"], *_served(row), share(row["violations"]), f"{row['starts']:.0f}")
        for row in (record["released"][0], *record["switches"], *record["policies"])
        if row.get("factor", 1.0) == 1.0 and row["case"] in names
    ]
    policies = [
        (
            f"{row['factor']:g}×",
            row["case"],
            *_served(row),
            share(row["violations"]),
            share(row["violations_max"]),
            f"{row['starts']:.0f}",
        )
        for row in record["policies"]
    ]
    batching = [
        (row["gaps"], row["case"], f"{row['accuracy']:.4f}", share(row["violations"]))
        for row in record.get("batching", ())
    ]
    served = ("accuracy", "largest drop, points")
    begun = (
        f"As released, on Proteus' data plane: a day of {record['seconds']} s up to "
        f"{record['peak_rps']:g} requests a second; a device changes in no time."
    )
    return "\n\n".join(
        (
            begun,
            table(("policy", *served, "later than the SLO", "later than 1 s"), released),
            "`proteus` with one difference from there at a time, then with several:",
            table(("difference", *served, "violations", "starts"), switches),
            "On our data plane, where a change takes 1 s, with the peak multiplied by a factor:",
            table(("peak", "policy", *served, "violations", "worst 10 s", "starts"), policies),
            "As multiples of `families at hand`, over all factors:",
            table(("policy", "largest drop", "violations"), _ratios(record["policies"])),
            f"Batches, on a wave of {record['wave_seconds']} s:",
            table(("gaps", "batching", "accuracy", "violations"), batching),
        )
    )


def _served(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['accuracy']:.4f}", f"{100 * row['accuracy_drop_max']:.2f}"


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
            "The highest steady rate with at most 1 % violations:",
            table(("policy", "requests a second", "accuracy there"), carried),
            _gains(record),
            f"A day of {record['seconds']} s:",
            table(("policy", "violations", "accuracy", "servers, mean", "off-peak"), days),
        )
    )


def _ratios(rows: list[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Means over the factors that a policy was run at, its over ours."""
    for case in dict.fromkeys(row["case"] for row in rows if row["case"] != AT_HAND):
        those = [row for row in rows if row["case"] == case]
        factors = {row["factor"] for row in those}
        own = [row for row in rows if row["case"] == AT_HAND and row["factor"] in factors]
        yield case, _times(those, own, "accuracy_drop_max"), _times(those, own, "violations")


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
        words.append(f"`loki{plane}` carries {over} the rate of the best variants alone")
    for plane, where in (("", ""), (OURS, " on our data plane")):
        apart, own_day = (
            days.get(f"{name}{plane}", {}).get("violations") for name in ("tasks apart", "loki")
        )
        if apart and own_day:
            words.append(f"stages planned apart have {apart / own_day:.1f} times the violations{where}")
    off_peak = days["loki"]["servers_off_peak"]
    words.append(
        f"off-peak, `loki` uses {record['servers'] / off_peak:.2f} times fewer servers than there are"
    )
    words.append(
        f"the best variants alone need at least {record['servers_best_off_peak']}, without any headroom"
    )
    return "; ".join(word for word in words if word) + "."
