"""From a completed request to the bytes of its answer. Pure: reads outputs through the function it is given.

The rule of this file: an output is copied once, from the worker's memory into the body, and only the
request's own rows of it. Parts of a request that was split over batches follow each other in row order.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from steelyard.core.commands import Complete, OutputPart
from steelyard.core.errors import ModelError
from steelyard.core.types import Tensor, TensorRef
from steelyard.runtime.base import TensorSpec
from steelyard.serve.edge.codec import Inference, Route
from steelyard.serve.edge.tensors import KINDS, Buffer, bytes_offsets, to_json

Read = Callable[[TensorRef], memoryview]
MODEL_VERSION = "1"


class _BinarySize(msgspec.Struct):
    binary_data_size: int


class _SharedSize(msgspec.Struct, omit_defaults=True):
    shared_memory_region: str
    shared_memory_byte_size: int
    shared_memory_offset: int = 0


class _OutputHead(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _BinarySize | _SharedSize | None = None
    data: msgspec.Raw | None = None


class _AnswerParameters(msgspec.Struct):
    variant: str
    queue_ms: float
    service_ms: float


class _AnswerHead(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_OutputHead]
    parameters: _AnswerParameters
    id: str = ""


class AnswerBody(NamedTuple):
    """A body, and the length of its JSON head if binary data follows it."""

    body: bytes
    head_length: int | None


def encode_answer(route: Route, asked: Inference, complete: Complete, read: Read) -> AnswerBody:
    """Build the body of a 200.

    Raises:
        InputError: an output cannot be written as the client asked (BYTES that are not UTF-8, in JSON;
            shared memory that is too small).
        ModelError: the model did not give what its signature promises.
    """
    outputs: list[_OutputHead] = []
    binaries: list[Buffer] = []
    any_binary = False
    for spec, binary, span in asked.answers:
        shape, pieces = _gather(spec, route.batchable, next(reversed(complete.answers.values())), read)
        head = _OutputHead(spec.name, spec.dtype, shape)
        if span is not None:
            size = span.write(spec.name, pieces)
            head.parameters = _SharedSize(span.region.name, size, span.offset)
        elif binary:
            head.parameters = _BinarySize(sum(map(len, pieces)))
            binaries += pieces
            any_binary = True
        else:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            head.data = msgspec.Raw(to_json(spec.name, spec.dtype, math.prod(shape), data))
        outputs.append(head)
    parameters = _AnswerParameters(
        complete.variant, round(complete.queue_s * 1e3, 3), round(complete.service_s * 1e3, 3)
    )
    head_json = msgspec.json.encode(
        _AnswerHead(route.name, MODEL_VERSION, outputs, parameters, asked.client_id)
    )
    if not any_binary:
        return AnswerBody(head_json, None)
    return AnswerBody(b"".join((head_json, *binaries)), len(head_json))


def _gather(
    spec: TensorSpec, batchable: bool, parts: Sequence[OutputPart], read: Read
) -> tuple[tuple[int, ...], list[memoryview]]:
    """Shape and bytes, in pieces, of one output over all parts of a request."""
    pieces: list[memoryview] = []
    rows = 0
    shape: tuple[int, ...] = ()
    for part in parts:
        tensor = next((output for output in part.outputs if output.name == spec.name), None)
        if tensor is None:
            raise ModelError(f"the model gave no output '{spec.name}'")
        if tensor.dtype != spec.dtype:
            raise ModelError(
                f"the model gave output '{spec.name}' as {tensor.dtype}; {spec.dtype} was promised"
            )
        shape = tensor.shape
        rows += part.rows
        data = read(tensor.ref)
        pieces.append(_rows_of(tensor, part, data) if batchable else data)
    return ((rows, *shape[1:]) if batchable else shape), pieces


def _rows_of(tensor: Tensor, part: OutputPart, data: memoryview) -> memoryview:
    """The bytes of the part's rows of a batch's output."""
    total = tensor.shape[0]
    if part.rows == total:
        return data
    first, last = part.row_start, part.row_start + part.rows
    if KINDS[tensor.dtype].item_bytes:
        row_bytes = len(data) // total
        return data[first * row_bytes : last * row_bytes]
    row_elements = math.prod(tensor.shape[1:])
    offsets = bytes_offsets(data, total * row_elements)
    return data[offsets[first * row_elements] : offsets[last * row_elements]]
