"""The HTTP listener: uvicorn on the running loop, with signals left to whoever owns the process.

Rules of this file, beyond what uvicorn does by itself:
- Connections are bounded each (`asgi.py`, `connection.py`) and in number (`places.py`): they take together at
  most half of the process's file descriptors, so that workers can always be started.
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
from uvicorn.server import ServerState

from steelyard.core.errors import SteelyardError
from steelyard.serve.edge.asgi import AsgiConnection
from steelyard.serve.edge.connection import Connection
from steelyard.serve.edge.direct_way import DirectWay
from steelyard.serve.edge.http import EdgeApp
from steelyard.serve.edge.inferences import Inferences
from steelyard.serve.edge.logs import EventLog, ServerLogHandler
from steelyard.serve.edge.places import GUESTS_PART
from steelyard.serve.edge.reply_heads import ReplyHeads

KEEP_ALIVE_S = 75
BACKLOG = 2048
CONNECTIONS_MAX = 8192
POLL_S = 0.01
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
        for connection in list(self._server.server_state.connections):  # beyond the grace period
            connection.abort()  # type: ignore[union-attr]  # ours, both kinds


def check_address(host: str, port: int) -> None:
    """Bind and let go again: a taken port is known before minutes go into what would be served on it.

    Raises:
        ListenError: the address cannot be bound.
    """
    _bind(host, port).close()


async def serve_http(
    app: Any,
    host: str,
    port: int,
    *,
    log: EventLog | None = None,
    grace_s: float = 30.0,
    reuse_port: bool = False,
    connections_max: int = CONNECTIONS_MAX,
) -> HttpListener:
    """Serve an ASGI application on the running loop; returns once it listens.

    Args:
        app: the application.
        host: address or name to bind.
        port: 0 lets the system choose.
        log: where the server's own warnings go.
        grace_s: seconds that `stop` waits for requests in flight; rounded up to whole ones.
        reuse_port: other processes of the server listen on the same port.
        connections_max: of an `EdgeApp`; fewer where the process may have few file descriptors.

    Raises:
        ListenError: the address cannot be bound.
    """
    listening = _bind(host, port, reuse_port=reuse_port)
    if log is not None:
        logger = logging.getLogger("uvicorn.error")
        logger.handlers, logger.propagate = [ServerLogHandler(log)], False
    most = min(
        connections_max, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * GUESTS_PART // (GUESTS_PART + 1) // 2
    )
    config = uvicorn.Config(
        app,
        http=_connections(app.inferences, most) if isinstance(app, EdgeApp) else AsgiConnection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
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


def _connections(inferences: Inferences, connections_max: int) -> Any:
    """What makes uvicorn's protocols: connections that take inference requests directly."""
    ways: list[DirectWay] = []

    def make(
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        loop = _loop or asyncio.get_running_loop()
        if not ways:
            ways.append(
                DirectWay(
                    inferences,
                    ReplyHeads(server_state),
                    rest_s_max=KEEP_ALIVE_S,
                    connections=server_state.connections,
                    connections_max=connections_max,
                )
            )
        return Connection(ways[0], AsgiConnection(config, server_state, app_state, loop), loop)

    return make


def reserve(host: str, port: int) -> socket.socket:
    """Bind an address for processes that are going to listen on it; it is theirs until this is closed.

    Args:
        host: address or name to bind.
        port: 0 lets the system choose.

    Raises:
        ListenError: the address cannot be bound.
    """
    if port:  # others who share theirs would give us half of their connections
        check_address(host, port)
    return _bind(host, port, reuse_port=True)


def _bind(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listening
