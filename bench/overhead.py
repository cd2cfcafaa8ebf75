"""What serving costs over calling ONNX Runtime: CPU a request and added latency of a whole, running server.

Three ways to answer the same request, rounds alternating: `steelyard serve` (front end and decisions in
one process, one worker), a raw ASGI application that parses the request and answers a constant, and a call of
ONNX Runtime in this process. The models do next to nothing, so what is measured is what serving adds. CPU is
the kernel's count for the server's own process; the worker's is given apart.

The server's share is then divided among its steps by sampling its serving thread (`_sampled.py`), in a run
of its own that is not timed.

With a compiled build (docs/simulator.md) the same is recorded beside it, without the steps: compiled
functions are not on the stack that the sampler sees.

Where it runs: server, worker and raw application confined to one core, the client and the in-process calls on
another. In between, a second such server has its worker on the client's core, which is free while its one
connection waits: what the core that they share adds to the latency.

    python bench/overhead.py [--rounds 5] [--dry]
"""

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import _record
import numpy as np
import onnxruntime as ort
from edge import FLOATS, LATENCIES, SIZES, cpu_s, round_trip, server
from edge_models import write_spec

from steelyard.testing.live import LiveServer, serve, wait_until, worker_pids

SAMPLED_REQUESTS = {"small": 8000, "large": 3200}


def in_process_us(model: Path, floats: int) -> float:
    """Median latency of a call of ONNX Runtime on one thread, in microseconds."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, floats), dtype=np.float32)
    taken_s: list[float] = []
    for _ in range(LATENCIES):
        start_s = time.perf_counter()
        session.run(None, {"x": x})
        taken_s.append(time.perf_counter() - start_s)
    return statistics.median(taken_s) * 1e6


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """Alternate over all sizes and ways; medians over the rounds."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    spec = write_spec(folder, FLOATS)
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    with ExitStack() as stack:
        raw_pid, raw_port = stack.enter_context(server("raw", server_core))
        os.sched_setaffinity(0, {server_core})  # the server and its workers inherit it
        live = stack.enter_context(serve(spec, folder))
        apart = stack.enter_context(serve(spec, folder, name="apart"))
        os.sched_setaffinity(0, {client_core})
        move(worker_pids(apart), client_core)
        for _ in range(rounds):
            for size, (floats, _) in SIZES.items():
                found.setdefault((size, "steelyard"), []).append(ask(live, size))
                found.setdefault((size, "apart"), []).append(ask(apart, size))
                found.setdefault((size, "raw"), []).append((*round_trip(raw_pid, raw_port, size), 0.0))
                alone = in_process_us(folder / f"{size}.onnx", floats)
                found.setdefault((size, "onnxruntime"), []).append((alone, alone, 0.0))
    parts = {} if _record.IS_COMPILED else shares(spec, folder, (server_core, client_core))
    results: dict[str, Any] = {"server_core": server_core, "client_core": client_core, "rounds": rounds}
    for size, (floats, _) in SIZES.items():
        rows = {way: np.array(found[size, way]) for way in ("steelyard", "apart", "raw", "onnxruntime")}
        results[size] = {
            "floats": floats,
            "cpu_us": {way: round(float(np.median(row[:, 0])), 1) for way, row in rows.items()},
            "latency_p50_us": {way: round(float(np.median(row[:, 1])), 1) for way, row in rows.items()},
            "worker_cpu_us": round(float(np.median(rows["steelyard"][:, 2])), 1),
            "cpu_ratio_to_raw": round(float(np.median(rows["steelyard"][:, 0] / rows["raw"][:, 0])), 2),
            "added_latency_us": added_us(rows, "steelyard", "onnxruntime"),
            "added_latency_apart_us": added_us(rows, "apart", "onnxruntime"),
            "added_latency_to_raw_us": added_us(rows, "steelyard", "raw"),
        }
        if size in parts:
            results[size]["steps_cpu_us"] = {
                step: round(share * results[size]["cpu_us"]["steelyard"], 1)
                for step, share in sorted(parts[size].items(), key=lambda item: -item[1])
            }
    return results


def added_us(rows: Mapping[str, Any], way: str, base: str) -> float:
    """The median of what one way's latency is above another's, round by round."""
    return round(float(np.median(rows[way][:, 1] - rows[base][:, 1])), 1)


def move(pids: Iterable[int], core: int) -> None:
    """Confine processes with all their threads to a core."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def shares(spec: Path, folder: Path, cores: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Which part of the server's CPU time each step takes, by size; `cores`: the server's, the client's."""
    target = folder / "samples.json"
    prelude = (
        f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import _sampled; _sampled.start(); "
    )
    found: dict[str, dict[str, float]] = {}
    os.environ["SAMPLES"] = str(target)
    os.sched_setaffinity(0, {cores[0]})
    with serve(spec, folder, name="sampled", prelude=prelude) as live:
        os.sched_setaffinity(0, {cores[1]})
        for size, requests in SAMPLED_REQUESTS.items():
            ask(live, size)
            target.unlink(missing_ok=True)
            live.process.send_signal(signal.SIGUSR1)
            round_trip(live.process.pid, int(live.url.rpartition(":")[2]), size, requests)
            live.process.send_signal(signal.SIGUSR1)
            wait_until(target.exists, "the samples")
            counts = json.loads(target.read_text())
            found[size] = {step: count / sum(counts.values()) for step, count in counts.items()}
    return found


def ask(live: LiveServer, size: str) -> tuple[float, float, float]:
    """CPU a request of the server, median latency, CPU a request of its workers; microseconds."""
    workers = worker_pids(live)
    before_s = sum(cpu_s(pid) for pid in workers)
    cpu_us, latency_us = round_trip(live.process.pid, int(live.url.rpartition(":")[2]), size)
    used_s = sum(cpu_s(pid) for pid in workers) - before_s
    return cpu_us, latency_us, used_s / (SIZES[size][1] + LATENCIES) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options.rounds, Path(folder))
    for size in SIZES:
        print(size, results[size])
    if not options.dry:
        _record.write("overhead_compiled" if _record.IS_COMPILED else "overhead", results, seed=0)


if __name__ == "__main__":
    main()
