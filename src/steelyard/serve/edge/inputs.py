"""One input tensor of a request: checked against its spec, then copied into the arena.

It comes as JSON, as bytes after the JSON, or as a span of shared memory.

The rule of this file: a tensor is checked while its bytes lie where they arrived, and copied once, when the
whole request is known to be good.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from steelyard.core.errors import InputError
from steelyard.core.types import Tensor
from steelyard.runtime.base import Signature, TensorSpec
from steelyard.serve.edge.body import Body, Pieces
from steelyard.serve.edge.head import HeadInput, InputParameters
from steelyard.serve.edge.shared_memory import Regions, Span
from steelyard.serve.edge.shown import quoted, shown
from steelyard.serve.edge.tensors import KINDS, UINT32_BYTES, bytes_offsets, from_json
from steelyard.worker.arena import Arena

ELEMENTS_MAX = 1 << 40
"""Most elements a shape may name, zero dimensions counted as 1: keeps every dimension a small integer."""
BYTES_ELEMENTS_MAX = 1 << 18
"""Most elements of a BYTES tensor: they are walked one by one on the serving loop (about 0.1 s)."""
SHARED_BYTES_MAX = 1 << 26
"""Largest BYTES tensor that is taken from shared memory: it is copied to be walked."""
RANK_SHOWN_MAX = 8


class Input(NamedTuple):
    """One checked input: `length` bytes of its binary form, in pieces of memory, at a span, or to come.

    `at` is where its bytes begin among the tensors of the body, if only that is known; else -1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    length: int
    pieces: Pieces
    span: Span | None = None
    at: int = -1


def check_input(spec: TensorSpec, given: HeadInput, body: Body, regions: Regions | None) -> Input:
    """Check one input against its spec; its bytes are taken from the body if they are binary.

    Args:
        spec: what the service takes.
        given: the input as its JSON describes it.
        body: what is left of the body.
        regions: shared memory; None: not for this client.

    Raises:
        InputError: type, shape or data are not what the service takes.
    """
    if given.datatype != spec.dtype:
        found = given.datatype if given.datatype in KINDS else shown(given.datatype)
        raise InputError(f"input '{given.name}' is {found}; {spec.dtype} was expected")
    shape = tuple(given.shape)
    if not _fits(shape, spec.shape):
        found = str(given.shape) if len(shape) <= RANK_SHOWN_MAX else f"of {len(shape)} dimensions"
        raise InputError(f"input '{given.name}' has shape {found}; {list(spec.shape)} was expected")
    elements = math.prod(shape)
    if (elements or math.prod(size or 1 for size in shape)) > ELEMENTS_MAX:
        raise InputError(f"input '{given.name}' has shape {list(shape)}, over {ELEMENTS_MAX} elements")
    if spec.dtype == "BYTES" and elements > BYTES_ELEMENTS_MAX:
        raise InputError(
            f"input '{given.name}' has {elements} BYTES elements; at most {BYTES_ELEMENTS_MAX} are taken"
        )
    parameters = given.parameters
    if parameters is not None and parameters.shared_memory_region is not None:
        if given.data or parameters.binary_data_size is not None:
            raise InputError(f"input '{given.name}' is in shared memory and has data, too")
        return _shared_input(spec, shape, parameters, elements, regions)
    size = parameters.binary_data_size if parameters is not None else None
    if size is None:
        return _json_input(spec, shape, memoryview(given.data))
    if given.data and (size or elements):  # the KServe SDK says `"data": []` beside a size of 0
        raise InputError(f"input '{given.name}' has both data and binary_data_size")
    return _binary_input(spec, shape, size, elements, body)


def raw_input(service: str, signature: Signature, body: Body) -> Input:
    """The whole body as one row of the only input; its one unknown dimension follows from the size.

    Raises:
        InputError: there are more inputs or unknown dimensions, or the size does not fit.
    """
    if len(signature.inputs) != 1:
        given = quoted(spec.name for spec in signature.inputs)
        raise InputError(f"a raw request needs a service with one input; '{service}' takes {given}")
    (spec,) = signature.inputs
    shape = [1, *spec.shape[1:]] if signature.batchable else list(spec.shape)
    unknown = [axis for axis, size in enumerate(shape) if size < 0]
    if spec.dtype == "BYTES":
        return _raw_element(spec, shape, unknown, body)
    if len(unknown) > 1:
        raise InputError(
            f"a raw request needs at most one unknown dimension; '{spec.name}' is {list(spec.shape)}"
        )
    length = body.left
    step = math.prod(size for size in shape if size >= 0) * KINDS[spec.dtype].item_bytes
    for axis in unknown:
        shape[axis] = length // step if step else 0
    if math.prod(shape) * KINDS[spec.dtype].item_bytes != length:
        raise InputError(
            f"a raw body of {length} bytes is not one row of input '{spec.name}', "
            f"{spec.dtype} of shape {list(spec.shape)}"
        )
    at = body.at
    return Input(spec.name, spec.dtype, tuple(shape), length, body.pieces(length), at=at)


def store(
    inputs: Sequence[Input], arena: Arena, tensors_bytes: memoryview | None = None
) -> tuple[Tensor, ...] | None:
    """Copy checked inputs into the arena, one slot each; None, and nothing kept, if it is full.

    Args:
        inputs: what to store.
        arena: of the front end.
        tensors_bytes: those of inputs of which only the place is known; None: their slots stay as they are.

    Raises:
        InputError: shared memory could not be read; nothing is kept.
    """
    tensors: list[Tensor] = []
    for given in inputs:
        if given.at >= 0 and tensors_bytes is not None:
            ref = arena.put(tensors_bytes[given.at : given.at + given.length])
        else:
            ref = arena.alloc(given.length)
        if ref is None:
            free(tensors, arena)
            return None
        tensors.append(Tensor(given.name, given.dtype, given.shape, ref))
        if given.at >= 0:
            continue
        if given.span is None:
            _fill(arena.view(ref), given.pieces)
            continue
        try:
            given.span.read_into(arena.view(ref))
        except InputError:
            free(tensors, arena)
            raise
    return tuple(tensors)


def free(tensors: Sequence[Tensor], arena: Arena) -> None:
    """Give the slots of stored inputs back."""
    for tensor in tensors:
        arena.free(tensor.ref)


def _fill(slot: memoryview, pieces: Pieces) -> None:
    start = 0
    for piece in pieces:
        end = start + len(piece)
        slot[start:end] = piece
        start = end


def _json_input(spec: TensorSpec, shape: tuple[int, ...], data: memoryview) -> Input:
    if not data or (len(data) == 4 and bytes(data) == b"null"):
        raise InputError(f"input '{spec.name}' has neither data nor binary_data_size")
    packed = from_json(spec.name, spec.dtype, shape, data)
    return Input(spec.name, spec.dtype, shape, len(packed), (memoryview(packed),))


def _binary_input(spec: TensorSpec, shape: tuple[int, ...], size: int, elements: int, body: Body) -> Input:
    expected = elements * KINDS[spec.dtype].item_bytes
    if spec.dtype != "BYTES" and size != expected:
        raise InputError(
            f"input '{spec.name}' of shape {list(shape)} and type {spec.dtype} takes {expected} bytes; "
            f"{body.size_word} is {size}"
        )
    if not 0 <= size <= body.left:
        raise InputError(
            f"input '{spec.name}': {body.size_word} is {size}, but {body.left} bytes are left in the body"
        )
    if spec.dtype != "BYTES":
        at = body.at
        return Input(spec.name, spec.dtype, shape, size, body.pieces(size), at=at)
    data = memoryview(body.take(size))
    _check_elements(spec, shape, elements, data)
    return Input(spec.name, spec.dtype, shape, size, (data,))


def _shared_input(
    spec: TensorSpec,
    shape: tuple[int, ...],
    parameters: InputParameters,
    elements: int,
    regions: Regions | None,
) -> Input:
    """An input in shared memory; BYTES are read and walked here, as what is checked must not change."""
    what = f"input '{spec.name}'"
    span = shared_span(
        what,
        parameters.shared_memory_region,
        parameters.shared_memory_offset or 0,
        parameters.shared_memory_byte_size,
        regions,
    )
    if spec.dtype == "BYTES":
        if span.length > SHARED_BYTES_MAX:
            raise InputError(f"{what} has {span.length} bytes; at most {SHARED_BYTES_MAX} are taken")
        data = span.read()
        _check_elements(spec, shape, elements, data)
        return Input(spec.name, spec.dtype, shape, span.length, (data,))
    expected = elements * KINDS[spec.dtype].item_bytes
    if span.length != expected:
        raise InputError(
            f"{what} of shape {list(shape)} and type {spec.dtype} takes {expected} bytes; "
            f"shared_memory_byte_size is {span.length}"
        )
    return Input(spec.name, spec.dtype, shape, expected, (), span)


def shared_span(
    what: str, region: str | None, offset: int, size: int | None, regions: Regions | None
) -> Span:
    """Where the parameters of an input or output say that it is.

    Raises:
        InputError: it is nowhere, or not for this client.
    """
    if regions is None:
        raise InputError(f"{what} is in shared memory, which only clients on the server's host may use")
    if region is None or size is None:
        raise InputError(f"{what} is in shared memory without a shared_memory_byte_size")
    return regions.span(region, offset, size)


def _check_elements(spec: TensorSpec, shape: tuple[int, ...], elements: int, data: memoryview) -> None:
    try:
        bytes_offsets(data, elements)
    except InputError as error:
        raise InputError(f"input '{spec.name}' of shape {list(shape)}: {error}") from None


def _raw_element(spec: TensorSpec, shape: list[int], unknown: list[int], body: Body) -> Input:
    """A raw body for a BYTES input is one element, without its length (Triton)."""
    for axis in unknown:
        shape[axis] = 1
    if math.prod(shape) != 1:
        raise InputError(f"a raw request carries one BYTES element; '{spec.name}' is {list(spec.shape)}")
    length = body.left
    prefix = memoryview(length.to_bytes(UINT32_BYTES, "little"))
    return Input(spec.name, spec.dtype, tuple(shape), UINT32_BYTES + length, (prefix, *body.pieces(length)))


def _fits(shape: Sequence[int], spec: Sequence[int]) -> bool:
    if len(shape) != len(spec):
        return False
    # A loop, as this runs for every request: `all` of a generator takes a microsecond more.
    for size, wanted in zip(shape, spec, strict=True):
        if size < 0 or (wanted >= 0 and size != wanted):
            return False
    return True
