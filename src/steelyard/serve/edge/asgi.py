"""uvicorn's side of a connection, with the limits that uvicorn does not have.

The rules of this file:
- Heads of requests and idle new connections are bounded, in bytes and in time, as bodies are (`receive.py`),
  and a client has a limited time to read its answer.
- uvicorn's parser leaves out the body of a request that asks for an upgrade, and would take it for the next
  request. So such a connection ends with its answer, and nothing that follows is looked at.
- What is no HTTP is refused as everything else is: in JSON, with the text as its `error`.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from steelyard.serve.edge.replies import refusal
from steelyard.serve.edge.reply_heads import ReplyHeads

HEAD_BYTES_MAX = 1 << 20
"""Far above any real head, and above what one read from a socket can hold of earlier requests' bodies."""
HEAD_S_MAX = 30.0
"""For a request's head, from its first byte on."""
ANSWER_S_MAX = 120.0
"""For a client to read an answer that does not fit the sockets' buffers; then the connection is cut."""
_BODY = frozenset((b"content-length", b"transfer-encoding"))


class AsgiConnection(HttpToolsProtocol):
    """uvicorn's protocol with bounded heads and answers; connections that never ask for anything end.

    It serves a connection alone, or what a `Connection` leaves to it.
    """

    _in_head = False
    _in_message = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """The client is here, and has limited time to ask."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_head_timer()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._in_message = True

    def on_headers_complete(self) -> None:
        """A head is here."""
        self._in_head = False
        self._stop_head_timer()
        super().on_headers_complete()
        if self.parser.should_upgrade() and not _BODY.isdisjoint([name for name, _ in self.headers]):
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """A request is here."""
        super().on_message_complete()
        self._in_message = False

    @property
    def is_free(self) -> bool:
        """Nothing is under way: no part of a request has come, and all answers were given."""
        return not self._in_message and self._is_idle() and not self.pipeline

    @property
    def is_waiting(self) -> bool:
        """Nothing is under way but perhaps a part of a head has come."""
        return self._is_idle() and not self.pipeline and (self._in_head or not self._in_message)

    def leave(self) -> None:
        """Stop waiting for a request: it has come, and is not for here."""
        self._unset_keepalive_if_required()
        self._stop_head_timer()

    def abort(self) -> None:
        """End at once."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")
        # Bytes have ended the wait for a request, of which not even the head is here (empty lines, too).
        if self._head_timer is None and (self._in_head or self._is_idle()):
            self._head_timer = self.loop.call_later(HEAD_S_MAX, self._head_is_late)

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with what came, and end."""
        reply = refusal(400, msg)
        head, _ = ReplyHeads(self.server_state).head(reply, True)
        self.transport.write(head + reply.body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing to warn of: an upgrade may be ignored (RFC 9110, 7.8), and clients ask for it by habit."""

    def pause_writing(self) -> None:
        """The client does not read what is written."""
        super().pause_writing()
        self._answer_timer = self.loop.call_later(ANSWER_S_MAX, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
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
