"""Which services are loaded, as clients of the protocol's model repository see and change it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from steelyard.core.errors import SteelyardError

ServiceState = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


class RepositoryError(SteelyardError):
    """A service could not be loaded or unloaded; the message says why, on one line."""


class RepositoryEntry(NamedTuple):
    """A service that the spec file has; `reason` says why it is not ready."""

    name: str
    state: ServiceState
    reason: str = ""


class Repository(Protocol):
    """The services of the spec file; calls are made on the serving loop, with names that are known."""

    def index(self) -> Sequence[RepositoryEntry]:
        """Every service, in the order of the spec file."""
        ...

    def is_open(self, service: str) -> bool:
        """Whether the service takes requests: it is loaded, and not about to be unloaded. O(1)."""
        ...

    async def load(self, service: str) -> None:
        """Serve it again; returns when it is ready. Nothing happens if it is loaded.

        Raises:
            RepositoryError: it did not become ready in time, and goes on loading; or it was unloaded before.
        """
        ...

    async def unload(self, service: str) -> None:
        """Take no further request, answer those that were admitted, end its replicas; nothing if unloaded.

        A loading that is under way ends.

        Raises:
            RepositoryError: requests were left when its time was over; it goes on unloading.
        """
        ...
