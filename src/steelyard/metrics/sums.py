"""Sums that a run keeps of a service: core-seconds, and the accuracy of its answers."""

from collections.abc import Sequence


class AccuracyMean:
    """The mean estimated accuracy of completed requests; known only if every one's is.

    Attributes:
        known: requests whose accuracy is known.
        unknown: the others.
        total: sum of those that are known.
    """

    __slots__ = ("known", "total", "unknown")

    def __init__(self) -> None:
        self.total = 0.0
        self.known = self.unknown = 0

    def add(self, accuracy: float | None) -> None:
        """Count one completed request; None if nobody knows its accuracy."""
        if accuracy is None:
            self.unknown += 1
        else:
            self.total += accuracy
            self.known += 1

    def add_all(self, known: Sequence[float], *, unknown: int) -> None:
        """Count many: the accuracies that are known, and how many are not."""
        self.total = sum(known, self.total)
        self.known += len(known)
        self.unknown += unknown

    def merge(self, other: "AccuracyMean") -> None:
        """Add what another has counted."""
        self.total += other.total
        self.known += other.known
        self.unknown += other.unknown

    @property
    def mean(self) -> float | None:
        """In [0, 1]; None without requests, or if one of them is not known."""
        return self.total / self.known if self.known and not self.unknown else None


class CoreSeconds:
    """Integral of reserved cores over time, a step function.

    Args:
        now_s: when counting begins, with no cores.
    """

    __slots__ = ("_at_s", "_sum", "cores")

    def __init__(self, *, now_s: float) -> None:
        self.cores = 0.0
        self._sum = 0.0
        self._at_s = now_s

    def set(self, cores: float, *, now_s: float) -> None:
        """From `now_s` on, `cores` are reserved."""
        self._sum = self.total(now_s=now_s)
        self._at_s = max(self._at_s, now_s)
        self.cores = cores

    def total(self, *, now_s: float) -> float:
        """Core-seconds up to `now_s`."""
        return self._sum + self.cores * max(0.0, now_s - self._at_s)
