"""The live driver of one pipeline on a backend of choice: asked with arrays, answering with arrays.

For tests of what happens between stages. Everything is what the server runs (machine, driver, wiring, the
edge's reading of outputs), but for the HTTP around it and for control: replicas are started by the test.
"""

import asyncio
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from steelyard.backend.base import Backend, BackendEvent, Sink
from steelyard.core.commands import Complete, StartReplica
from steelyard.core.events import BatchCompleted, BatchFailed, ReplicaGone, ReplicaReady, ServiceDraining
from steelyard.core.service import ServiceMachine
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import Request, RequestId, Tensor
from steelyard.runtime.base import Array, Signature
from steelyard.runtime.dtypes import numpy_dtype, oip_dtype
from steelyard.serve.base import End, ServedService
from steelyard.serve.edge.codec import Route
from steelyard.serve.edge.outputs import request_output
from steelyard.serve.service_driver import MachinePump, ServiceDriver
from steelyard.serve.wiring import takers, wirings
from steelyard.testing.builders import TableTimes, times_by_stage
from steelyard.worker.arena import Arena
from steelyard.worker.messages import Taker

Takers = Mapping[tuple[str, str], tuple[Taker, ...]]
MakeBackend = Callable[[Arena, Sink, asyncio.AbstractEventLoop, Takers], Backend]
EVENT_S_MAX = 60.0


class Answered(NamedTuple):
    """How a request ended, and if it was completed, its outputs by name."""

    end: End
    outputs: dict[str, Array]


class PipelineRig:
    """One service on one backend; everything is made on the running loop.

    Args:
        served: the service, what clients send and get.
        make: makes the backend.
        gives: what stages are known to give, by name.
        batch_s: what a batch of any size is believed to take.
    """

    def __init__(
        self,
        served: ServedService,
        make: MakeBackend,
        *,
        gives: Mapping[str, Signature] | None = None,
        batch_s: float = 0.001,
    ) -> None:
        service = self.service = served.service
        self.loop = asyncio.get_running_loop()
        self.arena = Arena("front-0", 16 << 20)
        found = {(service.name, stage): listed for stage, listed in takers(service).items()}
        self.backend = make(self.arena, self._take, self.loop, found)
        self.machine = ServiceMachine(service, times_by_stage(service, TableTimes({1: batch_s})))
        self.events: list[BackendEvent] = []
        self.drained = asyncio.Event()
        self._route = Route(served)
        self._arrived = asyncio.Event()
        self._sequence = count(1)
        self._driver = ServiceDriver(
            MachinePump(
                service.name,
                self.machine,
                clock=self.loop.time,
                call_at=self.loop.call_at,
                record=lambda *_: self.machine.validate(),
            ),
            self.backend,
            free=self._free,
            report=lambda _: None,
            on_end=lambda *_: None,
            on_drained=self.drained.set,
            wirings=wirings(service, served.signature, gives or {}),
        )

    def start(self, replica_id: int, stage: str, variants: tuple[str, ...] = ()) -> None:
        """Ask for a replica on one core."""
        core_ids = self.backend.node().core_ids
        known = next(found for found in self.service.stages if found.name == stage)
        variants = variants or tuple(variant.name for variant in known.variants)
        shares = (CoreShare(core_ids[replica_id % len(core_ids)], 1.0),)
        self.backend.start(StartReplica(replica_id, self.service.name, stage, "local", shares, variants, 0.0))

    async def ready(self, replica_id: int, stage: str) -> None:
        """Start a replica and wait for it."""
        self.start(replica_id, stage)
        await self.event(ReplicaReady, replica_id=replica_id)

    async def event(self, kind: type[Any], **fields: object) -> Any:
        """Wait for an event of the backend, which may have come already."""
        async with asyncio.timeout(EVENT_S_MAX):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items()):
                        return event
                self._arrived.clear()
                await self._arrived.wait()

    async def ask(
        self, inputs: Mapping[str, Array], *, rows: int | None = None, slo_s: float = 10.0
    ) -> Answered:
        """Send one request and wait for its end."""
        now_s = self.loop.time()
        tensors = tuple(self._store(name, array) for name, array in inputs.items())
        rows = len(next(iter(inputs.values()))) if rows is None else rows
        key = ",".join(f"{tensor.dtype}{tensor.shape[1:]}" for tensor in tensors)
        request = Request(
            RequestId(0, next(self._sequence)), self.service.name, rows, key, now_s, now_s + slo_s,
            tensors=tensors,
        )  # fmt: skip
        ended: asyncio.Future[Answered] = self.loop.create_future()
        self._driver.submit(request, lambda end: ended.set_result(Answered(end, self._read(end))))
        async with asyncio.timeout(slo_s + EVENT_S_MAX):
            return await ended

    async def drain(self) -> None:
        """Answer what is open, and see that nothing is held any more.

        Raises:
            AssertionError: something is.
        """
        self._driver.handle(ServiceDraining())
        async with asyncio.timeout(EVENT_S_MAX):
            await self.drained.wait()
            while self.arena.bytes_used and any(stage.batches for stage in self.machine.stages.values()):
                self._arrived.clear()
                await self._arrived.wait()  # a batch still reads a request that has ended
        pools = [stage.pool for stage in self.machine.stages.values()]
        kept = [replica.id for pool in pools for replica in pool if replica.kept]
        assert not kept, f"outputs are kept by replicas {kept}"
        assert not self.arena.bytes_used, f"{self.arena.bytes_used} bytes of requests are held"

    async def close(self) -> None:
        """End the backend."""
        await self.backend.close()
        self.arena.close()

    def _take(self, event: BackendEvent) -> None:
        self.events.append(event)
        self._arrived.set()
        if isinstance(event, BatchCompleted | BatchFailed | ReplicaReady | ReplicaGone):
            self._driver.handle(event)

    def _store(self, name: str, array: Array) -> Tensor:
        ref = self.arena.alloc(array.nbytes)
        assert ref is not None
        self.arena.view(ref)[:] = np.ascontiguousarray(array).tobytes()
        return Tensor(name, oip_dtype(array.dtype), array.shape, ref)

    def _free(self, request: Request) -> None:
        for tensor in request.tensors:
            self.arena.free(tensor.ref)

    def _read(self, end: End) -> dict[str, Array]:
        if not isinstance(end, Complete):
            return {}
        outputs = {}
        for name, spec in self._route.outputs.items():
            shape, pieces = request_output(self._route, spec, end, self.backend.read)
            outputs[name] = np.frombuffer(b"".join(pieces), numpy_dtype(spec.dtype)).reshape(shape)
        return outputs
