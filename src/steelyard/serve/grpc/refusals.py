"""Refusals as gRPC statuses.

The rule of this file: an overload is RESOURCE_EXHAUSTED, never UNAVAILABLE, which stock clients try again
three times by themselves, at the worst moment. UNAVAILABLE is for what another server of the same service
could answer. What a client may act on is in the trailing metadata, named as in HTTP's error bodies;
`grpc-retry-pushback-ms` is gRPC's own word for Retry-After; -1 is that for never (gRFC A6).
"""

from typing import Any

import grpc
import msgspec

from steelyard.serve.edge.replies import RefusedError, Reply

OVERLOAD_STATUS = 429
"""What rejected and shed requests are in HTTP's terms, whatever the HTTP edge is set to."""

_CODES: dict[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_CODE_OF_REASON = {
    "bounds": grpc.StatusCode.FAILED_PRECONDITION,
    "memory_full": grpc.StatusCode.RESOURCE_EXHAUSTED,
}

Metadata = tuple[tuple[str, str], ...]


def status_code(error: RefusedError) -> grpc.StatusCode:
    """The gRPC status of a refusal."""
    return _CODE_OF_REASON.get(error.reason) or _CODES.get(error.status, grpc.StatusCode.UNKNOWN)


def details(error: RefusedError) -> dict[str, Any]:
    """What a client may act on: `reason`, `retry_after_ms`, `nearest`, where there are any."""
    found: dict[str, Any] = msgspec.json.decode(error.reply().body)
    del found["error"]
    return found


def trailing_metadata(error: RefusedError) -> Metadata:
    """The same as metadata."""
    found = details(error)
    metadata = []
    if "reason" in found:
        metadata.append(("steelyard-reason", found["reason"]))
    if "retry_after_ms" in found:
        metadata.append(("steelyard-retry-after-ms", f"{found['retry_after_ms']:g}"))
        metadata.append(("grpc-retry-pushback-ms", str(round(found["retry_after_ms"]))))
    elif "nearest" in found:
        metadata.append(("grpc-retry-pushback-ms", "-1"))
    if "nearest" in found:
        metadata.append(("steelyard-nearest", msgspec.json.encode(found["nearest"]).decode()))
    return tuple(metadata)


def refused(reply: Reply) -> RefusedError:
    """The refusal that an HTTP answer stands for."""
    found = msgspec.json.decode(reply.body)
    retry_after_ms = found.get("retry_after_ms")
    return RefusedError(
        reply.status,
        found.get("error", ""),
        reason=found.get("reason", ""),
        retry_after_s=None if retry_after_ms is None else retry_after_ms / 1e3,
    )


async def abort(context: Any, error: RefusedError) -> None:
    """End a call with a refusal; does not return."""
    await context.abort(status_code(error), str(error), trailing_metadata(error))
