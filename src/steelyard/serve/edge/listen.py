"""The HTTP listener: uvicorn on the running loop, with signals left to whoever owns the process."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from steelyard.core.errors import SteelyardError
from steelyard.serve.edge.logs import EventLog, ServerLogHandler

KEEP_ALIVE_S = 75
BACKLOG = 2048
_CLOSE = (b"connection", b"close")


class ListenError(SteelyardError):
    """A port cannot be listened on."""


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


class HttpListener:
    """A listening HTTP server; `port` is the one that was bound."""

    def __init__(self, server: _Server, task: "asyncio.Task[None]", port: int) -> None:
        self._server = server
        self._task = task
        self.port = port

    def stop_accepting(self) -> None:
        """Take no further connection, and let each open one end with its next answer.

        A connection that the server closes between two requests loses the client's next one if they cross on
        the way. So clients are told, with an answer, not to come back on this connection.
        """
        for listening in self._server.servers:
            listening.close()
        state = self._server.server_state
        state.default_headers.append(_CLOSE)  # also of answers under way, which share the list
        self._server.config.encoded_headers.append(_CLOSE)  # the server makes that list anew every second

    async def stop(self, *, linger_s: float = 0.0) -> None:
        """Stop accepting, finish the requests that came in (within the grace period), close.

        Args:
            linger_s: how long clients that keep an idle connection may still use it once.
        """
        self.stop_accepting()
        give_up_s = time.monotonic() + linger_s
        while self._server.server_state.connections and time.monotonic() < give_up_s:
            await asyncio.sleep(0.01)
        self._server.should_exit = True
        await self._task


async def serve_http(
    app: Any, host: str, port: int, *, log: EventLog | None = None, grace_s: float = 30.0
) -> HttpListener:
    """Serve an ASGI application on the running loop; returns once it listens.

    Args:
        app: the application.
        host: address or name to bind.
        port: 0 lets the system choose.
        log: where the server's own warnings go.
        grace_s: seconds that `stop` waits for requests in flight.

    Raises:
        ListenError: the address cannot be bound.
    """
    listening = _bind(host, port)
    if log is not None:
        logger = logging.getLogger("uvicorn.error")
        logger.handlers, logger.propagate = [ServerLogHandler(log)], False
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(grace_s),
    )
    server = _Server(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listening]))
    started = asyncio.get_running_loop().create_task(server.listening.wait())
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
