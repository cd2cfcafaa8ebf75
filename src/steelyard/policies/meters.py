"""What a stage did over longer than a snapshot shows: means over time that a policy collects itself.

A snapshot shows 50 windows, 5 s. A policy that averages over a minute therefore looks every `LOOK_S`, even
where it only decides every quarter of a minute; each look becomes one entry of the meter.
"""

from collections import deque
from typing import NamedTuple

from steelyard.core.snapshot import ServiceView, ServiceWindow

LOOK_S = 3.0
"""Most seconds between two looks: with what delays a decision, still less than a snapshot shows."""


class Load(NamedTuple):
    """Means over time of one stage: rows that wait or run (concurrency), and cores that were busy."""

    rows: float
    cores_busy: float


class _Entry(NamedTuple):
    """What was added by one look: the time it covers, and integrals over it."""

    to_s: float
    covered_s: float
    row_s: float
    core_s: float


class StageMeter:
    """Means of one stage over the last seconds, up to `memory_s`.

    A batch counts whole in the window in which it ended, and a replica that runs one is taken to use all of
    its cores. Windows that were left out because there was nothing to see count as idle; time before the
    oldest window that a snapshot still shows does not count at all.
    """

    def __init__(self, stage: str, memory_s: float) -> None:
        self._stage = stage
        self._memory_s = memory_s
        self._entries: deque[_Entry] = deque()
        self._seen_s = float("-inf")

    def forget(self, *, now_s: float) -> None:
        """Begin at `now_s`: what was before, nobody had been asked to serve."""
        self._entries.clear()
        self._seen_s = now_s

    def look(self, view: ServiceView, *, now_s: float) -> None:
        """Take the windows that are new since the last look."""
        new = [window for window in view.windows if window.to_s > self._seen_s + 1e-9]
        end_s = new[-1].to_s if new else now_s
        begin_s = max(self._seen_s, view.windows[0].from_s if view.windows else self._seen_s)
        if begin_s > float("-inf") and end_s > begin_s:
            row_s = sum(self._rows(w) * (w.to_s - max(w.from_s, begin_s)) for w in new)
            core_s = sum(self._core_s(w) for w in new)
            self._entries.append(_Entry(end_s, end_s - begin_s, row_s, core_s))
            self._seen_s = end_s
        while self._entries and self._entries[0].to_s <= now_s - self._memory_s + 1e-6:
            self._entries.popleft()

    def mean(self, seconds: float, *, now_s: float) -> Load | None:
        """Means over the last `seconds`, or over as much of them as was seen; None where that is nothing."""
        since_s = now_s - seconds + 1e-6
        covered_s = row_s = core_s = 0.0
        for entry in reversed(self._entries):
            if entry.to_s <= since_s:
                break
            covered_s += entry.covered_s
            row_s += entry.row_s
            core_s += entry.core_s
        return Load(row_s / covered_s, core_s / covered_s) if covered_s > 0 else None

    def _rows(self, window: ServiceWindow) -> int:
        """Rows that waited or ran at the end of a window."""
        return sum(s.queue_rows + s.in_flight_rows for s in window.stages if s.stage == self._stage)

    def _core_s(self, window: ServiceWindow) -> float:
        """Busy core-seconds of the batches that ended in a window."""
        return sum(cell.busy_s * cell.cores for cell in window.busy if cell.stage == self._stage)
