"""The HTTP listener: uvicorn on the running loop, with signals left to whoever owns the process.

Rules of this file, beyond what uvicorn does by itself:
- Heads of requests and idle new connections are bounded, in bytes and in time, as bodies are (`receive.py`),
  and a client has a limited time to read its answer; connections take at most half of the process's file
  descriptors, so that workers can always be started.
- Stopping need not drop requests that are on their way over kept-alive connections: for as long as the caller
  says such connections stay open, and what comes in is answered with `Connection: close`.
"""

import asyncio
import contextlib
import logging
import math
import resource
import socket
from collections.abc import Iterator
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from steelyard.core.errors import SteelyardError
from steelyard.serve.edge.logs import EventLog, ServerLogHandler

KEEP_ALIVE_S = 75
BACKLOG = 2048
CONNECTIONS_MAX = 8192
HEAD_BYTES_MAX = 1 << 20
"""Far above any real head, and above what one read from a socket can hold of earlier requests' bodies."""
HEAD_S_MAX = 30.0
"""For a request's head, from its first byte on."""
ANSWER_S_MAX = 120.0
"""For a client to read an answer that does not fit the sockets' buffers; then the connection is cut."""
POLL_S = 0.01
_CLOSE = (b"connection", b"close")


class ListenError(SteelyardError):
    """A port cannot be listened on."""


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with bounded heads and answers; connections that never ask for anything end."""

    _in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")
        # Bytes have ended the wait for a request, of which not even the head is here (empty lines, too).
        if self._head_timer is None and (self._in_head or self._is_idle()):
            self._head_timer = self.loop.call_later(HEAD_S_MAX, self._head_is_late)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_timer = self.loop.call_later(ANSWER_S_MAX, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_answer_timer()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._is_idle():  # an earlier request is being answered: a later byte starts the timer anew
            return
        if not self.transport.is_closing():
            self.send_400_response(f"The head of the request did not arrive within {HEAD_S_MAX:g} s.")

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it listens and leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class Listener(Protocol):
    """Something that listens on `port` until it is stopped."""

    port: int

    def stop_accepting(self) -> None:
        """Begin nothing new; what is under way goes on. Safe to call twice."""
        ...

    async def stop(self, *, linger_s: float = 0.0) -> None:
        """End, with `linger_s` for clients that are still there."""
        ...


class HttpListener:
    """A listening HTTP server; `port` is the one that was bound."""

    def __init__(self, server: _Server, task: "asyncio.Task[None]", port: int) -> None:
        self._server = server
        self._task = task
        self.port = port

    def stop_accepting(self) -> None:
        """Take no further connection, and let each open one end with its next answer.

        A connection that the server closes between two requests loses the client's next one if they cross on
        the way. So clients are told, with an answer, not to come back on this connection. Safe to call twice.
        """
        for listening in self._server.servers:
            listening.close()
        state, config = self._server.server_state, self._server.config
        if _CLOSE not in config.encoded_headers:
            config.encoded_headers.append(_CLOSE)  # the server makes its default headers anew every second
            state.default_headers.append(_CLOSE)  # also of answers under way, which share the list

    async def stop(self, *, linger_s: float = 0.0) -> None:
        """Stop accepting, finish the requests that came in (within the grace period), close.

        Args:
            linger_s: how long clients that keep an idle connection may still use it once.
        """
        self.stop_accepting()
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + linger_s
        while self._server.server_state.connections and loop.time() < give_up_s:
            await asyncio.sleep(POLL_S)
        self._server.should_exit = True
        await self._task


def check_address(host: str, port: int) -> None:
    """Bind and let go again: a taken port is known before minutes go into what would be served on it.

    Raises:
        ListenError: the address cannot be bound.
    """
    _bind(host, port).close()


async def serve_http(
    app: Any, host: str, port: int, *, log: EventLog | None = None, grace_s: float = 30.0
) -> HttpListener:
    """Serve an ASGI application on the running loop; returns once it listens.

    Args:
        app: the application.
        host: address or name to bind.
        port: 0 lets the system choose.
        log: where the server's own warnings go.
        grace_s: seconds that `stop` waits for requests in flight; rounded up to whole ones.

    Raises:
        ListenError: the address cannot be bound.
    """
    listening = _bind(host, port)
    if log is not None:
        logger = logging.getLogger("uvicorn.error")
        logger.handlers, logger.propagate = [ServerLogHandler(log)], False
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        limit_concurrency=min(CONNECTIONS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(grace_s),
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    task = loop.create_task(server.serve(sockets=[listening]))
    started = loop.create_task(server.listening.wait())
    await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
    if not started.done():
        started.cancel()
        await task  # raises what went wrong
    return HttpListener(server, task, listening.getsockname()[1])


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listening
