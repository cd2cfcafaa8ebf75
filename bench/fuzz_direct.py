"""A connection of the HTTP edge without a socket: bytes in, in pieces of any size; what it writes, out."""

import asyncio
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from steelyard.serve.edge.asgi import AsgiConnection
from steelyard.serve.edge.connection import Connection
from steelyard.serve.edge.direct_way import DirectWay
from steelyard.serve.edge.http import EdgeApp
from steelyard.serve.edge.reply_heads import ReplyHeads

CONNECTIONS_MAX = 8
TURNS_MAX = 10_000
"""Turns of the loop that an answer may take; tens are enough."""


class Pipe(asyncio.Transport):
    """What a connection takes for its socket."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 40_000), "sockname": ("127.0.0.1", 8080)})
        self.written = bytearray()
        self.is_paused = False
        self._is_closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    def abort(self) -> None:
        self._is_closing = True


class DirectEdge:
    """Connections to an application, as a listener makes them."""

    def __init__(self, app: EdgeApp) -> None:
        self._app = app
        self._state = ServerState()
        self._config = Config(app, log_config=None, access_log=False)
        self._config.load()
        self._way = DirectWay(
            app.inferences,
            ReplyHeads(self._state),
            rest_s_max=60.0,
            connections=self._state.connections,
            connections_max=CONNECTIONS_MAX,
        )
        self._way.placing.bytes_min = 1  # small bodies, too, are read to where they stay

    async def ask(self, pieces: list[bytes], *, leaves: bool = False) -> bytes:
        """Send pieces over a new connection; what came back, or nothing if the client leaves after them."""
        loop = asyncio.get_running_loop()
        pipe = Pipe()
        asgi = AsgiConnection(self._config, self._state, {}, loop)
        connection = Connection(self._way, asgi, loop)
        connection.connection_made(pipe)
        for piece in pieces:
            await self._send(connection, pipe, memoryview(piece))
        if not leaves:
            await self._turn(lambda: bool(pipe.written) or pipe.is_closing())
        connection.connection_lost(None)
        await self._turn(lambda: not self._state.tasks)
        return bytes(pipe.written)

    async def _send(self, connection: Connection, pipe: Pipe, data: memoryview) -> None:
        while data and not pipe.is_closing():
            await self._turn(lambda: not pipe.is_paused or pipe.is_closing())
            buffer = connection.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            connection.buffer_updated(size)
            data = data[size:]

    async def _turn(self, condition: Any) -> None:
        for _ in range(TURNS_MAX):
            if condition():
                return
            await asyncio.sleep(0)
        raise TimeoutError(f"nothing happened in {TURNS_MAX} turns of the loop")
