"""The figures of README.md, from the same records as docs/results.md."""

from collections.abc import Callable, Iterable
from typing import Any

from _markdown import table

Read = Callable[[str], dict[str, Any]]

POLICIES = {
    "steelyard": "**Steelyard**, default settings",
    "oracle": "an oracle that knows every arrival in advance",
    "static": "fixed replicas, enough for the peak",
    "hpa+ours": "Kubernetes HPA",
    "kpa+ours": "Knative autoscaler",
    "rayserve+ours": "Ray Serve autoscaler",
    "inferline+ours": "InferLine",
    "fa2+ours": "FA2",
    "sponge+ours": "Sponge",
    "themis+ours": "Themis",
}
"""The rows, by the policy's name in the record."""

LINE = """\
One optional setting, `violation_target`, trades violations for cores. At the cost of another policy,
Steelyard has at most a third of its violations, or 0.05 %; at the violations of another policy, it costs no
more. That holds in {} of {} pairs of a policy and a pipeline, leaving out policies with more than 20 %
violations."""


def measured(read: Read) -> str:
    """Both tables: policies on the same arrivals in the simulator, and what was measured live."""
    return f"{policies(read('headlines'))}\n\n{live(read)}"


def policies(record: dict[str, Any]) -> str:
    """Least and most over the pipelines: violations, and core-seconds over the oracle's."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in POLICIES}
    for pipeline in record["pipelines"].values():
        for row in pipeline["policies"]:
            if row["policy"] in found:
                found[row["policy"]].append(row)
    rows = [
        (
            POLICIES[name],
            between((100 * row["violations"] for row in each), 2) + " %",
            between((row["to_oracle"] for row in each), 2),
        )
        for name, each in found.items()
    ]
    head = ("policy", "SLO violations", "core-seconds, oracle = 1")
    verdicts = [verdict for each in record["pipelines"].values() for verdict in each["verdicts"]]
    holds = [verdict["holds"] for verdict in verdicts if verdict["form"] is not None]
    return f"{table(head, rows)}\n\n{LINE.format(sum(holds), len(holds))}"


def between(values: Iterable[float], digits: int) -> str:
    """`least – most`, or one number where both are written alike."""
    seen = sorted(values)
    least, most = f"{seen[0]:.{digits}f}", f"{seen[-1]:.{digits}f}"
    return least if least == most else f"{least} – {most}"


def live(read: Read) -> str:
    """What was measured on real models and sockets, and by which script."""
    rows = [
        ("A load of text pages beyond what two cores read at full accuracy", _pages(read("pages")), "pages"),
        ("Moving a running worker between one and two cores", _resize(read("resize_threads")), "resize"),
        ("A worker killed every second under load", _kill(read("kill")), "kill"),
        ("Latency added to a call of ONNX Runtime in process", _overhead(read("overhead")), "overhead"),
    ]
    lines = [f"| {what} | {result} | `bench/{script}.py` |" for what, result, script in rows]
    return "\n".join(("| live, on one or two cores | result | script |", "| --- | --- | --- |", *lines))


def _pages(record: dict[str, Any]) -> str:
    names = {"all": "", "accurate": "the most accurate models only: ", "fast": "the fastest only: "}
    found = record["arrangements"]
    parts = (
        f"{name}{100 * found[key]['violation_ratio']:.1f} % violations at accuracy "
        f"{found[key]['accuracy_mean']:.3f}"
        for key, name in names.items()
    )
    return f"{'; '.join(parts)} (medians of {record['seed']} runs)"


def _resize(record: dict[str, Any]) -> str:
    return f"{record['call_ms']['p50']:.2f} ms; {record['batches']:,} batches, {record['failed']} failed"


def _kill(record: dict[str, Any]) -> str:
    return (
        f"{record['kills']} kills, {record['offered']} requests, {record['unanswered']} unanswered; "
        f"replaced in {record['recovery_s']['p50']:.2f} s (median)"
    )


def _overhead(record: dict[str, Any]) -> str:
    small, large = (record[size]["added_latency_us"] / 1000 for size in ("small", "large"))
    return f"{small:.2f} ms with a tensor of 3 KB, {large:.2f} ms with 600 KB"
