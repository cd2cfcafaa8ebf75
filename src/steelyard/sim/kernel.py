"""The simulated clock: a heap of things to come, with a total order.

Order of what happens at the same instant: by kind, then by the order in which it was scheduled. The kinds put
what frees something before what asks for it (a batch that ends at the instant a request arrives has ended
when it arrives), looking around after that, and what follows from it last: completions, replicas' lives,
cancellations, arrivals, a service's wake-ups, the ends of sensing windows, their reports, the control plane's
wake-ups (so a decision sees the window that ends with it), the planner's answers, and the end of the trace.
"""

from collections.abc import Callable
from enum import IntEnum
from heapq import heappop, heappush
from typing import Any

Act = Callable[[Any], None]


class Kind(IntEnum):
    """What happens first at the same instant; lower goes first."""

    COMPLETION = 0
    REPLICA = 1
    CANCELLATION = 2
    ARRIVAL = 3
    WAKE = 4
    WINDOW = 5
    REPORT = 6
    DECIDE = 7
    SOLVED = 8
    END = 9


class Kernel:
    """A clock that jumps from one due thing to the next; `now_s` is the time of the last one done."""

    def __init__(self, *, start_s: float = 0.0) -> None:
        self._heap: list[tuple[float, Kind, int, Act, Any]] = []
        self._number = 0
        self._is_stopped = False
        self.now_s = start_s

    @property
    def due(self) -> int:
        """How many things are to come."""
        return len(self._heap)

    def schedule(self, at_s: float, kind: Kind, act: Act, what: Any) -> None:
        """Let `act(what)` be called at `at_s`, or now if that has passed."""
        if at_s < self.now_s:
            at_s = self.now_s
        self._number += 1
        heappush(self._heap, (at_s, kind, self._number, act, what))

    def run(self) -> None:
        """Do one thing after the other until nothing is due any more, or until `stop`."""
        heap = self._heap
        while heap and not self._is_stopped:
            self.now_s, _, _, act, what = heappop(heap)
            act(what)

    def advance(self, to_s: float) -> bool:
        """Let time pass, unless something is due by then; whether it has passed."""
        heap = self._heap
        if self._is_stopped or (heap and heap[0][0] <= to_s):
            return False
        self.now_s = to_s
        return True

    def stop(self) -> None:
        """Do nothing further: what is still due is left undone."""
        self._is_stopped = True
