"""Writes the tables of docs/results.md, docs/results/ and README.md from the records in bench/results.

A table stands between two marks, `<!-- name -->` and `<!-- /name -->`, on whichever of the pages has them.

A number in such a table is therefore one that a script measured and stored. `--check` only says whether the
pages still agree with the records (a test runs it).

    python bench/tables.py [--check]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _markdown import table
from accuracy_page import infadapter, ipa
from client_page import client
from conformance_page import conformance, fuzz
from front_ends_page import front_ends, grpc_edge
from headlines_page import ablation, defaults, headlines, overload, papers, sponge_case
from pages_page import bounds, label_bounds, pages, switches
from parity_page import parity, slow_down
from peers_page import peers, soak
from readme_page import measured
from shared_page import loki, proteus
from sim_page import sim_day, sim_speed, theory
from summary_page import summary
from switch_page import switch
from variants_page import variants

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "docs" / "results.md", *sorted((ROOT / "docs" / "results").glob("*.md")))
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"


def stamp(record: dict[str, Any]) -> str:
    """Where a record comes from."""
    machine = record["machine"]
    changes = " with changes" if record["dirty"] else ""
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    whose = " of the distribution" if record.get("python_from") == "distribution" else ""
    return (
        f"{_commits(record)}{changes}, {record['time'][:10]}, "
        f"{cores} of {machine['cpu']}, kernel {machine['kernel'].split('-')[0]}, "
        f"ONNX Runtime {record['packages']['onnxruntime']}, Python {record['python']}{whose}."
    )


def _commits(record: dict[str, Any]) -> str:
    """The commit, or all of them where parts of a record were measured apart."""
    parts = record.get("by_seed", {}).values()
    names = dict.fromkeys(f"`{part['commit'][:10]}`" for part in (*parts, record))
    return f"Commit{'s' * (len(names) > 1)} {' and '.join(names)}"


def percent(share: float) -> str:
    return f"{share:.2%}"


def surge(record: dict[str, Any]) -> str:
    rows = [
        (
            row["policy"],
            percent(row["violations"]),
            f"{percent(row['violations_min'])} – {percent(row['violations_max'])}",
            f"{row['core_seconds']:.1f}",
            f"{row['mean_cores']:.2f}",
            f"{row['p50_ms']:.0f}",
            f"{row['p99_ms']:.0f}",
        )
        for row in record["policies"]
    ]
    head = ("policy", "violations", "lowest – highest", "core-seconds", "mean cores", "p50 ms", "p99 ms")
    return (
        f"{record['seed']} seeds, {record['seconds']} s a run, SLO {record['slo_ms']:g} ms, one core answers "
        f"{record['capacity_rps']:.0f} lines a second.\n\n{table(head, rows)}"
    )


def two_services(record: dict[str, Any]) -> str:
    rows = [
        (
            row["arrangement"],
            percent(row["violations"]),
            f"{percent(row['violations_min'])} – {percent(row['violations_max'])}",
            f"{row['core_seconds']:.1f}",
            row["void"],
        )
        for row in record["arrangements"]
    ]
    head = ("arrangement", "violations, median", "lowest – highest", "core-seconds", "void runs")
    setting = f"{record['seed']} seeds, {record['seconds']} s a run, SLO {record['slo_ms']:g} ms."
    return f"{setting}\n\n{table(head, rows)}"


def kill(record: dict[str, Any]) -> str:
    rows = [
        ("workers killed", record["kills"]),
        ("requests", record["offered"]),
        ("requests without an answer", record["unanswered"]),
        ("not completed (each with a reason)", percent(record["failed_share"])),
        ("violations", percent(record["violation_ratio"])),
        ("time until two replicas are ready again, median", f"{record['recovery_s']['p50']:.2f} s"),
        ("the same, maximum", f"{record['recovery_s']['max']:.2f} s"),
    ]
    return table(("", ""), rows)


def resize(record: dict[str, Any]) -> str:
    to_1, to_2 = record["service_ms_p50"]["to_1"], record["service_ms_p50"]["to_2"]
    rows = [
        ("resizes", record["resizes"]),
        ("batches (failed)", f"{record['batches']} ({record['failed']})"),
        (
            "duration of the call, median (p99)",
            f"{record['call_ms']['p50']:.2f} ms ({record['call_ms']['p99']:.2f} ms)",
        ),
        ("first batch on 2 cores; later ones, median", f"{to_2['first']:.1f} ms; {to_2['later']:.1f} ms"),
        ("first batch on 1 core; later ones, median", f"{to_1['first']:.1f} ms; {to_1['later']:.1f} ms"),
    ]
    return table(("", ""), rows)


def overhead(record: dict[str, Any]) -> str:
    rows = []
    for size, name in (("small", "784 floats"), ("large", "600 KB")):
        row = record[size]
        rows.append(
            (
                name,
                f"{row['cpu_us']['steelyard']:.0f}",
                f"{row['cpu_us']['raw']:.0f}",
                f"{row['cpu_ratio_to_raw']:.2f}",
                f"{row['worker_cpu_us']:.0f}",
                f"{row['latency_p50_us']['steelyard']:.0f}",
                f"{row['latency_p50_us']['raw']:.0f}",
                f"{row['added_latency_us']:.0f}",
                f"{row['added_latency_apart_us']:.0f}" if "added_latency_apart_us" in row else "–",
            )
        )
    head = (
        "tensor",
        "server CPU µs",
        "raw ASGI CPU µs",
        "ratio",
        "worker CPU µs",
        "latency p50 µs",
        "raw ASGI p50 µs",
        "added to a call of ONNX Runtime, µs",
        "worker on the other core: added, µs",
    )
    servers = table(head, rows)
    if "steps_cpu_us" not in record["small"]:
        return servers
    steps = table(
        ("step of the server, CPU µs", "784 floats", "600 KB"),
        [
            (step, f"{us:.0f}", f"{record['large']['steps_cpu_us'].get(step, 0.0):.0f}")
            for step, us in record["small"]["steps_cpu_us"].items()
        ],
    )
    return f"{servers}\n\n{steps}"


def edge(record: dict[str, Any]) -> str:
    """CPU a request of each server, then of each of our steps."""
    names = {
        "raw": "raw ASGI CPU µs",
        "ours": "edge alone CPU µs",
        "cpu_ratio": "ratio",
        "deciding": "edge and decision CPU µs",
        "cpu_ratio_deciding": "ratio",
        "asgi": "edge behind ASGI",
        "bare": "loop and kernel alone",
        "default_malloc": "edge with malloc's defaults",
    }
    sizes = {"small": "784 floats", "large": "600 KB"}
    rows = []
    for size, name in sizes.items():
        row = record[size]
        cells = {app: f"{us:.0f}" for app, us in row["cpu_us"].items()}
        cells |= {key: f"{row[key]:.2f}" for key in ("cpu_ratio", "cpu_ratio_deciding") if key in row}
        rows.append((name, *(cells.get(app, "–") for app in names)))
    servers = table(("tensor", *names.values()), rows)
    if "steps_us" not in record["small"]:
        return servers
    steps = table(
        ("step of the edge, CPU µs", *sizes.values()),
        [
            (step, *(f"{record[size]['steps_us'][step]:.1f}" for size in sizes))
            for step in record["small"]["steps_us"]
        ],
    )
    return f"{servers}\n\n{steps}"


def forecast(record: dict[str, Any]) -> str:
    """One line a horizon and predictor: losses at each quantile, and coverage where 0.9 was asked for."""
    cells = {(row["horizon_s"], row["predictor"], row["quantile"]): row for row in record["scores"]}
    quantiles = sorted({row["quantile"] for row in record["scores"]})
    rows = [
        (
            name,
            f"{horizon_s} s",
            *(f"{cells[horizon_s, name, quantile]['pinball_rps']:.2f}" for quantile in quantiles),
            f"{cells[horizon_s, name, 0.9]['coverage']:.1%}",
        )
        for horizon_s, name in dict.fromkeys((row["horizon_s"], row["predictor"]) for row in record["scores"])
    ]
    head = ("predictor", "ahead", *(f"loss at {quantile:g}" for quantile in quantiles), "coverage at 0.9")
    origins = record["scores"][0]["origins"]
    line = (
        f"{origins:,} origins, mean rate {record['mean_rps']:.0f} requests a second; losses in the same unit."
    )
    return f"{line}\n\n{table(head, rows)}\n\n{_forecast_costs(record)}"


def _forecast_costs(record: dict[str, Any]) -> str:
    """What the default policy makes of each predictor, cold starts and all."""
    losses = {
        row["predictor"]: row for row in record["scores"] if (row["horizon_s"], row["quantile"]) == (6, 0.9)
    }
    rows = [
        (
            row["forecast"],
            f"{losses[row['forecast']]['pinball_rps']:.2f}" if row["forecast"] in losses else "",
            f"{row['violations']:,}",
            f"{row['core_seconds']:,.0f}",
            f"{row['cost_ratio']:.2f}",
            f"{row['cold_starts']:,}",
        )
        for row in record["costs"]
    ]
    head = ("steelyard with", "loss at 0.9, 6 s", "violations", "core-seconds", "cost to none", "cold starts")
    requests = record["costs"][0]["requests"]
    line = f"{record['surges']} surges of three pipelines, {requests:,} requests for each line."
    return f"{line}\n\n{table(head, rows)}"


def planning(record: dict[str, Any]) -> str:
    proofs = [
        (
            name,
            f"{record[part]['problems']:,}",
            f"{record[part]['equal_share']:.2%}",
            f"{max(record[part]['gaps'], default=0.0):.2%}",
        )
        for name, part in (
            ("chains and other series-parallel pipelines, compared with enumeration", "series_parallel"),
            ("other pipelines, compared with enumeration", "other_graphs"),
            ("any pipeline, compared with the mixed-integer program", "milp"),
            ("any pipeline on nodes that are nearly full, compared with the same", "milp_with_nodes"),
        )
    ]
    times = [(name, f"{ms:.2f}") for name, ms in record["cpu_ms_median"].items()]
    saved = record["loss_counted_once"]
    return (
        f"{table(('problems', 'number', 'optimal', 'largest gap'), proofs)}\n\n"
        f"{table(('one plan', 'CPU ms, median'), times)}\n\n"
        f"Counting the loss that the SLO allows once for all stages, instead of once for each stage, costs "
        f"{saved['cost_ratio_mean']:.2f} of the cores "
        f"(mean of {saved['problems']} random pipelines of 2 to 5 stages)."
    )


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "surge": ("surge", surge),
    "two_services": ("two_services", two_services),
    "kill": ("kill", kill),
    "resize": ("resize_threads", resize),
    "switch": ("switch", switch),
    "overhead": ("overhead", overhead),
    "overhead_compiled": ("overhead_compiled", overhead),
    "edge": ("edge", edge),
    "edge_compiled": ("edge_compiled", edge),
    "front_ends": ("front_ends", front_ends),
    "grpc_edge": ("grpc_edge", grpc_edge),
    "client": ("client", client),
    "fuzz": ("fuzz", fuzz),
    "conformance": ("conformance", conformance),
    "peers": ("peers", peers),
    "soak": ("soak", soak),
    "forecast": ("forecast", forecast),
    "planning": ("planning", planning),
    "theory": ("theory", theory),
    "parity_sleep": ("parity_sleep", parity),
    "parity_ocr": ("parity_ocr", parity),
    "slow_down": ("slow_down", slow_down),
    "sim_speed": ("sim_speed", sim_speed),
    "sim_speed_compiled": ("sim_speed_compiled", sim_speed),
    "sim_day": ("sim_day", sim_day),
    "sim_day_compiled": ("sim_day_compiled", sim_day),
    "pages": ("pages", pages),
    "pages_switches": ("pages_switches", switches),
    "bounds": ("bounds", bounds),
    "label_bounds": ("label_bounds", label_bounds),
    "defaults": ("headlines", defaults),
    "headlines": ("headlines", headlines),
    "papers": ("headlines", papers),
    "ablation": ("ablation", ablation),
    "sponge_case": ("sponge_case", sponge_case),
    "overload": ("overload", overload),
    "infadapter": ("infadapter", infadapter),
    "ipa": ("ipa", ipa),
    "proteus": ("proteus", proteus),
    "loki": ("loki", loki),
    "variants": ("variants", variants),
}
"""By mark: the record's name, and what makes the table of it."""


def _record(name: str) -> dict[str, Any] | None:
    """A record, or else its quick form, or None."""
    files = (RESULTS / f"{stored}.json" for stored in (name, f"{name}_quick"))
    file = next((file for file in files if file.exists()), None)
    return None if file is None else json.loads(file.read_text())


def _measured(name: str, render: Callable[[dict[str, Any]], str]) -> str:
    """The table of a record and where it comes from; or that there is none."""
    record = _record(name)
    return "*Not measured yet.*" if record is None else f"{render(record)}\n\n{stamp(record)}"


def _needed(name: str) -> dict[str, Any]:
    record = _record(name)
    if record is None:
        raise SystemExit(f"{README}: want the record {name} in {RESULTS}")
    return record


def _between_marks(pages: dict[Path, str], mark: str, text: str) -> None:
    """Puts `text` between the marks on the one page that has them."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    found = [path for path, page in pages.items() for _ in range(page.count(begin))]
    if len(found) != 1 or pages[found[0]].count(end) != 1:
        raise SystemExit(f"{', '.join(map(str, pages))}: want one pair of marks {begin} {end}")
    before, _, rest = pages[found[0]].partition(begin)
    _, _, after = rest.partition(end)
    pages[found[0]] = f"{before}{begin}\n\n{text}\n\n{end}{after}"


def rendered() -> dict[Path, str]:
    """The pages with every table made anew from its record."""
    pages = {path: path.read_text() for path in (*PAGES, README)}
    for mark, (name, render) in TABLES.items():
        _between_marks(pages, mark, _measured(name, render))
    _between_marks(pages, "summary", summary(_record))
    _between_marks(pages, "measured", measured(_needed))
    return pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is out of date")
    options = parser.parse_args()
    for path, fresh in rendered().items():
        if fresh == path.read_text():
            continue
        if options.check:
            raise SystemExit(f"{path} does not agree with bench/results: run python bench/tables.py")
        path.write_text(fresh)


if __name__ == "__main__":
    main()
