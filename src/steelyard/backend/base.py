"""The contract of a backend: make replicas exist, resize them in place, run batches on them, end them.

Nothing in it blocks: each call returns at once, and what became of it arrives as an event through the `sink`
the backend was made with, on the driver's loop. A backend decides nothing: which cores, which replica and
which requests are in the command.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from steelyard.core.commands import (
    LoadVariant,
    ReleaseOutputs,
    ResizeReplica,
    RunBatch,
    StartReplica,
    StopReplica,
    UnloadVariant,
)
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    NodeJoined,
    ReplicaEvent,
    ReplicaThrottled,
    ResizeRefused,
)
from steelyard.core.types import Request, TensorRef
from steelyard.worker.messages import Feed

BackendEvent = ReplicaEvent | NodeJoined | ReplicaThrottled | ResizeRefused | BatchCompleted | BatchFailed
Sink = Callable[[BackendEvent], None]


class Borrower(Protocol):
    """A process that reads what lies in other processes' arenas; `borrowed` names those it has got."""

    borrowed: set[str]

    def lend(self, arenas: Mapping[str, int]) -> None:
        """Let it read these arenas from now on; their descriptors stay the caller's."""
        ...

    def forget(self, arena: str) -> None:
        """The owner of an arena has ended; nothing happens if it was not lent."""
        ...


class Backend(Protocol):
    """Where replicas live; `mechanism` says in words how cores are enforced: `steelyard serve` reports it."""

    mechanism: str

    def node(self) -> NodeJoined:
        """The node this backend offers."""
        ...

    def start(self, command: StartReplica) -> None:
        """Start a replica; ends in `ReplicaReady` or `ReplicaGone(expected=False)`."""
        ...

    def resize(self, command: ResizeReplica) -> None:
        """Change a live replica's cores; ends in `ReplicaResized` or `ResizeRefused`."""
        ...

    def stop(self, command: StopReplica) -> None:
        """End a replica, ready or starting; ends in `ReplicaGone(expected=True)`."""
        ...

    def load(self, command: LoadVariant) -> None:
        """Make a variant resident; ends in `VariantLoaded`."""
        ...

    def unload(self, command: UnloadVariant) -> None:
        """Drop a resident variant; ends in `VariantUnloaded`."""
        ...

    def run(
        self, command: RunBatch, requests: Sequence[Request], feeds: Sequence[Feed] | None = None
    ) -> None:
        """Run a batch; `requests[i]` is the request of `command.slices[i]`.

        `feeds` say where the inputs lie; without, they are the requests' own tensors.

        Ends in `BatchCompleted`, `BatchFailed`, or `ReplicaGone(expected=False)` if the worker dies under it.
        """
        ...

    def release(self, command: ReleaseOutputs) -> None:
        """Let the worker reuse the place of a batch's outputs."""
        ...

    def read(self, ref: TensorRef) -> memoryview:
        """The bytes of a batch's output, valid until `release`."""
        ...

    async def close(self) -> None:
        """End every replica and everything the backend made; safe to call twice."""
        ...
