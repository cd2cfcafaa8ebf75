"""The simulated clock: a heap of things to come, with a total order.

Order of what happens at the same instant: by kind, then by the order in which it was scheduled. The kinds put
what frees something before what asks for it (a batch that ends at the instant a request arrives has ended
when it arrives) and looking around last: completions, replicas' lives, cancellations, arrivals, wake-ups,
windows.
"""

from enum import IntEnum
from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Kind(IntEnum):
    """What happens first at the same instant; lower goes first."""

    COMPLETION = 0
    REPLICA = 1
    CANCELLATION = 2
    ARRIVAL = 3
    WAKE = 4
    WINDOW = 5


class Due(NamedTuple, Generic[T]):
    """Something due at `at_s`."""

    at_s: float
    kind: Kind
    number: int
    what: T


class Kernel(Generic[T]):
    """A clock that jumps from one due thing to the next; `now_s` is the time of the last one taken."""

    def __init__(self, *, start_s: float = 0.0) -> None:
        self._heap: list[Due[T]] = []
        self._count = 0
        self.now_s = start_s

    def __len__(self) -> int:
        return len(self._heap)

    def schedule(self, at_s: float, kind: Kind, what: T) -> int:
        """Let something happen at `at_s`, or now if that has passed; returns its number."""
        self._count += 1
        heappush(self._heap, Due(max(at_s, self.now_s), kind, self._count, what))
        return self._count

    def take(self) -> Due[T]:
        """The next thing; time moves there. There must be one."""
        due = heappop(self._heap)
        self.now_s = due.at_s
        return due
