"""What holds of the project's claims and what does not: the summary at the top of docs/results.md.

The rule of this file: a figure comes from a record, and so does each verdict, by a test stated here. A claim
whose record is missing is "not measured yet"; whoever measures again need not remember to correct it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from _markdown import table
from headlines_page import share
from peers_page import cells_won
from readme_page import between

Record = Mapping[str, Any]

HOLDS, IN_PART, FAILS, OPEN = "holds", "in part", "**does not hold**", "not measured yet"
THEMIS_TIMES = 10.0
"""As many times fewer violations than FA2 and Sponge Themis claims to have."""
EDGE_RATIO, GRPC_RATIO = 1.6, 2.0
"""What was aimed at: edge and decision over a raw ASGI application, gRPC over HTTP, both CPU a request."""
PLAIN_RPS, COMPILED_RPS = 50_000, 200_000
"""What was aimed at in the simulator, requests a second of CPU time."""
SHED_MAX = 0.001
"""Share of feasible requests with bounds that may be dropped after they were admitted."""
INFADAPTER_FEWER, INFADAPTER_CHEAPER = 0.65, 0.33
"""By how much InfAdapter claims to have fewer violations and less cost than the VPA, up to."""
SAME_CORES = 0.05
"""Mean cores that two policies may differ by and still count as equal."""
LOKI_VIOLATIONS = 10.0
"""As many times fewer violations than planning stage by stage Loki claims, up to."""


class Claim(NamedTuple):
    """One line: the claim, where it is treated, the records it rests on, and what they say of it.

    Records in `also` may be missing; `judge` takes None for them, after those that may not.
    """

    said: str
    section: str
    records: tuple[str, ...]
    judge: Callable[..., tuple[str, str]]
    also: tuple[str, ...] = ()


def summary(read: Callable[[str], Record | None]) -> str:
    """The table; `read` gives a record by its name, or None."""
    return table(("claim", "verdict", "measured"), _rows(read), words=3)


def _rows(read: Callable[[str], Record | None]) -> Iterator[tuple[str, str, str]]:
    for claim in CLAIMS:
        records = [read(name) for name in claim.records]
        verdict, found = (OPEN, "–") if None in records else claim.judge(*records, *map(read, claim.also))
        yield f"[{claim.said}]({claim.section})", verdict, found


def _verdict(*kept: bool) -> str:
    return HOLDS if all(kept) else IN_PART if any(kept) else FAILS


def _line(record: Record) -> tuple[str, str]:
    pipelines = list(record["pipelines"].values())
    judged = [verdict["holds"] for found in pipelines for verdict in found["verdicts"] if verdict["form"]]
    defaults = [found["default"] for found in pipelines]
    violations = between((100 * default["violations"] for default in defaults), 3)
    cost = between((default["to_oracle"] for default in defaults), 2)
    matrix = "quick matrix" if record["name"].endswith("_quick") else "full matrix"
    found = (
        f"{sum(judged)} of {len(judged)} pairs of policy and pipeline ({matrix}); default: {violations} % "
        f"violations at {cost} of an oracle's cores"
    )
    return _verdict(all(judged), any(judged)), found


def _overload(record: Record) -> tuple[str, str]:
    """As many as any other: at most a hundredth of the bound less than the best, case by case."""
    cases: dict[tuple[str, float], dict[str, float]] = {}
    for row in record["rows"]:
        cases.setdefault((row["pipeline"], row["load"]), {})[row["policy"]] = row["share_of_bound"]
    kept = [found["steelyard"] > max(found.values()) - 0.01 for found in cases.values()]
    ours = between((100 * found["steelyard"] for found in cases.values()), 0)
    best = between((100 * max(found.values()) for found in cases.values()), 0)
    others = len(record["rows"]) // len(cases)
    found = (
        f"as many as the best of {others} policies in {sum(kept)} of {len(kept)} cases; {ours} % of the "
        f"bound, the best {best} %"
    )
    return _verdict(all(kept), any(kept)), found


def _surge(record: Record) -> tuple[str, str]:
    rows = {row["policy"]: row for row in record["policies"]}
    ours, other = rows["steelyard"], rows["themis"]
    found = (
        f"{share(ours['violations'])} violations on {ours['mean_cores']:.2f} cores; Themis "
        f"{share(other['violations'])} on {other['mean_cores']:.2f}"
    )
    no_dearer = ours["mean_cores"] <= other["mean_cores"] + SAME_CORES
    return _verdict(ours["violations"] < other["violations_min"], no_dearer), found


def _two_services(record: Record) -> tuple[str, str]:
    """Fewer than another arrangement: our median is below the least of its runs."""
    rows = {row["arrangement"]: row for row in record["arrangements"]}
    ours = rows["steelyard"]["violations"]
    found = ", ".join(f"{name} {share(row['violations'])}" for name, row in rows.items())
    kept = [ours < rows[name]["violations_min"] for name in ("split", "unmanaged")]
    return _verdict(*kept), f"violations: {found}"


def _pages(record: Record) -> tuple[str, str]:
    mixed, best, fast = (record["arrangements"][name] for name in ("all", "accurate", "fast"))
    found = "; ".join(
        f"{name} {share(row['violation_ratio'])} at accuracy {row['accuracy_mean']:.3f}"
        for name, row in (("all variants", mixed), ("accurate only", best), ("fast only", fast))
    )
    fewer = mixed["violation_ratio"] < best["violation_ratio"]
    return _verdict(fewer, mixed["accuracy_mean"] > fast["accuracy_mean"]), found


def _resize(record: Record) -> tuple[str, str]:
    call_ms = record["call_ms"]["p50"]
    found = f"{call_ms:.2f} ms a resize; {record['failed']} of {record['batches']:,} batches failed"
    return _verdict(not record["failed"]), found


def _kill(record: Record) -> tuple[str, str]:
    found = f"{record['kills']} kills, {record['unanswered']} of {record['offered']} requests unanswered"
    return _verdict(not record["unanswered"]), found


def _bounds(record: Record) -> tuple[str, str]:
    exact = [row for row in record["rows"] if row["spread"] == 0]
    below = [row for row in exact if row["load"] < 1]
    overshot = max(row["overshot_ratio"] for row in exact)
    shed = between((100 * row["shed_ratio"] for row in below), 2)
    found = (
        f"with exact service times {share(overshot)} answered beyond a bound; "
        f"{shed} % dropped below capacity (goal: {SHED_MAX:.1%})"
    )
    return _verdict(not overshot, all(row["shed_ratio"] <= SHED_MAX for row in below)), found


def _parity(asleep: Record, real: Record) -> tuple[str, str]:
    kept, words = [], []
    for record, name in ((asleep, "with sleeping workers"), (real, "with a real model")):
        bands = len(record["within"]) * len(record["policies"])
        missed = sum(len(row["misses"]) for row in record["policies"])
        kept.append(not missed)
        words.append(f"{bands - missed} of {bands} figures within their bands {name}")
    return (HOLDS if all(kept) else IN_PART), "; ".join(words)


def _theory(record: Record) -> tuple[str, str]:
    inside = record["figures"] - record["outside"]
    found = f"{inside} of {record['figures']} figures within {record['confidence']:.0%} confidence intervals"
    return _verdict(not record["outside"]), found


def _speed(plain: Record, compiled: Record) -> tuple[str, str]:
    rates = [
        [row["cpu_rps"] for case, row in record["cases"].items() if not case.startswith("SimPy")]
        for record in (plain, compiled)
    ]
    ranges = [f"{min(of_build):,.0f} – {max(of_build):,.0f}" for of_build in rates]
    kept = [rate >= PLAIN_RPS for rate in rates[0]] + [rate >= COMPILED_RPS for rate in rates[1]]
    return _verdict(*kept), f"{ranges[0]} requests a second interpreted, {ranges[1]} compiled"


def _planning(record: Record) -> tuple[str, str]:
    parts = [record[name] for name in ("series_parallel", "other_graphs", "milp", "milp_with_nodes")]
    problems = sum(part["problems"] for part in parts)
    least = min(part["equal_share"] for part in parts)
    return _verdict(least == 1), f"{least:.0%} of {problems:,} random problems"


def _edge(plain: Record, compiled: Record | None) -> tuple[str, str]:
    """The server without the link to its worker over the raw application, in each build with a record."""
    builds = {"interpreted": plain} | ({"compiled": compiled} if compiled else {})
    if any("cpu_ratio_deciding" not in record["small"] for record in builds.values()):
        return OPEN, "–"
    ratios = {
        name: [record[size]["cpu_ratio_deciding"] for size in ("small", "large")]
        for name, record in builds.items()
    }
    found = "; ".join(
        f"{small:.2f} × at 3 KB, {large:.2f} × at 600 KB, {name}" for name, (small, large) in ratios.items()
    )
    return _verdict(*(ratio <= EDGE_RATIO for pair in ratios.values() for ratio in pair)), found


def _grpc(record: Record) -> tuple[str, str]:
    ratios = [record[size]["cpu_ratio_to"]["http"] for size in ("small", "large")]
    return _verdict(ratios[1] <= GRPC_RATIO), f"{ratios[0]:.1f} × at 3 KB, {ratios[1]:.1f} × at 600 KB"


def _soak(record: Record) -> tuple[str, str]:
    growing = [row["what"] for row in record["trends"] if row["grows"]]
    what = f"growing: {', '.join(growing)}" if growing else "nothing grows"
    void = "; the generator fell behind, so latencies do not count" if record["void"] else ""
    return _verdict(not growing), f"{record['offered']:,} requests, {what}{void}"


def _peers(record: Record) -> tuple[str, str]:
    won, cells = cells_won(record)
    return _verdict(won == cells, won > 0), f"the highest rate in {won} of {cells} settings"


def _themis(record: Record) -> tuple[str, str]:
    found = [pipeline["themis"] for pipeline in record["pipelines"].values()]
    kept = {
        name: sum(claims[key] is not None and claims[key] > THEMIS_TIMES for claims in found)
        for key, name in (("fa2", "FA2"), ("sponge", "Sponge"))
    }
    words = ", ".join(f"against {name} on {count} of {len(found)} pipelines" for name, count in kept.items())
    return _verdict(*(count == len(found) for count in kept.values())), words


def _infadapter(record: Record) -> tuple[str, str]:
    """The published policy against the published VPA with each variant, at the same budget."""
    pairs = [
        (ours, vpa)
        for ours in record["runs"]
        for vpa in record["runs"]
        if ours["policy"] == "infadapter" and vpa["policy"].startswith("vpa, ")
        if ours["budget"] == vpa["budget"]
    ]
    fewer = min(1 - ours["violations"] / vpa["violations"] for ours, vpa in pairs)
    cheaper = max(1 - ours["cores_mean"] / vpa["cores_mean"] for ours, vpa in pairs)
    found = f"at least {fewer:.0%} fewer violations; at most {cheaper:.0%} cheaper"
    return _verdict(fewer >= INFADAPTER_FEWER, cheaper >= INFADAPTER_CHEAPER), found


def _loki(record: Record) -> tuple[str, str]:
    days = {row["case"]: row["violations"] for row in record["days"]}
    times = [days[f"tasks apart{plane}"] / days[f"loki{plane}"] for plane in ("", "+ours")]
    found = f"{times[0]:.1f} times as published, {times[1]:.1f} times on our data plane"
    return _verdict(*(ratio >= LOKI_VIOLATIONS for ratio in times)), found


def _proteus(record: Record) -> tuple[str, str]:
    rows = {row["case"]: row for row in record["released"]}
    ours, other = rows["proteus"], rows["sommelier"]
    found = (
        f"{share(ours['missed'])} against {share(other['missed'])} by the released simulator's count; "
        f"{share(ours['violations'])} against {share(other['violations'])} by the SLO"
    )
    return _verdict(*(ours[count] < other[count] for count in ("missed", "violations"))), found


POLICIES, ACCURACY = "#which-policy-at-which-cost", "results/accuracy.md"
CLAIMS = (
    Claim(
        "At the cost of any published policy fewer violations; at its violations no more cost",
        POLICIES,
        ("headlines",),
        _line,
    ),
    Claim(
        "Beyond what the cores can carry, as much is answered in time as under any policy",
        "results/policies.md#beyond-capacity",
        ("overload",),
        _overload,
    ),
    Claim(
        "Live, a surge causes fewer violations than under Themis, on as many cores",
        "#a-surge-several-policies",
        ("surge",),
        _surge,
    ),
    Claim(
        "Two services miss fewer deadlines managed than with a core each, or unmanaged",
        "#two-services-with-opposite-surges",
        ("two_services",),
        _two_services,
    ),
    Claim("Accuracy gives way before requests are lost", "#pages-live", ("pages",), _pages),
    Claim("Bounds of single requests are kept", "#bounds-of-requests", ("bounds",), _bounds),
    Claim(
        "Cores move in place, without losing a batch", "#cores-moved-in-place", ("resize_threads",), _resize
    ),
    Claim("A killed worker leaves no request unanswered", "#a-worker-killed-every-second", ("kill",), _kill),
    Claim(
        "The simulator agrees with queueing theory",
        "#is-the-simulator-right-and-how-fast",
        ("theory",),
        _theory,
    ),
    Claim(
        "The simulator predicts live runs",
        "#live-runs-beside-their-simulations",
        ("parity_sleep", "parity_ocr"),
        _parity,
    ),
    Claim(
        f"It simulates {PLAIN_RPS:,} requests a second, {COMPILED_RPS:,} compiled",
        "#speed",
        ("sim_speed", "sim_speed_compiled"),
        _speed,
    ),
    Claim("Plans are optimal", "#are-the-plans-optimal", ("planning",), _planning),
    Claim(
        f"Edge and decision cost at most {EDGE_RATIO:g} times a raw ASGI application",
        "#the-edge-alone-and-with-decisions",
        ("edge",),
        _edge,
        also=("edge_compiled",),
    ),
    Claim(f"gRPC costs at most {GRPC_RATIO:g} times HTTP at 600 KB", "#grpc", ("grpc_edge",), _grpc),
    Claim("Nothing grows in a long run", "#a-long-run-at-high-load", ("soak",), _soak),
    Claim("More requests from a core than other servers", "#beside-other-servers", ("peers",), _peers),
    Claim(
        f"Published: Themis has more than {THEMIS_TIMES:g} times fewer violations than FA2 and Sponge",
        "results/policies.md#the-published-headlines",
        ("headlines",),
        _themis,
    ),
    Claim(
        f"Published: InfAdapter has up to {INFADAPTER_FEWER:.0%} fewer violations than the VPA, at up to "
        f"{INFADAPTER_CHEAPER:.0%} less cost",
        f"{ACCURACY}#variants-side-by-side-infadapters-case",
        ("infadapter",),
        _infadapter,
    ),
    Claim(
        "Published: Proteus violates less than switching variants alone",
        f"{ACCURACY}#services-that-share-devices-proteus-case",
        ("proteus",),
        _proteus,
    ),
    Claim(
        f"Published: Loki violates up to {LOKI_VIOLATIONS:g} times less than stages planned apart",
        f"{ACCURACY}#a-tree-of-models-on-few-servers-lokis-case",
        ("loki",),
        _loki,
    ),
)
