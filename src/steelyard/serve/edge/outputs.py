"""What of the batches' outputs is one request's answer: shapes and bytes, without copying any. Pure.

The rule of this file: only the request's own rows leave the server. A batch's outputs hold other clients'
rows as well, and how they are told apart depends on the output: rows of its leading axis; where `@output`
counts its elements, those of the request's rows; all of it, for the only stage of a service whose model takes
one row a batch. A stage that had no items of the request answers with none.
"""

import math
from collections.abc import Callable, Sequence

from steelyard.core.commands import Complete, OutputPart
from steelyard.core.errors import ModelError
from steelyard.core.types import Tensor, TensorRef
from steelyard.runtime.base import TensorSpec
from steelyard.serve.edge.answer_json import AnswerParameters
from steelyard.serve.edge.codec import Route
from steelyard.serve.edge.shown import quoted
from steelyard.serve.edge.tensors import KINDS, bytes_offsets

Read = Callable[[TensorRef], memoryview]


Output = tuple[tuple[int, ...], list[memoryview]]
"""A request's part of one output: its shape, and its bytes in pieces."""


def answer_parameters(complete: Complete) -> AnswerParameters:
    """The parameters of an answer."""
    told = AnswerParameters(
        complete.variant,
        round(complete.queue_s * 1e6) / 1e3,  # as `round(_, 3)` at a third of its time
        round(complete.service_s * 1e6) / 1e3,
    )
    if complete.core_ms:
        told.core_ms = round(complete.core_ms * 1e3) / 1e3
    if complete.accuracy is not None:
        told.accuracy, told.accuracy_measured = complete.accuracy, complete.is_measured
    if len(complete.variants) > 1:
        told.variants = ",".join([f"{stage}:{variant}" for stage, variant in complete.variants.items()])
    if complete.missed:
        told.bounds_missed = ",".join(complete.missed)
    if complete.rows_by:
        told.variant_rows = ",".join(
            [
                f"{stage}:{variant}={count}"
                for stage, rows in complete.rows_by.items()
                for variant, count in rows.items()
            ]
        )
    return told


def request_output(route: Route, spec: TensorSpec, complete: Complete, read: Read) -> Output:
    """One output over all parts of a request, in row order.

    Raises:
        ModelError: the model did not give what its signature promises.
    """
    stage, name = "", spec.name
    if route.sources:
        stage, name = route.sources.get(name, (stage, name))
    parts = complete.answers[stage] if stage else next(reversed(complete.answers.values()))
    if not parts:
        return (0, *(max(size, 0) for size in spec.shape[1:])), []
    is_whole = route.is_whole
    pieces: list[memoryview] = []
    length = 0
    shape: tuple[int, ...] = ()
    for part in parts:
        for tensor in part.outputs:  # a loop, as this runs for every request
            if tensor.name == name:
                break
        else:
            given = quoted(tensor.name for tensor in part.outputs if "@" not in tensor.name) or "none"
            raise ModelError(f"{_answerer(route, complete, stage)} gave no output '{name}'; it gave {given}")
        if tensor.dtype != spec.dtype:
            raise ModelError(
                f"{_answerer(route, complete, stage)} gave output '{name}' as {tensor.dtype}; "
                f"{spec.dtype} was promised"
            )
        if shape[1:] != tensor.shape[1:] and pieces:
            raise ModelError(
                f"{_answerer(route, complete, stage)} gave output '{name}' as {list(shape)} for some rows of "
                f"the request and as {list(tensor.shape)} for others, which make no single tensor"
            )
        shape, data = tensor.shape, read(tensor.ref)
        if not is_whole:
            start, count = _place(part, name) if part.items else (part.row_start, part.rows)
            length += count
            if count != shape[0]:
                data = _elements(tensor, start, count, data)
        pieces.append(data)
    if is_whole:
        return shape, pieces
    # A model without a batch axis promises its outputs without one (`worker.items`).
    if length == 1 and len(shape) == len(spec.shape) + 1:
        return shape[1:], pieces
    return (shape if length == shape[0] else (length, *shape[1:])), pieces


def _answerer(route: Route, complete: Complete, stage: str) -> str:
    """Who has given an output, for a line about it; `stage` is empty for the last one."""
    stage = stage or next(reversed(complete.answers))
    variant = complete.variants.get(stage, complete.variant)
    if route.is_single:
        return f"service '{route.name}', variant '{variant}',"
    return f"service '{route.name}', stage '{stage}', variant '{variant}',"


def given_outputs(route: Route, complete: Complete) -> tuple[TensorSpec, ...]:
    """What there is to answer with where no signature says it: what the batches gave.

    An output that the spec names is there in any case; of a stage that had no items nobody knows its type.
    """
    if route.sources:
        return tuple(
            TensorSpec(name, tensor.dtype, tensor.shape) if tensor else TensorSpec(name, "FP32", (0,))
            for name, (stage, output) in route.sources.items()
            for tensor in [_first(complete.answers[stage], output)]
        )
    parts = next(reversed(complete.answers.values()))
    tensors = parts[0].outputs if parts else ()
    return tuple(
        TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors if "@" not in tensor.name
    )


def _first(parts: Sequence[OutputPart], name: str) -> Tensor | None:
    outputs = parts[0].outputs if parts else ()
    return next((output for output in outputs if output.name == name), None)


def _place(part: OutputPart, name: str) -> tuple[int, int]:
    """Where a part's elements of an output begin, and how many there are."""
    place = part.items.get(f"@{name}")
    return (part.row_start, part.rows) if place is None else (place.start, sum(place.counts))


def _elements(tensor: Tensor, start: int, count: int, data: memoryview) -> memoryview:
    """The bytes of some elements of a tensor's leading axis."""
    total = tensor.shape[0]
    if KINDS[tensor.dtype].item_bytes:
        element_bytes = len(data) // total
        return data[start * element_bytes : (start + count) * element_bytes]
    values = math.prod(tensor.shape[1:])
    offsets = bytes_offsets(data, total * values)
    return data[offsets[start * values] : offsets[(start + count) * values]]


def joined(pieces: Sequence[memoryview]) -> bytes | memoryview:
    """One piece as it is; several, or none, copied together."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
