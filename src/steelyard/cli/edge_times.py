"""What a request costs the edge besides its batch: the codec timed on one row, sent and answered as binary.

Only what depends on the model is in it: checking a request, copying it into the arena, writing the answer.
What the HTTP server adds is the same for all models (bench/edge.py). Output dimensions that the model leaves
open count as 1.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from steelyard.core.commands import Complete, OutputPart
from steelyard.core.errors import InputError, ModelError
from steelyard.core.types import RequestId, Tensor
from steelyard.runtime.base import Signature, TensorSpec, VariantSpec
from steelyard.runtime.example import example_inputs
from steelyard.serve.base import ServedService
from steelyard.serve.edge.answers import encode_answer
from steelyard.serve.edge.body import Body
from steelyard.serve.edge.codec import Route
from steelyard.serve.edge.inputs import store as store_inputs
from steelyard.worker import tensors
from steelyard.worker.arena import Arena

RUNS = 20
ARENA_BYTES = 1 << 30
"""Sparse: only what is written takes memory."""


class EdgeTimes(NamedTuple):
    """Medians in seconds."""

    parse_s: float
    reply_s: float


def edge_times(served: ServedService, spec: VariantSpec) -> EdgeTimes | None:
    """Time the edge on the variant's example; None where that is not a request that the service takes."""
    arena = Arena("edge-times", ARENA_BYTES)
    try:
        return _timed(served, spec, arena)
    except (InputError, ModelError):
        return None
    finally:
        arena.close()


def _timed(served: ServedService, spec: VariantSpec, arena: Arena) -> EdgeTimes | None:
    if not served.signature.inputs:
        return None
    route = Route(served)
    head, binary = _example_request(served.signature, spec, arena)

    def parse() -> None:
        asked = route.parse(Body((head, binary)), len(head))
        tensors.free(store_inputs(asked.inputs, arena) or (), arena)

    asked = route.parse(Body((head, binary)), len(head))
    outputs = _example_outputs(served.signature, spec, arena)
    answer = Complete(
        RequestId(0, 0), spec.name, 0.0, 0.0, late=False, answers={"only": (OutputPart(outputs, 0, 1),)}
    )
    return EdgeTimes(_median_s(parse), _median_s(lambda: encode_answer(route, asked, answer, arena.view)))


def _example_request(signature: Signature, spec: VariantSpec, arena: Arena) -> tuple[bytes, bytes]:
    """The JSON head and the binary tensors of one row."""
    arrays = example_inputs(spec, signature, 1)
    stored = tensors.store(arrays, Signature((), signature.inputs, batchable=signature.batchable), arena)
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.dtype,
            "shape": tensor.shape,
            "parameters": {"binary_data_size": tensor.ref.length},
        }
        for tensor in stored
    ]
    head = msgspec.json.encode({"inputs": inputs, "parameters": {"binary_data_output": True}})
    binary = b"".join(arena.view(tensor.ref) for tensor in stored)
    tensors.free(stored, arena)
    return head, binary


def _example_outputs(signature: Signature, spec: VariantSpec, arena: Arena) -> tuple[Tensor, ...]:
    closed = tuple(
        TensorSpec(each.name, each.dtype, tuple(1 if size < 0 else size for size in each.shape))
        for each in signature.outputs
    )
    words = Signature(closed, closed, batchable=signature.batchable)
    return tensors.store(example_inputs(replace(spec, example={}), words, 1), words, arena)


def _median_s(action: Callable[[], object]) -> float:
    took_s = []
    for _ in range(RUNS):
        started_s = time.perf_counter()
        action()
        took_s.append(time.perf_counter() - started_s)
    return median(took_s)
