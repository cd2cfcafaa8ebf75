"""References to arrays and back: views where one block of rows lies, one copy where several are gathered.

A batch of one part is a read-only view of the request in its arena: no copy. More parts are gathered by one
copy into a buffer that is kept from batch to batch, so a class that wants to keep its inputs must copy them.
`BYTES` lie in the Open Inference Protocol's raw encoding: each element a little-endian 32-bit length and its
bytes; they are decoded here and nowhere else in a worker.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from steelyard.core.errors import InputError, ModelError
from steelyard.core.types import Tensor, TensorRef
from steelyard.runtime.base import Array, Signature
from steelyard.runtime.dtypes import numpy_dtype, oip_dtype
from steelyard.worker.arena import Arena
from steelyard.worker.messages import Part

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


class Gatherer:
    """Makes one array an input of a batch's parts; keeps one buffer an input."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def gather(self, parts: Sequence[Part], view: View) -> dict[str, Array]:
        """The batch's inputs by name, rows in the order of the parts.

        A whole request alone is taken as it is: its leading axis need not be rows (a model without batches).

        Raises:
            InputError: the parts do not agree in names, types or shapes of a row.
            StaleRefError: a request was freed meanwhile.
        """
        if len(parts) == 1:
            return {tensor.name: _rows(parts[0], tensor, view) for tensor in parts[0].tensors}
        names = [tensor.name for tensor in parts[0].tensors]
        if any([tensor.name for tensor in part.tensors] != names for part in parts):
            raise InputError(f"a batch mixes requests with other inputs than {', '.join(names)}")
        blocks = ([_rows(part, part.tensors[i], view) for part in parts] for i in range(len(names)))
        return {name: self._concatenate(name, rows) for name, rows in zip(names, blocks, strict=True)}

    def _concatenate(self, name: str, blocks: list[Array]) -> Array:
        first = blocks[0]
        if any(block.dtype != first.dtype or block.shape[1:] != first.shape[1:] for block in blocks):
            raise InputError(f"a batch mixes shapes or types of input {name}")
        if first.dtype == np.object_:
            return np.concatenate(blocks)
        shape = (sum(len(block) for block in blocks), *first.shape[1:])
        needed = prod(shape) * first.dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < needed:
            buffer = self._buffers[name] = np.empty(needed, np.uint8)
        gathered: Array = np.ndarray(shape, first.dtype, buffer=buffer.data)
        return np.concatenate(blocks, out=gathered)


def store(outputs: Mapping[str, Array], signature: Signature, arena: Arena) -> tuple[Tensor, ...]:
    """Copy a batch's outputs into the arena: all of them, or none if one does not fit.

    Raises:
        ModelError: the arena is full, or an output has a type the protocol does not know.
    """
    words = {tensor.name: tensor.dtype for tensor in signature.outputs}
    stored: list[Tensor] = []
    try:
        for name, array in outputs.items():
            stored.append(_store_one(name, words.get(name) or oip_dtype(array.dtype), array, arena))
    except ModelError:
        free(stored, arena)
        raise
    return tuple(stored)


def free(tensors: Iterable[Tensor], arena: Arena) -> None:
    """Give the slots of stored tensors back."""
    for tensor in tensors:
        arena.free(tensor.ref)


def _store_one(name: str, word: str, array: Array, arena: Arena) -> Tensor:
    payload = _encode_bytes(array) if word == "BYTES" else None
    length = array.nbytes if payload is None else len(payload)
    ref = arena.alloc(length)
    if ref is None:
        raise ModelError(
            f"output {name} of {length} bytes does not fit: the worker's arena has {arena.bytes_used} of "
            f"{arena.bytes_max} bytes in use"
        )
    view = arena.view(ref)
    if payload is None:
        np.copyto(np.ndarray(array.shape, array.dtype, buffer=view), array)
    else:
        view[:] = payload
    return Tensor(name, word, tuple(array.shape), ref)


def _rows(part: Part, tensor: Tensor, view: View) -> Array:
    array = as_array(tensor, view(tensor.ref))
    if part.row_start == 0 and part.rows == part.request_rows:
        return array
    return array[part.row_start : part.row_start + part.rows]


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
