"""Seeded fuzzing of the HTTP edge and its binary codec: no crash, no hang, no 500, nobody else affected.

Inputs are good requests broken in a few places: a wrong value in the JSON, a byte flipped, cut out, doubled,
a length that lies, a header of nonsense, another coding; and, one in ten, bytes of chance. Each is checked:
an answer of one line, never a 500; nothing left in the arena; over at once. Targets:

- `infer`: whole inference requests, called straight as an ASGI application.
- `direct`: the same on connections without a socket, past ASGI where they may be, in pieces of any size.
- `pages`: every other path with any verb, mutated paths and bodies, shared memory and repository included.
- `codec`: tensors between JSON, binary and compressed form; what goes through must come back.
- `sockets`: bytes on real connections to a real server, in slices, half-closed or hung up at any point, while
  another client on another connection asks for inferences, each of which must be right.

An input is made from (seed, target, number) alone, so what fails is made again by `--only TARGET:NUMBER`.

    python bench/fuzz.py [--seed 1] [--inputs 100000] [--quick] [--only TARGET:NUMBER] [--dry]
"""

import argparse
import asyncio
import contextlib
import json
import logging
import math
import os
import re
import resource
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import _record
import numpy as np
from fuzz_direct import DirectEdge
from fuzz_inputs import (
    SERVICES,
    Message,
    chunks_of,
    good_tree,
    infer_message,
    page_message,
    placed_message,
    scratch,
    spoil,
    wire_form,
)

from steelyard.core.errors import InputError
from steelyard.serve.edge import EdgeSettings, make_app
from steelyard.serve.edge.body import Body
from steelyard.serve.edge.codec import Route
from steelyard.serve.edge.compression import TooLargeError, compress, inflate
from steelyard.serve.edge.http import EdgeApp
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.tensors import KINDS, bytes_offsets, from_json, to_json
from steelyard.testing.http import call_app, running_server
from steelyard.testing.intake import ComputingIntake

SHARES = {"infer": 0.2, "direct": 0.25, "pages": 0.2, "codec": 0.3, "sockets": 0.05}
"""Of all inputs, by target."""
CPU_S_MAX = 5.0
"""For one input; far more than any takes."""
HUNG_S_MAX = 60.0
"""After which an input has no answer: a machine may stand still for a while."""
GROWTH_BYTES_MAX = 64 << 20
"""How much the process's peak memory may grow after the first tenth of the inputs."""
STATUSES = {200, 400, 404, 405, 408, 413, 501, 503}
"""What an edge may answer: no 500, which is what a bug of ours becomes."""
BODY_BYTES_MAX = 1 << 16


class FuzzError(Exception):
    """An input did what no input may do."""


class Tried:
    """What came of the inputs of one target."""

    def __init__(self) -> None:
        self.count = 0
        self.outcomes: Counter[str] = Counter()
        self.slowest_s = self.slowest_cpu_s = 0.0


class Asgi:
    """An application whose answers are checked, called without a server."""

    def __init__(self) -> None:
        self.intake = ComputingIntake(SERVICES, lambda arrays: arrays, arena_bytes=1 << 20)
        self.app = make_app(self.intake, settings=EdgeSettings(body_bytes_max=BODY_BYTES_MAX))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.intake.close()

    async def ask(self, message: Message, rng: np.random.Generator) -> str:
        """Send one request; its status."""
        leaves = int(rng.integers(3)) if rng.random() < 0.03 else None
        async with asyncio.timeout(HUNG_S_MAX):
            answer = await call_app(
                self.app,
                message.method,
                message.path,
                chunks_of(message.body, rng),
                message.headers,
                disconnect_after=leaves,
                client="127.0.0.1" if rng.random() < 0.9 else "10.0.0.1",
            )
        if self.intake.arena.bytes_used:
            raise FuzzError(f"{self.intake.arena.bytes_used} bytes stay in the arena")
        for name in SERVICES:  # what was unloaded is loaded for the next one
            await self.intake.repository.load(name)
        if answer is None:
            if leaves is None:
                raise FuzzError("no answer")
            return "left"
        check_answer(answer.status, answer.headers, answer.body)
        return str(answer.status)


class Direct(Asgi):
    """Connections to an application, whose bytes are checked."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = DirectEdge(self.app)

    async def misuse(self, rng: np.random.Generator) -> str:
        """Send a request, whole or scratched, in pieces; what came back."""
        message = placed_message(rng) if rng.random() < 0.6 else infer_message(rng)
        data = wire_form(message, rng)
        leaves = bool(rng.random() < 0.1)
        if rng.random() < 0.3:  # it may lack its end now: nobody waits for the answer
            data, leaves = scratch(data, rng), True
        pieces = [data] if rng.random() < 0.3 else chunks_of(data, rng)
        async with asyncio.timeout(HUNG_S_MAX):
            answer = await self.edge.ask(pieces, leaves=leaves)
        if self.intake.arena.bytes_used or self.app.inferences.bodies.buffered_bytes:
            raise FuzzError(f"{self.intake.arena.bytes_used} bytes stay in the arena")
        return checked_status(answer)


def checked_status(answer: bytes) -> str:
    """The first status of what a connection brought; raises `FuzzError` for one that may not be."""
    for status in map(int, re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)):
        if status not in STATUSES and status != 100:
            raise FuzzError(f"status {status}: {answer[:300]!r}")
    return answer[9:12].decode() or "closed"


def check_answer(status: int, headers: dict[str, str], body: bytes) -> None:
    """Raise `FuzzError` for what an edge must not answer."""
    if status not in STATUSES:
        raise FuzzError(f"status {status}: {body[:300]!r}")
    if status == 200 or headers.get("content-encoding"):
        return
    error = json.loads(body)["error"]
    if "\n" in error or not error or len(error) > 2000:
        raise FuzzError(f"status {status} with an error that is no line: {error[:300]!r}")


def try_codec(rng: np.random.Generator) -> str:
    """One tensor through the codec, whole and scratched; what became of it."""
    dtype = list(KINDS)[rng.integers(len(KINDS))]
    shape = tuple(int(size) for size in rng.integers(0, 4, size=int(rng.integers(0, 6))))
    count = math.prod(shape)
    kind = KINDS[dtype]
    if dtype == "BYTES":
        words = [f"w{i}".encode() * int(rng.integers(0, 3)) for i in range(count)]
        data = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    elif dtype == "BOOL":
        data = rng.integers(0, 2, size=count, dtype=np.uint8).tobytes()
    else:
        data = rng.bytes(count * kind.item_bytes)
    coding = ("gzip", "deflate")[rng.integers(2)]
    packed = compress(data, coding)  # type: ignore[arg-type]
    if inflate(chunks_of(packed, rng), coding, len(data)) != data:  # type: ignore[arg-type]
        raise FuzzError(f"{coding} changed {data!r}")
    outcomes = []
    with contextlib.suppress(InputError, TooLargeError):
        inflate([scratch(packed, rng)], coding, 1 << 12)  # type: ignore[arg-type]
        outcomes.append("inflated")
    with contextlib.suppress(InputError):
        bytes_offsets(scratch(data, rng), count)
        outcomes.append("walked")
    if kind.element is not None:
        text = to_json("x", dtype, count, data)
        back = from_json("x", dtype, shape, text)
        if back != data and not (dtype.startswith("FP") and b"NaN" in text):  # a NaN's bits are not kept
            raise FuzzError(f"{dtype} {shape} {data!r} came back as {back!r}")
        with contextlib.suppress(InputError):
            from_json("x", dtype, shape, scratch(text, rng))
            outcomes.append("decoded")
    tree, binary = good_tree(rng)
    head = json.dumps(spoil(tree, rng)).encode("utf-8", "surrogatepass")
    with contextlib.suppress(InputError):
        Route(SERVICES["echo"]).parse(Body(chunks_of(head + binary, rng)), len(head))
        outcomes.append("parsed")
    return "+".join(outcomes) or "refused"


class Wire:
    """A real server, a neighbour whose inferences must all be right, and connections to misuse."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._neighbour = threading.Thread(target=self._infer, name="neighbour")
        self.neighbours = 0
        self.wrong: list[str] = []
        self._neighbour.start()

    def _infer(self) -> None:
        values = [1.5, -2.0, 0.25]
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": values}]}
        data = wire_form(Message("POST", "/v2/models/one%2Fx/infer", {}, json.dumps(body).encode()), None)
        with socket.create_connection(("127.0.0.1", self._port), timeout=HUNG_S_MAX) as connection:
            while not self._stop.is_set() and not self.wrong:
                try:
                    connection.sendall(data)
                    status, answer = read_answer(connection)
                except OSError as error:
                    self.wrong.append(repr(error))
                    return
                if status != 200 or json.loads(answer)["outputs"][0]["data"] != values:
                    self.wrong.append(f"{status} {answer[:300]!r}")
                self.neighbours += 1
                self._stop.wait(0.002)

    def stop(self) -> None:
        self._stop.set()
        self._neighbour.join(HUNG_S_MAX)
        if self._neighbour.is_alive() or self.wrong:
            raise FuzzError(f"another client was harmed: {self.wrong or 'no answer'}")

    def misuse(self, rng: np.random.Generator) -> str:
        """Send a request, whole or scratched, in slices, and leave at any point; what came back."""
        message = infer_message(rng) if rng.random() < 0.7 else page_message(rng)
        if message.path.endswith("/unload") or "one/x" in message.path:
            message = message._replace(path="/v2/models/echo")  # the neighbour's service stays as it is
        data = wire_form(message, rng)
        if rng.random() < 0.5:
            data = scratch(data, rng).replace(b"unload", b"unlead")
        with socket.create_connection(("127.0.0.1", self._port), timeout=HUNG_S_MAX) as connection:
            sent = chunks_of(data, rng)
            try:
                for piece in sent[: len(sent) - (rng.random() < 0.2)]:
                    connection.sendall(piece)
                if rng.random() < 0.2:
                    return "left"
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
            except TimeoutError:
                raise
            except OSError:  # it hung up on us while we were sending
                return "closed"
        return checked_status(answer)


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """One answer with a Content-Length."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += received(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])  # type: ignore[index]
    while len(body) < length:
        body += received(connection)
    return int(head[9:12]), body


def received(connection: socket.socket) -> bytes:
    piece = connection.recv(1 << 16)
    if not piece:
        raise ConnectionResetError("the server hung up")
    return piece


# Running targets


def generator(seed: int, target: str, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, zlib.crc32(target.encode()), number))


@contextlib.contextmanager
def target_of(name: str) -> Iterator[Callable[[np.random.Generator], str]]:
    """A function that tries one input; it raises for what may not be."""
    if name == "codec":
        yield try_codec
    elif name == "sockets":
        intake = ComputingIntake(SERVICES, lambda arrays: arrays, arena_bytes=1 << 20)
        app: EdgeApp = make_app(intake, settings=EdgeSettings(body_bytes_max=BODY_BYTES_MAX, body_s_max=1.0))
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.closing(EventLog(nowhere)) as log,
            running_server(app, log=log) as server,
        ):
            wire = Wire(server.port)
            try:
                yield wire.misuse
            finally:
                wire.stop()
        if intake.arena.bytes_used:
            raise FuzzError(f"{intake.arena.bytes_used} bytes stay in the arena")
        intake.close()
    elif name == "direct":
        logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())  # a line for each bad head
        with Direct() as direct, asyncio.Runner() as runner:
            yield lambda rng: runner.run(direct.misuse(rng))
    else:
        make = infer_message if name == "infer" else page_message
        with Asgi() as asgi, asyncio.Runner() as runner:
            yield lambda rng: runner.run(asgi.ask(make(rng), rng))


def fuzz(name: str, numbers: range, seed: int) -> Tried:
    """Try these inputs of a target.

    Raises:
        FuzzError: one of them did what none may; the message says which.
    """
    tried = Tried()
    with target_of(name) as attempt:
        for number in numbers:
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            try:
                outcome = attempt(generator(seed, name, number))
            except Exception as error:
                raise FuzzError(f"{name}:{number} of seed {seed}: {error!r}") from error
            tried.slowest_s = max(tried.slowest_s, time.perf_counter() - start_s)
            tried.slowest_cpu_s = max(tried.slowest_cpu_s, time.process_time() - start_cpu_s)
            tried.count += 1
            tried.outcomes[outcome] += 1
    if tried.slowest_cpu_s > CPU_S_MAX:
        raise FuzzError(f"{name}: one input took {tried.slowest_cpu_s:.1f} s of CPU time")
    return tried


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run(inputs: int, seed: int) -> dict[str, Any]:
    """All targets, a tenth of their inputs first: memory must not grow with the rest."""
    results: dict[str, Any] = {}
    for name, share in SHARES.items():
        count = math.ceil(inputs * share)
        warm = max(1, count // 10)
        start_s = time.perf_counter()
        first = fuzz(name, range(warm), seed)
        before_bytes = peak_bytes()
        rest = fuzz(name, range(warm, count), seed)
        grown_bytes = peak_bytes() - before_bytes
        if grown_bytes > GROWTH_BYTES_MAX:
            raise FuzzError(f"{name}: memory grew by {grown_bytes >> 20} MiB")
        results[name] = {
            "inputs": first.count + rest.count,
            "outcomes": dict(sorted((first.outcomes + rest.outcomes).items())),
            "slowest_ms": round(max(first.slowest_s, rest.slowest_s) * 1e3, 1),
            "slowest_cpu_ms": round(max(first.slowest_cpu_s, rest.slowest_cpu_s) * 1e3, 1),
            "memory_grown_mib": round(grown_bytes / (1 << 20), 1),
            "wall_s": round(time.perf_counter() - start_s, 1),
        }
        print(f"{name:8} {json.dumps(results[name])}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="2000 inputs")
    parser.add_argument("--only", metavar="TARGET:NUMBER", help="one input again")
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    arguments = parser.parse_args()
    if arguments.only:
        name, _, number = arguments.only.partition(":")
        print(fuzz(name, range(int(number), int(number) + 1), arguments.seed).outcomes)
        return
    results = run(2000 if arguments.quick else arguments.inputs, arguments.seed)
    if not (arguments.dry or arguments.quick):
        _record.write("fuzz", results, seed=arguments.seed)


if __name__ == "__main__":
    main()
