"""Live correction of the profile: how much longer batches take now than when they were measured.

A correction is the mean of log(observed / profiled), weighted towards recent batches, kept for each operating
point (variant, rows, cores) and for each variant as a whole. A point is believed in proportion to what it has
seen: with n batches it weighs n / (n + 4) and its variant the rest, so a point that never ran borrows what
its neighbours show (a slow machine is slow everywhere).

What is no longer observed is forgotten: without a batch for a second the corrections halve with every second.
Without that, one disturbance could convince admission that nothing is feasible any more, and with nothing
admitted nothing would ever be observed again.
"""

from math import exp, log

RATIO_MIN = 0.25
RATIO_MAX = 8.0
"""Corrections beyond these are a broken profile or a stopped machine, not something to plan with."""

CELL_PRIOR = 4.0
"""Batches after which a point counts as much as its variant."""

CELL_EVIDENCE_MAX = 20.0
"""Evidence a point can collect; also the memory of its mean: about the last 20 batches."""

VARIANT_MEMORY = 10.0
"""Batches over which a variant's mean is taken."""

FORGET_S = 1.0
"""Seconds without a batch after which corrections begin to fade, and the time in which they then halve."""

CELLS_MAX = 4096

_LOG_MIN = log(RATIO_MIN)
_LOG_MAX = log(RATIO_MAX)


class _Mean:
    """Mean of log-ratios over about the last `memory` ones, and on how many it rests."""

    __slots__ = ("count", "memory", "value")

    def __init__(self, memory: float) -> None:
        self.value = 0.0
        self.count = 0.0
        self.memory = memory


class Residuals:
    """Corrections of one stage's service times; all ratios are observed over profiled, in [1/4, 8].

    Attributes:
        version: grows with every change.
        faded_s: when they were confirmed or have faded last; inf before the first batch.
    """

    def __init__(self) -> None:
        self._variants: dict[str, _Mean] = {}
        self._cells: dict[tuple[str, int, float], _Mean] = {}
        self._recent = _Mean(VARIANT_MEMORY)
        self.faded_s = float("inf")
        self.version = 0

    @property
    def mean_ratio(self) -> float:
        """Over the stage's recent batches, whatever they were."""
        return exp(self._recent.value)

    def ratio(self, variant: str, rows: int, cores: float) -> float:
        """By what to multiply a profiled service time."""
        whole = self._variants.get(variant)
        if whole is None:
            return 1.0
        cell = self._cells.get((variant, rows, cores))
        if cell is None:
            return exp(whole.value)
        return exp(whole.value + (cell.value - whole.value) * cell.count / (cell.count + CELL_PRIOR))

    def observe(self, variant: str, rows: int, cores: float, ratio: float, *, now_s: float) -> None:
        """Take in one batch that took `ratio` times its profiled time."""
        self.version += 1
        value = _LOG_MIN if ratio <= RATIO_MIN else log(ratio) if ratio < RATIO_MAX else _LOG_MAX
        key = (variant, rows, cores)
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) >= CELLS_MAX:  # the oldest point goes
                del self._cells[next(iter(self._cells))]
            cell = self._cells[key] = _Mean(CELL_EVIDENCE_MAX)
        whole = self._variants.get(variant)
        if whole is None:
            whole = self._variants[variant] = _Mean(VARIANT_MEMORY)
        for mean in (cell, whole, self._recent):
            count = mean.count
            if count < mean.memory:
                mean.count = count = count + 1.0
            mean.value += (value - mean.value) / count
        self.faded_s = now_s

    def fade(self, *, now_s: float) -> None:
        """Forget what has not been confirmed for `FORGET_S`."""
        if now_s - self.faded_s < FORGET_S:
            return
        self.version += 1
        keep = 0.5 ** ((now_s - self.faded_s) / FORGET_S)
        self._cells.clear()
        for mean in (*self._variants.values(), self._recent):
            mean.value *= keep
        self.faded_s = now_s
