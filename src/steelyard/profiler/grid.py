"""Which operating points are measured, and for how long.

Service time bends where batches outgrow caches and where cores stop helping, so rows and cores double from
point to point, and both ends are always in. Points of one (bucket, rows) make a *block*: their rounds are
interleaved, so that what the machine does meanwhile falls on all of them alike, and they are stored together.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from steelyard.core.types import Frozen
from steelyard.profile.types import Cell
from steelyard.runtime.base import Width
from steelyard.runtime.widths import thread_counts

Form = Literal["full", "quick"]


class Effort(Frozen, frozen=True):
    """How long is measured.

    Attributes:
        rounds: visits to each point of a block, in a new random order each time; >= 1.
        visit_runs_max: recorded batches a visit, >= 1; a visit has at least one.
        visit_s: seconds after which a visit takes no further batch.
        cold_starts: replicas started to measure the cold start.
        total_s: seconds after which no further point is begun; None for no limit.
    """

    rounds: int
    visit_runs_max: int
    visit_s: float
    cold_starts: int
    total_s: float | None


FULL = Effort(rounds=5, visit_runs_max=10, visit_s=0.1, cold_starts=5, total_s=None)
"""0.5 s or 50 batches a point, at least 5, spread over five visits."""
QUICK = Effort(rounds=4, visit_runs_max=8, visit_s=0.1, cold_starts=1, total_s=7.0)
"""At most 10 s a variant, starts included."""


class Setting(NamedTuple):
    """One way to run one batch; `cores` whole."""

    bucket: int
    rows: int
    cores: int
    width: Width


def rows_grid(batch_rows_max: int, form: Form) -> tuple[int, ...]:
    """1, 2, 4, 8 ... and the largest batch, ascending; in quick form 1, the largest and 4.

    The quick form may run out of time: with both ends, what is left out is interpolated, not extrapolated.
    """
    if form == "quick":
        return tuple(dict.fromkeys((1, batch_rows_max, min(4, batch_rows_max))))
    doubled = (1 << power for power in range(batch_rows_max.bit_length()))
    return tuple(dict.fromkeys((*doubled, batch_rows_max)))


def cores_grid(cores_max: int, form: Form) -> tuple[int, ...]:
    """The core counts that get sessions of their own; in quick form 1 and the most."""
    return tuple(sorted({1, cores_max})) if form == "quick" else thread_counts(cores_max)


def blocks(
    bucket_count: int,
    rows: Sequence[int],
    cores: Sequence[int],
    *,
    with_lanes: bool,
    known: Iterable[Cell] = (),
) -> list[tuple[Setting, ...]]:
    """The points to measure, block by block; cells that are known are left out."""
    done = {(cell.bucket, cell.rows, cell.cores) for cell in known}
    found = []
    for bucket in range(bucket_count):
        for row_count in rows:
            block = tuple(
                Setting(bucket, row_count, core_count, width)
                for core_count in cores
                if (bucket, row_count, core_count) not in done
                for width in _widths(core_count, with_lanes=with_lanes)
            )
            if block:
                found.append(block)
    return found


def _widths(cores: int, *, with_lanes: bool) -> tuple[Width, ...]:
    return ("threads", "lanes") if with_lanes and cores > 1 else ("threads",)
