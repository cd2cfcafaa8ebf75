"""A front end in a process of its own: an arena, an edge, and the link to the one that decides.

Started by exec, so that it inherits no thread, loop or session. It decides nothing, ignores the terminal's
signals (the server drains first, and tells it), and dies with the server. It runs where the server may: on
any of its cores, at the server's niceness.

Run as `python -P -m steelyard.serve.link.process SOCKET_FD SERVER_PID`.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import uvloop

from steelyard.core.commands import Complete, Discard, Fail, Reject, Release, Shed
from steelyard.core.errors import InputError, SteelyardError
from steelyard.serve.edge.http import EdgeApp, make_app
from steelyard.serve.edge.listen import Listener, serve_http
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.malloc import keep_large_blocks
from steelyard.serve.edge.replies import RefusedError
from steelyard.serve.edge.shared_memory import Regions
from steelyard.serve.link import messages as m
from steelyard.serve.link.link import Link
from steelyard.serve.link.remote import RemoteIntake
from steelyard.worker import threads
from steelyard.worker.arena import Arena

COUNT_S = 0.1
"""How long statuses are added up before the decision maker hears of them."""


class FrontEnd:
    """One front-end process; `run` is its whole life.

    Args:
        sock: the link's socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = EventLog()
        self._loop.set_exception_handler(self._log.loop_error)
        self._welcome: asyncio.Future[m.Welcome] = self._loop.create_future()
        self._end: asyncio.Future[m.End] = self._loop.create_future()
        self._intake: RemoteIntake | None = None
        self._listener: Listener | None = None
        self._app: EdgeApp | None = None
        self._regions = Regions()
        self._is_draining = False
        self._statuses: dict[str, dict[int, int]] = {}
        self._actions: dict[type[Any], Callable[[Any], None]] = {
            m.Welcome: self._begin,
            m.Drain: self._drain,
            m.End: self._end.set_result,
        }
        self._link: Link[Any] = Link(
            sock,
            m.ToFrontEnd,
            self._receive,
            self._lost,
            loop=self._loop,
            last=lambda: None if self._intake is None else self._intake.taken(),
        )

    async def run(self) -> int:
        """Listen until told to end; the exit status.

        Raises:
            CancelledError: the decision maker has gone.
        """
        try:
            welcome = await self._welcome
            assert self._intake is not None
            threads.name_process(f"{m.arena_name(welcome.front_end)}/{welcome.kind}")
            self._listener = await self._listen(welcome, self._intake)
        except (SteelyardError, OSError, ImportError) as error:
            missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
            self._link.send(m.CannotListen(str(error), missing))
            return 1
        self._link.send(m.Listening())
        if self._is_draining:
            self._listener.stop_accepting()
        end = await self._end
        await self._listener.stop(linger_s=end.linger_s)
        self._count()
        self._link.send()
        self._link.close()
        self._log.close()
        self._intake.close()
        return 0

    def _begin(self, welcome: m.Welcome) -> None:
        """Make arena and intake at once: the next message may be for them."""
        try:
            arena = Arena(m.arena_name(welcome.front_end), welcome.arena_bytes)
        except (OSError, ValueError) as error:
            self._welcome.set_exception(SteelyardError(f"cannot set memory aside for requests: {error}"))
            return
        intake = self._intake = RemoteIntake(welcome, arena, self._link)
        self._actions |= {
            Complete: intake.end,
            Reject: intake.end,
            Shed: intake.end,
            Fail: intake.end,
            Discard: intake.end,
            Release: intake.release,
            m.Changed: intake.change,
            m.Forget: lambda message: intake.forget(message.arena),
            m.Told: intake.calls.told,
            m.RegionChanged: self._change_region,
        }
        if welcome.kind == "http":
            self._app = make_app(intake, settings=welcome.settings, log=self._log, on_status=self._on_status)
            self._regions = self._app.inferences.regions
            self._regions.spread = intake.calls.spread
        for region in welcome.regions:
            with contextlib.suppress(InputError, RefusedError):  # its client has gone, and it with it
                self._keep(region)
        # Before the first request lies in it.
        self._link.send(m.ArenaMade(), fds=(os.dup(arena.fd),))
        self._welcome.set_result(welcome)

    async def _listen(self, welcome: m.Welcome, intake: RemoteIntake) -> Listener:
        """Begin to speak with clients.

        Raises:
            ListenError: the address cannot be bound.
            ImportError: what gRPC needs is not installed.
        """
        serve: Callable[..., Coroutine[Any, Any, Listener]] = partial(serve_http, self._app)
        if welcome.kind == "grpc":
            from steelyard.serve.grpc import serve_grpc  # needs the extra

            serve = partial(serve_grpc, intake, settings=welcome.settings, on_status=self._on_status)
        return await serve(
            host=welcome.host,
            port=welcome.port,
            log=self._log,
            grace_s=welcome.grace_s,
            reuse_port=True,
        )

    def _receive(self, message: Any, fds: list[int]) -> None:
        if isinstance(message, m.Lend):
            assert self._intake is not None
            self._intake.lend(message.arenas, fds)
            return
        self._actions[type(message)](message)

    def _drain(self, _: m.Drain) -> None:
        self._is_draining = True
        if self._intake is not None:
            self._intake.stopping = True
        if self._listener is not None:
            self._listener.stop_accepting()

    def _lost(self, reason: str) -> None:
        """The decision maker has gone: there is nobody to answer for."""
        self._log.event("front_end_alone", level="error", text=reason)
        for waits in (self._welcome, self._end):
            if not waits.done():
                waits.cancel()

    def _change_region(self, message: m.RegionChanged) -> None:
        error = ""
        try:
            self._keep(message.region)
        except (InputError, RefusedError) as refused:
            error = str(refused)
        self._link.post(m.Told(message.call, error))

    def _keep(self, region: m.Region) -> None:
        if region.place is None:
            self._regions.unregister(region.name or None)
        else:
            self._regions.register(region.name, *region.place)

    def _on_status(self, service: str, status: int) -> None:
        if not self._statuses:
            self._loop.call_later(COUNT_S, self._count)
        counts = self._statuses.setdefault(service, {})
        counts[status] = counts.get(status, 0) + 1

    def _count(self) -> None:
        if self._statuses:
            self._link.post(m.Counted(self._statuses))
            self._statuses = {}


async def _run(sock: socket.socket) -> int:
    try:
        return await FrontEnd(sock).run()
    except asyncio.CancelledError:
        return 1  # the decision maker has gone


def main(fd: int, server_pid: int) -> int:
    """The process's life; its exit status."""
    threads.ignore_terminal_signals()
    if not threads.die_with_parent(signal.SIGKILL, server_pid):
        return 1  # the server died before the line above took effect
    keep_large_blocks()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(socket.socket(fileno=fd)))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
