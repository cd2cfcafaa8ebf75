"""The tables of Steelyard beside other servers, and of a long run, for docs/results.md."""

from collections.abc import Mapping
from typing import Any

from _markdown import table

MODELS = {
    "small": "784-128-10 perceptron",
    "gemm": "6 x 1024² perceptron",
    "ocr": "PP-OCRv6 tiny recogniser",
}
OURS = "steelyard"


def peers(record: dict[str, Any]) -> str:
    """Rates and costs, the yardsticks, and how each server was spoken to and tuned."""
    best = _best_peer(record)
    where = f"Server on core {record['server_core']}, generator on core {record['client_core']}"
    held = f"the rate found held for {record['held_s']:g} s" if record.get("held_s") else "none held longer"
    windows = f"{_rounds(record)}, windows of {record['window_s']:g} s or longer, {held}"
    stayed = "No thread of any server was allowed to run elsewhere; each cell ends with a look at all of them"
    parts = [f"{where}; {windows}. {stayed}."]
    for model in dict.fromkeys(row["model"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["model"] == model]
        lines = [_line(row, best.get((model, row["slo_ms"]))) for row in rows]
        parts += [f"**{MODELS.get(model, model)}**", table(_HEAD, lines)]
    if record["yardsticks"]:
        parts += ["Throughput without an objective, requests a second:", _yardsticks(record)]
        parts += ["At saturation, with the front end on the generator's core:", _apart(record)]
    parts.append(_how(record))
    if record["failed"]:
        failed = {f"{server} ({model})" for _, server, model, *_ in record["failed"]}
        parts.append(f"Failed, and not in the tables: {', '.join(sorted(failed))}.")
    return "\n\n".join(parts)


_HEAD = (
    "server", "SLO ms", "requests a second", "to the best peer", "CPU µs a request", "p99 at half, ms",
    "refused", "counted", "memory MB",
)  # fmt: skip


def _line(row: Mapping[str, Any], best: float | None) -> tuple[object, ...]:
    slo, memory = f"{row['slo_ms']:g}", f"{row['pss_mb']:.0f}"
    if row["rate_rps"] is None:
        slow = "–" if row["slow_p99_ms"] is None else f"{row['slow_p99_ms']:.0f} ms"
        return row["server"], slo, f"none; p99 {slow} at {row['slow_at_rps']:g}", *"–––––", memory
    ratio = f"{row['rate_rps'] / best:.2f}" if best and _is_ours(row["server"]) else "–"
    half = "–" if row["half_p99_ms"] is None else f"{row['half_p99_ms']:.1f}"
    rate, cpu_us = f"{row['rate_rps']:,.0f}", f"{row['cpu_us']:,.0f}"
    return row["server"], slo, rate, ratio, cpu_us, half, row["refused"], f"{row['counted']:.0%}", memory


def _is_ours(server: str) -> bool:
    """Whether it is one of our builds."""
    return server.startswith(OURS)


def _best_peer(record: Mapping[str, Any]) -> dict[tuple[str, float], float]:
    """By model and objective, the highest rate of any server but ours."""
    best: dict[tuple[str, float], float] = {}
    for row in record["rows"]:
        if not _is_ours(row["server"]) and row["rate_rps"]:
            cell = row["model"], row["slo_ms"]
            best[cell] = max(best.get(cell, 0.0), row["rate_rps"])
    return best


def cells_won(record: Mapping[str, Any]) -> tuple[int, int]:
    """In how many settings (a model, an objective) one of our builds has the highest rate; of how many."""
    ours: dict[tuple[str, float], float] = {}
    for row in record["rows"]:
        cell = row["model"], row["slo_ms"]
        ours[cell] = max(ours.get(cell, 0.0), (row["rate_rps"] or 0.0) if _is_ours(row["server"]) else 0.0)
    best = _best_peer(record)
    return sum(rate > best.get(cell, 0.0) for cell, rate in ours.items()), len(ours)


def _yardsticks(record: Mapping[str, Any]) -> str:
    """ONNX Runtime alone, and what Steelyard reaches of it, by objective."""
    lines, builds = [], [name for name in record["servers"] if _is_ours(name)]
    rates = {(row["server"], row["model"], row["slo_ms"]): row["rate_rps"] for row in record["rows"]}
    for row in record["yardsticks"]:
        shares = [
            " / ".join(_share(rates.get((build, row["model"], slo_ms)), row["best_rps"]) for build in builds)
            for slo_ms in record["slos_ms"]
        ]
        alone = f"{row['best_rps']:,.0f} (batch {row['batch']})"
        lines.append((MODELS.get(row["model"], row["model"]), f"{row['one_rps']:,.0f}", alone, *shares))
    of = " (plain / compiled)" if len(builds) > 1 else ""
    within = [f"ours on one core{of}, p99 within {slo_ms:g} ms" for slo_ms in record["slos_ms"]]
    head = ("model", "ONNX Runtime, batch 1", "ONNX Runtime, best batch", *within)
    return table(head, lines)


def _apart(record: Mapping[str, Any]) -> str:
    """What is left of ONNX Runtime, taken in turns, and how busy each side was, in shares of a core."""
    lines = [
        (
            MODELS.get(row["model"], row["model"]),
            "compiled" if found["is_compiled"] else "plain",
            found["rows"],
            f"{found['rows_per_s']:,.0f}",
            *(f"{found[name]:.0%}" for name in ("share", "worker_busy", "front_end_busy", "generator_busy")),
        )
        for row in record["yardsticks"]
        for found in row["apart"]
    ]
    head = ("model", "build", "rows a request", "rows a second", "of ONNX Runtime beside it", "worker's core")
    return table((*head, "front end", "generator"), lines)


def _share(rate_rps: float | None, of_rps: float) -> str:
    return f"{rate_rps / of_rps:.0%}" if rate_rps else "–"


def _how(record: Mapping[str, Any]) -> str:
    """One line a server: what was measured, over which wire, and its grid."""
    lines = []
    for name, server in record["servers"].items():
        code = "" if _is_ours(name) else f" {server['code'].partition(',')[0].removeprefix(name).strip()}"
        lines.append(
            f"- {name}{code}: {'; '.join(server['wires'])}. {server['said'][0].upper()}{server['said'][1:]}."
        )
    return "\n".join(lines)


def _rounds(record: Mapping[str, Any]) -> str:
    rounds = sorted({row["rounds"] for row in record["rows"] if row["phase"] == "round"})
    if not rounds:
        return "one round, untuned"
    count = " to ".join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))
    return f"medians of {count} rounds after one that tunes"


def soak(record: dict[str, Any]) -> str:
    """One line a quantity: where it began and ended, its slope with its interval, and what is allowed."""
    rows = [
        (
            row["what"],
            f"{row['first']:,.1f}",
            f"{row['last']:,.1f}",
            f"{row['slope_per_minute']:+.3f} ± {row['interval_per_minute']:.3f}",
            f"{row['limit_per_minute']:g}",
            "yes" if row["grows"] else "no",
        )
        for row in record["trends"]
    ]
    head = ("quantity", "at first", "at last", "slope a minute, 99 % interval", "allowed", "grows")
    load = (
        f"{record['minutes']:g} minutes at {record['rate_rps']:.0f} requests a second, {record['share']:.0%} "
        f"of the {record['capacity_rps']:.0f} found first"
    )
    told = (
        f"{record['offered']:,} requests, {record['failed']} without an answer, p99 {record['p99_ms']:.1f} ms"
    )
    return f"{load}: {told}.\n\n{table(head, rows)}"
