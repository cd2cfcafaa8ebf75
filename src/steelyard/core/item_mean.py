"""How many items rows have, as counted lately: what a plan for a stage that takes items goes by.

What was planned counts as `PRIOR_ROWS` rows, and is all there is where nobody has said; then each row counts
as one, and no more than the last `MEMORY_ROWS` or so, with weights that fall exponentially. So the first
requests soon outweigh a wrong guess, and a variant that finds fewer items shows within a few hundred rows.
"""

PRIOR_ROWS = 8.0
MEMORY_ROWS = 256.0


class ItemMean:
    """Running mean of the items that one stage takes of a row.

    Attributes:
        mean: items a row.
    """

    __slots__ = ("_weight", "mean")

    def __init__(self, planned: float) -> None:
        self.mean = planned
        self._weight = PRIOR_ROWS

    def observe(self, rows: int, items: int) -> None:
        """So many rows, >= 1, had so many items together."""
        self._weight = min(self._weight + rows, max(MEMORY_ROWS, float(rows)))
        self.mean += (items - rows * self.mean) / self._weight
