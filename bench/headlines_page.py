"""The headline matrix as in docs/results/policies.md, and its summary in docs/results.md."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from _markdown import table

NONE = "–"


def headlines(record: dict[str, Any]) -> str:
    """The verdicts, then every policy by pipeline, as Markdown."""
    pipelines: dict[str, Any] = record["pipelines"]
    parts = [_setting(record), "**The line, by pipeline and published policy.**"]
    parts.append(table(VERDICT_HEAD, _verdicts(pipelines)))
    for name, found in pipelines.items():
        parts.append(f"**{name}**, {found['cases']} cases.")
        parts.append(table(POLICY_HEAD, _policies(found)))
    return "\n\n".join(parts + _missing(record))


def defaults(record: dict[str, Any]) -> str:
    """The default, untouched, beside the oracle, and the cheapest point of its curve that is still useful."""
    return f"{_setting(record)}\n\n{table(DEFAULT_HEAD, _defaults(record['pipelines']))}"


def papers(record: dict[str, Any]) -> str:
    """The published headlines beside what is measured here."""
    parts = [
        "Violations of FA2 and of Sponge over those of Themis, all as published (claim: more than 10).",
        "",
    ]
    parts.append(table(("", "FA2 / Themis", "Sponge / Themis"), _themis(record)))
    parts += ["", "Core-seconds that FA2's program saves over the surges (claim: 19 % on average).", ""]
    parts.append(table(("", "equal split", "proportional split", "InferLine's planner"), _savings(record)))
    return "\n".join(parts)


def sponge_case(record: dict[str, Any]) -> str:
    """Sponge's case."""
    rows = (
        (
            row["policy"],
            share(row["violations"]),
            f"{share(row['violations_min'])} – {share(row['violations_max'])}",
            f"{row['cores_mean']:.2f}",
            f"{row['resizes']:.0f}",
        )
        for row in record["policies"]
    )
    budgets = record["budget_ms"]
    return (
        f"{record['seed']} seeds; budgets: mean {budgets['mean']:.0f} ms, least {budgets['min']:.0f} ms.\n\n"
        + table(("policy", "violations", "lowest – highest", "cores, mean", "resizes"), rows)
    )


def overload(record: dict[str, Any]) -> str:
    """Loads beyond the cores: a row a pipeline and load, a column a policy."""
    policies = list(dict.fromkeys(row["policy"] for row in record["rows"]))
    cells = {(row["pipeline"], row["load"], row["policy"]): row for row in record["rows"]}
    rows = [
        (name, f"{load:g}", *(f"{cells[name, load, policy]['share_of_bound']:.0%}" for policy in policies))
        for name, load in dict.fromkeys((name, load) for name, load, _ in cells)
    ]
    return f"{record['cores']} cores, {record['seconds']} s, {_seeds(record['seed'])}.\n\n" + table(
        ("pipeline", "load / bound", *policies), rows
    )


def ablation(record: dict[str, Any]) -> str:
    """The default policy with one ingredient left out, against the whole of it."""
    rows = []
    for name, found in record["pipelines"].items():
        for row in found:
            options = row["policy"].partition("without=")[2].strip("[]'")
            rows.append(
                (
                    f"{name}, {f'without {options}' if options else 'whole'}",
                    share(row["violations"]),
                    f"{row['core_seconds']:,.0f}",
                    _ratio(row["cost_ratio"], 3),
                )
            )
    seconds = "300 s" if record["quick"] else "660 s"
    starts = ", ".join(f"{start:g}" for start in record["cold_starts_s"])
    setting = f"{record['surges']} surges of {seconds}, cold starts of {starts} s, {_seeds(record['seed'])}."
    return f"{setting}\n\n{table(('pipeline, policy', 'violations', 'core-seconds', '/ whole'), rows)}"


VERDICT_HEAD = (
    "pipeline, policy",
    "its violations",
    "ours at its cost",
    "its core-seconds",
    "ours at its violations",
    "line",
)
DEFAULT_HEAD = (
    "pipeline",
    "default settings: violations",
    "cost / oracle's",
    "oracle: violations",
    "cheapest setting with ≤ 0.1 %: violations",
    "cost / oracle's",
    "cost / bound",
)
POLICY_HEAD = ("policy", "violations", "core-seconds", "/ bound", "/ oracle")


def share(value: float | None) -> str:
    """In percent, with the digits that tell small shares apart."""
    if value is None:
        return NONE
    return f"{value:.3%}" if value < 0.01 else f"{value:.2%}"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _setting(record: dict[str, Any]) -> str:
    starts = ", ".join(f"{seconds:g}" for seconds in record["cold_starts_s"])
    surges = len(record["slices"])
    return f"{record['runs']} runs: {surges} surges, cold starts of {starts} s, {_seeds(record['seed'])}."


def _verdicts(pipelines: dict[str, Any]) -> Iterator[Sequence[object]]:
    for name, found in pipelines.items():
        for verdict in found["verdicts"]:
            if verdict["form"] is None:
                yield f"{name}, {verdict['policy']}", NONE, NONE, NONE, NONE, verdict["why"]
                continue
            yield (
                f"{name}, {verdict['form']}",
                share(verdict["violations"]),
                _or_outside(verdict["at_cost"], share),
                f"{verdict['cost']:,.0f}",
                _or_outside(verdict["at_violations"], lambda cost: f"{cost:,.0f}"),
                "holds" if verdict["holds"] else "does not hold",
            )


def _or_outside(value: float | None, shown: Callable[[float], str]) -> str:
    return "outside the curve" if value is None else shown(value)


def _defaults(pipelines: dict[str, Any]) -> Iterator[Sequence[object]]:
    for name, found in pipelines.items():
        default, useful = found["default"] or {}, found["useful"] or {}
        yield (
            name,
            share(default.get("violations")),
            _ratio(default.get("to_oracle")),
            share(default.get("oracle_violations")),
            share(useful.get("violations")),
            _ratio(useful.get("to_oracle")),
            _ratio(useful.get("to_bound")),
        )


def _policies(found: dict[str, Any]) -> Iterator[Sequence[object]]:
    for row in found["policies"]:
        yield (
            row["policy"],
            share(row["violations"]),
            f"{row['core_seconds']:,.0f}",
            _ratio(row["to_bound"]),
            _ratio(row["to_oracle"]),
        )


def _themis(record: dict[str, Any]) -> Iterator[Sequence[object]]:
    for group, where in (("pipelines", "all surges"), ("papers", "the slice most like the papers'")):
        for name, found in record[group].items():
            claims = found["themis"]
            yield f"{name}, {where}", _ratio(claims["fa2"], 1), _ratio(claims["sponge"], 1)


def _savings(record: dict[str, Any]) -> Iterator[Sequence[object]]:
    for name, against in record["fa2"].items():
        yield name, *(share(against[other]["saving"]) for other in ("equal", "proportional", "inferline"))


def _ratio(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _missing(record: dict[str, Any]) -> list[str]:
    lines = [f"- {label}: {why}" for label, why in record["refused"].items()]
    lines += [f"- {label}: {count} runs failed" for label, count in record["failed"].items()]
    return ["Not run:\n\n" + "\n".join(lines)] if lines else []
