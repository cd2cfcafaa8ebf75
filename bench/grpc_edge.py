"""CPU a request of the gRPC edge, side by side with the HTTP edge and with bare grpc.aio.

Three servers in processes of their own on one core, the client on another where there is one: our HTTP edge,
our gRPC edge, both before an intake that answers at once, and a bare grpc.aio server that decodes the message
by protobuf, views the tensor, and answers a constant: what gRPC in Python costs at least, if tensors go
through protobuf. Rounds alternate; CPU time is the kernel's (see `edge.py`).

    python bench/grpc_edge.py [--rounds 5] [--quick] [--dry]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import _record
import edge
import grpc
import numpy as np
from edge_models import OUTPUTS

from steelyard.serve.grpc.messages import INFERENCE, InferRequest, InferResponse

APPS = ("http", "grpc", "bare_grpc")
LATENCIES = 100
QUICK = 20
"""How many times fewer requests `--quick` sends."""
METHOD = f"/{INFERENCE}/ModelInfer"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVER = """
import asyncio, os, sys
os.sched_setaffinity(0, {{{core}}})
import uvloop
sys.path.insert(0, {bench!r})
import grpc_edge

uvloop.run(grpc_edge.{app}())
"""


async def serve_until_killed(listener: Any) -> None:
    import asyncio

    print(listener.port, flush=True)
    await asyncio.Event().wait()


async def http() -> None:
    from steelyard.serve.edge import keep_large_blocks, serve_http

    keep_large_blocks()
    await serve_until_killed(await serve_http(edge.ours(), "127.0.0.1", 0))


async def ours_grpc() -> None:
    from steelyard.serve.edge import keep_large_blocks
    from steelyard.serve.grpc import serve_grpc

    keep_large_blocks()
    await serve_until_killed(await serve_grpc(edge.constant_intake(), "127.0.0.1", 0))


async def bare_grpc() -> None:
    """The least that decodes such a request, as a server of generated stubs does it."""
    from steelyard.serve.edge import keep_large_blocks

    keep_large_blocks()
    answer = InferResponse(model_name="m", model_version="1")
    answer.outputs.add(name="y", datatype="FP32", shape=[1, OUTPUTS])
    answer.raw_output_contents.append(bytes(4 * OUTPUTS))

    async def infer(asked: Any, _: Any) -> Any:
        np.frombuffer(asked.raw_input_contents[0], np.float32).reshape(asked.inputs[0].shape)
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=InferRequest.FromString,
        response_serializer=InferResponse.SerializeToString,
    )
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(INFERENCE, {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


@contextmanager
def server(app: str, core: int) -> Iterator[tuple[int, int]]:
    """A server process; its pid and port."""
    name = "ours_grpc" if app == "grpc" else app
    code = SERVER.format(core=core, bench=str(Path(__file__).parent), app=name)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def grpc_message(size: str) -> bytes:
    """A `ModelInferRequest` with a raw tensor, encoded."""
    floats = edge.SIZES[size][0]
    data = np.random.default_rng(0).standard_normal(floats, dtype=np.float32).tobytes()
    asked = InferRequest(model_name=size, raw_input_contents=[data])
    asked.inputs.add(name="x", datatype="FP32", shape=[1, floats])
    encoded: bytes = asked.SerializeToString()
    return encoded


def grpc_round(pid: int, port: int, size: str, count: int) -> tuple[float, float]:
    """One round of a gRPC server, as `edge.round_trip`: CPU us at several open calls, latency at one."""
    data = grpc_message(size)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        infer = channel.unary_unary(METHOD)

        def turn() -> None:
            for call in [infer.future(data, timeout=30) for _ in range(edge.CONNECTIONS)]:
                assert call.result()

        turn()
        before_s = edge.cpu_s(pid)
        for _ in range(count // edge.CONNECTIONS):
            turn()
        used_s = edge.cpu_s(pid) - before_s
        latencies_s = []
        for _ in range(LATENCIES):
            start_s = time.perf_counter()
            infer(data, timeout=30)
            latencies_s.append(time.perf_counter() - start_s)
    return used_s / (count // edge.CONNECTIONS * edge.CONNECTIONS) * 1e6, statistics.median(latencies_s) * 1e6


def measure(rounds: int, counts: dict[str, int]) -> dict[str, Any]:
    """Alternate the servers over all sizes; medians over rounds."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    os.sched_setaffinity(0, {client_core})
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        servers = {app: stack.enter_context(server(app, server_core)) for app in APPS}
        for _ in range(rounds):
            for size, count in counts.items():
                for app, (pid, port) in servers.items():
                    ask: Callable[..., tuple[float, float]] = edge.round_trip if app == "http" else grpc_round
                    found.setdefault((size, app), []).append(ask(pid, port, size, count))
    results: dict[str, Any] = {"server_core": server_core, "client_core": client_core, "rounds": rounds}
    for size, count in counts.items():
        pairs = {
            other: [a / b for (a, _), (b, _) in zip(found[size, "grpc"], found[size, other], strict=True)]
            for other in ("http", "bare_grpc")
        }
        results[size] = {
            "floats": edge.SIZES[size][0],
            "requests_a_round": count,
            "cpu_us": {app: round(statistics.median(us for us, _ in found[size, app]), 1) for app in APPS},
            "cpu_ratio_to": {other: round(statistics.median(each), 2) for other, each in pairs.items()},
            "latency_p50_us": {
                app: round(statistics.median(us for _, us in found[size, app]), 1) for app in APPS
            },
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of few requests, stored nowhere")
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    arguments = parser.parse_args()
    few = QUICK if arguments.quick else 1
    counts = {size: count // few for size, (_, count) in edge.SIZES.items()}
    results = measure(1 if arguments.quick else arguments.rounds, counts)
    print(f"server on core {results['server_core']}, client on core {results['client_core']}")
    for size in counts:
        row = results[size]
        cpu, ratio, latency = row["cpu_us"], row["cpu_ratio_to"], row["latency_p50_us"]
        print(
            f"{size:5} {row['floats']:7} floats: CPU {cpu['grpc']:7.1f} us a request; "
            f"HTTP {cpu['http']:6.1f} us (x {ratio['http']:.2f}), "
            f"bare grpc.aio {cpu['bare_grpc']:7.1f} us (x {ratio['bare_grpc']:.2f}); "
            f"latency p50 {latency['grpc']:.0f}, {latency['http']:.0f}, {latency['bare_grpc']:.0f} us"
        )
    if not (arguments.dry or arguments.quick):
        _record.write("grpc_edge", results, seed=0)


if __name__ == "__main__":
    main()
