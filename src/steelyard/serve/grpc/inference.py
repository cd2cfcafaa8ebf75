"""Inference over gRPC: one request a call, or many over one stream.

The rules of this file:
- Outputs may be read only while the server tells of a request's end, so the answer is encoded there, and the
  call's coroutine wakes up with bytes.
- A call's deadline is the request's: what is left of it, or less where the objective or the bounds say so. A
  call that is cancelled takes its request with it. One whose deadline has passed does not: the core drops
  what it has not begun, and counts it as the violation that it is.
- On a stream, requests are served side by side, at most `STREAM_REQUESTS_MAX` of them, and answered in
  their order (as Triton does); one that is refused is answered in-band, and the stream goes on.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple

import grpc

from steelyard.core.commands import Complete, Discard
from steelyard.core.errors import InputError
from steelyard.core.types import RequestId
from steelyard.serve.base import End, Intake
from steelyard.serve.edge.bounds import Bounds, header_bounds
from steelyard.serve.edge.codec import Inference, Route
from steelyard.serve.edge.compression import answer_coding
from steelyard.serve.edge.exchange import CLIENT_GONE, NAME_CHARS_MAX, unanswerable
from steelyard.serve.edge.http import OnStatus
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.pages import unknown_model, unloaded
from steelyard.serve.edge.replies import RefusedError, end_refusal
from steelyard.serve.edge.requests import stored_request
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.edge.shared_memory import Regions
from steelyard.serve.grpc.answers import encode_answer, set_parameters
from steelyard.serve.grpc.callers import is_local, metadata_of
from steelyard.serve.grpc.messages import StreamInferResponse
from steelyard.serve.grpc.receive import Next
from steelyard.serve.grpc.refusals import OVERLOAD_STATUS, abort, details, refused
from steelyard.serve.grpc.requests import Asked, check, decode
from steelyard.serve.grpc.wire import in_stream

STREAM_REQUESTS_MAX = 64
"""Requests of one stream that are open at a time; the next one is read when the oldest is answered."""
EXPIRED_RATIO, EXPIRED_S = 0.98, 0.005
"""gRPC rounds deadlines up, by 1 % at most, and their clocks start a message's way apart."""
_COMPRESSIONS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


class Call(NamedTuple):
    """What a request takes from the call that it came with.

    Attributes:
        bounds: as its metadata state.
        deadline_s: the call's own, on the server's clock; None without one.
        expired_s: from then on, a call that ends has run out of time: the client's clock is a little ahead.
        regions: shared memory; None: not for this client.
        name: the client's `x-request-id`.
    """

    bounds: Bounds
    deadline_s: float | None
    expired_s: float
    regions: Regions | None
    name: str


class InferenceCalls:
    """Serves `ModelInfer` and `ModelStreamInfer`, from and to encoded messages.

    Args:
        intake: the server behind the edge.
        regions: those that clients of this edge have registered.
        settings: limits and choices; those about bodies hold for messages.
        log: where failed requests are logged; nowhere if None.
        on_status: told the service and the status, in HTTP's terms, of each request at its end.
        host: the address that is listened on.
    """

    def __init__(
        self,
        intake: Intake,
        regions: Regions,
        settings: EdgeSettings,
        log: EventLog | None,
        on_status: OnStatus | None,
        *,
        host: str,
    ) -> None:
        self._intake = intake
        self._host = host
        self._regions = regions
        self._settings = settings
        self._log = log
        self._on_status = on_status
        self._routes = {name: Route(served) for name, served in intake.services.items()}

    async def infer(self, data: bytes, context: Any) -> bytes:
        """One request."""
        try:
            answer = self._answer(data, self._call(context))
            del data  # a copy lies in the arena until it is answered
            return await answer
        except InputError as error:  # of the metadata
            await abort(context, RefusedError(400, str(error)))
        except RefusedError as error:
            await abort(context, error)
        raise AssertionError("abort does not return")

    async def stream(self, next_request: Next, context: Any) -> AsyncGenerator[bytes]:
        """Requests as they come, answers in their order. Raises RefusedError where they may come no more."""
        try:
            call = self._call(context)
        except InputError as error:
            await abort(context, RefusedError(400, str(error)))
            return
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()  # `room` is its limit
        room = asyncio.Semaphore(STREAM_REQUESTS_MAX)
        open_tasks: set[asyncio.Task[bytes]] = set()

        async def read() -> None:
            try:
                while (data := await next_request()) is not None:
                    await room.acquire()
                    task = asyncio.create_task(self._answer_in_band(data, call))
                    del data  # not to be kept until the next one comes
                    open_tasks.add(task)
                    answers.put_nowait(task)
            finally:
                answers.put_nowait(None)

        reading = asyncio.create_task(read())
        try:
            while (task := await answers.get()) is not None:
                yield await task
                open_tasks.discard(task)
                room.release()
            await reading  # or it was refused to go on
        finally:
            unfinished = (reading, *open_tasks)
            for left in unfinished:
                left.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _call(self, context: Any) -> Call:
        """What the call says of its requests; its answers are compressed if it asks for that.

        Raises:
            InputError: a bound is not what its header takes.
        """
        headers = metadata_of(context)
        coding = answer_coding(headers.get(b"accept-encoding"))
        if coding is not None:
            context.set_compression(_COMPRESSIONS[coding])
        left_s, now_s = context.time_remaining(), self._intake.now_s()
        return Call(
            bounds=header_bounds(headers),
            deadline_s=None if left_s is None else now_s + left_s,
            expired_s=math.inf if left_s is None else now_s + left_s * EXPIRED_RATIO - EXPIRED_S,
            regions=self._regions if is_local(context.peer(), headers, self._host) else None,
            name=headers.get(b"x-request-id", b"")[:NAME_CHARS_MAX].decode("latin-1"),
        )

    async def _answer_in_band(self, data: bytes, call: Call) -> bytes:
        try:
            return in_stream(await self._answer(data, call))
        except RefusedError as error:
            response = StreamInferResponse(error_message=str(error))
            asked = _identity(data)
            response.infer_response.model_name, response.infer_response.id = asked
            found: dict[str, Any] = details(error)
            nearest: Mapping[str, float] = found.pop("nearest", {})
            found.update({f"nearest_{name}": value for name, value in nearest.items()})
            set_parameters(response.infer_response.parameters, found)
            encoded: bytes = response.SerializeToString()
            return encoded

    async def _answer(self, data: bytes, call: Call) -> bytes:
        """The answer to one request.

        Raises:
            RefusedError: there is none.
        """
        arrived_s = self._intake.now_s()
        request_id = self._intake.next_id()
        exchange = Exchange(self, request_id, call)
        try:
            asked = decode(data, self._settings.json_bytes_max)
            route = exchange.route = self._route(asked.message.model_name)
            inference = check(asked, route, call.bounds, call.regions)
            if call.deadline_s is not None:
                inference = inference._replace(bound_s=min(inference.bound_s, call.deadline_s - arrived_s))
            exchange.expect(inference.without_inputs(), asked)
            request = stored_request(route.name, inference, request_id, arrived_s, self._intake.arena)
        except InputError as error:
            raise exchange.refused(RefusedError(400, str(error))) from None
        except RefusedError as error:
            raise exchange.refused(error) from None
        del data, asked
        self._intake.submit(request, exchange.on_end)
        try:
            return await exchange.answer
        finally:
            if not exchange.ended and self._intake.now_s() < call.expired_s:
                self._intake.cancel(request_id)

    def _route(self, name: str) -> Route:
        route = self._routes.get(name)
        if route is None:
            raise refused(unknown_model(name, self._intake.services))
        if not self._intake.repository.is_open(name):
            raise unloaded(name)
        return route

    def read(self, ref: Any) -> memoryview:
        """The bytes of an output."""
        return self._intake.read(ref)

    def close(self, exchange: "Exchange", status: int, text: str) -> None:
        """Count and log the end of a request; of one that names no service, nothing is counted."""
        service = exchange.route.name if exchange.route else ""
        if self._on_status is not None and service:
            self._on_status(service, status)
        if self._log is not None and (status != 200 or self._settings.log_requests):
            self._log.request(status, request_id=exchange.name, service=service, text=text)


class Exchange:
    """Turns the end of one request into its answer."""

    __slots__ = ("_calls", "_inference", "_is_typed", "answer", "ended", "name", "route")

    def __init__(self, calls: InferenceCalls, request_id: RequestId, call: Call) -> None:
        self.route: Route | None = None
        self.name = call.name or f"{request_id.front_end}-{request_id.sequence}"
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.ended = False
        self._calls = calls
        self._inference: Inference | None = None
        self._is_typed = False

    def expect(self, inference: Inference, asked: Asked) -> None:
        """What is to be answered."""
        self._inference, self._is_typed = inference, asked.is_typed
        if inference.client_id:
            self.name = inference.client_id[:NAME_CHARS_MAX]

    def on_end(self, end: End) -> None:
        """Answer; called by the server, once."""
        self.ended = True
        if isinstance(end, Discard) or self.answer.done():  # done: nobody waits for it any more
            self._calls.close(self, CLIENT_GONE, "")
            self.answer.cancel()
        elif isinstance(end, Complete):
            self._complete(end)
        else:
            assert self.route is not None
            self.answer.set_exception(self.refused(end_refusal(self.route.name, end, OVERLOAD_STATUS)))

    def refused(self, error: RefusedError) -> RefusedError:
        """Note that the request is refused."""
        self.ended = True
        self._calls.close(self, error.status, str(error))
        return error

    def _complete(self, end: Complete) -> None:
        assert self.route is not None
        assert self._inference is not None
        try:
            answer = encode_answer(self.route, self._inference, end, self._calls.read, typed=self._is_typed)
        except Exception as error:  # a bug of ours fails this request, not the loop that all requests share
            self.answer.set_exception(self.refused(unanswerable(error)))
            return
        self._calls.close(self, 200, "")
        self.answer.set_result(answer)


def _identity(data: bytes) -> tuple[str, str]:
    """The model and the id of a request that was refused, where it can be decoded."""
    try:
        message = decode(data, len(data)).message
    except InputError:
        return "", ""
    return message.model_name, message.id
