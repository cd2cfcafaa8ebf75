"""A tiny ASGI application for a port of its own: what Prometheus and other tools read."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Page = Callable[[], bytes]


class PagesApp:
    """Serves GET pages by path, made anew each time: `/metrics`, and whatever else an operator reads.

    Args:
        pages: path -> (content type, function that makes the body).
    """

    def __init__(self, pages: dict[str, tuple[str, Page]]) -> None:
        self._pages = pages

    async def __call__(
        self,
        scope: Message,
        _receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")
        page = self._pages.get(scope["path"])
        if page is None:
            known = ", ".join(self._pages)
            status, kind, body = 404, "text/plain; charset=utf-8", f"there is: {known}\n".encode()
        elif scope["method"] != "GET":
            status, kind, body = 405, "text/plain; charset=utf-8", b"only GET is taken here\n"
        else:
            kind, make = page
            status, body = 200, make()
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        if status == 405:
            headers.append((b"allow", b"GET"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
