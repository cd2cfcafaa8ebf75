"""From runs to what is published of a pipeline: sums, ratios, the curve, verdicts, and the papers' claims.

Sums of several seeds are added up from their records (`added`), so that seeds may be run apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headlines_cases import KNOB, ORACLE, OURSELVES, PUBLISHED, STATIC
from headlines_judge import OURS, Curve, Run, Total, judge, totals

USEFUL = 0.001
"""Share of violations that the default must keep wherever the oracle can."""
ORACLE_RATIO_MAX = 1.5


def summary_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that is said of one pipeline.

    Keys: `cases`, `policies` (sums and ratios), `curve` (points of our knob), `verdicts` (the line, by
    published policy), `default` (ours untouched), `themis` (the papers' comparison).
    """
    found = totals(runs)
    return _summary(found, {run.label for run in runs} - set(found))


def added(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One pipeline's summary over the runs of all of these; what one of them lacks is incomplete."""
    apart = [{row["policy"]: _total(row) for row in summary["policies"]} for summary in summaries]
    labels = set.intersection(*map(set, apart))
    found = {
        label: Total(label, *(sum(values) for values in zip(*(one[label][1:] for one in apart), strict=True)))
        for label in labels
    }
    lacking = {label for one in apart for label in one} - labels
    return _summary(found, lacking.union(*(summary["incomplete"] for summary in summaries)))


def _total(row: Mapping[str, Any]) -> Total:
    """What `_row` was made of."""
    cost = row["core_seconds"]
    violations = round(row["violations"] * row["requests"])
    bound = cost / row["to_bound"] if row["to_bound"] else 0.0
    return Total(row["policy"], row["runs"], row["requests"], violations, cost, bound)


def _summary(found: Mapping[str, Total], incomplete: Iterable[str]) -> dict[str, Any]:
    oracle = found.get(ORACLE)
    # The default is the knob at 0.001: a point of the curve like the others.
    knob = [
        total
        for label, total in found.items()
        if label == OURSELVES or label.startswith(f"{OURSELVES} {KNOB}=")
    ]
    curve = Curve(knob)
    return {
        "cases": max((total.runs for total in found.values()), default=0),
        "incomplete": sorted(incomplete),
        "policies": [_row(total, oracle) for total in _ordered(found.values())],
        "curve": [{"core_seconds": cost, "violations": share} for cost, share in curve.points],
        "verdicts": [judge(policy, found, curve)._asdict() for policy in PUBLISHED],
        "default": _default(found.get(OURSELVES), oracle),
        "useful": _useful(knob, oracle),
        "themis": themis_claims(found),
    }


def themis_claims(found: Mapping[str, Total]) -> dict[str, float | None]:
    """Violations of FA2 and of Sponge over those of Themis, each as published (its authors: more than 10)."""
    themis = found.get("themis")
    return {
        name: found[name].ratio / themis.ratio_counted if themis is not None and name in found else None
        for name in ("fa2", "sponge")
    }


def _ordered(found: Iterable[Total]) -> list[Total]:
    """Ours first, then the yardsticks, then the published ones."""
    names = [OURSELVES, ORACLE, STATIC, *PUBLISHED]

    def place(total: Total) -> tuple[int, str]:
        name = total.label.split(" ")[0].removesuffix(OURS)
        return (names.index(name) if name in names else len(names), total.label)

    return sorted(found, key=place)


def _row(total: Total, oracle: Total | None) -> dict[str, Any]:
    return {
        "policy": total.label,
        "runs": total.runs,
        "requests": total.requests,
        "violations": total.ratio,
        "core_seconds": total.core_seconds,
        "to_bound": total.core_seconds / total.bound if total.bound else None,
        "to_oracle": total.core_seconds / oracle.core_seconds if oracle else None,
    }


def _default(default: Total | None, oracle: Total | None) -> dict[str, Any] | None:
    """Ours untouched: at most 0.1 % violations wherever the oracle has no more."""
    if default is None or oracle is None:
        return None
    asked = oracle.ratio <= USEFUL
    return {
        "violations": default.ratio,
        "to_oracle": default.core_seconds / oracle.core_seconds,
        "oracle_violations": oracle.ratio,
        "holds": default.ratio <= USEFUL if asked else None,
    }


def _useful(knob: Sequence[Total], oracle: Total | None) -> dict[str, Any] | None:
    """The cheapest point with at most 0.1 % violations: at most 1.5 times the oracle's core-seconds."""
    kept = [total for total in knob if total.ratio <= USEFUL]
    if not kept or oracle is None:
        return None
    best = min(kept, key=lambda total: total.core_seconds)
    ratio = best.core_seconds / oracle.core_seconds
    return {
        "policy": best.label,
        "violations": best.ratio,
        "to_oracle": ratio,
        "to_bound": best.core_seconds / best.bound,
        "holds": ratio <= ORACLE_RATIO_MAX,
    }
