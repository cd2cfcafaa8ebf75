"""What every outcome but a completed inference looks like over HTTP: status, headers, one line of text.

Refusals are `{"error": text}` as the protocol has it, with a `reason` where a client may act on it: 503 (or
429, a setting) and `Retry-After` for what another moment could cure, 4xx for what it could not. Bounds
that no plan of the moment can meet are 400: it is for the client to change them, and no proxy should try them
again unchanged. The body says the `nearest` ones that can be met.
"""

import math
from typing import NamedTuple

import msgspec

from steelyard.core.commands import Fail, NearestBounds, Reject, Shed

Headers = list[tuple[bytes, bytes]]

RETRY_AFTER_S = 1.0
"""What a refused client is told when nothing better is known; also the resolution of `Retry-After`."""


class Reply(NamedTuple):
    """A whole HTTP answer."""

    status: int
    headers: Headers
    body: bytes


class RefusedError(Exception):
    """A request ends here, with this answer."""

    def __init__(
        self,
        status: int,
        text: str,
        *,
        reason: str = "",
        retry_after_s: float | None = None,
        nearest: NearestBounds | None = None,
        is_shed: bool = False,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.nearest = nearest
        self.is_shed = is_shed

    def reply(self) -> Reply:
        """The answer it stands for."""
        return refusal(
            self.status,
            str(self),
            reason=self.reason,
            retry_after_s=self.retry_after_s,
            nearest=self.nearest,
            is_shed=self.is_shed,
        )


def json_reply(status: int, value: object) -> Reply:
    """A JSON answer."""
    return raw_json(status, msgspec.json.encode(value))


def raw_json(status: int, body: bytes) -> Reply:
    """A JSON answer, encoded already."""
    return Reply(
        status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))], body
    )


def refusal(
    status: int,
    text: str,
    *,
    reason: str = "",
    retry_after_s: float | None = None,
    nearest: NearestBounds | None = None,
    is_shed: bool = False,
) -> Reply:
    """`{"error": text}`, with `reason`, `nearest` and `Retry-After` (whole seconds, up) where given.

    `shed` tells a request that was dropped from one that was refused at arrival for the same reason.
    """
    value: dict[str, object] = {"error": text}
    if reason:
        value["reason"] = reason
    if retry_after_s is not None:
        value["retry_after_ms"] = round(retry_after_s * 1e3, 3)
    if nearest is not None:
        value["nearest"] = _known(nearest)
    if is_shed:
        value["shed"] = True
    reply = json_reply(status, value)
    if retry_after_s is not None:
        reply.headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after_s))))
    return reply


def end_refusal(service: str, end: Reject | Shed | Fail, overload_status: int) -> RefusedError:
    """How a request that did not complete is answered."""
    if isinstance(end, Fail):
        if end.reason == "model_error":
            return RefusedError(500, end.message, reason=end.reason)
        return RefusedError(503, end.message, reason=end.reason, retry_after_s=RETRY_AFTER_S)
    if isinstance(end, Shed):
        text = f"service '{service}' dropped the request: its deadline could no longer be met"
        return RefusedError(
            overload_status, text, reason=end.reason, retry_after_s=RETRY_AFTER_S, is_shed=True
        )
    if end.reason == "bounds":
        return _bounds_refusal(service, end)
    retry_after_s = RETRY_AFTER_S if end.retry_after_s is None else end.retry_after_s
    if end.reason == "draining":
        return RefusedError(503, "the server is stopping", reason=end.reason, retry_after_s=retry_after_s)
    text = (
        f"service '{service}' has its queue full"
        if end.reason == "queue_full"
        else f"service '{service}' cannot meet the request's deadline"
    )
    return RefusedError(overload_status, text, reason=end.reason, retry_after_s=retry_after_s)


def _bounds_refusal(service: str, end: Reject) -> RefusedError:
    nearest = end.nearest or NearestBounds()
    text = f"service '{service}' cannot meet the request's bounds together now"
    would_do = [f"{name} {value:g}" for name, value in _known(nearest).items()]
    if would_do:
        text += f"; with the others as they are, {' or '.join(would_do)} could be met"
    return RefusedError(400, text, reason=end.reason, retry_after_s=end.retry_after_s, nearest=nearest)


def _known(nearest: NearestBounds) -> dict[str, float]:
    return {name: value for name, value in nearest._asdict().items() if value is not None}
