"""From lines to one row a (model, objective, server): the best setting, medians over rounds.

The rule of this file: a setting is chosen by the tuning round alone, and judged by the rounds after it, as
all servers are; where a run was too short for rounds, the tuning round is what there is, and the record
says so. A median over rounds counts a round in which the objective was out of reach as a rate of nothing.
"""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from peers.store import Key, Line, Store

Row = dict[str, Any]


def best_settings(store: Store, server: str, model: str, slos_ms: Sequence[float]) -> dict[float, int]:
    """By objective, the setting with the highest rate when tuned; the first where none has any."""
    best = {}
    for slo_ms in slos_ms:
        lines = list(store.found(server=server, model=model, slo_ms=slo_ms, phase="tune"))
        if lines:
            best[slo_ms] = max(lines, key=lambda each: (_rate(each[1]), -each[0].setting))[0].setting
    return best


def rows(
    store: Store, servers: Sequence[str], models: Sequence[str], slos_ms: Sequence[float]
) -> Iterator[Row]:
    """One row a cell that has been measured."""
    for model in models:
        for slo_ms in slos_ms:
            for server in servers:
                setting = best_settings(store, server, model, slos_ms).get(slo_ms)
                if setting is not None:
                    cell = {"server": server, "model": model, "slo_ms": slo_ms, "setting": setting}
                    rounds = list(store.found(**cell, phase="round"))
                    yield _row(rounds or list(store.found(**cell, phase="tune")))


def _row(lines: Sequence[tuple[Key, Line]]) -> Row:
    """Medians of a cell's lines; half a load's from the rounds that had one."""
    key, first = lines[0]
    found = [line["found"] for _, line in lines]
    reached = [each for each in found if each["rate_rps"] is not None]
    rate_rps = statistics.median(each["rate_rps"] or 0.0 for each in found)
    row = {
        "server": key.server,
        "model": key.model,
        "slo_ms": key.slo_ms,
        "rounds": len(lines),
        "phase": key.phase,
        "setting": first["setting"],
        "code": key.code,
        "rate_rps": round(rate_rps, 1) if rate_rps else None,
        "rates_rps": [each["rate_rps"] and round(each["rate_rps"], 1) for each in found],
        "saturation_rps": round(statistics.median(line["saturation"]["rps"] for _, line in lines), 1),
        "pss_mb": round(statistics.median(line["pss_mb"] for _, line in lines), 1),
    }
    if rate_rps and reached:
        row["cpu_us"] = round(statistics.median(each["cpu_us"] for each in reached), 1)
        row["refused"] = sum(each["refused"] for each in reached)
        row["counted"] = round(statistics.median(each["counted"] for each in reached), 2)
        halves = [each["half"] for each in reached if not each["half"]["void"]]
        for name in ("p50_ms", "p99_ms", "cpu_us"):
            values = [half[name] for half in halves if half[name] is not None]
            row[f"half_{name}"] = round(statistics.median(values), 2) if values else None
    else:
        out = next(each for each in found if each["rate_rps"] is None)
        row["slow_p99_ms"], row["slow_at_rps"] = out["p99_ms"], round(out["at_rps"], 1)
    return row


def _rate(line: Line) -> float:
    return float(line["found"]["rate_rps"] or 0.0)
