"""A backend without processes: replicas and batches take the seconds they are told to, on any loop's clock.

For tests on virtual time and for parity between drivers. It keeps the contract of `base.Backend` to the
letter (the shared suite holds it to that), but nothing is enforced: cores only go into the service time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

from steelyard.backend.base import BackendEvent, Sink
from steelyard.core.commands import (
    LoadVariant,
    ReleaseOutputs,
    ResizeReplica,
    RunBatch,
    StartReplica,
    StopReplica,
    UnloadVariant,
)
from steelyard.core.errors import InputError, SteelyardError
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    NodeJoined,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ResizeRefused,
    VariantLoaded,
    VariantUnloaded,
)
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import Request, Tensor, TensorRef
from steelyard.runtime.base import Signature, Value
from steelyard.worker import items, tensors
from steelyard.worker.arena import Arena, StaleRefError
from steelyard.worker.messages import Feed, Taker

ServiceTime = Callable[[RunBatch, float], float]
"""(batch, cores) -> seconds."""
Compute = Callable[[RunBatch, Mapping[str, Value]], Mapping[str, Value]]
"""(batch, inputs) -> outputs; a `SteelyardError` fails the batch."""

CountItems = Callable[[RunBatch], dict[str, tuple[int, ...]]]
"""Items of each row of a batch, by the stage that takes them."""

_SIGNATURE = Signature((), (), batchable=True)


class _Replica:
    """What is known of one replica; `timers` are what it still has coming."""

    def __init__(self, command: StartReplica) -> None:
        self.command = command
        self.shares = command.shares
        self.is_ready = False
        self.is_stopping = False
        self.batch: int | None = None
        self.timers: set[asyncio.TimerHandle] = set()
        self.outputs: dict[int, tuple[Tensor, ...]] = {}


class MemoryBackend:
    """See `steelyard.backend.base.Backend`.

    Args:
        core_ids: cores this node offers.
        sink: takes the events, on the loop.
        service_time_s: how long a batch takes.
        cold_start_s: seconds from `start` to ready; also what `load` takes.
        compute: what a batch answers, from the inputs in `arena`; None answers without outputs.
        arena: the front end's, needed by `compute`.
        takers: the stages that take items of a stage, by (service, stage), of services with several.
        counts: what batches without outputs count, by (service, stage), for stages that make items.
        loop: its clock is the backend's.
    """

    mechanism = "none: replicas in memory"

    @property
    def bytes_used(self) -> int:
        """Bytes of the outputs that are kept."""
        return 0 if self._arena is None else self._arena.bytes_used

    def __init__(
        self,
        core_ids: Sequence[int],
        sink: Sink,
        *,
        loop: asyncio.AbstractEventLoop,
        service_time_s: ServiceTime,
        cold_start_s: float = 0.1,
        compute: Compute | None = None,
        arena: Arena | None = None,
        takers: Mapping[tuple[str, str], tuple[Taker, ...]] | None = None,
        counts: Mapping[tuple[str, str], CountItems] | None = None,
    ) -> None:
        self._core_ids = tuple(core_ids)
        self._sink = sink
        self._loop = loop
        self._service_time_s = service_time_s
        self._cold_start_s = cold_start_s
        self._compute = compute
        self._front = arena
        self._arena = Arena("memory", 64 << 20) if compute else None
        self._takers = takers or {}
        self._counts = counts or {}
        self._replicas: dict[int, _Replica] = {}

    def node(self) -> NodeJoined:
        """A node that takes fractions of a core for granted."""
        return NodeJoined("local", self._core_ids, fractional=True)

    def start(self, command: StartReplica) -> None:
        """Ready after `cold_start_s`."""
        assert command.replica_id not in self._replicas, command
        if not command.shares:
            self._soon(ReplicaGone(command.replica_id, expected=False, reason="no cores"))
            return
        replica = self._replicas[command.replica_id] = _Replica(command)
        self._later(replica, self._cold_start_s, self._ready, replica)

    def resize(self, command: ResizeReplica) -> None:
        """At once; one that starts is resized when it is ready."""
        replica = self._replicas.get(command.replica_id)
        if replica is None or replica.is_stopping:
            self._soon(ResizeRefused(command.replica_id, (), "no such replica"))
            return
        replica.shares = command.shares
        if replica.is_ready:
            self._soon(ReplicaResized(command.replica_id, _cores(command.shares)))

    def stop(self, command: StopReplica) -> None:
        """A batch at hand is finished first; a start is cancelled."""
        replica = self._replicas.get(command.replica_id)
        if replica is None or replica.is_stopping:
            return
        replica.is_stopping = True
        if replica.batch is None:
            self._end(command.replica_id, expected=True, reason="")

    def load(self, command: LoadVariant) -> None:
        """Resident after `cold_start_s`."""
        replica = self._replicas.get(command.replica_id)
        if replica is not None:
            event = VariantLoaded(command.replica_id, command.variant)
            self._later(replica, self._cold_start_s, self._sink, event)

    def unload(self, command: UnloadVariant) -> None:
        """At once."""
        if command.replica_id in self._replicas:
            self._soon(VariantUnloaded(command.replica_id, command.variant))

    def run(
        self, command: RunBatch, requests: Sequence[Request], feeds: Sequence[Feed] | None = None
    ) -> None:
        """Done after `service_time_s` on the present cores; a resize counts from the next batch on."""
        replica = self._replicas.get(command.replica_id)
        if replica is None:
            return  # its ReplicaGone is on the way
        assert replica.is_ready, command
        assert replica.batch is None, command
        replica.batch = command.batch_id
        duration_s = self._service_time_s(command, _cores(replica.shares))
        started_s = self._loop.time()
        if feeds is None:
            feeds = tensors.own_feeds(command.slices, requests) if self._compute else ()
        inputs = self._inputs(feeds)
        self._later(replica, duration_s, self._finish, replica, command, inputs, started_s)

    def release(self, command: ReleaseOutputs) -> None:
        """Free the outputs."""
        replica = self._replicas.get(command.replica_id)
        if replica is not None and self._arena is not None:
            tensors.free(replica.outputs.pop(command.batch_id, ()), self._arena)

    def read(self, ref: TensorRef) -> memoryview:
        """The bytes of an output; only with `compute`.

        Raises:
            StaleRefError: they were released, or their replica has ended.
        """
        assert self._arena is not None, "this backend computes nothing"
        return self._arena.view(ref)

    async def close(self) -> None:
        """End every replica; a batch at hand is lost."""
        for replica_id in tuple(self._replicas):
            self._end(replica_id, expected=True, reason="")
        await asyncio.sleep(0)  # the ends are delivered
        if self._arena is not None:
            self._arena.close()

    def lose(self, replica_id: int) -> None:
        """What SIGKILL does to a worker: it is gone with its batch and its outputs."""
        self._end(replica_id, expected=False, reason="killed by SIGKILL")

    def _ready(self, replica: _Replica) -> None:
        replica.is_ready = True
        asked = replica.command
        self._sink(
            ReplicaReady(
                asked.replica_id,
                asked.stage,
                asked.node,
                _cores(asked.shares),
                asked.variants,
                asked.service,
                self._cold_start_s,
            )
        )
        if replica.shares != asked.shares:
            self._sink(ReplicaResized(asked.replica_id, _cores(replica.shares)))

    def _inputs(self, feeds: Sequence[Feed]) -> Mapping[str, Value] | Exception:
        """Copies: a worker that reads another's outputs keeps them mapped when that one is lost."""
        if self._arena is None or self._front is None:
            return {}
        arenas = {arena.name: arena for arena in (self._arena, self._front)}
        try:
            inputs = tensors.Gatherer().gather(feeds, lambda ref: arenas[ref.arena].view(ref))
        except (SteelyardError, StaleRefError) as error:
            return error
        return {name: deepcopy(value) for name, value in inputs.items()}

    def _finish(
        self, replica: _Replica, command: RunBatch, inputs: Mapping[str, Value] | Exception, started_s: float
    ) -> None:
        replica.batch = None
        event: BackendEvent
        try:
            if isinstance(inputs, Exception):
                raise inputs
            outputs, items = self._answer(replica, command, inputs)
            replica.outputs[command.batch_id] = outputs
            event = BatchCompleted(
                command.batch_id, command.replica_id, started_s, self._loop.time(), outputs, items
            )
        except (SteelyardError, StaleRefError) as error:
            event = BatchFailed(
                command.batch_id, command.replica_id, str(error), isinstance(error, InputError)
            )
        self._sink(event)
        if replica.is_stopping:
            self._end(command.replica_id, expected=True, reason="")

    def _answer(
        self, replica: _Replica, command: RunBatch, inputs: Mapping[str, Value]
    ) -> tuple[tuple[Tensor, ...], dict[str, tuple[int, ...]]]:
        place = (replica.command.service, command.stage)
        if self._compute is None or self._arena is None:
            count = self._counts.get(place)
            return (), {} if count is None else count(command)
        takers = self._takers.get(place)
        made = items.settle(self._compute(command, inputs), command.rows, _SIGNATURE, takers)
        return tensors.store(made.outputs, _SIGNATURE, self._arena), made.items

    def _end(self, replica_id: int, *, expected: bool, reason: str) -> None:
        replica = self._replicas.pop(replica_id, None)
        if replica is None:
            return
        for timer in replica.timers:
            timer.cancel()
        self._loop.call_soon(self._gone, replica, ReplicaGone(replica_id, expected, reason))

    def _gone(self, replica: _Replica, event: ReplicaGone) -> None:
        """What a replica held can be read until this is said."""
        for outputs in replica.outputs.values():
            if self._arena is not None:
                tensors.free(outputs, self._arena)
        self._sink(event)

    def _later(self, replica: _Replica, delay_s: float, callback: Callable[..., None], *args: object) -> None:
        def fire() -> None:
            replica.timers.discard(timer)
            callback(*args)

        timer = self._loop.call_later(delay_s, fire)
        replica.timers.add(timer)

    def _soon(self, event: BackendEvent) -> None:
        self._loop.call_soon(self._sink, event)


def _cores(shares: Sequence[CoreShare]) -> float:
    return sum(share.fraction for share in shares)
