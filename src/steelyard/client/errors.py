"""How a call fails, as types: what the caller did, what the server decided, what the network did.

`is_temporary` says whether the same request may do better in another moment; what the caller would have to
change is not. Statuses and reasons are those of docs/protocol.md, "Refusals"; another server's refusals,
which have no reasons, are told apart by their status.
"""

import math
from typing import Any

import msgspec

from steelyard.client.http import Reply
from steelyard.core.commands import NearestBounds
from steelyard.core.errors import InputError, ModelError, SteelyardError

_SHED = frozenset(("early", "age"))
_REJECTED = frozenset(("deadline", "queue_full"))
_TEXT_CHARS_MAX = 500


class ClientError(SteelyardError):
    """Base of everything a call raises.

    Attributes:
        status: of the HTTP answer; 0 if there was none.
        reason: the server's word for it; empty if it gave none.
        retry_after_s: seconds after which another try may do better; None if the server did not say.
        is_temporary: whether another try can do better at all.
    """

    is_temporary = False

    def __init__(
        self, text: str, *, status: int = 0, reason: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class InvalidInputError(ClientError, InputError):
    """The request is not what the model takes, or not what the protocol can carry."""


class NotFoundError(ClientError):
    """The server has no such model or page, or has it unloaded."""


class RejectedError(ClientError):
    """Refused at arrival: the deadline cannot be met, the queue is full, or the bounds are impossible.

    Attributes:
        nearest: where the bounds were impossible together, or the deadline even for an idle server: for each
            one that would help the nearest value that could be met if the others stay. None elsewhere; with
            it, the same request would be refused again.
    """

    is_temporary = True
    nearest: NearestBounds | None = None


class ShedError(ClientError):
    """Dropped after it was admitted: its deadline could no longer be met, or a rule of the policy."""

    is_temporary = True


class UnavailableError(ClientError):
    """Nobody answered, or the server could not: it is stopping, has lost a worker, or is out of memory."""

    is_temporary = True


class DeadlineExceededError(ClientError, TimeoutError):
    """The call's time was over before its answer came."""


class ModelFailedError(ClientError, ModelError):
    """The model raised, or answered wrongly; the same request would fail again."""


class AnswerError(ClientError):
    """The server answered with something that the protocol does not have here."""


class _Refusal(msgspec.Struct):
    error: str = ""
    reason: str = ""
    shed: bool = False
    retry_after_ms: float | None = None
    nearest: dict[str, float] | None = None


def refusal_error(reply: Reply) -> ClientError:
    """What an answer other than 200 means."""
    told = _told(reply)
    kind = _kind(reply.status, told)
    error = kind(
        told.error[:_TEXT_CHARS_MAX] or f"the server answered with status {reply.status}",
        status=reply.status,
        reason=told.reason,
        retry_after_s=_retry_after_s(reply, told),
    )
    if isinstance(error, RejectedError) and (told.reason == "bounds" or told.nearest is not None):
        known = {name: (told.nearest or {}).get(name) for name in NearestBounds._fields}
        error.nearest = NearestBounds(**known)
        error.is_temporary = False  # for the caller to change
    return error


def _kind(status: int, told: _Refusal) -> type[ClientError]:
    if told.reason == "bounds":
        return RejectedError
    if status in (429, 503):
        if told.shed or told.reason in _SHED:
            return ShedError
        return RejectedError if told.reason in _REJECTED or status == 429 else UnavailableError
    if status in (400, 411, 413, 415, 422):
        return InvalidInputError
    if told.reason == "model_error":
        return ModelFailedError
    return {404: NotFoundError, 408: UnavailableError, 502: UnavailableError, 504: UnavailableError}.get(
        status, AnswerError
    )


def _told(reply: Reply) -> _Refusal:
    try:
        return msgspec.json.decode(reply.body, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = " ".join(reply.body[:_TEXT_CHARS_MAX].decode("utf-8", "replace").split())
        return _Refusal(error=f"the server answered with status {reply.status}: {text}" if text else "")


def _retry_after_s(reply: Reply, told: _Refusal) -> float | None:
    """The body's milliseconds, else the header's whole seconds; a date in the header is not understood."""
    if told.retry_after_ms is not None and math.isfinite(told.retry_after_ms):
        return max(0.0, told.retry_after_ms / 1e3)
    header = reply.headers.get(b"retry-after", b"")
    return float(header) if header.isdigit() else None


def json_value(reply: Reply) -> Any:
    """The JSON of a 200.

    Raises:
        AnswerError: it is none.
    """
    try:
        return msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AnswerError(f"the answer is not JSON: {error}", status=reply.status) from None
