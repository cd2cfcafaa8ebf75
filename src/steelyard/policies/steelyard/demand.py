"""How many rows a second a stage must carry, from what arrives and what waits; reckoned every window.

    need = max(Q / w, a + (Q - part a w0) / (2 w)),    w = max(w0, share * slack, lags)

- `a` is what arrives: the mean rate of the last `RATE_S`, and downstream what the stages before can pass on.
- `Q` rows wait. They may wait `w0` seconds as planned (`targets`), or a share of the slack that the most
  urgent of them has left, if that is more: time that one stage did not use is the next one's. Or, beyond the
  default, some lags of a resize: where less may be waited, batches of the stage before ask for cores that
  come when they are gone. Some are late then; the cores are saved.
- The first term is what it takes to serve all of them in time. The second lets the queue settle at a part
  of what may wait (half of it by default), and corrects what differs within `2 w`: less if more is reckoned
  with. The queue is the store that evens out Poisson arrivals, so that cores need not, and it fills batches.

Share, part and the spans are the knob's (`knob`), and which share of `a` is to be carried at all.

There is no forecast in it: cores come within a window. What may come is the business of `reserve`.
"""

from collections import deque

from steelyard.core.snapshot import ServiceView
from steelyard.policies.steelyard.knob import Knob
from steelyard.policies.steelyard.targets import StageTarget

RATE_S = 4.0
RESIZE_LAG_SERVICES = 0.5
"""A resize takes effect with the next batch: half a service time on average."""


class ArrivalRate:
    """Rows a second over the last `RATE_S` of windows; takes each window once."""

    def __init__(self) -> None:
        self._windows: deque[tuple[float, int, float]] = deque()
        self._rows = 0
        self._covered_s = 0.0
        self._seen_s = float("-inf")

    def update(self, view: ServiceView) -> float:
        """The rate at the end of the view's latest window; without windows, that of the last whole second."""
        windows = view.windows
        first = len(windows)
        while first and windows[first - 1].to_s > self._seen_s:
            first -= 1
        counted = self._windows
        for window in windows[first:]:
            to_s, rows = window.to_s, window.arrival_rows
            length_s = to_s - window.from_s
            counted.append((to_s, rows, length_s))
            self._rows += rows
            self._covered_s += length_s
            self._seen_s = to_s
        oldest_s = self._seen_s - RATE_S + 1e-6
        while len(counted) > 1 and counted[0][0] <= oldest_s:
            _, rows, length_s = counted.popleft()
            self._rows -= rows
            self._covered_s -= length_s
        if self._covered_s > 1e-9:
            return self._rows / self._covered_s
        return float(view.arrival_rows_by_second[-1]) if view.arrival_rows_by_second else 0.0


def needed_rps(
    queue_rows: int,
    arriving_rps: float,
    target: StageTarget,
    slack_s: float | None,
    knob: Knob,
    *,
    lag_s: float = 0.0,
) -> float:
    """Rows a second to carry; see the module.

    Args:
        queue_rows: rows that wait.
        arriving_rps: rows a second.
        target: of the stage.
        slack_s: that the most urgent row has left; None if nothing waits.
        knob: of the service.
        lag_s: until more cores take effect.
    """
    wait_s = max(target.wait_s, knob.lags * lag_s)
    if slack_s is not None:
        wait_s = max(wait_s, knob.slack_share * slack_s)
    differs = queue_rows - knob.queue_share * arriving_rps * target.wait_s
    settling = knob.carried * arriving_rps + differs / (knob.correct_waits * wait_s)
    return max(queue_rows / wait_s, settling, 0.0)


def arriving_rps(entry_rps: float, upstream: list[tuple[float, int, float]], lag_s: float) -> float:
    """What comes to a stage: what arrives at the service and what waits upstream, as far as it is passed on.

    Args:
        entry_rps: rows a second of this stage that requests arriving at the service come to.
        upstream: of each stage before it, its capacity, its queue and this stage's rows for each of its rows.
        lag_s: within which a queue upstream may come down on this stage.
    """
    if not upstream:
        return entry_rps
    most_rps = 0.0
    for rate_rps, queue, each in upstream:
        most_rps = max(most_rps, min(rate_rps * each, entry_rps + queue * each / lag_s))
    return most_rps
