"""What a front end and the decision maker say to each other, several messages a packet.

The rules of this file:
- What the machines know by an event or a command travels as that event or command (`RequestArrived` up,
  `Complete` down), written by the one codec (docs/adr/0002). Only what concerns the link itself has words of
  its own: who listens where, whose memory is lent to whom, what has been read.
- A word means the same in both directions: each end may make calls, numbered by itself, and is `Told`.

File descriptors go along with the packet: `ArenaMade` carries the front end's arena, `Lend` those it names.
"""

from typing import Literal

from steelyard.core.commands import Complete, Discard, Fail, Reject, Release, Shed
from steelyard.core.events import RequestArrived, RequestCancelled
from steelyard.core.types import Frozen
from steelyard.serve.base import ServedService
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.repository import RepositoryEntry
from steelyard.serve.statistics import ServiceStatistics

Kind = Literal["http", "grpc"]
"""What a front end speaks with its clients."""


class Seen(Frozen, frozen=True):
    """A service as its clients may see it now: see `Intake.is_ready` and `Repository`."""

    is_ready: bool
    is_open: bool
    entry: RepositoryEntry


class Region(Frozen, frozen=True):
    """A region of shared memory: registered, as `place` (key, offset, size in bytes) says, or forgotten.

    Clients register with one front end, and may then ask any of its kind. An empty `name` means all.
    """

    name: str
    place: tuple[str, int, int] | None


class Welcome(Frozen, frozen=True, tag="welcome"):
    """The first message to a front end: all that it must know to listen.

    Attributes:
        front_end: first part of its requests' ids; no other front end has had it.
        kind: what to speak.
        host: address to bind.
        port: the same for all front ends of a kind (SO_REUSEPORT).
        arena_bytes: size of its arena.
        grace_s: how long requests under way may take once it has been told to stop.
        settings: of its edge.
        services: by name.
        seen: the services' present state.
        regions: shared memory that clients have registered with others of its kind.
    """

    front_end: int
    kind: Kind
    host: str
    port: int
    arena_bytes: int
    grace_s: float
    settings: EdgeSettings
    services: dict[str, ServedService]
    seen: dict[str, Seen]
    regions: tuple[Region, ...] = ()


class Changed(Frozen, frozen=True, tag="changed"):
    """The services' state has changed."""

    seen: dict[str, Seen]


class Lend(Frozen, frozen=True, tag="lend"):
    """Arenas of workers that answers from now on lie in; their descriptors came along, in this order."""

    arenas: tuple[str, ...]


class Forget(Frozen, frozen=True, tag="forget"):
    """No further answer lies in an arena that was lent."""

    arena: str


class Told(Frozen, frozen=True, tag="told"):
    """The answer to `Asked` or `RegionChanged`; `error` is one line, empty if it was done."""

    call: int
    error: str = ""
    statistics: ServiceStatistics | None = None


class RegionChanged(Frozen, frozen=True, tag="region_changed"):
    """A client has registered or unregistered a region; answered by `Told`.

    Up, it is to be known to all others of the kind; down, to this one, as it is to that of the client.
    """

    call: int
    region: Region


class Drain(Frozen, frozen=True, tag="drain"):
    """Accept no further connection; what comes in on open ones is answered and the connection closed."""


class End(Frozen, frozen=True, tag="end"):
    """Every admitted request is answered: leave, after idle clients had `linger_s` to come back once."""

    linger_s: float


ToFrontEnd = (
    Welcome | Changed | Lend | Forget | Told | RegionChanged | Drain | End
    | Complete | Reject | Shed | Fail | Discard | Release
)  # fmt: skip


class ArenaMade(Frozen, frozen=True, tag="arena_made"):
    """The front end has an arena, `fe` and its number; its descriptor came along."""


class Listening(Frozen, frozen=True, tag="listening"):
    """Clients can connect."""


class CannotListen(Frozen, frozen=True, tag="cannot_listen"):
    """The front end ends, because of this; `missing` names a module that is not installed."""

    reason: str
    missing: str = ""


class Taken(Frozen, frozen=True, tag="taken"):
    """So many `Complete`s have been read since the start: nothing of them is needed any more."""

    completes: int


class Counted(Frozen, frozen=True, tag="counted"):
    """HTTP statuses of inference requests since the last such message, by service."""

    statuses: dict[str, dict[int, int]]


class Asked(Frozen, frozen=True, tag="asked"):
    """A client wants something of a service; answered by `Told` with the same `call`."""

    call: int
    what: Literal["load", "unload", "statistics"]
    service: str


FromFrontEnd = (
    RequestArrived | RequestCancelled | ArenaMade | Listening | CannotListen | Taken | Counted | Asked
    | RegionChanged | Told
)  # fmt: skip


def arena_name(front_end: int) -> str:
    """Name of the arena that a front end owns."""
    return f"fe{front_end}"
