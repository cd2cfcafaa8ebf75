"""Which requests are refused at arrival: the `admission` rules of a plan.

`open`      none but those that exceed the queue's limit. This alone is asked of the stages that requests do
            not enter first, so that their queues are bounded too.
`feasible`  also those that could not be finished in time even if the grantable cores came now and the
            starting replicas came when expected: no replica could finish a batch of it in time, or all of
            them together could not finish what goes before it and itself,
            `sum of rate * (due - free) < rows_before + rows`. What goes before it does not include those who
            would be shed for its sake (`early`: due before a best batch can be finished, while it is not; and
            whoever is of a lighter class).
            A stage without any replica, ready or starting, refuses nothing that is not yet due: one may be
            started at any moment, and what does not make it is shed when it is due.

A refusal says when to try again: seconds until as much would be feasible, None if never.
"""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from steelyard.core.bounds import is_bounded
from steelyard.core.capacity import Outlook
from steelyard.core.commands import RejectReason
from steelyard.core.plan import Admission
from steelyard.core.stage import StageState
from steelyard.core.types import Request

RETRY_S_MIN = 0.001

ROWS_TOLERANCE = 1e-6
"""Rounding must not refuse a request that fits exactly."""


class Refusal(NamedTuple):
    """Why a request is refused, and after how many seconds it could be feasible."""

    reason: RejectReason
    retry_after_s: float | None


IMPOSSIBLE = Refusal("deadline", None)
"""No replica could finish it in time, however soon."""

AdmissionRule = Callable[[StageState, Request, float, float], Refusal | None]
"""(stage, request, due_s, now_s) -> refusal or None."""


def _open(stage: StageState, request: Request, due_s: float, now_s: float) -> Refusal | None:
    del due_s, now_s
    rows = ceil(request.rows * stage.fan_out)
    excess = stage.queue.rows + rows - stage.queue_rows_max
    if excess <= 0:
        return None
    rate_rps = stage.capacity.rate_rps(request.bucket)
    if rows > stage.queue_rows_max or rate_rps <= 0:
        return Refusal("queue_full", None)
    return Refusal("queue_full", max(excess / rate_rps, RETRY_S_MIN))


def _feasible(stage: StageState, request: Request, due_s: float, now_s: float) -> Refusal | None:
    rows = request.rows if stage.fan_out == 1 else ceil(request.rows * stage.fan_out)
    queue, bucket = stage.queue, request.bucket
    if queue.rows + rows > stage.queue_rows_max:
        return _open(stage, request, due_s, now_s)
    if not queue.entries and stage.pool.idle and _is_free(stage, rows, bucket, due_s, now_s):
        return None
    if stage.capacity.is_ample(rows, bucket, rows_before=queue.rows, due_s=due_s, now_s=now_s):
        return None
    if not stage.capacity.possible():
        return IMPOSSIBLE if now_s > due_s else None
    outlook = stage.capacity.outlook(rows, bucket, due_s=due_s, now_s=now_s)
    rows_before = _rows_before(stage, request, due_s, outlook)
    rows_short = rows_before + rows - outlook.rows_possible - ROWS_TOLERANCE
    shortfall_s = rows_short / outlook.rate_rps
    if not is_bounded(request):  # of one with bounds of its own these have been looked at
        if now_s + outlook.service_s_least > due_s:
            return IMPOSSIBLE
        shortfall_s = max(outlook.earliest_s - due_s, shortfall_s)
    return Refusal("deadline", max(shortfall_s, RETRY_S_MIN)) if shortfall_s > 0 else None


def _is_free(stage: StageState, rows: int, bucket: int, due_s: float, now_s: float) -> bool:
    """The common case, cheaply: nobody waits, and a replica that is idle now finishes it in time."""
    if rows > stage.piece_rows_max:
        return False
    line = stage.estimator.line
    for replica in stage.pool.idle.values():
        variant = stage.mix.usable(replica.variants)[0]
        if now_s + line(variant, bucket, replica.cores).service_s(rows) <= due_s:
            return True
    return False


def _rows_before(stage: StageState, request: Request, due_s: float, outlook: Outlook) -> float:
    """Rows that wait and would be served before a new request."""
    if not stage.queue.entries:
        return 0.0
    if stage.plan.rules.order == "fifo":
        return stage.queue.rows_before(request.arrived_s)
    if stage.weighs:
        weight = stage.weight_of(request)
        entries = stage.queue.entries[: stage.queue.place_of(due_s)]
        return sum(
            [piece.rows for _, _, piece in entries if stage.weight_of(piece.open.request) >= weight], 0.0
        )
    rows = stage.queue.rows_before(due_s)
    if stage.plan.rules.drop == "early" and due_s >= outlook.full_s:
        rows -= stage.queue.rows_before(outlook.full_s)
    return rows


ADMISSION_RULES: dict[Admission, AdmissionRule] = {"open": _open, "feasible": _feasible}
