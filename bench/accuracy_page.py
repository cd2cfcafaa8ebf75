"""What accuracy costs, as in docs/results/accuracy.md: InfAdapter's and IPA's cases."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from _markdown import table
from headlines_page import NONE, share


def infadapter(record: dict[str, Any]) -> str:
    """Plans, then runs, then each VPA against the mix."""
    plans = (
        (
            row["budget"],
            f"{row['equal']} of {row['loads']}",
            f"{row['solve_ms_max']:.1f}",
            f"{row['rule_too_little']} of {row['rule_plans']}",
            _gain(row["gain_over_rule"]),
            _gain(row["gain_over_single"]),
        )
        for row in record["plans"]
    )
    runs = (
        (
            row["policy"],
            row["budget"],
            share(row["violations"]),
            f"{row['cores_mean']:.2f}",
            f"{row['accuracy']:.4f}",
        )
        for row in record["runs"]
    )
    against = [row for row in record["runs"] if row["policy"].startswith("vpa")]
    return "\n\n".join(
        (
            table(PLAN_HEAD, plans),
            f"Simulated on {' and '.join(record['loads'])}, {_seeds(record['seed'])}.",
            table(("policy", "budget", "violations", "cores, mean", "accuracy"), runs),
            "What choosing variants changes, compared with each fixed one:",
            table(("against", "by", "violations", "cores", "accuracy"), _saved(record["runs"], against)),
        )
    )


PLAN_HEAD = (
    "budget",
    "equal to enumeration",
    "CPU ms, at most",
    "plans of the rule that carry too little",
    "points of accuracy over the rule, mean (range)",
    "over the best single variant, mean (range)",
)


def ipa(record: dict[str, Any]) -> str:
    """The solver, plans by pipeline, runs by pipeline."""
    solver, proof = record["solver"], record["enumeration"]
    seconds = (
        f"The whole front at {solver['stages']} stages × {solver['variants']} variants × "
        f"{solver['batches']} batches: {solver['front_ms']['median']:.0f} ms of CPU (at most "
        f"{solver['front_ms']['max']:.0f}), {solver['points']['median']:.0f} points; "
        f"{proof['equal']} of {proof['problems']} fronts at 4 × 4 equal enumeration."
    )
    runs = (
        (
            f"{row['pipeline']}, {row['policy']}",
            share(row["violations"]),
            f"{row['cores_mean']:.1f}",
            f"{row['accuracy']:.4f}",
        )
        for row in record["runs"]
    )
    published = record["published_timeouts"].items()
    timeouts = ", ".join(f"{name} {share(value)}" for name, value in published)
    return "\n\n".join(
        (
            seconds,
            table(FRONT_HEAD, _fronts(record["plans"])),
            f"Simulated on {len(record['loads'])} loads ({', '.join(record['loads'])}).",
            table(("pipeline, policy", "violations", "cores, mean", "PAS"), runs),
            f"Timeouts as published, with the paper's predictor: {timeouts}.",
        )
    )


FRONT_HEAD = (
    "pipeline",
    "loads with a plan",
    "PAS gained over IPA with the same cores, mean (range)",
    "cores saved at the same PAS",
    "IPA's PAS over FA2-low's",
    "IPA's cores / FA2-high's",
)


def _gain(spread: dict[str, float] | None) -> str:
    """In points of a hundredth."""
    if spread is None:
        return NONE
    mean, least, most = (100 * spread[key] for key in ("mean", "least", "most"))
    return f"{mean:+.2f} ({least:+.2f} – {most:+.2f})"


CHOOSING = ("infadapter, measured capacities", "steelyard")


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _saved(runs: Sequence[dict[str, Any]], against: Sequence[dict[str, Any]]) -> Iterator[Sequence[object]]:
    for row in against:
        for mine in runs:
            if mine["budget"] != row["budget"] or mine["policy"] not in CHOOSING:
                continue
            fewer = mine["violations"] / row["violations"] - 1 if row["violations"] else None
            yield (
                f"{row['policy']}, {row['budget']} cores",
                mine["policy"],
                NONE if fewer is None else f"{fewer:+.0%}",
                f"{mine['cores_mean'] / row['cores_mean'] - 1:+.0%}",
                f"{mine['accuracy'] - row['accuracy']:+.4f}",
            )


def _fronts(plans: dict[str, list[dict[str, Any]]]) -> Iterator[Sequence[object]]:
    for name, rows in plans.items():
        known = [row for row in rows if row["ipa"] and row["at_its_cores"]]
        gains = [100 * (row["at_its_cores"]["accuracy"] - row["ipa"]["accuracy"]) for row in known]
        saved = [1 - row["at_its_accuracy"]["cores"] / row["ipa"]["cores"] for row in known]
        low = [100 * (row["ipa"]["accuracy"] - row["fa2_low"]["accuracy"]) for row in known if row["fa2_low"]]
        high = [row["ipa"]["cores"] / row["fa2_high"]["cores"] for row in known if row["fa2_high"]]
        yield (
            name,
            f"{len(known)} of {len(rows)}",
            f"{np.mean(gains):+.2f} ({min(gains):+.2f} – {max(gains):+.2f})",
            f"{np.mean(saved):.1%}",
            f"{np.mean(low):+.2f}",
            f"{np.mean(high):.2f}",
        )
