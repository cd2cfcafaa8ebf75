"""The table of what a call costs its client, for docs/results.md."""

from typing import Any

from _markdown import table


def client(record: dict[str, Any]) -> str:
    calls = record["cpu_us_per_call"]
    sizes = tuple(next(iter(calls.values())))
    rows = [(f"`{name}`", *(f"{us[size]:.0f}" for size in sizes)) for name, us in calls.items()]
    by_library = table(("CPU µs a call", *sizes), rows)
    shared = [
        (
            f"{int(size) >> 10} KiB",
            *(f"{ways[way][who]:.0f}" for who in ("client", "server") for way in ("sent", "shared")),
        )
        for size, ways in record["shared_memory"].items()
    ]
    head = ("input", "client, sent", "client, shared", "server, sent", "server, shared")
    return f"{by_library}\n\n{table(head, shared)}"
