"""What every outcome but a completed inference looks like over HTTP: status, headers, one line of text.

Refusals are `{"error": text}` as the protocol has it, with a `reason` where a client may act on it: 503 (or
429, a setting) and `Retry-After` for what another moment could cure, 4xx for what it could not. Bounds
that no plan of the moment can meet are 400: it is for the client to change them, and no proxy should try them
again unchanged. The body says the `nearest` ones that can be met. A deadline of the client's own for which
no load is to blame is refused as all deadlines are, but without `Retry-After`: it never becomes feasible.
"""

import math
from typing import NamedTuple

import msgspec

from steelyard.core.commands import Fail, NearestBounds, Reject, Shed

Headers = list[tuple[bytes, bytes]]

RETRY_AFTER_S = 1.0
"""What a refused client is told when nothing better is known; also the resolution of `Retry-After`."""

MARGIN, MARGIN_MS = 1.05, 1.0
"""By how much the nearest bounds of time and cost are above what is expected now."""

ROUNDING = 1e-6
"""Of the last digit shown: what is met exactly is shown exactly."""


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
        if end.reason == "bad_input":
            return RefusedError(400, end.message, reason=end.reason)
        if end.reason == "model_error":
            return RefusedError(500, end.message, reason=end.reason)
        return RefusedError(503, end.message, reason=end.reason, retry_after_s=RETRY_AFTER_S)
    if isinstance(end, Shed):
        why = (
            "it has more items than a stage may queue now"
            if end.reason == "queue_full"
            else "its deadline could no longer be met"
        )
        text = f"service '{service}' dropped the request: {why}"
        if end.lost:  # the deadline is not what went wrong first
            text += f", after {end.lost} of its batches had been lost with their worker"
        return RefusedError(
            overload_status, text, reason=end.reason, retry_after_s=RETRY_AFTER_S, is_shed=True
        )
    if end.reason == "bounds":
        return _bounds_refusal(service, end)
    retry_after_s = end.retry_after_s
    if retry_after_s is None and end.nearest is None:
        retry_after_s = RETRY_AFTER_S
    if end.reason == "draining":
        text = f"service '{service}' takes no more requests: the server is stopping, or unloads it"
        return RefusedError(503, text, reason=end.reason, retry_after_s=retry_after_s)
    text = (
        f"service '{service}' has its queue full"
        if end.reason == "queue_full"
        else f"service '{service}' cannot meet the request's deadline"
    )
    if end.nearest is not None:  # its own deadline could not be met even if nothing else were to be done
        text += _would_do(end.nearest)
    return RefusedError(
        overload_status, text, reason=end.reason, retry_after_s=retry_after_s, nearest=end.nearest
    )


def _bounds_refusal(service: str, end: Reject) -> RefusedError:
    nearest = end.nearest or NearestBounds()
    text = f"service '{service}' cannot meet the request's bounds together now"
    text += _would_do(nearest)
    return RefusedError(400, text, reason=end.reason, retry_after_s=end.retry_after_s, nearest=nearest)


def _would_do(nearest: NearestBounds) -> str:
    would_do = ", ".join(f"{name} {value:g}" for name, value in _known(nearest).items())
    return f"; {would_do} could be met" if would_do else ""


def _known(nearest: NearestBounds) -> dict[str, float]:
    """What a client may ask for, in few digits.

    What could be met at arrival is what is expected to the microsecond. Who asks for just that comes a moment
    later, and is refused as often as not; so times are rounded to the safe side with what passes meanwhile.
    """
    known: dict[str, float] = {}
    if nearest.max_latency_ms is not None:
        known["max_latency_ms"] = _rounded_up(nearest.max_latency_ms * MARGIN + MARGIN_MS)
    if nearest.min_accuracy is not None:
        known["min_accuracy"] = math.floor(nearest.min_accuracy * 1e4 + ROUNDING) / 1e4
    if nearest.max_core_ms is not None:
        known["max_core_ms"] = _rounded_up(nearest.max_core_ms * MARGIN)
    return known


def _rounded_up(value_ms: float) -> float:
    return math.ceil(value_ms * 1e3 - ROUNDING) / 1e3
