"""What became of a service's requests since the server started, as the protocol's statistics want it."""

from typing import NamedTuple

import msgspec

from steelyard.core.snapshot import BusyCell


class BatchSums(NamedTuple):
    """Batches of one size, and the seconds that they ran together."""

    batches: int = 0
    run_s: float = 0.0


class ServiceStatistics(msgspec.Struct):
    """Sums over the requests of one service.

    Attributes:
        completed: requests that were answered, with their `rows`, `latency_s`, `queue_s` and `service_s`.
        refused: those that were rejected, shed or failed, with the seconds they took. A request whose
            client left counts in neither.
        last_end_s: when the last one was answered, on the serving clock; None before the first.
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


def add_batches(sums: dict[int, BatchSums], cells: tuple[BusyCell, ...]) -> None:
    """Add a sensing window's batches."""
    for cell in cells:
        before = sums.get(cell.rows, BatchSums())
        sums[cell.rows] = BatchSums(before.batches + cell.batches, before.run_s + cell.busy_s)
