"""The simulated machines: replicas that start, run batches, are resized, stop and are lost.

What `backend` is to the live driver: it carries out commands and answers with events, some time later. It
decides nothing. Rules that are not obvious:
- A resize counts for service times from the next batch on. Cores that a replica is given are paid for from
  the moment they are asked for; those it gives up until the batch at hand has ended on them, and only then
  is the control machine told. The service knows at once, and hands a parked replica no further batch.
- A replica on parts of cores has what its neighbours leave of them, where the node lends (`lending`).
- A start that is cancelled has cost its cores until then. News of a replica that is gone reach nobody.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from steelyard.core.commands import (
    LoadVariant,
    ResizeReplica,
    RunBatch,
    StartReplica,
    StopReplica,
    UnloadVariant,
)
from steelyard.core.events import (
    BatchCompleted,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    VariantLoaded,
    VariantUnloaded,
)
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import Service, Variant
from steelyard.sim.account import Costs
from steelyard.sim.draws import Durations
from steelyard.sim.items import StageItems
from steelyard.sim.kernel import Kernel, Kind
from steelyard.sim.lending import LentCores
from steelyard.sim.scenario import Failure, Physics, SimulatedNode

_COMPLETION = Kind.COMPLETION
ReplicaNews = ReplicaReady | ReplicaResized | ReplicaGone | VariantLoaded | VariantUnloaded


class Listener(Protocol):
    """Who hears of a service's replicas and batches."""

    def on_batch(self, event: BatchCompleted) -> None:
        """A batch has ended."""
        ...

    def on_replica(self, event: ReplicaNews) -> None:
        """Something became of a replica."""
        ...

    def on_letting_go(self, event: ReplicaResized) -> None:
        """A replica has fewer cores from the next batch on; `on_replica` follows when the batch has ended."""
        ...


class _Replica:
    """One replica; `shares` are in force, `cores_paid` reserved."""

    __slots__ = (
        "cores", "cores_paid", "costs", "durations", "id", "is_busy", "is_ready", "is_stopping", "items",
        "letting_go", "listener", "node", "service", "shares", "stage", "variant", "variants",
    )  # fmt: skip

    def __init__(
        self,
        command: StartReplica,
        durations: Durations,
        items: StageItems | None,
        costs: Costs,
        listener: Listener,
    ) -> None:
        self.id = command.replica_id
        self.service = command.service
        self.stage = command.stage
        self.node = command.node
        self.variants = command.variants
        self.shares = command.shares
        self.cores = self.cores_paid = _cores(command.shares)
        self.durations = durations
        self.items = items
        self.costs = costs
        self.listener = listener
        self.is_ready = self.is_busy = self.is_stopping = False
        self.variant: str | None = None  # of the latest batch
        self.letting_go: ReplicaResized | None = None  # to be told when the batch at hand has ended

    def shares_core_with(self, other: "_Replica") -> bool:
        """Whether the two overlap on a core."""
        mine = {share.core_id for share in self.shares}
        return self.node == other.node and any(share.core_id in mine for share in other.shares)


class Cluster:
    """Replicas of all services.

    Args:
        kernel: the clock.
        nodes: the machines.
        services: by name.
        durations: by (service, stage).
        items: by (service, stage), for stages that make items.
        physics: what the machines add to service times.
        costs: by service; told of every core.
        listeners: by service; may be filled after the cluster was made.

    Attributes:
        cold_start_s: overrides the variants' own if not None: 0 while a run is warmed up.
    """

    def __init__(
        self,
        kernel: Kernel,
        nodes: Sequence[SimulatedNode],
        services: Mapping[str, Service],
        durations: Mapping[tuple[str, str], Durations],
        items: Mapping[tuple[str, str], StageItems],
        *,
        physics: Physics,
        costs: Mapping[str, Costs],
        listeners: Mapping[str, Listener],
    ) -> None:
        self._kernel = kernel
        self._cores_of_node = {node.name: float(node.cores) for node in nodes}
        self._busy_of_node = dict.fromkeys(self._cores_of_node, 0.0)
        self._variants: dict[tuple[str, str, str], Variant] = {
            (service.name, stage.name, variant.name): variant
            for service in services.values()
            for stage in service.stages
            for variant in stage.variants
        }
        self._durations = durations
        self._items = items
        self._physics = physics
        self._dispatch_s = physics.dispatch_s
        self._stretches = _stretches(physics)
        self._costs = costs
        self._listeners = listeners
        self._replicas: dict[int, _Replica] = {}
        self._lenders = frozenset(node.name for node in nodes if node.fractional and node.lends)
        self._lent = LentCores(kernel)
        self.cold_start_s: float | None = None

    # Batches

    def run(self, command: RunBatch) -> None:
        """Run a batch on an idle replica; nothing if its end is on the way."""
        replica = self._replicas.get(command.replica_id)
        if replica is None:
            return
        assert replica.is_ready, command
        assert not replica.is_busy, command
        kernel, variant, rows = self._kernel, command.variant, command.rows
        started_s = kernel.now_s + self._dispatch_s
        stretch = 1.0
        if self._stretches:
            stretch = self._stretch(replica, started_s)
            self._busy_of_node[replica.node] += replica.cores
        if replica.variant != variant:
            replica.costs.switches += replica.variant is not None
            replica.variant = variant
        replica.is_busy = True
        if self._lenders and replica.node in self._lenders and _has_parts(replica.shares):
            self._run_on_parts(replica, command, stretch)
            return
        duration_s = replica.durations.draw_s(variant, rows, replica.cores) * stretch
        finished_s = started_s + duration_s
        completed = BatchCompleted(command.batch_id, replica.id, started_s, finished_s)
        if replica.items is not None:
            counts = replica.items.of(command)
            completed = BatchCompleted(command.batch_id, replica.id, started_s, finished_s, (), counts)
        kernel.schedule(finished_s + self._dispatch_s, _COMPLETION, self._on_completed, completed)

    def _run_on_parts(self, replica: _Replica, command: RunBatch, stretch: float) -> None:
        """Run a batch on cores that others have parts of, too: when it ends depends on them."""
        kernel, dispatch_s = self._kernel, self._dispatch_s
        started_s = kernel.now_s + dispatch_s
        counts = replica.items.of(command) if replica.items is not None else None

        def done() -> None:
            finished_s = kernel.now_s + dispatch_s
            completed = BatchCompleted(command.batch_id, replica.id, started_s, finished_s)
            if counts is not None:
                completed = BatchCompleted(command.batch_id, replica.id, started_s, finished_s, (), counts)
            kernel.schedule(finished_s + dispatch_s, _COMPLETION, self._on_completed, completed)

        self._lent.run(
            replica.id, replica.node, replica.shares, replica.durations, command.variant, command.rows,
            stretch=stretch, done=done,
        )  # fmt: skip

    def _on_completed(self, event: BatchCompleted) -> None:
        replica = self._replicas.get(event.replica_id)
        if replica is None:
            return
        replica.is_busy = False
        if self._stretches:
            self._busy_of_node[replica.node] -= replica.cores
        was_stopping = replica.is_stopping
        letting_go, replica.letting_go = replica.letting_go, None
        if letting_go is not None:
            self._pay(replica, letting_go.cores)
        replica.listener.on_batch(event)  # may stop the replica, which is idle now
        if letting_go is not None and not was_stopping:
            replica.listener.on_replica(letting_go)
        if was_stopping:
            self._end(replica, expected=True)

    def _stretch(self, replica: _Replica, started_s: float) -> float:
        """Service time over that of a machine of one's own."""
        physics = self._physics
        factor = 1.0
        for slow in physics.slow_downs:
            if slow.from_s <= started_s < slow.to_s:
                factor *= slow.factor
        others = self._cores_of_node[replica.node] - replica.cores
        if physics.corun_ratio != 1.0 and others > 0:
            share = min(1.0, self._busy_of_node[replica.node] / others)
            factor *= 1.0 + (physics.corun_ratio - 1.0) * share
        if physics.starting_ratio != 1.0 and any(
            not other.is_ready and other.shares_core_with(replica) for other in self._replicas.values()
        ):
            factor *= physics.starting_ratio
        return factor

    # Replicas

    def start(self, command: StartReplica) -> None:
        """Ready after the longest cold start of its variants; gone at once if it was given no cores."""
        durations = self._durations[command.service, command.stage]
        costs, listener = self._costs[command.service], self._listeners[command.service]
        replica = self._replicas[command.replica_id] = _Replica(
            command, durations, self._items.get((command.service, command.stage)), costs, listener
        )
        is_cold = self.cold_start_s is None
        replica.costs.start(replica.cores_paid, is_cold=is_cold)
        if not command.shares:
            self._end(replica, expected=False, reason="no cores")
            return
        ready_s = self._seconds(replica, "cold_start_s") if self.cold_start_s is None else self.cold_start_s
        ready = ReplicaReady(
            replica.id, replica.stage, replica.node, replica.cores, replica.variants, replica.service, ready_s
        )
        self._kernel.schedule(self._kernel.now_s + ready_s, Kind.REPLICA, self._on_ready, ready)

    def resize(self, command: ResizeReplica) -> None:
        """In force after the longest resize of its variants; nothing if its end is on the way."""
        replica = self._replicas.get(command.replica_id)
        if replica is None or replica.is_stopping:
            return
        cores = _cores(command.shares)
        self._pay(replica, max(cores, replica.cores_paid))
        at_s = self._kernel.now_s + self._seconds(replica, "resize_s")
        self._kernel.schedule(at_s, Kind.REPLICA, self._on_resized, (replica, command.shares))

    def stop(self, command: StopReplica) -> None:
        """A batch at hand is finished first; a start is cancelled."""
        replica = self._replicas.get(command.replica_id)
        if replica is None or replica.is_stopping:
            return
        replica.is_stopping = True
        if not replica.is_busy:
            self._end(replica, expected=True)

    def service_of(self, replica_id: int) -> str | None:
        """Whose replica it is; None if it is gone."""
        replica = self._replicas.get(replica_id)
        return replica.service if replica is not None else None

    def load(self, command: LoadVariant) -> None:
        """Resident after the variant's time to load, which is its cold start where nobody has said."""
        replica = self._replicas.get(command.replica_id)
        if replica is None:
            return
        variant = self._variants[replica.service, replica.stage, command.variant]
        load_s = variant.cold_start_s if variant.load_s is None else variant.load_s
        event = VariantLoaded(command.replica_id, command.variant)
        self._kernel.schedule(self._kernel.now_s + load_s, Kind.REPLICA, self._on_resident, event)

    def unload(self, command: UnloadVariant) -> None:
        """At once."""
        event = VariantUnloaded(command.replica_id, command.variant)
        self._kernel.schedule(self._kernel.now_s, Kind.REPLICA, self._on_resident, event)

    def lose(self, failure: Failure) -> None:
        """The oldest ready replicas of a stage die, with what they are doing."""
        ready = [
            replica
            for replica in self._replicas.values()
            if (replica.service, replica.stage) == (failure.service, failure.stage) and replica.is_ready
        ]
        for replica in ready[: failure.count]:
            self._end(replica, expected=False, reason="killed by SIGKILL")

    def _seconds(self, replica: _Replica, what: str) -> float:
        """The longest of its variants' times."""
        known = (self._variants[replica.service, replica.stage, name] for name in replica.variants)
        return max(float(getattr(variant, what)) for variant in known)

    def _pay(self, replica: _Replica, cores: float) -> None:
        replica.costs.change(cores - replica.cores_paid)
        replica.cores_paid = cores

    def _end(self, replica: _Replica, *, expected: bool, reason: str = "") -> None:
        del self._replicas[replica.id]
        self._lent.drop(replica.id)
        if replica.is_busy and self._stretches:
            self._busy_of_node[replica.node] -= replica.cores
        replica.costs.end(replica.cores_paid)
        gone = ReplicaGone(replica.id, expected, reason)
        self._kernel.schedule(self._kernel.now_s, Kind.REPLICA, replica.listener.on_replica, gone)

    def _on_ready(self, event: ReplicaReady) -> None:
        replica = self._replicas.get(event.replica_id)
        if replica is not None:
            replica.is_ready = True
            replica.listener.on_replica(event)

    def _on_resized(self, resized: tuple[_Replica, tuple[CoreShare, ...]]) -> None:
        replica, shares = resized
        if self._replicas.get(replica.id) is not replica:
            return
        before, replica.cores, replica.shares = replica.cores, _cores(shares), shares
        if replica.is_busy and self._stretches:
            self._busy_of_node[replica.node] += replica.cores - before
        if replica.cores != before:
            replica.costs.resized()
        event = ReplicaResized(replica.id, replica.cores)
        if replica.is_busy and replica.cores < before:
            replica.letting_go = event
            replica.listener.on_letting_go(event)
            return
        self._pay(replica, replica.cores)
        replica.listener.on_replica(event)

    def _on_resident(self, event: VariantLoaded | VariantUnloaded) -> None:
        replica = self._replicas.get(event.replica_id)
        if replica is not None:
            others = tuple(name for name in replica.variants if name != event.variant)
            replica.variants = (*others, event.variant) if isinstance(event, VariantLoaded) else others
            replica.listener.on_replica(event)


def _stretches(physics: Physics) -> bool:
    return bool(physics.slow_downs) or physics.corun_ratio != 1.0 or physics.starting_ratio != 1.0


def _has_parts(shares: Sequence[CoreShare]) -> bool:
    """Whether a replica has less than all of one of its cores."""
    return any(share.fraction < 1.0 for share in shares)


def _cores(shares: Sequence[CoreShare]) -> float:
    return sum((share.fraction for share in shares), 0.0)
