"""CPU a request by process: HTTP in the server's own process, in one of its own, and in two on one port.

Three servers with the same two tiny models (`edge_models.py`), rounds alternating. The server's own process
decides, and speaks HTTP where there are no front ends; CPU is the kernel's count for each process. Latency is
that of one connection with nothing else to do.

Where it runs: each server with its front ends and workers confined to one core, the client on another. So the
figures are costs; what two front ends bring on more cores is for a machine that has them.

    python bench/front_ends.py [--rounds 5] [--quick] [--dry]
"""

import argparse
import os
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import _record
from edge import FLOATS, SIZES, cpu_s, message, read_answer
from edge_models import write_spec

from steelyard.testing.live import LiveServer, serve, worker_pids

COUNTS = (0, 1, 2)
"""Front ends."""
CONNECTIONS = 16
LATENCIES = 200
QUICK = 20
"""How many times fewer requests `--quick` sends."""
WHO = ("server", "front_ends", "workers")


def processes(live: LiveServer) -> dict[str, list[int]]:
    """Process ids by what they do."""
    return {
        "server": [live.process.pid],
        "front_ends": [one["pid"] for one in live.status()["front_ends"]],
        "workers": worker_pids(live),
    }


def cores_of(pids: list[int]) -> list[int]:
    """The cores that processes may run on, all threads together."""
    threads = [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sorted(set().union(*(os.sched_getaffinity(thread) for thread in threads)))


def ask(live: LiveServer, size: str, count: int) -> dict[str, float]:
    """One round: CPU microseconds a request by `WHO`, and the median latency in microseconds."""
    data, port = message(size), int(live.url.rpartition(":")[2])
    pids = processes(live)
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(CONNECTIONS)
        ]

        def turn() -> None:
            for connection in connections:
                connection.sendall(data)
            for connection in connections:
                read_answer(connection)

        turn()
        before_s = {who: sum(map(cpu_s, pids[who])) for who in WHO}
        turns = max(1, count // CONNECTIONS)
        for _ in range(turns):
            turn()
        asked = turns * CONNECTIONS
        used = {f"{who}_us": (sum(map(cpu_s, pids[who])) - before_s[who]) / asked * 1e6 for who in WHO}
        latencies_s: list[float] = []
        for _ in range(LATENCIES):
            start_s = time.perf_counter()
            connections[0].sendall(data)
            read_answer(connections[0])
            latencies_s.append(time.perf_counter() - start_s)
    return used | {"latency_p50_us": statistics.median(latencies_s) * 1e6}


def measure(rounds: int, fewer: int, folder: Path) -> dict[str, Any]:
    """Alternate over all servers and sizes; medians over the rounds."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    spec = write_spec(folder, FLOATS)
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    ran: dict[str, Any] = {}
    with ExitStack() as stack:
        os.sched_setaffinity(0, {server_core})  # servers and what they start inherit it
        live = {
            count: stack.enter_context(
                serve(spec, folder, "--front-ends", str(count), name=f"front-ends-{count}")
            )
            for count in COUNTS
        }
        os.sched_setaffinity(0, {client_core})
        for count, one in live.items():
            ran[str(count)] = {who: cores_of(pids) for who, pids in processes(one).items() if pids}
        for _ in range(rounds):
            for size, (_, requests) in SIZES.items():
                for count, one in live.items():
                    found.setdefault((count, size), []).append(ask(one, size, requests // fewer))
    return {
        "rounds": rounds,
        "client_core": client_core,
        "ran_on": ran,
        "rows": [
            {
                "front_ends": count,
                "size": size,
                "floats": SIZES[size][0],
                **{key: round(statistics.median(row[key] for row in rows), 1) for key in rows[0]},
            }
            for (count, size), rows in found.items()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} times fewer requests")
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options.rounds, QUICK if options.quick else 1, Path(folder))
    for row in results["rows"]:
        print(row)
    print("ran on cores", results["ran_on"], "client on", results["client_core"])
    if not options.dry:
        _record.write("front_ends", results, seed=0)


if __name__ == "__main__":
    main()
