"""What every backend must do: subclass `BackendContract` in a test module and say how to make yours.

    class TestMyBackend(BackendContract):
        def make(self, arena, sink, loop): return MyBackend(...)

The backend must serve service `svc`, stage `st`, with variants `double` (y = 2 x; any NaN in x fails the
batch) and `triple` (y = 3 x), for input `x` and output `y`, FP32 of shape [-1, 2], and offer a core at least.
"""

# ruff: noqa: D102  a case's name says what must hold

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from steelyard.backend.base import Backend, BackendEvent, Sink
from steelyard.core.commands import (
    LoadVariant,
    ReleaseOutputs,
    ResizeReplica,
    RunBatch,
    Slice,
    StartReplica,
    StopReplica,
    UnloadVariant,
)
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ResizeRefused,
    VariantLoaded,
    VariantUnloaded,
)
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import Request, RequestId, Tensor
from steelyard.runtime.base import Array
from steelyard.worker.arena import Arena, StaleRefError
from steelyard.worker.messages import Block, Feed

E = TypeVar("E")
EVENT_S_MAX = 60.0


class Rig:
    """A backend under test with its front end: an arena for requests, and every event it has sent.

    Args:
        make: (arena, sink, loop) -> backend.
    """

    def __init__(self, make: Callable[[Arena, Sink, asyncio.AbstractEventLoop], Backend]) -> None:
        self.arena = Arena("front-0", 16 << 20)
        self.events: list[BackendEvent] = []
        self._arrived = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.backend = make(self.arena, self._take, self.loop)
        self.core_id = self.backend.node().core_ids[0]

    def _take(self, event: BackendEvent) -> None:
        self.events.append(event)
        self._arrived.set()

    async def event(self, kind: type[E], **fields: object) -> E:
        """Wait for the first event of a type with these fields; it is taken off the list."""
        async with asyncio.timeout(EVENT_S_MAX):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items()):
                        self.events.remove(event)
                        return event
                self._arrived.clear()
                await self._arrived.wait()

    def start(self, replica_id: int, variants: tuple[str, ...] = ("double",), stage: str = "st") -> None:
        """Ask for a replica on the first core."""
        shares = (CoreShare(self.core_id, 1.0),)
        self.backend.start(StartReplica(replica_id, "svc", stage, "local", shares, variants, 0.0))

    async def ready(self, replica_id: int) -> ReplicaReady:
        """Start a replica and wait for it."""
        self.start(replica_id)
        return await self.event(ReplicaReady, replica_id=replica_id)

    def request(self, sequence: int, x: Array) -> Request:
        """A request with its tensor in the front end's arena."""
        ref = self.arena.alloc(x.nbytes)
        assert ref is not None
        self.arena.view(ref)[:] = np.ascontiguousarray(x).tobytes()
        tensor = Tensor("x", "FP32", tuple(x.shape), ref)
        return Request(RequestId(0, sequence), "svc", len(x), "x", 0.0, 1e9, tensors=(tensor,))

    def run(
        self,
        batch_id: int,
        replica_id: int,
        requests: list[Request],
        *,
        slices: tuple[Slice, ...] | None = None,
        variant: str = "double",
        feeds: tuple[Feed, ...] | None = None,
        row_count: int | None = None,
    ) -> None:
        """Send a batch of whole requests, of the given parts of them, or of what the feeds say."""
        slices = slices or tuple(Slice(request.id, 0, request.rows) for request in requests)
        rows = sum(part.rows for part in slices) if row_count is None else row_count
        command = RunBatch(batch_id, replica_id, "st", variant, rows, slices, 0.01)
        self.backend.run(command, requests, feeds)

    def output(self, done: BatchCompleted) -> Array:
        """Output `y` of a batch, copied."""
        (tensor,) = done.outputs
        assert (tensor.name, tensor.dtype) == ("y", "FP32")
        return np.frombuffer(self.backend.read(tensor.ref), np.float32).reshape(tensor.shape).copy()

    async def answer(self, batch_id: int, replica_id: int, x: Array, variant: str = "double") -> Array:
        """Run one request as one batch and return its output."""
        self.run(batch_id, replica_id, [self.request(batch_id, x)], variant=variant)
        return self.output(await self.event(BatchCompleted, batch_id=batch_id))

    async def close(self) -> None:
        """End the backend."""
        await self.backend.close()
        self.arena.close()


def rows(*values: float) -> Array:
    """Rows [v, v + 0.5] for each value."""
    return np.array([[value, value + 0.5] for value in values], np.float32)


class BackendContract(ABC):
    """The suite. Override `make`; `loop_factory` for another loop."""

    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None

    @abstractmethod
    def make(self, arena: Arena, sink: Sink, loop: asyncio.AbstractEventLoop) -> Backend:
        """The backend under test."""

    def run(self, scenario: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
        """Run one scenario on a fresh backend, and end the backend whatever happens."""

        async def main() -> None:
            rig = Rig(self.make)
            try:
                await scenario(rig)
            finally:
                await rig.close()

        with asyncio.Runner(loop_factory=type(self).loop_factory) as runner:
            runner.run(main())

    def test_it_offers_cores_and_says_how_it_enforces_them(self) -> None:
        async def scenario(rig: Rig) -> None:
            node = rig.backend.node()
            assert node.core_ids
            assert len(set(node.core_ids)) == len(node.core_ids)
            assert rig.backend.mechanism

        self.run(scenario)

    def test_a_start_ends_in_ready_with_what_was_asked_for(self) -> None:
        async def scenario(rig: Rig) -> None:
            ready = await rig.ready(7)
            asked = (ready.replica_id, ready.service, ready.stage, ready.node, ready.variants, ready.cores)
            assert asked == (7, "svc", "st", "local", ("double",), 1.0)
            assert ready.cold_start_s > 0

        self.run(scenario)

    def test_nothing_is_emitted_within_a_call(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            shares = (CoreShare(rig.core_id, 1.0),)
            rig.backend.resize(ResizeReplica(1, shares))
            rig.backend.resize(ResizeReplica(99, shares))
            rig.start(2)
            rig.run(1, 1, [rig.request(1, rows(1))])
            rig.backend.stop(StopReplica(2))
            assert rig.events == []

        self.run(scenario)

    def test_replicas_start_in_parallel(self) -> None:
        async def scenario(rig: Rig) -> None:
            for replica_id in (1, 2, 3):
                rig.start(replica_id)
            for replica_id in (1, 2, 3):
                await rig.event(ReplicaReady, replica_id=replica_id)
            assert rig.events == []  # each once

        self.run(scenario)

    def test_a_batch_answers_its_rows_in_the_order_of_its_slices(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            one, many = rig.request(1, rows(1)), rig.request(2, rows(10, 20, 30, 40))
            slices = (Slice(many.id, 2, 2), Slice(one.id, 0, 1), Slice(many.id, 0, 1))
            rig.run(5, 1, [many, one, many], slices=slices)
            done = await rig.event(BatchCompleted, batch_id=5)
            assert done.replica_id == 1
            assert done.started_s <= done.finished_s
            # rows 2 and 3 of `many`, then `one`, then row 0 of `many`; doubled
            assert np.array_equal(rig.output(done), 2 * rows(30, 40, 1, 10))

        self.run(scenario)

    def test_a_part_of_one_request_is_only_that_part(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            many = rig.request(2, rows(10, 20, 30))
            rig.run(5, 1, [many], slices=(Slice(many.id, 1, 2),))
            done = await rig.event(BatchCompleted, batch_id=5)
            assert np.array_equal(rig.output(done), 2 * rows(20, 30))

        self.run(scenario)

    def test_a_failing_batch_leaves_the_replica_alive(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            rig.run(1, 1, [rig.request(1, rows(float("nan")))])
            failed = await rig.event(BatchFailed, batch_id=1)
            assert failed.replica_id == 1
            assert failed.message
            assert "\n" not in failed.message
            assert np.array_equal(await rig.answer(2, 1, rows(4)), 2 * rows(4))

        self.run(scenario)

    def test_a_batch_reads_what_another_replica_made(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            await rig.ready(2)
            rig.run(1, 1, [rig.request(1, rows(1, 2, 3))])
            first = await rig.event(BatchCompleted, batch_id=1)
            second, third = rig.request(2, rows(4)), rig.request(3, rows(5))
            made, sent = first.outputs[0], second.tensors[0]
            feed = Feed("x", (Block(made, 1, 2, (1, 2)), Block(sent, 0, 1)))
            rig.run(2, 2, [second, third], feeds=(feed,), row_count=4)
            done = await rig.event(BatchCompleted, batch_id=2)
            # row 1 once and row 2 twice of what was doubled already, then the request's own row
            assert np.array_equal(rig.output(done), 2 * np.concatenate([2 * rows(2, 3, 3), rows(4)]))

        self.run(scenario)

    def test_what_was_released_is_refused_to_a_later_batch(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            await rig.ready(2)
            rig.run(1, 1, [rig.request(1, rows(1))])
            first = await rig.event(BatchCompleted, batch_id=1)
            rig.backend.release(ReleaseOutputs(1, 1))
            await rig.answer(2, 1, rows(2))  # the release was carried out before
            feed = Feed("x", (Block(first.outputs[0], 0, 1),))
            rig.run(3, 2, [rig.request(3, rows(3))], feeds=(feed,))
            failed = await rig.event(BatchFailed, batch_id=3)
            assert "\n" not in failed.message
            assert np.array_equal(await rig.answer(4, 2, rows(4)), 2 * rows(4))

        self.run(scenario)

    def test_outputs_stay_until_released(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            rig.run(1, 1, [rig.request(1, rows(1))])
            first = await rig.event(BatchCompleted, batch_id=1)
            await rig.answer(2, 1, rows(2))
            assert np.array_equal(rig.output(first), 2 * rows(1))
            rig.backend.release(ReleaseOutputs(1, 1))
            await rig.answer(3, 1, rows(3))  # orders are kept: the release was carried out before
            with pytest.raises(StaleRefError):
                rig.backend.read(first.outputs[0].ref)

        self.run(scenario)

    def test_cores_change_in_place_and_parking_is_no_cores(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            everything = tuple(CoreShare(core_id, 1.0) for core_id in rig.backend.node().core_ids)
            for shares in (everything, everything[:1], (), everything):
                rig.backend.resize(ResizeReplica(1, shares))
                resized = await rig.event(ReplicaResized, replica_id=1)
                assert resized.cores == len(shares)
            assert np.array_equal(await rig.answer(1, 1, rows(1)), 2 * rows(1))

        self.run(scenario)

    def test_a_replica_parked_while_it_runs_finishes_its_batch_and_comes_back(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            rig.run(1, 1, [rig.request(1, rows(1, 2, 3))])
            rig.backend.resize(ResizeReplica(1, ()))
            assert (await rig.event(ReplicaResized, replica_id=1)).cores == 0.0
            done = await rig.event(BatchCompleted, batch_id=1)
            assert np.array_equal(rig.output(done), 2 * rows(1, 2, 3))
            rig.backend.resize(ResizeReplica(1, (CoreShare(rig.core_id, 1.0),)))
            assert (await rig.event(ReplicaResized, replica_id=1)).cores == 1.0
            assert np.array_equal(await rig.answer(2, 1, rows(4)), 2 * rows(4))

        self.run(scenario)

    def test_a_resize_of_a_starting_replica_counts_when_it_is_ready(self) -> None:
        async def scenario(rig: Rig) -> None:
            everything = tuple(CoreShare(core_id, 1.0) for core_id in rig.backend.node().core_ids)
            rig.start(1)
            rig.backend.resize(ResizeReplica(1, everything))
            assert (await rig.event(ReplicaReady, replica_id=1)).cores == 1.0
            if len(everything) > 1:
                assert (await rig.event(ReplicaResized, replica_id=1)).cores == len(everything)

        self.run(scenario)

    def test_resizing_what_is_not_there_is_refused(self) -> None:
        async def scenario(rig: Rig) -> None:
            rig.backend.resize(ResizeReplica(99, (CoreShare(rig.core_id, 1.0),)))
            refused = await rig.event(ResizeRefused, replica_id=99)
            assert refused.shares == ()
            assert refused.reason

        self.run(scenario)

    def test_a_ready_replica_stops_as_expected_once(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            rig.backend.stop(StopReplica(1))
            rig.backend.stop(StopReplica(1))
            assert (await rig.event(ReplicaGone, replica_id=1)).expected
            rig.backend.stop(StopReplica(1))
            rig.backend.stop(StopReplica(99))
            await rig.ready(2)
            assert rig.events == []

        self.run(scenario)

    def test_a_batch_at_hand_is_finished_before_a_stop(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            rig.run(1, 1, [rig.request(1, rows(1))])
            rig.backend.stop(StopReplica(1))
            assert (await rig.event(ReplicaGone, replica_id=1)).expected
            await rig.event(BatchCompleted, batch_id=1)

        self.run(scenario)

    def test_a_start_can_be_cancelled(self) -> None:
        async def scenario(rig: Rig) -> None:
            rig.start(1)
            rig.backend.stop(StopReplica(1))
            assert (await rig.event(ReplicaGone, replica_id=1)).expected
            await rig.ready(2)
            assert rig.events == []  # it did not become ready after all

        self.run(scenario)

    def test_a_variant_is_loaded_used_and_dropped(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            rig.backend.load(LoadVariant(1, "triple"))
            await rig.event(VariantLoaded, replica_id=1, variant="triple")
            assert np.array_equal(await rig.answer(1, 1, rows(5), "triple"), 3 * rows(5))
            assert np.array_equal(await rig.answer(2, 1, rows(5)), 2 * rows(5))
            rig.backend.unload(UnloadVariant(1, "triple"))
            await rig.event(VariantUnloaded, replica_id=1, variant="triple")

        self.run(scenario)

    def test_closing_ends_every_replica_and_may_be_repeated(self) -> None:
        async def scenario(rig: Rig) -> None:
            await rig.ready(1)
            rig.start(2)
            await rig.backend.close()
            assert (await rig.event(ReplicaGone, replica_id=1)).expected
            assert (await rig.event(ReplicaGone, replica_id=2)).expected
            await rig.backend.close()

        self.run(scenario)
