"""How many items rows have, as counted lately: what a plan for a stage that takes items goes by.

What was planned counts as `PRIOR_ROWS` rows, and is all there is where nobody has said; then each row counts
as one, and no more than the last `MEMORY_ROWS` or so, with weights that fall exponentially. So the first
requests soon outweigh a wrong guess, and a variant that finds fewer items shows within a few hundred rows.

No request alone moves the mean far. A row has *many* items if it has more than `MANY` times the mean (and
than `MANY_MIN`), and more than is usual: as many as two requests have had one after the other, of all that
had many; that fades over `USUAL_ROWS` rows. Of a request whose rows have many, `REQUEST_ROWS_MAX` rows count,
each with as many items as are not. So a page of thousands of lines, or hundreds of such pages in one request,
moves a mean of m by 3 m * 16 / 256 at most, a fifth; but where every twentieth page has 50 lines, all count.
"""

from collections.abc import Hashable, Sequence

PRIOR_ROWS = 8.0
MEMORY_ROWS = 256.0
MANY, MANY_MIN = 4.0, 8.0
USUAL_ROWS = 1024.0
REQUEST_ROWS_MAX = 16


class ItemMean:
    """Running mean of the items that one stage takes of a row.

    Attributes:
        mean: items a row.
    """

    __slots__ = ("_limit", "_most", "_request", "_rows_left", "_usual", "_weight", "mean")

    def __init__(self, planned: float) -> None:
        self.mean = planned
        self._weight = PRIOR_ROWS
        self._usual = 0.0
        # Of the last request that had many: its id, the most of a row, what counts of a row, rows to count.
        self._request: Hashable = None
        self._most = self._limit = 0.0
        self._rows_left = 0

    def observe(self, counts: Sequence[int], request: Hashable) -> None:
        """Rows of a request, at least one, had so many items each."""
        rows, items, most = len(counts), float(sum(counts)), max(counts)
        if most > MANY_MIN and most > MANY * self.mean and most > self._usual:
            rows, items = self._bounded(counts, request, float(most))
            if not rows:
                return
        if self._usual:
            self._usual *= max(1.0 - rows / USUAL_ROWS, 0.0)
        self._weight = min(self._weight + rows, max(MEMORY_ROWS, float(rows)))
        self.mean += (items - rows * self.mean) / self._weight

    def _bounded(self, counts: Sequence[int], request: Hashable, most: float) -> tuple[int, float]:
        """How many of a request's rows that have many count, and how many items of them."""
        if request != self._request:
            self._usual = max(self._usual, min(most, self._most))
            self._limit = max(MANY_MIN, MANY * self.mean, self._usual)
            self._request, self._most, self._rows_left = request, most, REQUEST_ROWS_MAX
        self._most = max(self._most, most)
        if most <= self._limit:
            return len(counts), float(sum(counts))
        counted = counts[: self._rows_left]
        self._rows_left -= len(counted)
        return len(counted), sum([min(float(count), self._limit) for count in counted], 0.0)
