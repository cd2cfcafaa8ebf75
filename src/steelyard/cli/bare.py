"""One service with one variant a stage, run as the server runs it but without edges and control.

Batches, wires and items go the way they go in the server: the same machine, driver, backend and worker
processes. What is left out decides when and where, not what is answered: one replica a stage, all of them on
the same cores, deadlines an hour away.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TypeVar

import numpy as np
from msgspec.structs import replace

from steelyard.backend.base import BackendEvent
from steelyard.backend.local import NODE, LocalBackend
from steelyard.core.commands import Complete, Fail, StartReplica
from steelyard.core.errors import ModelError
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    ReplicaGone,
    ReplicaReady,
    ReplicaStarted,
)
from steelyard.core.service import ServiceMachine
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import Request, RequestId, Service, Tensor, TensorRef
from steelyard.profile.times import DeclaredTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.runtime.base import Array, Signature
from steelyard.serve.base import DeployedService, End
from steelyard.serve.edge.codec import Route
from steelyard.serve.edge.outputs import given_outputs, joined, request_output
from steelyard.serve.service_driver import MachinePump, ServiceDriver
from steelyard.serve.wiring import takers, wirings
from steelyard.worker.arena import Arena
from steelyard.worker.tensors import as_array, free, store

ARENA_BYTES = 1 << 30
"""Sparse: only what is written takes memory."""
DEADLINE_S = 3600.0
READY_S_MAX = 120.0
IN_FLIGHT_MAX = 32
"""Requests that wait at a time: enough for full batches."""
_T = TypeVar("_T")
_FAST = DeclaredLatency(coefficients_ms=(1.0, 0.0, 0.0, 0.0))


class BareService:
    """Answers requests with chosen variants; made on a running loop.

    Args:
        deployed: the service.
        chosen: the variant of each stage.
        core_ids: cores for all of it.
        make_backend: as `LocalBackend`.
    """

    def __init__(
        self,
        deployed: DeployedService,
        chosen: Mapping[str, str],
        core_ids: Sequence[int],
        *,
        make_backend: Callable[..., LocalBackend] = LocalBackend,
    ) -> None:
        service = _with_one_variant(deployed.served.service, chosen)
        served = replace(deployed.served, service=service, outputs=deployed.outputs)
        loop = asyncio.get_running_loop()
        self._service = service
        self._chosen = dict(chosen)
        self._core_ids = tuple(core_ids)
        self._signature = served.signature
        self._route = Route(served)
        self._numbers = count(1)
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._ready: asyncio.Future[None] = loop.create_future()
        self._lost: asyncio.Future[None] = loop.create_future()
        self._arena = Arena("bare", ARENA_BYTES)
        self._backend = make_backend(
            core_ids,
            {
                (service.name, stage): tuple(s for s in known.specs if s.name == chosen[stage])
                for stage, known in deployed.stages.items()
            },
            {},
            self._arena,
            self._on_backend,
            loop=loop,
            takers={(service.name, stage): found for stage, found in takers(service).items()},
        )
        times = {stage.name: DeclaredTimes(_FAST) for stage in service.stages}
        self._machine = ServiceMachine(service, times)
        pump = MachinePump(
            service.name,
            self._machine,
            clock=time.monotonic,
            call_at=lambda at_s, call: loop.call_later(max(0.0, at_s - time.monotonic()), call),
            record=lambda *_: None,
        )
        gives = {stage: known.signature for stage, known in deployed.stages.items()}
        self._driver = ServiceDriver(
            pump,
            self._backend,
            wirings=wirings(service, served.signature, gives),
            free=lambda request: free(request.tensors, self._arena),
            report=lambda _: None,
            on_end=lambda *_: None,
            on_drained=lambda: None,
        )
        self._pump = pump

    async def start(self) -> None:
        """Start a replica of each stage; returns when all are ready.

        Raises:
            ModelError: one did not become ready; with the worker's reason.
        """
        for index, stage in enumerate(self._service.stages):
            replica_id, variants = index + 1, (self._chosen[stage.name],)
            share = CoreShare(self._core_ids[index % len(self._core_ids)], 1.0)
            now_s = time.monotonic()
            self._driver.handle(
                ReplicaStarted(replica_id, stage.name, NODE, 1.0, variants, now_s, self._service.name)
            )
            self._backend.start(
                StartReplica(replica_id, self._service.name, stage.name, NODE, (share,), variants, now_s)
            )
        await self._unless_lost(self._ready, READY_S_MAX, "to become ready")

    async def answer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What one request is answered; outputs with the leading dimension that clients see.

        Raises:
            ModelError: a stage failed, or its worker ended.
        """
        async with self._slots:
            words = Signature((), self._signature.inputs, batchable=self._signature.batchable)
            tensors = store(inputs, words, self._arena)
            skip = 1 if self._signature.batchable else 0
            now_s = time.monotonic()
            request = Request(
                RequestId(0, next(self._numbers)),
                self._service.name,
                1,
                ",".join(f"{tensor.dtype}{list(tensor.shape[skip:])}" for tensor in tensors),
                now_s,
                now_s + DEADLINE_S,
                tensors=tensors,
            )
            ended: asyncio.Future[dict[str, Array]] = asyncio.get_running_loop().create_future()
            self._driver.submit(request, lambda end: self._settle(end, ended))
            return await self._unless_lost(ended, DEADLINE_S, "to answer")

    async def close(self) -> None:
        """End the replicas."""
        self._pump.stop_timer()
        if not self._lost.cancel():
            self._lost.exception()  # told already
        await self._backend.close()
        self._arena.close()

    def _settle(self, end: End, ended: "asyncio.Future[dict[str, Array]]") -> None:
        if ended.done():
            return
        if not isinstance(end, Complete):
            message = end.message if isinstance(end, Fail) else f"not answered: {end}"
            ended.set_exception(ModelError(message))
            return
        try:
            ended.set_result(self._outputs(end))
        except ModelError as error:
            ended.set_exception(error)

    def _outputs(self, complete: Complete) -> dict[str, Array]:
        """Copies: the outputs' place may be reused as soon as this returns."""
        found: dict[str, Array] = {}
        for spec in self._signature.outputs or given_outputs(self._route, complete):
            shape, pieces = request_output(self._route, spec, complete, self._backend.read)
            data = memoryview(bytes(joined(pieces)))
            tensor = Tensor(spec.name, spec.dtype, shape, TensorRef("", 0, len(data), 0))
            found[spec.name] = np.array(as_array(tensor, data))
        return found

    def _on_backend(self, event: BackendEvent) -> None:
        if isinstance(event, BatchCompleted | BatchFailed | ReplicaReady | ReplicaGone):
            self._driver.handle(event)
        if isinstance(event, ReplicaGone) and not event.expected and not self._lost.done():
            self._lost.set_exception(ModelError(event.reason or "a worker has ended"))
        if self._machine.is_ready and not self._ready.done():
            self._ready.set_result(None)

    async def _unless_lost(self, result: "asyncio.Future[_T]", seconds_max: float, what: str) -> _T:
        """The result, unless a worker ends before it comes, or it takes too long."""
        await asyncio.wait((result, self._lost), timeout=seconds_max, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        result.cancel()
        if self._lost.done():
            self._lost.result()
        raise ModelError(f"service {self._service.name} took longer than {seconds_max:g} s {what}")


def _with_one_variant(service: Service, chosen: Mapping[str, str]) -> Service:
    """The service with one variant a stage, and an objective that lets everything be answered."""
    stages = tuple(
        replace(
            stage, variants=tuple(variant for variant in stage.variants if variant.name == chosen[stage.name])
        )
        for stage in service.stages
    )
    return replace(service, stages=stages, slo_s=DEADLINE_S, path_accuracies=(), objective=None, classes={})
