"""How many rows a second a stage must carry, from what arrives and what waits; reckoned every window.

    need = max(Q / w, a + (Q - a w / 2) / (2 w) + z sqrt(a / (lag + w)))

- `a` is what arrives: the mean rate of the last `RATE_S`, and downstream what the stages before can pass on.
- `Q` rows wait and may wait `w` seconds (`targets`). The first term is what it takes to serve them all in
  time. The second lets the queue settle at half of that, correcting what differs within `2 w`: the queue is
  the store that evens out Poisson arrivals, so that cores need not, and it fills batches.
- `z` is the knob: at the default violation target it is 0, since the correction alone keeps the queue in
  bounds; a lower target keeps cores in reserve, a higher one lets go of some.

There is no forecast in it: cores come within a window. What may come is the business of `reserve`.
"""

from collections import deque
from math import sqrt
from statistics import NormalDist

from steelyard.core.snapshot import ServiceView, ServiceWindow
from steelyard.policies.steelyard.targets import StageTarget

RATE_S = 4.0
QUEUE_SHARE = 0.5
CORRECT_WAITS = 2.0
VIOLATION_TARGET = 0.001
RESIZE_LAG_SERVICES = 0.5
"""A resize takes effect with the next batch: half a service time on average."""


def head_room(violation_target: float) -> float:
    """Z of the module's formula: standard normal quantiles apart from the default target."""
    normal = NormalDist()
    return normal.inv_cdf(1.0 - violation_target) - normal.inv_cdf(1.0 - VIOLATION_TARGET)


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


def needed_rps(queue_rows: int, arriving_rps: float, target: StageTarget, lag_s: float, z: float) -> float:
    """Rows a second to carry; see the module."""
    wait_s = target.wait_s
    settled = arriving_rps + (queue_rows - QUEUE_SHARE * arriving_rps * wait_s) / (CORRECT_WAITS * wait_s)
    reserve = z * sqrt(arriving_rps / (lag_s + wait_s)) if z else 0.0
    return max(queue_rows / wait_s, settled + reserve, 0.0)


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
