"""How many connections a listener keeps, and who goes when another client comes.

The rules of this file:
- The connection that has been idle longest makes place, if that is `IDLE_S_MIN` at least: a client must
  expect that between two requests (RFC 9112, 9.5), and can be expected to connect again.
- Where nobody is idle the newcomer is a *guest*: it may ask for one page (GET: those who watch the server
  must not take a busy one for a dead one), and anything else is refused in so many words.
- Guests are bounded in number and in time as well; beyond that a connection is cut at once.
"""

from collections.abc import Set as AbstractSet
from typing import Final, Literal, Protocol

from steelyard.serve.edge.replies import RETRY_AFTER_S, RefusedError

IDLE_S_MIN: Final = 1.0
GUEST_S_MAX: Final = 5.0
GUESTS_PART: Final = 8
"""There may be one guest for so many places."""
PAGE_VERBS: Final = (b"GET ", b"HEAD ")

Place = Literal["kept", "guest", "none"]


class Idling(Protocol):
    """A connection."""

    def idle_s(self, now_s: float) -> float:
        """For how long nothing has been under way; 0 if something is."""
        ...

    def make_place(self) -> None:
        """End it, as it is idle."""
        ...


class Places:
    """The places of one listener.

    Args:
        connections: those that are open.
        places_max: without guests.
    """

    def __init__(self, connections: AbstractSet[Idling], places_max: int) -> None:
        self._connections = connections
        self._places_max = places_max
        self._guests_max = -(-places_max // GUESTS_PART)

    def take(self, now_s: float) -> Place:
        """What a client gets that has just come and does not count as a connection yet."""
        beyond = len(self._connections) - self._places_max
        if beyond < 0:
            return "kept"
        if beyond >= self._guests_max:
            return "none"
        longest_s, idlest = IDLE_S_MIN, None
        for connection in self._connections:
            idle_s = connection.idle_s(now_s)
            if idle_s >= longest_s:
                longest_s, idlest = idle_s, connection
        if idlest is None:
            return "guest"
        idlest.make_place()
        return "kept"


def no_place() -> RefusedError:
    """What a guest is told that asks for more than a page."""
    text = "the server has as many connections as it keeps, and none is idle"
    return RefusedError(503, text, reason="connections_full", retry_after_s=RETRY_AFTER_S)
