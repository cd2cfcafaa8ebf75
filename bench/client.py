"""What a call costs its client: CPU of this process a request, by HTTP library, against a constant answer.

Every contender sends the same request (one FP32 tensor in binary) over one kept connection, one call after
another, and turns the answer into arrays with the code of `steelyard.client`; only who speaks HTTP differs.
tritonclient does both itself. The server is a process of its own that parses nothing but lengths. Libraries
that are not installed are left out, and the record says which.

Beside it, whole `steelyard serve` with a Python function that does next to nothing: CPU a request of client
and server with inputs through the socket and through shared memory.

    python bench/client.py [--rounds 5] [--quick]
"""

import argparse
import asyncio
import http.client
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import _record
import numpy as np
from edge import cpu_s

from steelyard.client import AsyncClient, Client
from steelyard.client.wire import LENGTH_HEADER, infer_body, read_answer
from steelyard.runtime.base import Array
from steelyard.testing.live import serve

SIZES = {"3 KB": 784, "600 KB": 150_000}
PATH = "/v2/models/m/infer"
WARM_UP = 10
INPUT_BYTES = (1 << 16, 1 << 18, 1 << 20, 1 << 22)
APP = """
import steelyard

@steelyard.service(
    slo="500ms", batch_max=1, example={"x": [4096]},
    inputs={"x": ("FP32", [-1, -1])}, outputs={"y": ("FP32", [-1])},
)
def first(batch):
    return {"y": batch["x"][:, 0]}
"""
SERVER = """
import asyncio, json
VALUE = bytes(40)
OUTPUT = {"name": "y", "datatype": "FP32", "shape": [1, 10], "parameters": {"binary_data_size": 40}}
HEAD = json.dumps({"model_name": "m", "model_version": "1", "outputs": [OUTPUT], "parameters": {}}).encode()
ANSWER = (
    f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(HEAD) + 40}\\r\\nContent-Type: application/octet-stream\\r\\n"
    f"Inference-Header-Content-Length: {len(HEAD)}\\r\\n\\r\\n"
).encode() + HEAD + VALUE

async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
            length = int(head.split(b"\\r\\ncontent-length: ")[1].split(b"\\r\\n")[0])
            await reader.readexactly(length)
            writer.write(ANSWER)
    except asyncio.IncompleteReadError:
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""

Run = Callable[[int, Array, int], float]
"""(port, input, calls) -> seconds of CPU."""


def timed(calls: int, call: Callable[[], object]) -> float:
    """CPU seconds of so many calls, after a few that are not counted."""
    for _ in range(WARM_UP):
        call()
    begin_s = time.process_time()
    for _ in range(calls):
        call()
    return time.process_time() - begin_s


async def timed_awaits(calls: int, call: Callable[[], Awaitable[object]]) -> float:
    """The same for coroutines."""
    for _ in range(WARM_UP):
        await call()
    begin_s = time.process_time()
    for _ in range(calls):
        await call()
    return time.process_time() - begin_s


def ours(port: int, x: Array, calls: int) -> float:
    with Client(f"127.0.0.1:{port}") as client:
        return timed(calls, lambda: client.infer("m", {"x": x}))


def ours_async(port: int, x: Array, calls: int) -> float:
    async def main() -> float:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            return await timed_awaits(calls, lambda: client.infer("m", {"x": x}))

    return asyncio.run(main())


def standard(port: int, x: Array, calls: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def call() -> None:
        body = infer_body({"x": x})
        connection.request("POST", PATH, body.content, dict(body.headers))
        answer = connection.getresponse()
        read_answer(answer.read(), int(answer.headers[LENGTH_HEADER]))

    try:
        return timed(calls, call)
    finally:
        connection.close()


def with_aiohttp(port: int, x: Array, calls: int) -> float:
    import aiohttp

    async def main() -> float:
        async with aiohttp.ClientSession(trust_env=False) as session:

            async def call() -> None:
                body = infer_body({"x": x})
                url = f"http://127.0.0.1:{port}{PATH}"
                async with session.post(url, data=body.content, headers=body.headers) as answer:
                    read_answer(await answer.read(), int(answer.headers[LENGTH_HEADER]))

            return await timed_awaits(calls, call)

    return asyncio.run(main())


def with_httpx(port: int, x: Array, calls: int) -> float:
    httpx: Any = importlib.import_module("httpx")
    with httpx.Client(trust_env=False) as client:

        def call() -> None:
            body = infer_body({"x": x})
            url = f"http://127.0.0.1:{port}{PATH}"
            answer = client.post(url, content=body.content, headers=dict(body.headers))
            read_answer(answer.content, int(answer.headers[LENGTH_HEADER]))

        return timed(calls, call)


def with_triton(port: int, x: Array, calls: int) -> float:
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{port}")

    def call() -> None:
        given = triton.InferInput("x", list(x.shape), "FP32")
        given.set_data_from_numpy(x)
        client.infer("m", [given]).as_numpy("y")

    try:
        return timed(calls, call)
    finally:
        client.close()


CONTENDERS: dict[str, tuple[str, Run]] = {
    "steelyard.client.Client": ("steelyard", ours),
    "steelyard.client.AsyncClient": ("steelyard", ours_async),
    "http.client": ("http", standard),
    "aiohttp": ("aiohttp", with_aiohttp),
    "httpx": ("httpx", with_httpx),
    "tritonclient.http": ("tritonclient", with_triton),
}


def shared_or_sent(rounds: int, calls: int) -> dict[str, dict[str, dict[str, float]]]:
    """CPU us a request of client and server (without its worker), by input size and way."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text(APP)
        with (
            serve(Path(f"{folder}/app.py:first"), folder, "--profiles", name) as server,
            Client(server.url) as sent,
            Client(server.url, shared_memory=True) as shared,
        ):
            for _ in range(rounds):
                for size in INPUT_BYTES:
                    x = np.zeros((1, size // 4), np.float32)
                    for way, client in (("sent", sent), ("shared", shared)):
                        of = found.setdefault(str(size), {}).setdefault(way, {"client": [], "server": []})
                        begin_s = cpu_s(server.process.pid)
                        spent_s = timed(calls, partial(client.infer, "first", {"x": x}))
                        of["client"].append(spent_s / calls * 1e6)
                        of["server"].append((cpu_s(server.process.pid) - begin_s) / (calls + WARM_UP) * 1e6)
    return {
        size: {
            way: {who: round(statistics.median(us), 1) for who, us in of.items()} for way, of in ways.items()
        }
        for size, ways in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few calls; nothing is recorded")
    options = parser.parse_args()
    present = {name: run for name, (module, run) in CONTENDERS.items() if importlib.util.find_spec(module)}
    rounds, calls = (1, {"3 KB": 50, "600 KB": 20}) if options.quick else (options.rounds, {})
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        found: dict[str, dict[str, list[float]]] = {name: {size: [] for size in SIZES} for name in present}
        for _ in range(rounds):
            for size, floats in SIZES.items():
                x = np.zeros((1, floats), np.float32)
                count = calls.get(size, 1000 if size == "3 KB" else 200)
                for name, run in present.items():
                    found[name][size].append(run(port, x, count) / count * 1e6)
    finally:
        server.terminate()
        server.wait(10)
    medians = {
        name: {size: round(statistics.median(us), 1) for size, us in sizes.items()}
        for name, sizes in found.items()
    }
    shared = shared_or_sent(rounds, 20 if options.quick else 200)
    print(json.dumps({"calls": medians, "shared memory": shared}, indent=1))
    if not options.quick:
        absent = sorted(set(CONTENDERS) - set(present))
        _record.write(
            "client",
            {"rounds": rounds, "cpu_us_per_call": medians, "shared_memory": shared, "not_installed": absent},
        )


if __name__ == "__main__":
    os.nice(5)
    main()
