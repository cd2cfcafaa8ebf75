"""The Open Inference Protocol over HTTP, as a raw ASGI application.

The rule of this file: whatever goes wrong with a request is an `InputError` (400) or a `RefusedError`, turned
into an answer in one place, before the request was submitted; afterwards the server's `End` decides.
"""

from collections.abc import MutableMapping
from typing import Any

from steelyard.core.errors import InputError
from steelyard.serve.base import Intake
from steelyard.serve.edge.body import Body
from steelyard.serve.edge.codec import Route
from steelyard.serve.edge.compression import answer_coding
from steelyard.serve.edge.control_pages import find_control_page, make_control_pages
from steelyard.serve.edge.exchange import CLIENT_GONE, Send, replying, send_reply
from steelyard.serve.edge.headers import by_name
from steelyard.serve.edge.inferences import Inferences, OnStatus, refused
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.pages import Call, Page, make_pages, missing_page, wrong_verb
from steelyard.serve.edge.receive import Receive
from steelyard.serve.edge.replies import RefusedError, Reply, refusal
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.edge.shared_memory import is_local


class EdgeApp:
    """The ASGI application for the services of `intake`: always the same ones, though some may be unloaded.

    Args:
        intake: the server behind the edge.
        settings: limits and choices.
        log: where failed requests are logged; nowhere if None.
        on_status: told the service and status of each inference request at its end (for metrics).

    Attributes:
        inferences: what an inference request becomes; a listener may also hand it requests directly.
    """

    def __init__(
        self, intake: Intake, settings: EdgeSettings, log: EventLog | None, on_status: OnStatus | None
    ) -> None:
        self.inferences = Inferences(intake, settings, log, on_status)
        self._intake = intake
        regions = self.inferences.regions
        self._pages = make_control_pages(intake, regions) | make_pages(intake)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")
        path, method = scope["path"], scope["method"]
        route = self.inferences.routes.get(path)
        if route is not None and method == "POST":
            await self._infer(route, scope, receive, send)
            return
        verbs = self._pages.get(path) or find_control_page(path, self._intake, self.inferences.regions)
        verb = "GET" if method == "HEAD" else method  # the HTTP server leaves the body out
        if verbs is not None and verb in verbs:
            reply = await self._page(verbs[verb], scope, receive)
        elif verbs is None and route is None:
            reply = missing_page(path, self._intake.services)
        else:
            reply = wrong_verb(path, method, tuple(verbs or ("POST",)))
        if reply is not None:
            await send_reply(send, reply)

    async def _page(self, page: Page, scope: MutableMapping[str, Any], receive: Receive) -> Reply | None:
        """The answer of a page; None if the client left while sending its body."""
        headers = by_name(scope["headers"])
        bodies = self.inferences.bodies
        try:
            chunks = await bodies.read(headers, receive)
            if chunks is None:
                return None
            try:
                body = b"".join(await bodies.inflate(headers, chunks))
            finally:
                bodies.release(chunks)
            self.inferences.check_json_size(len(body))
            answer = page(Call(body, is_local(scope, headers)))
            return answer if isinstance(answer, Reply) else await answer
        except RefusedError as error:
            return error.reply()
        except InputError as error:
            return refusal(400, str(error))

    async def _infer(
        self, route: Route, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        headers = by_name(scope["headers"])
        inferences = self.inferences
        regions = inferences.regions if not inferences.regions or is_local(scope, headers) else None
        exchange = inferences.exchange(
            route,
            self._intake.next_id(),
            headers.get(b"x-request-id", b"").decode("latin-1"),
            replying(send, answer_coding(headers.get(b"accept-encoding"))),
        )
        bodies = inferences.bodies
        try:
            chunks = await bodies.read(headers, receive)
            if chunks is None:
                exchange.close(CLIENT_GONE)
                return
            try:
                arrived_s = self._intake.now_s()
                request = inferences.request(
                    exchange, arrived_s, Body(await bodies.inflate(headers, chunks)), headers, regions
                )
            finally:
                bodies.release(chunks)
                del chunks
        except (RefusedError, InputError) as error:
            exchange.refuse(refused(error))
        else:
            self._intake.submit(request, exchange.on_end)
        try:  # whatever the answer is, it may have to wait for a client that does not read
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            if not exchange.ended:
                self._intake.cancel(exchange.request_id)


def make_app(
    intake: Intake,
    *,
    settings: EdgeSettings | None = None,
    log: EventLog | None = None,
    on_status: OnStatus | None = None,
) -> EdgeApp:
    """Build the application with default settings where none are given; see `EdgeApp`."""
    return EdgeApp(intake, settings or EdgeSettings(), log, on_status)


__all__ = ["EdgeApp", "EdgeSettings", "OnStatus", "make_app"]
