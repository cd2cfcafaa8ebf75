"""How many rows a second a stage must carry, from what arrives and what waits; reckoned every window.

    need = max(Q / w, a + (Q - part a w0) / (2 w)),    w = max(w0, share * slack)

- `a` is what arrives: the mean rate of the last `RATE_S`, and downstream what the stages before can pass on.
- `Q` rows wait. They may wait `w0` seconds as planned (`targets`), or a share of the slack that the most
  urgent of them has left, if that is more: time that one stage did not use is the next one's.
- The first term is what it takes to serve all of them in time. The second lets the queue settle at a part
  of what may wait (half of it by default), and corrects what differs within `2 w`: less if more is reckoned
  with. The queue is the store that evens out Poisson arrivals, so that cores need not, and it fills batches.

The share is the knob: the more of the slack is reckoned with, the fewer cores and the more violations.

There is no forecast in it: cores come within a window. What may come is the business of `reserve`.
"""

from collections import deque
from math import sqrt

from steelyard.core.snapshot import ServiceView, ServiceWindow
from steelyard.policies.steelyard.targets import StageTarget

RATE_S = 4.0
QUEUE_SHARE_MAX = 0.9
CORRECT_WAITS = 2.0
VIOLATION_TARGET = 0.001
SHARE = 0.6
SHARE_POWER = 0.3
RESIZE_LAG_SERVICES = 0.5
"""A resize takes effect with the next batch: half a service time on average."""


def slack_share(violation_target: float) -> float:
    """The share of the slack that is reckoned with: `SHARE` at the default target, more at a higher one.

    The power only spaces the settings: violations stay below the target, often far below it, and by how much
    depends on the traffic (docs/results.md).
    """
    return float(SHARE * (violation_target / VIOLATION_TARGET) ** SHARE_POWER)


class ArrivalRate:
    """Rows a second over the last `RATE_S` of windows; takes each window once."""

    def __init__(self) -> None:
        self._windows: deque[tuple[float, int, float]] = deque()
        self._rows = 0
        self._covered_s = 0.0
        self._seen_s = float("-inf")

    def update(self, view: ServiceView) -> float:
        """The rate at the end of the view's latest window; without windows, that of the last whole second."""
        fresh: list[ServiceWindow] = []
        for window in reversed(view.windows):
            if window.to_s <= self._seen_s:
                break
            fresh.append(window)
        for window in reversed(fresh):
            length_s = window.to_s - window.from_s
            self._windows.append((window.to_s, window.arrival_rows, length_s))
            self._rows += window.arrival_rows
            self._covered_s += length_s
            self._seen_s = window.to_s
        while len(self._windows) > 1 and self._windows[0][0] <= self._seen_s - RATE_S + 1e-6:
            _, rows, length_s = self._windows.popleft()
            self._rows -= rows
            self._covered_s -= length_s
        if self._covered_s > 1e-9:
            return self._rows / self._covered_s
        return float(view.arrival_rows_by_second[-1]) if view.arrival_rows_by_second else 0.0


def needed_rps(
    queue_rows: int, arriving_rps: float, target: StageTarget, slack_s: float | None, share: float
) -> float:
    """Rows a second to carry; see the module.

    Args:
        queue_rows: rows that wait.
        arriving_rps: rows a second.
        target: of the stage.
        slack_s: that the most urgent row has left; None if nothing waits.
        share: of the slack that is reckoned with.
    """
    wait_s = max(target.wait_s, share * slack_s) if slack_s is not None else target.wait_s
    settled = min(QUEUE_SHARE_MAX, share / (share + SHARE)) * arriving_rps * target.wait_s
    correct_s = CORRECT_WAITS * wait_s * min(1.0, sqrt(SHARE / share))
    return max(queue_rows / wait_s, arriving_rps + (queue_rows - settled) / correct_s, 0.0)


def arriving_rps(entry_rps: float, upstream: list[tuple[float, int, float]], lag_s: float) -> float:
    """What comes to a stage: what arrives at the service and what waits upstream, as far as it is passed on.

    Args:
        entry_rps: rows a second of this stage that requests arriving at the service come to.
        upstream: of each stage before it, its capacity, its queue and this stage's rows for each of its rows.
        lag_s: within which a queue upstream may come down on this stage.
    """
    if not upstream:
        return entry_rps
    return max(min(rate * each, entry_rps + queue * each / lag_s) for rate, queue, each in upstream)
