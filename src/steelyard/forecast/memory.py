"""Counts by second for longer than the 120 s that a snapshot shows: a bounded window, kept up to date."""

from collections import deque

from steelyard.core.errors import SpecError
from steelyard.forecast.predictors import Counts


class Memory:
    """The last `seconds_max` counts, joined from overlapping views of them.

    Seconds that no view has shown are filled with the last count before them.

    Raises:
        SpecError: `seconds_max` < 1.
    """

    def __init__(self, seconds_max: int) -> None:
        if seconds_max < 1:
            raise SpecError(f"want a memory of at least 1 s, not {seconds_max}")
        self._counts: deque[float] = deque(maxlen=seconds_max)
        self._end_s: int | None = None

    def add(self, counts: Counts, *, end_s: int) -> None:
        """Take a view: its last count is of the second `[end_s - 1, end_s)`. Older views change nothing."""
        if self._end_s is not None:
            new = end_s - self._end_s
            if new <= 0:
                return
            missing = new - len(counts)
            if missing > 0:
                last = self._counts[-1] if self._counts else 0.0
                self._counts.extend([last] * min(missing, self._counts.maxlen or missing))
            counts = counts[-new:]
        self._counts.extend(counts)
        self._end_s = end_s

    @property
    def counts(self) -> tuple[float, ...]:
        """Oldest first."""
        return tuple(self._counts)
