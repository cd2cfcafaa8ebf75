"""When a batch that is not full leaves: the `forming` rules of a plan.

`hold`     at once, unless the plan holds (`hold_s_max` > 0, planned only where larger batches are measured
           to be cheaper a row). Then at the earliest of full, the head's arrival + `hold_s_max`, and the
           head's latest start for one more row less the margin between median and 0.99 quantile. Why this is
           rare: ADR 0004.
`full`     never: only full batches run (Themis 2024).
`timeout`  `timeout_s` after the head's arrival (Themis 2025).

`adaptive`, `aimd` and `nexus` are for a queue a replica (`lanes`).

The head's arrival is that at the stage. A piece that must run alone waits for nobody, and a draining service
waits for nobody either.
"""

from collections.abc import Callable

from steelyard.core.plan import Forming
from steelyard.core.stage import StageState
from steelyard.core.work import Batch

NOW = float("-inf")
NEVER = float("inf")

SHED_LAG_S = 0.001
"""How long after its latest start a request is shed if nothing else happens: one wake-up serves several."""

FormingRule = Callable[[StageState, Batch], float]
"""When a batch that is not full leaves, absolute seconds."""


def _held(stage: StageState, batch: Batch) -> float:
    hold_s_max = stage.plan.hold_s_max
    if hold_s_max <= 0:
        return NOW
    head, estimator = batch.pieces[0], stage.estimator
    point = (batch.variant, head.bucket, batch.rows + 1, batch.replica.cores)
    due_s = min(piece.due_s for piece in batch.pieces)
    latest_s = due_s - estimator.service_s(*point) - estimator.margin_s(*point)
    return min(head.visit.arrived_s + hold_s_max, latest_s)


def _full(stage: StageState, batch: Batch) -> float:
    del stage, batch
    return NEVER


def _timed(stage: StageState, batch: Batch) -> float:
    return batch.pieces[0].visit.arrived_s + stage.plan.rules.timeout_s


FORMING_RULES: dict[Forming, FormingRule] = {"hold": _held, "full": _full, "timeout": _timed}
