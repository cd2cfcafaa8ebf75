"""One inference request over HTTP, from parse to answer.

The rules of this file:
- The answer is given from `on_end`, where outputs may be read; how it gets to the client is for `on_reply`.
- Through ASGI, the request's own coroutine waits in `receive()` meanwhile for the client to go away. `send`
  completes at once unless the client reads too slowly, so an inference needs one task, no future and no
  second turn of the loop; `start_sending` hands the rare rest over to a task.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator, MutableMapping
from typing import Any, Protocol

from steelyard.core.commands import Complete, Discard
from steelyard.core.errors import InputError, ModelError
from steelyard.core.types import RequestId, TensorRef
from steelyard.serve.base import End
from steelyard.serve.edge.answers import encode_answer
from steelyard.serve.edge.codec import Inference, Route
from steelyard.serve.edge.compression import INLINE_BYTES, Coding, compress
from steelyard.serve.edge.replies import Headers, RefusedError, Reply, end_refusal

Send = Callable[[MutableMapping[str, Any]], Coroutine[Any, Any, None]]
OnReply = Callable[[Reply], None]

CLIENT_GONE = 499
"""Status, in logs and metrics only, of a request whose client left before its answer."""

NAME_CHARS_MAX = 128
"""Of a request's id in logs and headers."""

_PRINTABLE = bytes(code if 32 <= code < 127 else 63 for code in range(256))
"""A client chose the text that this translates: control characters would break the header."""

_unsent: set["asyncio.Task[None]"] = set()
"""Answers that could not be sent at once; the loop itself keeps only weak references."""


class Ends(Protocol):
    """What the exchanges of an edge share."""

    overload_status: int
    """For rejected and shed requests."""

    def read(self, ref: TensorRef) -> memoryview:
        """The bytes of an output."""
        ...

    def closed(self, exchange: "Exchange", status: int, text: str) -> None:
        """A request has ended with this status and, if it was refused, this text: told exactly once."""
        ...


class Exchange:
    """Turns the end of one request into its answer.

    Args:
        ends: shared with the edge's other exchanges.
        route: the service asked.
        request_id: ours.
        name: the client's id of the request, for logs; empty if it gave none.
        on_reply: takes the answer to the client, without waiting.
    """

    __slots__ = (
        "_ends",
        "_name",
        "_on_reply",
        "asked",
        "ended",
        "request_id",
        "route",
    )

    def __init__(self, ends: Ends, route: Route, request_id: RequestId, name: str, on_reply: OnReply) -> None:
        self._ends = ends
        self.route = route
        self.request_id = request_id
        self.asked: Inference | None = None
        self.ended = False
        """The answer was handed to the HTTP server, or nobody waits for one."""
        self._name = name
        self._on_reply = on_reply

    @property
    def name(self) -> str:
        """The request's id in logs: the one in its body, else that of its headers, else ours."""
        if self.asked is not None and self.asked.client_id:
            return self.asked.client_id[:NAME_CHARS_MAX]
        return self._name[:NAME_CHARS_MAX] or f"{self.request_id.front_end}-{self.request_id.sequence}"

    def on_end(self, end: End) -> None:
        """Answer; called by the server, once."""
        if isinstance(end, Complete):
            self._complete(end)
        elif isinstance(end, Discard):
            self.close(CLIENT_GONE)
        else:
            self.refuse(end_refusal(self.route.name, end, self._ends.overload_status))

    def refuse(self, error: RefusedError) -> None:
        """Answer with a refusal."""
        self.close(error.status, str(error))
        reply = error.reply()
        reply.headers.append((b"x-request-id", self.name.encode("ascii", "replace").translate(_PRINTABLE)))
        self._on_reply(reply)

    def close(self, status: int, text: str = "") -> None:
        """Nothing more will be answered to this request."""
        self.ended = True
        self._ends.closed(self, status, text)

    def _complete(self, end: Complete) -> None:
        assert self.asked is not None
        try:
            body, head_length = encode_answer(self.route, self.asked, end, self._ends.read)
        except Exception as error:  # a bug of ours fails this request, not the loop that all requests share
            self.refuse(unanswerable(error))
            return
        self.ended = True
        self._ends.closed(self, 200, "")
        headers: Headers = [(b"content-length", b"%d" % len(body))]
        if head_length is None:
            headers.append((b"content-type", b"application/json"))
        else:
            headers.append((b"content-type", b"application/octet-stream"))
            headers.append((b"inference-header-content-length", b"%d" % head_length))
        self._on_reply(Reply(200, headers, body))


def unanswerable(error: Exception) -> RefusedError:
    """What a client is told whose request has completed, but whose answer could not be written."""
    if isinstance(error, InputError):
        return RefusedError(400, str(error))
    if isinstance(error, ModelError):
        return RefusedError(500, str(error), reason="model_error")
    return RefusedError(500, f"the answer could not be written: {error!r}")


async def send_reply(send: Send, reply: Reply) -> None:
    """Send a whole answer."""
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


def replying(send: Send, coding: Coding | None) -> OnReply:
    """Answers through ASGI; what is not a refusal in the coding that the client wants."""

    def reply(reply: Reply) -> None:
        if coding is None or reply.status != 200:
            start_sending(send_reply(send, reply))
        else:
            start_sending(_send_compressed(send, reply, coding))

    return reply


async def _send_compressed(send: Send, reply: Reply, coding: Coding) -> None:
    small = len(reply.body) <= INLINE_BYTES
    body = compress(reply.body, coding) if small else await asyncio.to_thread(compress, reply.body, coding)
    headers = [(name, value) for name, value in reply.headers if name != b"content-length"]
    headers += [(b"content-encoding", coding.encode()), (b"content-length", b"%d" % len(body))]
    await send_reply(send, Reply(200, headers, body))


def start_sending(sending: Coroutine[Any, Any, None]) -> None:
    """Run `sending` until it is done or has to wait; a task finishes one that has to."""
    try:
        waits_for = sending.send(None)
    except StopIteration:
        return
    task = asyncio.get_running_loop().create_task(_finish(_Resumed(sending, waits_for)))
    _unsent.add(task)
    task.add_done_callback(_unsent.discard)


class _Resumed:
    """A coroutine that ran up to its first wait: hands that wait to the awaiting task, then goes on."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        yield self._waits_for
        yield from self._coroutine.__await__()


async def _finish(resumed: _Resumed) -> None:
    await resumed
