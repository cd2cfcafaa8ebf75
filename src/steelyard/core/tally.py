"""Counting: the accounting of a run, and of the sensing window that is open.

The law, checked by `invariants` after every step in tests:
`requests = completed + shed + rejected + failed + cancelled + open`, and late requests are completed ones.
"""

from collections.abc import Iterable
from typing import NamedTuple

from steelyard.core.snapshot import BusyCell, ItemCell, ServiceWindow, StageWindow
from steelyard.core.stage import StageState
from steelyard.core.types import Request
from steelyard.core.work import Batch


class Counts(NamedTuple):
    """Requests by their end; `rows` are those of all arrivals."""

    requests: int
    rows: int
    completed: int
    late: int
    shed: int
    rejected: int
    failed: int
    cancelled: int


class Tally:
    """Counts since the start, of which a window is a difference; busy time and items in the open window."""

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0
        self.completed = 0
        self.late = 0
        self.shed = 0
        self.rejected = 0
        self.failed = 0
        self.cancelled = 0
        self._reported = Counts(0, 0, 0, 0, 0, 0, 0, 0)
        self._from_s = 0.0
        self._budget_s_min: float | None = None
        self._busy: dict[tuple[str, str, int, float], list[float]] = {}
        self._items: dict[tuple[str, str], list[int]] = {}

    @property
    def total(self) -> Counts:
        """Of the whole run."""
        return Counts(
            self.requests,
            self.rows,
            self.completed,
            self.late,
            self.shed,
            self.rejected,
            self.failed,
            self.cancelled,
        )

    def begin(self, *, now_s: float) -> None:
        """The first event opens the first window."""
        self._from_s = now_s

    def add_arrival(self, request: Request) -> None:
        """A request has come, whatever becomes of it."""
        self.requests += 1
        self.rows += request.rows
        budget_s = request.deadline_s - request.arrived_s
        if self._budget_s_min is None or budget_s < self._budget_s_min:
            self._budget_s_min = budget_s

    def add_batch(self, stage: str, batch: Batch, busy_s: float) -> None:
        """A batch has ended after `busy_s`."""
        key = (stage, batch.variant, batch.rows, batch.cores)
        cell = self._busy.get(key)
        if cell is None:
            cell = self._busy[key] = [0, 0.0]
        cell[0] += 1
        cell[1] += busy_s

    def add_items(self, taker: str, variant: str, rows: int, items: int) -> None:
        """A variant has made so many items of so many rows for a stage that takes them."""
        cell = self._items.get((taker, variant))
        if cell is None:
            cell = self._items[taker, variant] = [0, 0]
        cell[0] += rows
        cell[1] += items

    def close(self, service: str, stages: Iterable[StageState], *, now_s: float) -> ServiceWindow:
        """What happened since the last window, and how the stages stand; opens the next window."""
        total, last = self.total, self._reported
        window = ServiceWindow(
            service=service,
            from_s=self._from_s,
            to_s=now_s,
            arrivals=total.requests - last.requests,
            arrival_rows=total.rows - last.rows,
            completed=total.completed - last.completed,
            late=total.late - last.late,
            shed=total.shed - last.shed,
            rejected=total.rejected - last.rejected,
            failed=total.failed - last.failed,
            cancelled=total.cancelled - last.cancelled,
            stages=tuple([_stage_window(stage, now_s) for stage in stages]),
            busy=tuple(
                [BusyCell(*key, int(batches), busy_s) for key, (batches, busy_s) in self._busy.items()]
            ),
            budget_s_min=self._budget_s_min,
            items=tuple([ItemCell(*key, rows, items) for key, (rows, items) in self._items.items()]),
        )
        self._budget_s_min = None
        self._reported = total
        self._from_s = now_s
        self._busy = {}
        self._items = {}
        return window


def _stage_window(stage: StageState, now_s: float) -> StageWindow:
    return StageWindow(
        stage=stage.name,
        queue_requests=len({piece.open.request.id for piece in stage.queue}) if stage.queue.entries else 0,
        queue_rows=stage.queue.rows,
        head_slack_s=stage.slack_s(now_s=now_s),
        in_flight_rows=sum([batch.rows for batch in stage.batches.values()]),
        service_ratio=stage.estimator.residuals.mean_ratio,
        fan_out=stage.fan_out if stage.maker is not None else None,
    )
