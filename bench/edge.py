"""CPU a request of the HTTP edge, against a raw ASGI application that parses the same request.

Servers run in processes of their own on one core (uvloop); the client is on another core where there is one.
Ours does all an edge does (checks, deadline, copy into shared memory, an answer with the protocol's fields),
with an intake that answers at once; the raw one, on uvicorn with httptools, decodes the JSON head, views the
tensor, and answers a constant. `deciding` is the whole live server but for the link to its worker: edge,
decision and accounting (`edge_deciding.py`). Three more say what makes the difference: `asgi` is our edge as
an ASGI application on uvicorn, every request through it; `bare` reads the body from the socket and answers a
constant, which is what loop and kernel take; `default_malloc` is ours without `malloc` told to keep large
blocks. With a compiled build (docs/simulator.md) the same is recorded beside it. Rounds
alternate; CPU time is the kernel's (`/proc/<pid>/task/*/schedstat`), so it holds better on a busy machine
than latency does. The steps of ours are timed apart, in this process (`edge_steps.py`).

    python bench/edge.py [--rounds 5] [--dry]
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import _record
import edge_steps
import numpy as np
from edge_models import OUTPUTS

SIZES = {"small": (784, 4000), "large": (150_528, 640)}
"""Floats in the tensor (3 KB; 600 KB, an image of 224 x 224 x 3), and requests a round."""
FLOATS = {size: floats for size, (floats, _) in SIZES.items()}
CONNECTIONS = 8
LATENCIES = 200
APPS = {
    "ours": ("ours", True),
    "asgi": ("through_asgi", True),
    "raw": ("raw", True),
    "bare": ("bare", True),
    "default_malloc": ("ours", False),
}
"""Which application, and whether with `malloc` told to keep large blocks."""
SERVER = """
import asyncio, os, sys
os.sched_setaffinity(0, {{{core}}})
import uvloop
sys.path.insert(0, {bench!r})
from edge import {app} as make
from steelyard.serve.edge import keep_large_blocks, serve_http

async def main():
    if {keep}:
        keep_large_blocks()
    app = make()
    if isinstance(app, type):
        listener = await asyncio.get_running_loop().create_server(app, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
    else:
        port = (await serve_http(app, "127.0.0.1", 0)).port
    print(port, flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


def ours() -> Any:
    """Our edge before an intake that answers every request at once."""
    from steelyard.serve.edge import make_app

    return make_app(constant_intake())


def through_asgi() -> Any:
    """Our edge as nothing but an ASGI application: a listener knows no other way to it."""
    app = ours()

    async def call(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return call


def bare() -> type[asyncio.BufferedProtocol]:
    """The least that a loop needs for a request and its answer: no parser, no check."""
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n" + bytes(200)

    class Bare(asyncio.BufferedProtocol):
        left = 0

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def get_buffer(self, sizehint: int) -> memoryview:
            del sizehint
            return view

        def buffer_updated(self, nbytes: int) -> None:
            if not self.left:
                end = buffer.find(b"\r\n\r\n", 0, nbytes) + 4
                at = buffer.find(b"Content-Length: ", 0, end) + 16
                self.left = end + int(buffer[at : buffer.find(b"\r", at)])
            self.left -= nbytes
            if not self.left:
                self.transport.write(answer)

    return Bare


def constant_intake() -> Any:
    """Services of all sizes, whose requests are answered at once and with the same."""
    from steelyard.core.commands import Complete, OutputPart
    from steelyard.core.types import Tensor
    from steelyard.testing.intake import ComputingIntake, served

    class ConstantIntake(ComputingIntake):
        def prepare(self) -> None:
            self.output = self._store("y", "FP32", np.zeros((1, OUTPUTS), np.float32))

        def end(self, request_id: Any) -> Any:
            part = OutputPart((Tensor("y", "FP32", (1, OUTPUTS), self.output.ref),), 0, 1)
            return Complete(request_id, "only", 0.001, 0.002, False, {"only": (part,)})

        def submit(self, request: Any, on_end: Any) -> None:
            on_end(self.end(request.id))
            for tensor in request.tensors:
                self.arena.free(tensor.ref)

    services = {
        name: served(name, {"x": ("FP32", (-1, floats))}, {"y": ("FP32", (-1, OUTPUTS))})
        for name, (floats, _) in SIZES.items()
    }
    intake = ConstantIntake(services, lambda arrays: arrays)
    intake.prepare()
    return intake


def raw() -> Any:
    """The least that parses such a request: JSON head, a view of the tensor, a constant answer."""
    import msgspec

    outputs = [
        {
            "name": "y",
            "datatype": "FP32",
            "shape": [1, OUTPUTS],
            "parameters": {"binary_data_size": 4 * OUTPUTS},
        }
    ]
    head = msgspec.json.encode({"model_name": "m", "model_version": "1", "outputs": outputs})
    answer = head + bytes(4 * OUTPUTS)
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", b"%d" % len(head)),
        (b"content-length", b"%d" % len(answer)),
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body = body + message["body"] if body else message["body"]
            more = message["more_body"]
        length = int(dict(scope["headers"])[b"inference-header-content-length"])
        given = msgspec.json.decode(memoryview(body)[:length])["inputs"][0]
        np.frombuffer(body, np.float32, offset=length).reshape(given["shape"])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


@contextmanager
def server(app: str, core: int) -> Iterator[tuple[int, int]]:
    """A server process, one of `APPS`; its pid and port."""
    name, keep = APPS[app]
    code = SERVER.format(core=core, bench=str(Path(__file__).parent), app=name, keep=keep)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def request(size: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a binary request."""
    floats = SIZES[size][0]
    data = np.random.default_rng(0).standard_normal(floats, dtype=np.float32).tobytes()
    parameters = {"binary_data_size": len(data)}
    given = {"name": "x", "datatype": "FP32", "shape": [1, floats], "parameters": parameters}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


def message(size: str) -> bytes:
    """The whole HTTP request, as one piece."""
    body, headers = request(size)
    lines = [f"POST /v2/models/{size}/infer HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_answer(connection: socket.socket) -> None:
    """Read one answer with a Content-Length to its end."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1 << 16)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    left = int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]) - len(body)
    while left:
        left -= len(connection.recv(left))


def round_trip(pid: int, port: int, size: str, count: int | None = None) -> tuple[float, float]:
    """One round: CPU microseconds of the server a request, and the median latency in microseconds.

    CPU time is taken with all connections busy, as a loaded server batches its wake-ups; latency with one.
    """
    data, count = message(size), count or SIZES[size][1]
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
        before_s = cpu_s(pid)
        for _ in range(count // CONNECTIONS):
            turn()
        used_s = cpu_s(pid) - before_s
        latencies_s: list[float] = []
        for _ in range(LATENCIES):
            start_s = time.perf_counter()
            connections[0].sendall(data)
            read_answer(connections[0])
            latencies_s.append(time.perf_counter() - start_s)
    return used_s / (count // CONNECTIONS * CONNECTIONS) * 1e6, statistics.median(latencies_s) * 1e6


def measure(rounds: int) -> dict[str, Any]:
    """Alternate all servers over all sizes; medians over rounds."""
    from edge_deciding import deciding  # here, as the small servers import this module and not all of ours

    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = cores[0], cores[-1]
    os.sched_setaffinity(0, {client_core})
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        servers = {app: stack.enter_context(server(app, server_core)) for app in APPS}
        servers["deciding"] = stack.enter_context(deciding(FLOATS, server_core))
        for _ in range(rounds):
            for size in SIZES:
                for app, (pid, port) in servers.items():
                    found.setdefault((size, app), []).append(round_trip(pid, port, size))
    results: dict[str, Any] = {"server_core": server_core, "client_core": client_core, "rounds": rounds}
    for size, (floats, count) in SIZES.items():
        cpu = {app: statistics.median(us for us, _ in found[size, app]) for app in servers}
        latency = {app: statistics.median(us for _, us in found[size, app]) for app in servers}
        results[size] = {
            "floats": floats,
            "requests_a_round": count,
            "cpu_us": {app: round(us, 1) for app, us in cpu.items()},
            "cpu_us_more": round(cpu["ours"] - cpu["raw"], 1),
            "cpu_ratio": ratio_to_raw(found, size, "ours"),
            "cpu_ratio_deciding": ratio_to_raw(found, size, "deciding"),
            "latency_p50_us": {app: round(us, 1) for app, us in latency.items()},
            "steps_us": steps_of(size),
        }
    return results


def ratio_to_raw(found: Mapping[tuple[str, str], list[tuple[float, float]]], size: str, app: str) -> float:
    """CPU of a server over that of the raw application: the median of the rounds' ratios."""
    pairs = zip(found[size, app], found[size, "raw"], strict=True)
    return round(statistics.median(own / raw for (own, _), (raw, _) in pairs), 2)


def steps_of(size: str) -> dict[str, float]:
    """CPU microseconds of each step of ours."""
    app = ours()
    return edge_steps.steps(app, message(size), app.inferences.intake.end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    arguments = parser.parse_args()
    results = measure(arguments.rounds)
    print(f"server on core {results['server_core']}, client on core {results['client_core']}")
    for size in SIZES:
        row = results[size]
        print(
            f"{size:5} {row['floats']:7} floats: CPU {row['cpu_us']['ours']:6.1f} us a request, raw ASGI "
            f"{row['cpu_us']['raw']:6.1f} us: {row['cpu_us_more']:+.1f} us, x {row['cpu_ratio']:.2f}; "
            f"latency p50 {row['latency_p50_us']['ours']:.0f} / {row['latency_p50_us']['raw']:.0f} us; "
            f"with decisions {row['cpu_us']['deciding']:.1f} us, x {row['cpu_ratio_deciding']:.2f}; "
            f"through ASGI {row['cpu_us']['asgi']:.1f} us, bare {row['cpu_us']['bare']:.1f} us, "
            f"with malloc's defaults {row['cpu_us']['default_malloc']:.1f} us"
        )
        for step, us in row["steps_us"].items():
            print(f"    {step:35} {us:8.2f} us")
    if not arguments.dry:
        _record.write("edge_compiled" if _record.IS_COMPILED else "edge", results, seed=0)


if __name__ == "__main__":
    main()
