"""Everything that a server listens with: HTTP here or in processes of its own, gRPC likewise, and metrics.

The rules of this file:
- Where several processes listen on one port, the server binds it first and keeps it, without listening: the
  port stays the server's while front ends come and go, and one that is taken is an error at the start.
- A listener is a listener wherever it is: what stops accepting, lingers and ends is one list.
- Nothing is ready before all of it listens: a client that sees "ready" on one port may use the others.
"""

import asyncio
import socket
from collections.abc import Callable

from steelyard.core.errors import how_to_install
from steelyard.serve.account import Account
from steelyard.serve.edge.http import make_app
from steelyard.serve.edge.listen import Listener, reserve, serve_http
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.intake import LiveIntake
from steelyard.serve.link.front_ends import FrontEnds
from steelyard.serve.link.messages import Kind, Welcome
from steelyard.serve.settings import ServeSettings

LINGER_S = 0.5
"""How long an idle client may still use its connection once before the server ends."""


class Listening:
    """The listeners of one server.

    Args:
        settings: ports, and which of them are served by processes of their own.
        intake: the server behind the edges; open once all of them listen.
        front_ends: starts front ends.
        account: hears of statuses, and has the pages of the metrics port.
        log: of the edges.
        say: told what a person at the terminal wants to know.
    """

    def __init__(
        self,
        settings: ServeSettings,
        intake: LiveIntake,
        front_ends: FrontEnds,
        account: Account,
        log: EventLog,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._front_ends = front_ends
        self._account = account
        self._log = log
        self._say = say
        self._listeners: list[Listener] = []
        self._reserved: list[socket.socket] = []
        self._edge = EdgeSettings(
            body_bytes_max=settings.body_bytes_max,
            overload_status=429 if settings.overload_status == 429 else 503,
            log_requests=settings.log_requests,
        )

    async def start(self) -> None:
        """Listen on every port that is not turned off; returns when clients can connect.

        Raises:
            SteelyardError: a port cannot be had, or a front end does not start.
        """
        await self._start_metrics()  # first: whoever watches sees the rest start
        http = asyncio.ensure_future(self._start_http())
        grpc = asyncio.ensure_future(self._start_grpc())  # front ends of both kinds start at a time
        try:
            await http
            await grpc
        finally:
            http.cancel()
            grpc.cancel()
        self._intake.is_open = True
        self._front_ends.show()

    def stop_accepting(self) -> None:
        """Begin nothing new; what is under way goes on."""
        for listener in self._listeners:
            listener.stop_accepting()
        self._front_ends.stop_accepting()

    async def stop(self) -> None:
        """End, with a moment for clients that are still there."""
        await self._front_ends.stop(linger_s=LINGER_S)
        for listener in self._listeners:
            await listener.stop(linger_s=LINGER_S)
        for reserved in self._reserved:
            reserved.close()

    async def _start_metrics(self) -> None:
        settings = self._settings
        if settings.metrics_port == 0:
            return
        listener = await serve_http(
            self._account.app, settings.host, settings.metrics_port or 0, log=self._log
        )
        self._listeners.append(listener)
        self._tell("http", listener.port, "metrics, status", 0)

    async def _start_http(self) -> None:
        asked, processes = self._settings.http_port, self._settings.front_ends
        if asked == 0:
            return
        if processes:
            port = await self._start_processes("http", asked or 0, processes)
        else:
            port = await self._listen_http(asked or 0)
        self._tell("http", port, "Open Inference Protocol", processes)

    async def _listen_http(self, port: int) -> int:
        settings = self._settings
        app = make_app(self._intake, settings=self._edge, log=self._log, on_status=self._account.on_status)
        listener = await serve_http(app, settings.host, port, log=self._log, grace_s=settings.drain_s_max)
        self._listeners.append(listener)
        return listener.port

    async def _start_grpc(self) -> None:
        asked, in_process = self._settings.grpc_port, self._settings.grpc_in_process
        if asked == 0:
            return
        try:
            if in_process:
                port = await self._listen_grpc(asked or 0)
            else:
                port = await self._start_processes("grpc", asked or 0, 1)
        except ModuleNotFoundError as error:  # an extra, which a server does without
            self._say(f"no gRPC: {error.name} is not installed ({how_to_install('grpc')})")
            return
        self._tell("grpc", port, "Open Inference Protocol", int(not in_process))

    async def _listen_grpc(self, port: int) -> int:
        from steelyard.serve.grpc import serve_grpc  # needs the extra

        settings = self._settings
        listener = await serve_grpc(
            self._intake,
            settings.host,
            port,
            settings=self._edge,
            log=self._log,
            on_status=self._account.on_status,
            grace_s=settings.drain_s_max,
        )
        self._listeners.append(listener)
        return listener.port

    async def _start_processes(self, kind: Kind, port: int, count: int) -> int:
        settings = self._settings
        reserved = reserve(settings.host, port)
        self._reserved.append(reserved)
        port = reserved.getsockname()[1]
        welcome = Welcome(
            front_end=0,
            kind=kind,
            host=settings.host,
            port=port,
            arena_bytes=settings.arena_bytes,
            grace_s=settings.drain_s_max,
            settings=self._edge,
            services=dict(self._intake.services),
            seen={},
        )
        await self._front_ends.start(welcome, count)
        return port

    def _tell(self, scheme: str, port: int, what: str, processes: int) -> None:
        where = f" in {processes} process{'es' if processes > 1 else ''}" if processes else ""
        self._say(f"listening: {scheme}://{self._settings.host}:{port} ({what}){where}")
