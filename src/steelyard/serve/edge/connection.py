"""One connection: inference requests straight from the socket's buffer, all others through an ASGI server.

The rules of this file:
- A request takes the direct way if its whole HTTP head came in one read and is a plain one (`http_head.py`),
  and the ASGI server behind this connection has nothing under way. Everything else is handed to that server
  byte for byte, which therefore parses, bounds and times it as if it were alone with the connection. A
  request is never divided between the two.
- Reads end in one buffer that all connections share, as nothing is kept in it beyond a read; large bodies are
  read into their slots of the arena (`incoming.py`).
- A connection has one request under way. What a client sends meanwhile, at most one read of it, waits with
  reading paused; so do requests of a client that does not read its answers. What waits on all connections is
  bounded, in either direction: the client beyond is cut off.
- No task and no future a request: it is answered from the server's `on_end` by one write.
Why not ASGI for all, with figures: docs/adr/0014.
"""

import asyncio
import sys
from typing import Final

from steelyard.core.errors import InputError
from steelyard.core.types import Request
from steelyard.serve.edge.asgi import AsgiConnection
from steelyard.serve.edge.direct_way import DirectWay
from steelyard.serve.edge.exchange import CLIENT_GONE, Exchange
from steelyard.serve.edge.http_head import InferHead
from steelyard.serve.edge.incoming import Incoming
from steelyard.serve.edge.inferences import refused
from steelyard.serve.edge.places import GUEST_S_MAX, PAGE_VERBS, no_place
from steelyard.serve.edge.receive import late_body
from steelyard.serve.edge.replies import RefusedError, Reply
from steelyard.serve.edge.shared_memory import are_local

JOINED_BYTES_MAX: Final = 1 << 16
"""Answers up to this size are joined with their head: cheaper than a second piece for the socket."""
HEAD_END: Final = b"\r\n\r\n"
HEAD_END_BYTES: Final = len(HEAD_END)


class Connection(asyncio.BufferedProtocol):
    """A client's connection.

    Args:
        way: shared with the listener's other connections.
        asgi: serves what is not for the direct way; made for this connection.
        loop: the running one.
    """

    def __init__(self, way: DirectWay, asgi: AsgiConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._way = way
        self._asgi = asgi
        self._loop = loop
        self._transport: asyncio.Transport
        self._is_local = False
        self._exchange: Exchange | None = None
        self._is_submitted = False
        self._incoming: Incoming | None = None
        self._unwanted_bytes = 0
        """What is left of a body that was refused: it is discarded as it comes."""
        self._body_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._active_s = 0.0
        """When it was made, or the last request of it that needed no other way was answered."""
        self._held = b""
        self._is_with_asgi = True
        """The ASGI server may have something under way, or wait for it."""
        self._is_unread = False
        """The client has to read before more is written."""
        self._unread_bytes = 0
        self._is_taking = False
        self._is_ending = False
        self._is_guest = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a socket's
        """The client is here."""
        self._transport = transport
        self._asgi.connection_made(transport)
        self._is_local = are_local(self._asgi.client, self._asgi.server)
        way, self._active_s = self._way, self._loop.time()
        way.connections.discard(self._asgi)  # one connection counts once
        place = way.places.take(self._active_s)
        way.connections.add(self)
        if place == "none":
            transport.abort()
        elif place == "guest":
            self._is_guest = True
            self._rest_timer = self._loop.call_later(GUEST_S_MAX, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._way.connections.discard(self)
        exchange, self._exchange = self._exchange, None
        self._let_go()
        self._is_read()
        self._end_body()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        if exchange is not None and not exchange.ended:
            if self._is_submitted:
                self._way.intake.cancel(exchange.request_id)
            else:
                exchange.close(CLIENT_GONE)
        self._asgi.connection_lost(exc)

    def eof_received(self) -> None:
        """The client sends no more, which ends the connection."""
        self._asgi.eof_received()

    def pause_writing(self) -> None:
        """The client does not read what is written."""
        self._is_unread = True
        self._asgi.pause_writing()
        way = self._way
        self._unread_bytes = self._transport.get_write_buffer_size()
        way.unread_bytes += self._unread_bytes
        bytes_max = way.inferences.settings.buffered_bytes_max
        if bytes_max < way.unread_bytes > self._unread_bytes:  # one may wait, however large it is
            self._transport.abort()

    def resume_writing(self) -> None:
        """The client has read."""
        self._is_read()
        self._asgi.resume_writing()
        self._go_on()

    def _is_read(self) -> None:
        self._is_unread = False
        self._way.unread_bytes -= self._unread_bytes
        self._unread_bytes = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next read goes; `buffer_updated` follows at once."""
        del sizehint
        if self._incoming is not None and (slot := self._incoming.slot) is not None:
            return slot
        return self._way.view

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were read."""
        incoming = self._incoming
        if incoming is None or incoming.slot is None:
            self._take(self._way.buffer, 0, nbytes)
            return
        incoming.filled(nbytes)
        if not incoming.left:
            self._ask_complete(incoming)

    # What the server calls

    def shutdown(self) -> None:
        """End, after the answer that is under way."""
        if self._exchange is None:
            self._asgi.shutdown()
        self._is_ending = True

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    # What a newcomer's place depends on

    def idle_s(self, now_s: float) -> float:
        """For how long nothing has been under way; 0 if something is."""
        is_busy = (
            self._exchange is not None
            or self._unwanted_bytes
            or self._is_unread
            or (self._is_with_asgi and not self._asgi.is_waiting)
            or self._transport.is_closing()
        )
        return 0.0 if is_busy else now_s - self._active_s

    def make_place(self) -> None:
        """End it, as it is idle."""
        self._way.connections.discard(self)
        self._transport.close()

    # Requests

    def _take(self, data: bytes | bytearray, start: int, end: int) -> None:
        """Take what was read, request by request."""
        self._is_taking = True
        try:
            while start < end and not self._transport.is_closing():
                if self._incoming is not None:
                    start = self._receive(self._incoming, data, start, end)
                elif self._unwanted_bytes:
                    start = self._discard(start, end)
                elif self._is_with_asgi and not self._asgi.is_free:
                    self._hand_over(data, start, end)
                    return
                elif self._is_guest:
                    self._receive_guest(data, start, end)
                    return
                elif self._exchange is not None or self._is_unread:
                    self._hold(memoryview(data)[start:end])
                    return
                else:
                    begun = self._begin(data, start, end)
                    if begun == start:
                        self._hand_over(data, start, end)
                        return
                    start = begun
        finally:
            self._is_taking = False

    def _receive_guest(self, data: bytes | bytearray, start: int, end: int) -> None:
        """Answer one request for a page, if it has come as a whole; refuse all others."""
        if data.startswith(PAGE_VERBS, start):
            self._hand_over(data, start, end)
            self._asgi.shutdown()
            return
        reply = no_place().reply()
        head, _ = self._way.reply_heads.head(reply, True)
        self._transport.write(head + reply.body)
        self._transport.write_eof()
        self._unwanted_bytes = sys.maxsize  # closing before all is read would lose the answer

    def _hand_over(self, data: bytes | bytearray, start: int, end: int) -> None:
        self._is_with_asgi = True
        self._active_s = self._loop.time()
        self._asgi.data_received(bytes(memoryview(data)[start:end]))

    def _hold(self, data: memoryview) -> None:
        """Keep what came before its turn."""
        try:
            self._way.inferences.bodies.hold(len(data))
        except RefusedError:  # an answer to it would have to wait for its turn, too
            self._transport.abort()
            return
        self._held = bytes(data)
        self._transport.pause_reading()

    def _let_go(self) -> bytes:
        """What was kept."""
        held, self._held = self._held, b""
        self._way.inferences.bodies.buffered_bytes -= len(held)
        return held

    def _go_on(self) -> None:
        """Take what waited; it waits again if it still has to."""
        if self._held and not (self._is_taking or self._transport.is_closing()):
            held = self._let_go()
            self._transport.resume_reading()
            self._take(held, 0, len(held))

    def _begin(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Begin a request; where its part of the data ends, which is `start` if it is for the ASGI server."""
        way = self._way
        stop = data.find(HEAD_END, start, end) + HEAD_END_BYTES
        if stop < HEAD_END_BYTES:
            return start
        view = memoryview(data)
        head = way.heads.find(bytes(view[start:stop]))
        if head is None:
            return start
        if self._is_with_asgi:
            self._asgi.leave()
            self._is_with_asgi = False
        self._is_submitted = False
        exchange = Exchange(way.inferences, head.route, way.intake.next_id(), head.name, self._reply)
        self._exchange = exchange
        body_end = stop + head.length
        if body_end <= end:
            self._ask(exchange, head, view[stop:body_end])
            return body_end
        self._incoming = Incoming(head, way.placing)
        self._body_timer = self._loop.call_later(way.inferences.settings.body_s_max, self._body_is_late)
        return self._receive(self._incoming, data, stop, end)

    def _ask(self, exchange: Exchange, head: InferHead, body: memoryview) -> None:
        try:
            request = self._way.inferences.direct_request(exchange, head, body, self._is_local)
        except (RefusedError, InputError) as error:
            exchange.refuse(refused(error))
            return
        self._submit(exchange, request)

    def _ask_complete(self, incoming: Incoming) -> None:
        """Ask what has come in pieces."""
        exchange = self._exchange
        assert exchange is not None
        self._stop_body_timer()
        self._incoming = None
        try:
            request = incoming.request(exchange, self._is_local)
        except (RefusedError, InputError) as error:
            exchange.refuse(refused(error))
            return
        self._submit(exchange, request)

    def _submit(self, exchange: Exchange, request: Request) -> None:
        self._is_submitted = True
        self._way.intake.submit(request, exchange.on_end)

    # Bodies in pieces

    def _receive(self, incoming: Incoming, data: bytes | bytearray, start: int, end: int) -> int:
        """Take a part of a body; where it ends in the data."""
        stop = min(end, start + incoming.left)
        try:
            incoming.take(memoryview(data)[start:stop])
        except RefusedError as error:
            self._refuse_body(incoming, error)
            return start
        if not incoming.left:
            self._ask_complete(incoming)
        return stop

    def _body_is_late(self) -> None:
        self._body_timer = None
        if self._incoming is None:
            self._transport.close()
        else:
            self._refuse_body(self._incoming, late_body(self._way.inferences.settings.body_s_max))

    def _refuse_body(self, incoming: Incoming, error: RefusedError) -> None:
        """Answer before the body is complete; a client that sends first and reads later has time to."""
        assert self._exchange is not None
        self._end_body()
        self._unwanted_bytes = incoming.left
        self._body_timer = self._loop.call_later(self._way.inferences.settings.body_s_max, self._body_is_late)
        self._exchange.refuse(error)

    def _discard(self, start: int, end: int) -> int:
        """Leave out what is left of a refused body; where it ends in the data."""
        stop = min(end, start + self._unwanted_bytes)
        self._unwanted_bytes -= stop - start
        if not self._unwanted_bytes:
            self._stop_body_timer()
        return stop

    def _end_body(self) -> None:
        self._stop_body_timer()
        if self._incoming is not None:
            self._incoming.drop()
            self._incoming = None

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    # Answers

    def _reply(self, reply: Reply) -> None:
        """Write an answer; the next request may be taken."""
        self._exchange = None
        transport = self._transport
        if transport.is_closing():
            return
        head, ends = self._way.reply_heads.head(reply, self._is_ending)
        if len(reply.body) <= JOINED_BYTES_MAX:
            transport.write(head + reply.body)
        else:
            transport.writelines((head, reply.body))
        if ends:
            transport.close()
            return
        self._active_s = self._loop.time()
        if self._rest_timer is None:
            self._rest_timer = self._loop.call_later(self._way.rest_s_max, self._rested)
        if self._held:
            self._go_on()

    def _rested(self) -> None:
        """Close if there was no request since the last answer: one timer, however many answers there are."""
        self._rest_timer = None
        if self._exchange is not None or self._is_with_asgi:
            return  # the next answer sees to it, or the ASGI server
        left_s = self._active_s + self._way.rest_s_max - self._loop.time()
        if left_s > 0:
            self._rest_timer = self._loop.call_later(left_s, self._rested)
        else:
            self._transport.close()
