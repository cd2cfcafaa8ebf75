"""Ways to talk to an ASGI application in tests: straight, and through a real server on a real socket."""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any, NamedTuple, TypeVar

import msgspec
import uvloop

from steelyard.serve.edge.listen import Listener, serve_http
from steelyard.serve.edge.logs import EventLog

T = TypeVar("T")
START_S_MAX = 60.0
LINGER_S = 0.25
_NOT_IN_HEADERS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class HttpAnswer(NamedTuple):
    """What an application answered; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


async def call_app(
    app: Any,
    method: str,
    path: str,
    chunks: Sequence[bytes] = (b"",),
    headers: Mapping[str, str] | None = None,
    *,
    disconnect_after: int | None = None,
    client: str = "127.0.0.1",
) -> HttpAnswer | None:
    """Call an ASGI application without a server.

    Args:
        app: the application.
        method: `GET`, `POST` ...
        path: percent-decoded.
        chunks: the body, as it comes in.
        headers: names in any case.
        disconnect_after: the client leaves after this many chunks; None: when it has its answer.
        client: the client's address; the server's is 127.0.0.1.

    Returns:
        The answer, or None if there was none.
    """
    sent: list[dict[str, Any]] = []
    answered = asyncio.Event()
    pending = list(chunks)
    given = 0

    async def receive() -> dict[str, Any]:
        nonlocal given
        if disconnect_after is not None and given >= disconnect_after:
            return {"type": "http.disconnect"}
        if pending:
            given += 1
            return {"type": "http.request", "body": pending.pop(0), "more_body": bool(pending)}
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    ends = {"client": (client, 40000), "server": ("127.0.0.1", 8080)}
    await app({"type": "http", "method": method, "path": path, "headers": raw, **ends}, receive, send)
    if not sent:
        return None
    start, *rest = sent
    for name, value in start["headers"]:  # what an HTTP server refuses to send
        assert not _NOT_IN_HEADERS.search(name + value), (name, value)
    return HttpAnswer(
        start["status"],
        {name.decode(): value.decode("latin-1") for name, value in start["headers"]},
        b"".join(message["body"] for message in rest),
    )


def ask_app(
    app: Any,
    method: str,
    path: str,
    body: Any = b"",
    headers: Mapping[str, str] | None = None,
    *,
    client: str = "127.0.0.1",
) -> HttpAnswer:
    """Call an application once, on a loop of its own; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = asyncio.run(call_app(app, method, path, [data], headers, client=client))
    assert answer is not None, "the application did not answer"
    return answer


class RunningServer:
    """A server on a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self.port = port
        self._loop = loop

    def on_loop(self, function: Callable[[], T]) -> T:
        """Run a function on the serving loop; its result."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(START_S_MAX)


def running_server(
    app: Any, *, log: EventLog | None = None, linger_s: float = LINGER_S
) -> AbstractContextManager[RunningServer]:
    """Serve an application with uvicorn on uvloop, on a free port of 127.0.0.1, until the block ends.

    Clients that are still there then have `linger_s` to leave.
    """
    return running_listener(lambda: serve_http(app, "127.0.0.1", 0, log=log, grace_s=5), linger_s=linger_s)


@contextmanager
def running_listener(
    start: Callable[[], Awaitable[Listener]], *, linger_s: float = LINGER_S
) -> Iterator[RunningServer]:
    """Run what `start` makes on a uvloop of its own, on a thread of its own, until the block ends."""
    started: Future[RunningServer] = Future()
    stop = threading.Event()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        listener = await start()
        started.set_result(RunningServer(loop, listener.port))
        await loop.run_in_executor(None, stop.wait)
        await listener.stop(linger_s=linger_s)

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        yield started.result(START_S_MAX)
    finally:
        stop.set()
        thread.join(START_S_MAX)
        assert not thread.is_alive(), "the server did not stop"


def read_answer(stream: IO[bytes]) -> tuple[int, dict[str, str], bytes]:
    """The next answer of a connection: status, headers with names in lower case, body of a stated length."""
    status = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while (line := stream.readline()) != b"\r\n":
        assert line, "the connection ended within an answer"
        name, _, value = line.decode().strip().partition(": ")
        headers[name] = value
    return status, headers, stream.read(int(headers["content-length"]))
