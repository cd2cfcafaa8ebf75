"""Drive replicas through a backend's events with `await`: start, run one batch, resize, stop.

The batches take the way they take in the server: requests' tensors in the front end's arena, a doorbell to a
worker process, outputs in the worker's arena. So what is measured is what a batch costs there, gathering and
storing included. Every wait has a limit.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import NamedTuple, TypeVar

from steelyard.backend.base import Backend, BackendEvent, Sink
from steelyard.core.commands import ReleaseOutputs, ResizeReplica, RunBatch, Slice, StartReplica, StopReplica
from steelyard.core.errors import ModelError, ProfileError
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ResizeRefused,
)
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import Request
from steelyard.runtime.base import VariantSpec, WidthRule
from steelyard.worker.arena import Arena
from steelyard.worker.messages import Feed
from steelyard.worker.tensors import own_feeds

SERVICE, STAGE = "profile", "profile"
WAIT_S_MAX = 120.0

StageKey = tuple[str, str]
VariantKey = tuple[str, str, str]
MakeBackend = Callable[
    [Mapping[StageKey, tuple[VariantSpec, ...]], Mapping[VariantKey, tuple[WidthRule, ...]], Arena, Sink],
    Backend,
]
_Event = TypeVar("_Event")


class Run(NamedTuple):
    """One batch: when it was sent, when the worker began and ended it; seconds of the monotonic clock."""

    sent_s: float
    started_s: float
    finished_s: float

    @property
    def service_s(self) -> float:
        """From the worker's start to its end."""
        return self.finished_s - self.started_s

    @property
    def dispatch_s(self) -> float:
        """From sending to the worker's start."""
        return self.started_s - self.sent_s


class Batch(NamedTuple):
    """A batch that can be run again and again: its requests, whose tensors stay in the arena.

    Attributes:
        rows: of each run.
        requests: one row each; those that are more than `rows` are taken in turn.
        ragged: their tensors that are one array a row.
    """

    rows: int
    requests: tuple[Request, ...]
    ragged: frozenset[str] = frozenset()

    def turn(self, number: int) -> tuple[Request, ...]:
        """The requests of the run of a number."""
        count = len(self.requests)
        if count <= self.rows:
            return self.requests
        start = number * self.rows % count
        return (self.requests * 2)[start : start + self.rows]

    def feeds(self, slices: Sequence[Slice], requests: Sequence[Request]) -> tuple[Feed, ...]:
        """The inputs of a run; a ragged tensor's elements are those of its row."""
        return tuple(
            feed._replace(counts=tuple(block.tensor.shape[0] for block in feed.blocks))
            if feed.name in self.ragged
            else feed
            for feed in own_feeds(slices, requests)
        )


class Station:
    """A backend with one stage, and what is waited for on it.

    Args:
        specs: the stage's variants.
        widths: width rules by variant name.
        arena: where batches lie.
        make_backend: makes the backend, on the running loop.
    """

    def __init__(
        self,
        specs: Sequence[VariantSpec],
        widths: Mapping[str, tuple[WidthRule, ...]],
        arena: Arena,
        make_backend: MakeBackend,
    ) -> None:
        rules = {(SERVICE, STAGE, variant): found for variant, found in widths.items()}
        self._numbers = count(1)
        self._ready: dict[int, asyncio.Future[ReplicaReady]] = {}
        self._gone: dict[int, asyncio.Future[ReplicaGone]] = {}
        self._resized: dict[int, asyncio.Future[ReplicaResized]] = {}
        self._batches: dict[int, tuple[int, asyncio.Future[BatchCompleted]]] = {}
        self._backend = make_backend({(SERVICE, STAGE): tuple(specs)}, rules, arena, self._take)
        self._node = self._backend.node().node

    async def start(self, variant_names: Sequence[str], core_ids: Sequence[int]) -> ReplicaReady:
        """Start a replica on whole cores, and wait until it is ready.

        Raises:
            ModelError: it did not become ready; with the worker's reason.
        """
        return await self.begin_start(variant_names, core_ids)

    def begin_start(
        self, variant_names: Sequence[str], core_ids: Sequence[int]
    ) -> "asyncio.Future[ReplicaReady]":
        """Start a replica; the future is its readiness, or the `ModelError` that prevents it."""
        replica_id = next(self._numbers)
        loop = asyncio.get_running_loop()
        ready = self._ready[replica_id] = loop.create_future()
        self._gone[replica_id] = loop.create_future()
        shares = _whole(core_ids)
        self._backend.start(
            StartReplica(
                replica_id, SERVICE, STAGE, self._node, shares, tuple(variant_names), time.monotonic()
            )
        )
        return ready

    async def run(self, replica_id: int, variant: str, batch: Batch) -> Run:
        """Run a batch and wait for its end; its outputs are released at once.

        Raises:
            ModelError: the model failed, or its worker ended.
            ProfileError: no answer within two minutes.
        """
        batch_id = next(self._numbers)
        done: asyncio.Future[BatchCompleted] = asyncio.get_running_loop().create_future()
        self._batches[batch_id] = (replica_id, done)
        requests = batch.turn(batch_id)
        slices = tuple(Slice(request.id, 0, request.rows) for request in requests)
        feeds = batch.feeds(slices, requests) if batch.ragged else None
        command = RunBatch(batch_id, replica_id, STAGE, variant, batch.rows, slices, 0.0)
        sent_s = time.monotonic()
        self._backend.run(command, requests, feeds)
        completed = await _within(done, f"a batch of {batch.rows} rows of variant {variant}")
        self._backend.release(ReleaseOutputs(replica_id, batch_id))
        return Run(sent_s, completed.started_s, completed.finished_s)

    async def resize(self, replica_id: int, core_ids: Sequence[int]) -> float:
        """Give a replica other whole cores; seconds that the call took.

        Raises:
            ProfileError: the backend refused.
        """
        resized: asyncio.Future[ReplicaResized] = asyncio.get_running_loop().create_future()
        self._resized[replica_id] = resized
        self._backend.resize(ResizeReplica(replica_id, _whole(core_ids)))
        return (await _within(resized, "a resize")).call_s

    async def stop(self, replica_id: int) -> None:
        """End a replica, and wait until it has ended."""
        self._backend.stop(StopReplica(replica_id))
        await _within(self._gone[replica_id], "the end of a replica")

    async def close(self) -> None:
        """End everything; starts that nobody waits for any more are given up silently."""
        for ready in self._ready.values():
            ready.cancel()
        await self._backend.close()

    def _take(self, event: BackendEvent) -> None:
        match event:
            case BatchCompleted(batch_id=batch_id):
                _, done = self._batches.pop(batch_id)
                _set(done, event)
            case BatchFailed(batch_id=batch_id, message=message):
                _, done = self._batches.pop(batch_id)
                _fail(done, ModelError(message))
            case ReplicaReady(replica_id=replica_id):
                _set(self._ready[replica_id], event)
            case ReplicaResized(replica_id=replica_id):
                _set(self._resized[replica_id], event)
            case ResizeRefused(replica_id=replica_id, reason=reason):
                _fail(self._resized[replica_id], ProfileError(f"resize refused: {reason}"))
            case ReplicaGone():
                self._lost(event)

    def _lost(self, event: ReplicaGone) -> None:
        lost = ModelError(event.reason or "the replica was stopped")
        _fail(self._ready[event.replica_id], lost)
        for batch_id, (replica_id, done) in tuple(self._batches.items()):
            if replica_id == event.replica_id:
                del self._batches[batch_id]
                _fail(done, lost)
        _set(self._gone[event.replica_id], event)


async def _within(future: "asyncio.Future[_Event]", what: str) -> _Event:
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            return await future
    except TimeoutError:
        raise ProfileError(f"{what} took longer than {WAIT_S_MAX:g} s") from None


def _whole(core_ids: Sequence[int]) -> tuple[CoreShare, ...]:
    return tuple(CoreShare(core_id, 1.0) for core_id in core_ids)


def _set(future: "asyncio.Future[_Event]", event: _Event) -> None:
    if not future.done():
        future.set_result(event)


def _fail(future: "asyncio.Future[_Event]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
