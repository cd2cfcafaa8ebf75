"""HTTP heads of inference requests, each parsed once.

The rules of this file:
- A client's heads are the same byte for byte, request after request, and so is most of its JSON. What they
  say is kept under those bytes: a request like an earlier one costs two looks into a dictionary. Both
  dictionaries are bounded, and start anew when they are full.
- Only a plain `POST` of a body with a `Content-Length` is taken here. Whatever else HTTP knows (chunks,
  codings, `Expect`, connections that are to end) is for the HTTP server, as is everything that is not
  well-formed: None stands for all of it. A head is parsed by the parser which the server uses, and must
  end where it was cut off, so both agree on where a body begins.
- An `Upgrade`, which Java's client asks for first, is left out: a server may ignore it (RFC 9110, 7.8), and
  the parser would leave out the body.
"""

import re
from typing import Final
from urllib.parse import unquote

import httptools

from steelyard.core.errors import InputError
from steelyard.serve.edge.body import BodyToCome
from steelyard.serve.edge.bounds import Bounds, header_bounds
from steelyard.serve.edge.codec import Inference, Route, header_length
from steelyard.serve.edge.compression import answer_coding
from steelyard.serve.edge.head import parse_head
from steelyard.serve.edge.headers import by_name
from steelyard.serve.edge.shared_memory import is_forwarded

HEADS_MAX: Final = 128
HEAD_BYTES_MAX: Final = 4096
"""Of a head that is kept; longer ones are parsed each time."""
LAYOUTS_MAX: Final = 8
LENGTH_DIGITS_MAX: Final = 15
JSON_BYTES_MAX: Final = 2048
"""Of a JSON head that is kept; longer ones are parsed each time."""

_UPGRADE: Final = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_NOT_TAKEN: Final = frozenset((b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"))


class InferHead:
    """What the head of an inference request says.

    Args:
        route: the service asked.
        headers: names in lower case.
        length: bytes of the body.

    Attributes:
        json_length: bytes of the body that are JSON; None: all of it; 0: none.
        bounds: that the headers state.
        name: the client's id of the request; empty if the headers give none.
        is_forwarded: it comes from another host, whatever the connection's address is.

    Raises:
        InputError: a header is not what it should be.
    """

    __slots__ = ("_layouts", "bounds", "is_forwarded", "json_length", "length", "name", "route")

    def __init__(self, route: Route, headers: dict[bytes, bytes], length: int) -> None:
        self.route = route
        self.length = length
        self.json_length = header_length(headers.get(b"inference-header-content-length"))
        self.bounds: Bounds = header_bounds(headers)
        self.name = headers.get(b"x-request-id", b"").decode("latin-1")
        self.is_forwarded = is_forwarded(headers)
        self._layouts: dict[bytes, Inference] = {}

    def layout(self, body: memoryview) -> Inference | None:
        """What the body asks, with the places of its tensors for their bytes; None: it is to be parsed whole.

        Args:
            body: as much of it as there is; at least the JSON.
        """
        size = self.json_length
        if size is None or size > JSON_BYTES_MAX or size > len(body) or not self.route.is_fixed:
            return None
        json = bytes(body[:size])
        known = self._layouts.get(json)
        if known is None:
            known = self._new_layout(json)
        return known

    def _new_layout(self, json: bytes) -> Inference | None:
        to_come = BodyToCome(self.length - len(json))
        try:
            if json:
                asked = self.route.check(parse_head(json), to_come, self.bounds)
            else:
                asked = self.route.parse(to_come, 0, self.bounds)
        except InputError:  # said again, and then to the client, when the whole body is parsed
            return None
        if any(given.at < 0 for given in asked.inputs):  # as JSON, where it is sure to be small
            return None
        if len(self._layouts) >= LAYOUTS_MAX:
            self._layouts.clear()
        if asked.answers and all(answer.binary for answer in asked.answers):
            asked = asked._replace(heads={})
        self._layouts[json] = asked
        return asked


class InferHeads:
    """Finds what heads say.

    Args:
        routes: by path.
        body_bytes_max: longer bodies are not taken here.
    """

    def __init__(self, routes: dict[str, Route], body_bytes_max: int) -> None:
        self._routes = routes
        self._body_bytes_max = body_bytes_max
        self._known: dict[bytes, InferHead | None] = {}

    def find(self, head: bytes) -> InferHead | None:
        """What a head says, its empty line included; None if it is for the HTTP server."""
        try:
            return self._known[head]
        except KeyError:
            found = self._parse(head)
        if len(head) <= HEAD_BYTES_MAX:
            if len(self._known) >= HEADS_MAX:
                self._known.clear()
            self._known[head] = found
        return found

    def _parse(self, head: bytes) -> InferHead | None:
        parts = _Parts()
        parser = httptools.HttpRequestParser(parts)
        try:
            parser.feed_data(head)
            path = unquote(httptools.parse_url(parts.url).path.decode("ascii"))
        except httptools.HttpParserUpgrade:
            plain = _UPGRADE.sub(b"", head)
            return None if plain == head else self._parse(plain)
        except (httptools.HttpParserError, UnicodeDecodeError, AttributeError):
            return None
        is_whole = parts.begun == 1 and parts.is_ended and not parts.has_body
        headers = by_name(parts.headers)
        length = headers.get(b"content-length", b"")
        route = self._routes.get(path)
        if (
            route is None
            or not is_whole
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or not _NOT_TAKEN.isdisjoint(headers)
            or not (length.isdigit() and len(length) <= LENGTH_DIGITS_MAX)
            or not 0 < int(length) <= self._body_bytes_max
            or answer_coding(headers.get(b"accept-encoding")) is not None
        ):
            return None
        try:
            return InferHead(route, headers, int(length))
        except InputError:
            return None


class _Parts:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.begun = 0
        self.is_ended = False
        self.has_body = False

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.is_ended = True

    def on_body(self, _: bytes) -> None:
        self.has_body = True
