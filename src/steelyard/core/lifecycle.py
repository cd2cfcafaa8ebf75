"""The replicas of one stage: starting → ready ⇄ parked → draining → gone.

A replica has at most one batch in flight. It is *idle* if it is ready, has cores and a resident variant, and
runs nothing. A draining replica is stopped when it runs nothing and nobody needs outputs that it still keeps.
Events about replicas that are not known (any more) are normal and change nothing: news cross on their way.
"""

from collections.abc import Iterator

from steelyard.core.events import (
    ReplicaDraining,
    ReplicaReady,
    ReplicaResized,
    ReplicaStarted,
    VariantLoaded,
    VariantUnloaded,
)
from steelyard.core.snapshot import ReplicaState
from steelyard.core.work import Batch


class Replica:
    """One replica as its stage knows it.

    Attributes:
        batch: in flight, or None.
        kept: batches, by id, that are done but whose outputs are needed until a request of several pieces
            ends.
        expected_ready_s: while it starts.
        is_stopping: `StopReplica` was sent.
        last: variant of its last batch; empty before.
    """

    __slots__ = (
        "batch", "cores", "expected_ready_s", "id", "is_stopping", "kept", "last", "state", "variants",
    )  # fmt: skip

    def __init__(self, replica_id: int, state: ReplicaState, cores: float, variants: tuple[str, ...]) -> None:
        self.id = replica_id
        self.state = state
        self.cores = cores
        self.variants = variants
        self.expected_ready_s = 0.0
        self.batch: Batch | None = None
        self.kept: dict[int, Batch] = {}
        self.is_stopping = False
        self.last = ""

    @property
    def is_idle(self) -> bool:
        """Whether it takes a batch now."""
        return self.state == "ready" and self.batch is None and bool(self.variants)


class ReplicaPool:
    """All replicas of a stage, in order of appearance.

    Attributes:
        idle: those that take a batch now.
        version: grows with every change of states, cores or variants, but not with batches.
        busy_until_s: no batch that was ever started is expected to end later.
    """

    def __init__(self) -> None:
        self._replicas: dict[int, Replica] = {}
        self.idle: dict[int, Replica] = {}
        self.version = 0
        self.busy_until_s = float("-inf")
        self._is_uniform = True
        self._uniform_version = 0

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

    def get(self, replica_id: int) -> Replica | None:
        """A replica, unless it is gone."""
        return self._replicas.get(replica_id)

    @property
    def has_ready(self) -> bool:
        """Whether one is ready; parked and draining ones are not."""
        return any(replica.state == "ready" for replica in self._replicas.values())

    @property
    def is_uniform(self) -> bool:
        """Whether all replicas have the same cores and variants."""
        if self._uniform_version != self.version:
            self._uniform_version = self.version
            kinds = {(replica.cores, replica.variants) for replica in self._replicas.values()}
            self._is_uniform = len(kinds) < 2
        return self._is_uniform

    def start(self, event: ReplicaStarted) -> None:
        """A replica is starting."""
        if event.replica_id in self._replicas:
            return
        replica = Replica(event.replica_id, "starting", event.cores, event.variants)
        replica.expected_ready_s = event.expected_ready_s
        self._replicas[event.replica_id] = replica
        self._changed(replica)

    def ready(self, event: ReplicaReady) -> None:
        """A replica takes batches, unless it was drained while it started."""
        replica = self._replicas.get(event.replica_id)
        if replica is None:
            replica = self._replicas[event.replica_id] = Replica(event.replica_id, "starting", 0.0, ())
        replica.cores = event.cores
        replica.variants = event.variants
        if replica.state != "draining":
            replica.state = "ready" if event.cores > 0 else "parked"
        self._changed(replica)

    def resize(self, event: ReplicaResized) -> None:
        """A replica's cores changed: none parks it, some wake it."""
        replica = self._replicas.get(event.replica_id)
        if replica is None:
            return
        if replica.batch is not None and event.cores != replica.cores:
            replica.batch.is_resized = True
        replica.cores = event.cores
        if replica.state in ("ready", "parked"):
            replica.state = "ready" if event.cores > 0 else "parked"
        self._changed(replica)

    def drain(self, event: ReplicaDraining) -> Replica | None:
        """A replica takes nothing more; returns it if it is known."""
        replica = self._replicas.get(event.replica_id)
        if replica is not None:
            replica.state = "draining"
            self._changed(replica)
        return replica

    def load(self, event: VariantLoaded) -> None:
        """A further variant is resident."""
        replica = self._replicas.get(event.replica_id)
        if replica is not None and event.variant not in replica.variants:
            replica.variants = (*replica.variants, event.variant)
            self._changed(replica)

    def unload(self, event: VariantUnloaded) -> None:
        """A variant is resident no more."""
        replica = self._replicas.get(event.replica_id)
        if replica is not None:
            replica.variants = tuple(name for name in replica.variants if name != event.variant)
            self._changed(replica)

    def forget(self, replica_id: int) -> Replica | None:
        """A replica is gone; returns it as it was, if it was known."""
        replica = self._replicas.pop(replica_id, None)
        if replica is not None:
            self.idle.pop(replica_id, None)
            self.version += 1
        return replica

    def assign(self, replica: Replica, batch: Batch) -> None:
        """A batch starts on an idle replica; KeyError if it is not idle."""
        del self.idle[replica.id]
        replica.batch = batch
        if batch.expected_s > self.busy_until_s:
            self.busy_until_s = batch.expected_s

    def free(self, replica: Replica) -> None:
        """A replica's batch has ended."""
        replica.batch = None
        if replica.state == "ready" and replica.variants:
            self.idle[replica.id] = replica

    def _changed(self, replica: Replica) -> None:
        self.version += 1
        if replica.is_idle:
            self.idle[replica.id] = replica
        else:
            self.idle.pop(replica.id, None)
