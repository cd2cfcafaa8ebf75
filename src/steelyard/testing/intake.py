"""An `Intake` without a server behind it: computes answers in process, or holds requests until told.

For tests and benchmarks of the edge. Inputs and outputs go through real arenas, freed as the server would.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.core.commands import Complete, Discard, OutputPart
from steelyard.core.types import Request, RequestId, Service, Stage, Tensor, TensorRef
from steelyard.runtime.base import Signature, TensorSpec
from steelyard.serve.base import End, OnEnd, ServedService
from steelyard.serve.edge.tensors import KINDS, UINT32_BYTES, bytes_offsets, pack_bytes
from steelyard.serve.repository import Repository, RepositoryEntry
from steelyard.serve.statistics import ServiceStatistics
from steelyard.worker.arena import Arena

Arrays = Mapping[str, NDArray[Any]]
Model = Callable[[Arrays], Arrays]


def served(
    name: str,
    inputs: Mapping[str, tuple[str, tuple[int, ...]]],
    outputs: Mapping[str, tuple[str, tuple[int, ...]]],
    *,
    batchable: bool = True,
    slo_s: float = 10.0,
    rows_max: int = 64,
    buckets: dict[str, tuple[int, tuple[int, ...]]] | None = None,
    classes: dict[str, float] | None = None,
) -> ServedService:
    """A service of one stage; inputs and outputs are name -> (dtype, shape)."""
    return ServedService(
        service=Service(name=name, slo_s=slo_s, stages=(Stage("main", ()),), request_rows_max=rows_max),
        signature=Signature(
            inputs=tuple(TensorSpec(key, dtype, shape) for key, (dtype, shape) in inputs.items()),
            outputs=tuple(TensorSpec(key, dtype, shape) for key, (dtype, shape) in outputs.items()),
            batchable=batchable,
        ),
        buckets=buckets or {},
        classes=classes or {},
    )


class ListedRepository:
    """A repository whose services are loaded and unloaded by a word; see `steelyard.serve.repository`."""

    def __init__(self, services: Iterable[str]) -> None:
        self.states = dict.fromkeys(services, True)
        """Whether each service is loaded."""

    def index(self) -> list[RepositoryEntry]:
        """Every service."""
        return [
            RepositoryEntry(name, "READY") if loaded else RepositoryEntry(name, "UNAVAILABLE", "unloaded")
            for name, loaded in self.states.items()
        ]

    def is_open(self, service: str) -> bool:
        """Whether it is loaded."""
        return self.states[service]

    async def load(self, service: str) -> None:
        """At once."""
        self.states[service] = True

    async def unload(self, service: str) -> None:
        """At once."""
        self.states[service] = False


class ComputingIntake:
    """Answers each request with `model` of its inputs; see `steelyard.serve.base.Intake`.

    Args:
        services: as clients see them.
        model: from a request's arrays to its outputs; BYTES are arrays of `bytes`.
        arena_bytes: size of the arena for inputs, and of that for outputs.
        rows_a_part: split answers into parts of at most this many rows, as batches would.
        held: keep requests in `open` until `finish` or `cancel`.
    """

    front_end = 7

    def __init__(
        self,
        services: Mapping[str, ServedService],
        model: Model,
        *,
        arena_bytes: int = 1 << 26,
        rows_a_part: int | None = None,
        held: bool = False,
    ) -> None:
        self.services = services
        self.repository: Repository = ListedRepository(services)
        self.arena = Arena("front-end", arena_bytes)
        self.ready = True
        self.held = held
        self.open: dict[RequestId, tuple[Request, OnEnd]] = {}
        self.cancelled: list[RequestId] = []
        self.requests: list[Request] = []
        """The last hundred requests, newest last."""
        self._sequence = itertools.count(1)
        self._statistics = {name: ServiceStatistics() for name in services}
        self._outputs = Arena("worker", arena_bytes)
        self._model = model
        self._rows_a_part = rows_a_part

    def now_s(self) -> float:
        """Seconds, monotonic."""
        return time.monotonic()

    def next_id(self) -> RequestId:
        """The next one."""
        return RequestId(self.front_end, next(self._sequence))

    def is_ready(self, service: str) -> bool:
        """As `ready` says, for every service."""
        assert service in self.services
        return self.ready

    def statistics(self, service: str) -> ServiceStatistics:
        """What became of the service's requests."""
        return self._statistics[service]

    def submit(self, request: Request, on_end: OnEnd) -> None:
        """Take a request; answers at once unless `held`."""
        self.requests = [*self.requests[-99:], request]
        self.open[request.id] = (request, on_end)
        if not self.held:
            self.finish(request.id)

    def cancel(self, request_id: RequestId) -> None:
        """End a request as its client has gone."""
        if request_id in self.open:
            self.cancelled.append(request_id)
            self.finish(request_id, Discard(request_id))

    def read(self, ref: TensorRef) -> memoryview:
        """The bytes of an output."""
        return self._outputs.view(ref)

    def finish(self, request_id: RequestId, end: End | None = None) -> None:
        """End an open request: as told, or with the model's answer."""
        request, on_end = self.open.pop(request_id)
        parts: tuple[OutputPart, ...] = ()
        if end is None:
            parts = self._run(request)
            end = Complete(
                request_id, "only", queue_s=0.001, service_s=0.002, late=False, answers={"only": parts}
            )
        self._count(request, end)
        on_end(end)
        for part in {id(part.outputs): part for part in parts}.values():
            for tensor in part.outputs:
                self._outputs.free(tensor.ref)
        for tensor in request.tensors:
            self.arena.free(tensor.ref)

    def _count(self, request: Request, end: End) -> None:
        found, now_s = self._statistics[request.service], self.now_s()
        if isinstance(end, Complete):
            found.completed += 1
            found.rows += request.rows
            found.latency_s += now_s - request.arrived_s
            found.queue_s += end.queue_s
            found.service_s += end.service_s
            found.last_end_s = now_s
        elif not isinstance(end, Discard):
            found.refused += 1
            found.refused_s += now_s - request.arrived_s

    def _run(self, request: Request) -> tuple[OutputPart, ...]:
        signature = self.services[request.service].signature
        arrays = {tensor.name: self._array(tensor) for tensor in request.tensors}
        given = self._model(arrays)
        dtypes = {spec.name: spec.dtype for spec in signature.outputs}
        outputs = tuple(self._store(name, dtypes[name], array) for name, array in given.items())
        step = self._rows_a_part or request.rows
        return tuple(
            OutputPart(outputs, start, min(step, request.rows - start))
            for start in range(0, request.rows, step)
        )

    def _array(self, tensor: Tensor) -> NDArray[Any]:
        data = bytes(self.arena.view(tensor.ref))
        if tensor.dtype != "BYTES":
            return np.frombuffer(data, KINDS[tensor.dtype].numpy).reshape(tensor.shape)
        offsets = bytes_offsets(data, int(np.prod(tensor.shape)))
        items = [data[a + UINT32_BYTES : b] for a, b in pairwise(offsets)]
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array.reshape(tensor.shape)

    def _store(self, name: str, dtype: str, array: NDArray[Any]) -> Tensor:
        data = (
            pack_bytes(array.ravel().tolist()) if dtype == "BYTES" else np.ascontiguousarray(array).tobytes()
        )
        ref = self._outputs.alloc(len(data))
        assert ref is not None, "the fake's arena for outputs is full"
        self._outputs.view(ref)[:] = data
        return Tensor(name, dtype, array.shape, ref)

    def close(self) -> None:
        """Free both arenas."""
        self.arena.close()
        self._outputs.close()
