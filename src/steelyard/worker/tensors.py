"""References to arrays and back: views where one block of rows lies, one copy where several are gathered.

An input of one block is a read-only view of it in its owner's arena: no copy. So is one row that is repeated
for each of its items (stride 0): a class sees an array like any other, ONNX Runtime makes its own copy. More
blocks, or rows, are gathered by one copy into a buffer that is kept from batch to batch, so a class that
wants to keep its inputs must copy them. Of a ragged input each row is a view, unless its elements lie in
several blocks.
`BYTES` lie in the Open Inference Protocol's raw encoding: each element a little-endian 32-bit length and its
bytes; they are decoded here and nowhere else in a worker.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from steelyard.core.commands import Slice
from steelyard.core.errors import InputError, ModelError
from steelyard.core.types import Request, Tensor, TensorRef
from steelyard.runtime.base import Array, Signature, Value
from steelyard.runtime.dtypes import numpy_dtype, oip_dtype
from steelyard.worker.arena import Arena
from steelyard.worker.messages import WHOLE, Block, Feed

_LENGTH = struct.Struct("<I")
View = Callable[[TensorRef], memoryview]


def as_array(tensor: Tensor, view: memoryview) -> Array:
    """A tensor's bytes as an array of its shape; read-only if the view is.

    Raises:
        InputError: the bytes are not those of such a tensor.
    """
    if tensor.dtype == "BYTES":
        return _decode_bytes(view, prod(tensor.shape), tensor.name).reshape(tensor.shape)
    dtype = numpy_dtype(tensor.dtype)
    wanted = prod(tensor.shape) * dtype.itemsize
    if wanted != len(view):
        shape = list(tensor.shape)
        raise InputError(f"input {tensor.name}: {tensor.dtype} {shape} is {wanted} bytes, not {len(view)}")
    return np.ndarray(tensor.shape, dtype, buffer=view)


def own_feeds(slices: Sequence[Slice], requests: Sequence[Request]) -> tuple[Feed, ...]:
    """The requests' own tensors as the inputs of a batch; `requests[i]` is that of `slices[i]`.

    A whole request is taken as it is: its leading axis need not be rows (a model without batches).

    Raises:
        InputError: the requests do not agree in the names of their tensors.
    """
    if len(slices) == 1:
        part, request = slices[0], requests[0]
        rows = WHOLE if part.rows == request.rows else part.rows
        start = part.row_start
        return tuple([Feed(tensor.name, (Block(tensor, start, rows),)) for tensor in request.tensors])
    names = [tensor.name for tensor in requests[0].tensors]
    if any([tensor.name for tensor in request.tensors] != names for request in requests):
        raise InputError(f"a batch mixes requests with other inputs than {', '.join(names)}")
    taken = list(zip(slices, requests, strict=True))
    return tuple(
        [
            Feed(name, tuple([own_block(request.tensors[i], part, request) for part, request in taken]))
            for i, name in enumerate(names)
        ]
    )


def own_block(tensor: Tensor, part: Slice, request: Request) -> Block:
    """A slice's part of one of its request's tensors."""
    return Block(tensor, part.row_start, WHOLE if part.rows == request.rows else part.rows)


class Gatherer:
    """Makes an array, or a list of arrays, of each input of a batch; keeps one buffer an input."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def gather(self, feeds: Sequence[Feed], view: View) -> dict[str, Value]:
        """The batch's inputs by name.

        Raises:
            InputError: the blocks of an input do not agree in type or shape of a row, or are too few.
            StaleRefError: what a block lies in was freed meanwhile.
        """
        decoded: dict[TensorRef, Array] = {}
        gathered: dict[str, Value] = {}
        for name, blocks, counts in feeds:
            if (
                counts is None
                and len(blocks) > 1
                and (copied := self._copied(name, blocks, view)) is not None
            ):
                gathered[name] = copied
                continue
            arrays = [_elements(block, view, decoded) for block in blocks]
            if counts is not None:
                gathered[name] = _by_row(name, arrays, counts)
            elif len(blocks) > 1 or len(blocks[0].repeats) > 1:
                gathered[name] = self._gathered(name, arrays, [block.repeats for block in blocks])
            elif blocks[0].repeats:
                gathered[name] = np.broadcast_to(arrays[0], (*blocks[0].repeats, *arrays[0].shape[1:]))
            else:
                gathered[name] = arrays[0]
        return gathered

    def _copied(self, name: str, blocks: Sequence[Block], view: View) -> Array | None:
        """The rows of whole tensors as bytes, without an array of each; None where blocks are not that."""
        _, word, shape, _ = blocks[0].tensor
        if word == "BYTES" or not shape:
            return None
        row_shape, dtype = shape[1:], numpy_dtype(word)
        row_bytes = prod(row_shape) * dtype.itemsize
        pieces: list[memoryview] = []
        rows = 0
        for (_, other, shape, ref), _, taken, repeats in blocks:
            count = shape[0] if shape else 0
            if other != word or shape[1:] != row_shape or repeats or taken not in (WHOLE, count):
                return None
            if not ref.length or ref.length != count * row_bytes:
                return None
            pieces.append(view(ref))
            rows += count
        gathered = self._place(name, (rows, *row_shape), dtype)
        memory = self._buffers[name].data
        end = 0
        for piece in pieces:
            start, end = end, end + len(piece)
            memory[start:end] = piece
        return gathered

    def _gathered(self, name: str, blocks: list[Array], repeats: list[tuple[int, ...]]) -> Array:
        """The rows of all blocks, each as often as it is repeated."""
        first = blocks[0]
        if any(block.dtype != first.dtype or block.shape[1:] != first.shape[1:] for block in blocks):
            raise InputError(f"a batch mixes shapes or types of input {name}")
        lengths = [sum(times) if times else len(block) for block, times in zip(blocks, repeats, strict=True)]
        shape = (sum(lengths), *first.shape[1:])
        gathered = self._place(name, shape, first.dtype)
        if not any(repeats):
            return np.concatenate(blocks, out=gathered)
        end = 0
        for block, times, length in zip(blocks, repeats, lengths, strict=True):
            start, end = end, end + length
            if times:  # `clip`, as `raise` would make a copy first
                np.take(block, np.repeat(np.arange(len(times)), times), 0, gathered[start:end], "clip")
            else:
                gathered[start:end] = block
        return gathered

    def _place(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array to be filled: of the buffer that is kept for an input, unless it is of objects."""
        if dtype == np.object_:
            return np.empty(shape, dtype)
        needed = prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < needed:
            buffer = self._buffers[name] = np.empty(needed, np.uint8)
        return np.ndarray(shape, dtype, buffer=buffer.data)


def _elements(block: Block, view: View, decoded: dict[TensorRef, Array]) -> Array:
    """A block's elements, once each; `decoded` keeps BYTES, since several blocks may lie in one tensor."""
    tensor, start, rows, _ = block
    if not tensor.ref.length:
        array: Array = np.empty(tensor.shape, numpy_dtype(tensor.dtype))
    elif tensor.dtype != "BYTES":
        array = as_array(tensor, view(tensor.ref))
    else:
        known = decoded.get(tensor.ref)
        array = decoded[tensor.ref] = as_array(tensor, view(tensor.ref)) if known is None else known
    if rows != WHOLE and rows != array.shape[0]:
        array = array[start : start + rows]
    return array


def _by_row(name: str, blocks: list[Array], counts: Sequence[int]) -> list[Array]:
    """The blocks' elements, so many for each row; a row that begins in one block may end in another."""
    rows: list[Array] = []
    index = start = 0
    for count in counts:
        while index + 1 < len(blocks) and start == len(blocks[index]):
            index, start = index + 1, 0
        row = blocks[index][start : start + count]
        start += count
        while len(row) < count:
            index, start = index + 1, count - len(row)
            if index == len(blocks):
                raise InputError(f"input {name} has fewer elements than its rows should")
            row = np.concatenate((row, blocks[index][:start]))
        rows.append(row)
    return rows


def store(outputs: Mapping[str, Value], signature: Signature, arena: Arena) -> tuple[Tensor, ...]:
    """Copy a batch's outputs into the arena: all of them, or none if one does not fit.

    The rows of a ragged output lie one behind the other. What was selected of an output, `output@stage`, has
    the output's type.

    Raises:
        ModelError: the arena is full, or an output has a type the protocol does not know.
    """
    stored: list[Tensor] = []
    try:
        for name, output in outputs.items():
            pieces = output if isinstance(output, list) else [output]
            stored.append(_store_one(name, _word(name, pieces[0], signature), pieces, arena))
    except ModelError:
        free(stored, arena)
        raise
    return tuple(stored)


def free(tensors: Iterable[Tensor], arena: Arena) -> None:
    """Give the slots of stored tensors back."""
    for tensor in tensors:
        arena.free(tensor.ref)


def _word(name: str, array: Array, signature: Signature) -> str:
    """The protocol's word for the type of an output."""
    for given in (name, name.rpartition("@")[0]):
        for tensor in signature.outputs:
            if tensor.name == given:
                return tensor.dtype
    return oip_dtype(array.dtype)


def _store_one(name: str, word: str, pieces: list[Array], arena: Arena) -> Tensor:
    first = pieces[0]
    shape, length = first.shape, first.nbytes
    if len(pieces) > 1:
        shape = (sum(map(len, pieces)), *shape[1:])
        length = sum(piece.nbytes for piece in pieces)
    payload = None
    if word == "BYTES":
        payload = b"".join(map(_encode_bytes, pieces))
        length = len(payload)
    ref = arena.alloc(length)
    if ref is None:
        raise ModelError(
            f"output {name} of {length} bytes does not fit: the worker's arena has {arena.bytes_used} of "
            f"{arena.bytes_max} bytes in use"
        )
    view = arena.view(ref)
    if payload is not None:
        view[:] = payload
    elif len(pieces) == 1:
        np.ndarray(shape, first.dtype, buffer=view)[...] = first
    else:
        np.concatenate(pieces, out=np.ndarray(shape, first.dtype, buffer=view))
    return Tensor(name, word, shape, ref)


def _encode_bytes(array: Array) -> bytes:
    pieces: list[bytes] = []
    for item in array.ravel():
        raw = item if isinstance(item, bytes) else str(item).encode()
        pieces += (_LENGTH.pack(len(raw)), raw)
    return b"".join(pieces)


def _decode_bytes(view: memoryview, count: int, name: str) -> np.ndarray[Any, Any]:
    decoded = np.empty(count, dtype=np.object_)
    offset = 0
    for index in range(count):
        if offset + _LENGTH.size > len(view):
            raise InputError(f"input {name}: BYTES end after {index} of {count} elements")
        (length,) = _LENGTH.unpack_from(view, offset)
        offset += _LENGTH.size
        if offset + length > len(view):
            raise InputError(f"input {name}: element {index} of BYTES is cut off")
        decoded[index] = bytes(view[offset : offset + length])
        offset += length
    if offset != len(view):
        raise InputError(f"input {name}: {len(view) - offset} bytes follow the {count} elements of BYTES")
    return decoded
