"""The tables of what front ends in processes of their own cost, and gRPC, for docs/results.md."""

from typing import Any

from _markdown import table


def front_ends(record: dict[str, Any]) -> str:
    rows = [
        (
            row["front_ends"] or "none",
            f"{row['floats'] * 4 / 1000:.0f} KB",
            f"{row['server_us']:.0f}",
            f"{row['front_ends_us']:.0f}",
            f"{row['workers_us']:.0f}",
            f"{row['server_us'] + row['front_ends_us']:.0f}",
            f"{row['latency_p50_us']:.0f}",
        )
        for row in record["rows"]
    ]
    head = (
        "front ends",
        "request",
        "server, CPU µs",
        "front ends, CPU µs",
        "workers, CPU µs",
        "server and front ends",
        "p50 µs",
    )
    ran = "; ".join(
        f"{count}: {', '.join(f'{who} on {cores}' for who, cores in where.items())}"
        for count, where in record["ran_on"].items()
    )
    return f"{table(head, rows)}\n\nCores by number of front ends: {ran}; client on {record['client_core']}."


def grpc_edge(record: dict[str, Any]) -> str:
    """CPU and latency of a call by protocol, and of a bare gRPC server that does nothing with it."""
    names = {"http": "HTTP", "grpc": "gRPC", "bare_grpc": "bare grpc.aio"}
    rows = [
        (
            size,
            *(f"{record[key]['cpu_us'][name]:.0f}" for name in names),
            f"{record[key]['cpu_ratio_to']['http']:.1f}",
            f"{record[key]['cpu_ratio_to']['bare_grpc']:.2f}",
            *(f"{record[key]['latency_p50_us'][name]:.0f}" for name in names),
        )
        for key, size in (("small", "3 KB"), ("large", "602 KB"))
    ]
    head = (
        "request",
        *(f"{name}, CPU µs" for name in names.values()),
        "gRPC / HTTP",
        "gRPC / bare",
        *(f"{name}, p50 µs" for name in names.values()),
    )
    return table(head, rows)
