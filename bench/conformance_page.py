"""The tables of what the edges stand, and of stock clients that agree with them, for docs/results.md."""

from typing import Any

from _markdown import table

TARGETS = {
    "infer": "inference requests, through ASGI",
    "direct": "inference requests on connections, past ASGI where they may be",
    "pages": "all other paths and verbs",
    "codec": "tensors between JSON, binary and compressed form",
    "sockets": "bytes on a real server's sockets, beside another client",
}


def fuzz(record: dict[str, Any]) -> str:
    """One line a target, and how many inputs there were in all."""
    found = {name: record[name] for name in TARGETS}
    rows = [
        (
            TARGETS[name],
            f"{one['inputs']:,}",
            _outcomes(one["outcomes"]),
            f"{one['slowest_cpu_ms']:.0f}",
            f"{one['memory_grown_mib']:.1f}",
        )
        for name, one in found.items()
    ]
    head = ("target", "inputs", "answers", "slowest, CPU ms", "memory grown, MiB")
    total = sum(one["inputs"] for one in found.values())
    return f"{total:,} inputs, seed {record['seed']}.\n\n{table(head, rows)}"


def _outcomes(outcomes: dict[str, int]) -> str:
    """How often each status was answered; of the codec, which has none, how many inputs were decoded."""
    statuses = {name: count for name, count in outcomes.items() if name.isdigit()}
    if not statuses:
        refused = outcomes.get("refused", 0)
        return f"{refused / sum(outcomes.values()):.0%} refused"
    gone = sum(outcomes.values()) - sum(statuses.values())
    told = "; ".join(f"{status}: {count:,}" for status, count in statuses.items())
    return f"{told}; hung up: {gone:,}" if gone else told


def conformance(record: dict[str, Any]) -> str:
    """Tensors that came back bit for bit, by protocol and datatype."""
    by_protocol = record["tensors"]
    datatypes = tuple(by_protocol["http"])
    rows = [(name, *(counts[datatype] for datatype in datatypes)) for name, counts in by_protocol.items()]
    total = sum(sum(counts.values()) for counts in by_protocol.values())
    return (
        f"{total:,} tensors through the SDK's version {record['kserve']}, all returned bit for bit.\n\n"
        f"{table(('', *datatypes), rows)}"
    )
