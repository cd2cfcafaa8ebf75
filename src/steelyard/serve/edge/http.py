"""The Open Inference Protocol over HTTP, as a raw ASGI application.

The rule of this file: whatever goes wrong with a request is an `InputError` (400) or a `RefusedError`, turned
into an answer in one place, before the request was submitted; afterwards the server's `End` decides.
"""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from steelyard.core.errors import InputError
from steelyard.core.types import Request, RequestId
from steelyard.serve.base import Intake
from steelyard.serve.edge.body import Body
from steelyard.serve.edge.bounds import header_bounds
from steelyard.serve.edge.codec import Route, header_length
from steelyard.serve.edge.compression import answer_coding
from steelyard.serve.edge.control_pages import find_control_page, make_control_pages
from steelyard.serve.edge.exchange import CLIENT_GONE, Exchange, Send, send_reply
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.pages import (
    Call,
    Page,
    make_pages,
    missing_page,
    model_paths,
    unloaded,
    wrong_verb,
)
from steelyard.serve.edge.receive import BodyReader, Chunks, Receive
from steelyard.serve.edge.replies import RefusedError, Reply, refusal
from steelyard.serve.edge.requests import stored_request
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.edge.shared_memory import Regions, is_local

OnStatus = Callable[[str, int], None]

REQUEST_NAME_CHARS_MAX = 128


class EdgeApp:
    """The ASGI application for the services of `intake`: always the same ones, though some may be unloaded.

    Args:
        intake: the server behind the edge.
        settings: limits and choices.
        log: where failed requests are logged; nowhere if None.
        on_status: told the service and status of each inference request at its end (for metrics).
    """

    def __init__(
        self, intake: Intake, settings: EdgeSettings, log: EventLog | None, on_status: OnStatus | None
    ) -> None:
        self._intake = intake
        self._settings = settings
        self._log = log
        self._on_status = on_status
        self._bodies = BodyReader(settings)
        self._regions = Regions()
        self._pages = make_control_pages(intake, self._regions) | make_pages(intake)
        self._routes: dict[str, Route] = {}
        for name, served in intake.services.items():
            route = Route(served)
            self._routes.update((f"{path}/infer", route) for path in model_paths(name))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")
        path, method = scope["path"], scope["method"]
        route = self._routes.get(path)
        if route is not None and method == "POST":
            await self._infer(route, scope, receive, send)
            return
        verbs = self._pages.get(path) or find_control_page(path, self._intake, self._regions)
        if verbs is not None and method in verbs:
            reply = await self._page(verbs[method], scope, receive)
        elif verbs is None and route is None:
            reply = missing_page(path, self._intake.services)
        else:
            reply = wrong_verb(path, method, tuple(verbs or ("POST",)))
        if reply is not None:
            await send_reply(send, reply)

    async def _page(self, page: Page, scope: MutableMapping[str, Any], receive: Receive) -> Reply | None:
        """The answer of a page; None if the client left while sending its body."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            chunks = await self._bodies.read(headers, receive)
            if chunks is None:
                return None
            try:
                body = b"".join(await self._bodies.inflate(headers, chunks))
            finally:
                self._bodies.release(chunks)
            self._check_json_size(len(body))
            answer = page(Call(body, is_local(scope, headers)))
            return answer if isinstance(answer, Reply) else await answer
        except RefusedError as error:
            return error.reply()
        except InputError as error:
            return refusal(400, str(error))

    async def _infer(
        self, route: Route, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        regions = self._regions if not self._regions or is_local(scope, headers) else None
        request_id = self._intake.next_id()
        exchange = Exchange(
            route,
            _request_name(headers, request_id),
            send,
            answer_coding(headers.get(b"accept-encoding")),
            overload_status=self._settings.overload_status,
            read=self._intake.read,
            on_closed=self._close,
        )
        try:
            chunks = await self._bodies.read(headers, receive)
            if chunks is None:
                exchange.close(CLIENT_GONE)
                return
            try:
                request = await self._request(exchange, request_id, headers, chunks, regions)
            finally:
                self._bodies.release(chunks)
                del chunks
        except RefusedError as error:
            exchange.refuse(error)
            return
        except InputError as error:
            exchange.refuse(RefusedError(400, str(error)))
            return
        self._intake.submit(request, exchange.on_end)
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            if not exchange.ended:
                self._intake.cancel(request_id)

    async def _request(
        self,
        exchange: Exchange,
        request_id: RequestId,
        headers: Mapping[bytes, bytes],
        chunks: Chunks,
        regions: Regions | None,
    ) -> Request:
        """Check and store one request.

        Raises:
            InputError: it is not what the service takes.
            RefusedError: it is too large, or memory is full.
        """
        arrived_s = self._intake.now_s()
        body = Body(await self._bodies.inflate(headers, chunks))
        if not self._intake.repository.is_open(exchange.route.name):
            raise unloaded(exchange.route.name)
        head_length = header_length(headers.get(b"inference-header-content-length"))
        self._check_json_size(body.left if head_length is None else head_length)
        asked = exchange.asked = exchange.route.parse(body, head_length, header_bounds(headers), regions)
        if asked.client_id:
            exchange.name = asked.client_id[:REQUEST_NAME_CHARS_MAX]
        return stored_request(exchange.route.name, asked, request_id, arrived_s, self._intake.arena)

    def _check_json_size(self, size: int) -> None:
        limit = self._settings.json_bytes_max
        if size > limit:
            text = f"the JSON has {size} bytes, the limit is {limit}: send large tensors as binary data"
            raise RefusedError(413, text)

    def _close(self, exchange: Exchange, status: int, text: str) -> None:
        """Count and log the end of an inference request."""
        if self._on_status is not None:
            self._on_status(exchange.route.name, status)
        if self._log is not None and (status != 200 or self._settings.log_requests):
            self._log.request(status, request_id=exchange.name, service=exchange.route.name, text=text)


def make_app(
    intake: Intake,
    *,
    settings: EdgeSettings | None = None,
    log: EventLog | None = None,
    on_status: OnStatus | None = None,
) -> EdgeApp:
    """Build the application with default settings where none are given; see `EdgeApp`."""
    return EdgeApp(intake, settings or EdgeSettings(), log, on_status)


def _request_name(headers: Mapping[bytes, bytes], request_id: RequestId) -> str:
    """The client's `X-Request-Id`, else our own id, as text for logs."""
    given = headers.get(b"x-request-id")
    if given:
        return given[:REQUEST_NAME_CHARS_MAX].decode("latin-1")
    return f"{request_id.front_end}-{request_id.sequence}"


__all__ = ["EdgeApp", "EdgeSettings", "OnStatus", "make_app"]
