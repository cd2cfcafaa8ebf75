"""What became of a service's requests since the server started, as the protocol's statistics want it."""

from typing import NamedTuple

import msgspec

from steelyard.core.commands import Complete, Discard, Fail, Reject, Shed
from steelyard.core.snapshot import BusyCell


class BatchSums(NamedTuple):
    """Batches of one size, and the seconds that they ran together."""

    batches: int = 0
    run_s: float = 0.0


class ServiceStatistics(msgspec.Struct):
    """Sums over the requests of one service; plain numbers, added to at each request's end.

    Attributes:
        completed: requests that were answered, with their `rows`, `latency_s`, `queue_s` and `service_s`.
        refused: those that were rejected, shed or failed, with the seconds they took. A request whose
            client left counts in neither.
        last_end_s: when the last one was answered, on the clock of `observe`; None before the first.
        batches: by rows, of all stages, as of the last sensing window.
    """

    completed: int = 0
    rows: int = 0
    refused: int = 0
    latency_s: float = 0.0
    queue_s: float = 0.0
    service_s: float = 0.0
    refused_s: float = 0.0
    last_end_s: float | None = None
    batches: dict[int, BatchSums] = {}

    def observe(
        self, end: Complete | Reject | Shed | Fail | Discard, *, rows: int, latency_s: float, now_s: float
    ) -> None:
        """A request has ended, `latency_s` after it arrived."""
        if isinstance(end, Complete):
            self.completed += 1
            self.rows += rows
            self.latency_s += latency_s
            self.queue_s += end.queue_s
            self.service_s += end.service_s
            self.last_end_s = now_s
        elif not isinstance(end, Discard):
            self.refused += 1
            self.refused_s += latency_s

    def observe_batches(self, cells: tuple[BusyCell, ...]) -> None:
        """A sensing window has ended, with these batches."""
        for cell in cells:
            sums = self.batches.get(cell.rows, BatchSums())
            self.batches[cell.rows] = BatchSums(sums.batches + cell.batches, sums.run_s + cell.busy_s)
