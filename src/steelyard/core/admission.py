"""Which requests are refused at arrival: the `admission` rules of a plan.

`open`      none but those that exceed the queue's limit.
`feasible`  also those that could not be finished in time even if the grantable cores came now and the
            starting replicas came when expected (`Capacity.shortfall_s`). A stage without any replica, ready
            or starting, refuses nothing that is not yet due: one may be started at any moment, and what does
            not make it is shed when it is due.

A refusal says when to try again: seconds until as much would be feasible, None if never.
"""

from collections.abc import Callable
from typing import NamedTuple

from steelyard.core.commands import RejectReason
from steelyard.core.plan import Admission
from steelyard.core.stage import StageState
from steelyard.core.types import Request

RETRY_S_MIN = 0.001


class Refusal(NamedTuple):
    """Why a request is refused, and after how many seconds it could be feasible."""

    reason: RejectReason
    retry_after_s: float | None


AdmissionRule = Callable[[StageState, Request, float, float], Refusal | None]
"""(stage, request, due_s, now_s) -> refusal or None."""


def _open(stage: StageState, request: Request, due_s: float, now_s: float) -> Refusal | None:
    del due_s, now_s
    excess = stage.queue.rows + request.rows - stage.queue_rows_max
    if excess <= 0:
        return None
    rate_rps = stage.capacity.rate_rps(request.bucket)
    if request.rows > stage.queue_rows_max or rate_rps <= 0:
        return Refusal("queue_full", None)
    return Refusal("queue_full", max(excess / rate_rps, RETRY_S_MIN))


def _feasible(stage: StageState, request: Request, due_s: float, now_s: float) -> Refusal | None:
    refusal = _open(stage, request, due_s, now_s)
    if refusal is not None:
        return refusal
    shortfall_s = stage.capacity.shortfall_s(
        request.rows,
        request.bucket,
        due_s=due_s,
        rows_before=stage.rows_before(request, due_s),
        now_s=now_s,
    )
    if shortfall_s is None:
        return Refusal("deadline", None)
    if shortfall_s > 0:
        return Refusal("deadline", max(shortfall_s, RETRY_S_MIN))
    return None


ADMISSION_RULES: dict[Admission, AdmissionRule] = {"open": _open, "feasible": _feasible}
