"""Bytes of tensors against their JSON form.

The rule of this file: inside the server a tensor is always its binary form (little-endian, row-major, BYTES
as repeated uint32 length + bytes), so JSON data is turned into it once, on arrival, and out of it once, on
the way back. FP16 and BF16 have no JSON form; JSON floats are shortest doubles, so every other type
round-trips bit for bit. NaN and infinities are the bare words `NaN` and `Infinity`, as for Triton and
Python's `json`.

Sources: Open Inference Protocol v2 (REST) and Triton's binary tensor data extension.
"""

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import chain, pairwise
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import InputError

Buffer = bytes | bytearray | memoryview
UINT32_BYTES = 4
JSON_VALUES_MAX = 1 << 19
"""Most values of an output that are written as JSON: 0.1 s on the loop that all share."""


class _Kind(NamedTuple):
    """One OIP datatype: bytes an element, its numpy type and the JSON values it takes (None: binary only)."""

    item_bytes: int
    numpy: np.dtype[Any]
    element: Any


def _int(dtype: str) -> _Kind:
    info = np.iinfo(dtype)
    # msgspec takes bounds within int64 only; numpy refuses what is beyond a 64-bit type.
    low = msgspec.Meta(ge=int(info.min)) if info.min == 0 else None
    element: Any = Annotated[int, low] if low else int
    if info.bits < 64:
        element = Annotated[int, msgspec.Meta(ge=int(info.min), le=int(info.max))]
    return _Kind(info.bits // 8, np.dtype(dtype).newbyteorder("<"), element)


KINDS: dict[str, _Kind] = {
    "BOOL": _Kind(1, np.dtype("?"), bool | str | int),
    "UINT8": _int("uint8"),
    "UINT16": _int("uint16"),
    "UINT32": _int("uint32"),
    "UINT64": _int("uint64"),
    "INT8": _int("int8"),
    "INT16": _int("int16"),
    "INT32": _int("int32"),
    "INT64": _int("int64"),
    "FP16": _Kind(2, np.dtype("<f2"), None),
    "BF16": _Kind(2, np.dtype("<u2"), None),
    "FP32": _Kind(4, np.dtype("<f4"), float),
    "FP64": _Kind(8, np.dtype("<f8"), float),
    "BYTES": _Kind(0, np.dtype("O"), str),
}
"""Every OIP datatype, with Triton's BF16. BYTES has no fixed element size."""

_OPENED = re.compile(rb"[\[ \t\r\n]*")
_BOOL_WORDS: dict[Any, bool] = {"true": True, "True": True, "false": False, "False": False, 1: True, 0: False}


@cache
def _decoder(dtype: str, depth: int) -> msgspec.json.Decoder[Any]:
    """Decode a JSON array of `dtype` nested `depth` deep, at most the rank of a model's input."""
    kind: Any = KINDS[dtype].element
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _depth(data: Buffer) -> int:
    """How many arrays are open before the first value: 1 for a flat list."""
    opened = _OPENED.match(data)
    return opened.group().count(b"[") if opened else 0


def from_json(name: str, dtype: str, shape: Sequence[int], data: Buffer) -> bytes:
    """Turn JSON tensor data, flat or nested as `shape`, into the tensor's binary form.

    Raises:
        InputError: the type is binary only, or the data is not `prod(shape)` values of `dtype`.
    """
    if KINDS[dtype].element is None:
        raise InputError(f"input '{name}' is {dtype}, which JSON cannot carry: send it as binary data")
    depth = _depth(data)
    levels = shape.index(0) + 1 if 0 in shape else len(shape)  # nothing nests below an empty list
    if depth not in (1, levels):
        raise InputError(f"input '{name}': data is nested unlike shape {list(shape)}")
    try:
        values = _decoder(dtype, depth).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        values = _with_non_finite(dtype, depth, data)
        if values is None:
            raise InputError(f"input '{name}': data is not {dtype}: {_first_line(error)}") from None
    flat: list[Any] = values if depth == 1 else _flatten(name, values, shape[:levels], shape)
    count = math.prod(shape)
    if len(flat) != count:
        raise InputError(f"input '{name}' of shape {list(shape)} takes {count} values; data has {len(flat)}")
    return _pack(name, dtype, flat)


def _with_non_finite(dtype: str, depth: int, data: Buffer) -> Any | None:
    """Decode again with Python's parser, which takes `NaN` and `Infinity`; None if that does not help."""
    text = bytes(data)
    if dtype not in ("FP32", "FP64") or not (b"NaN" in text or b"Infinity" in text):
        return None
    kind: Any = float
    for _ in range(depth):
        kind = list[kind]
    try:
        return msgspec.convert(json.loads(text), kind)
    except (msgspec.ValidationError, ValueError, RecursionError):
        return None


def _flatten(name: str, values: Any, sizes: Sequence[int], shape: Sequence[int]) -> list[Any]:
    """Row-major values of nested lists, every list as long as `sizes` says, outermost first."""
    level: list[Any] = [values]
    for size in sizes:
        if any(len(part) != size for part in level):
            raise InputError(f"input '{name}': data is nested unlike shape {list(shape)}")
        level = list(chain.from_iterable(level))
    return level


def _pack(name: str, dtype: str, flat: list[Any]) -> bytes:
    if dtype == "BYTES":
        return pack_bytes([text.encode() for text in flat])
    if dtype == "BOOL":
        try:
            flat = [value if value is True or value is False else _BOOL_WORDS[value] for value in flat]
        except KeyError as error:
            raise InputError(f"input '{name}': {error.args[0]!r} is not a BOOL; use true or false") from None
    try:
        with np.errstate(over="raise"):
            return np.array(flat, dtype=KINDS[dtype].numpy).tobytes()
    except (OverflowError, FloatingPointError):
        raise InputError(f"input '{name}': data has a value out of range for {dtype}") from None


def pack_bytes(elements: Sequence[bytes]) -> bytes:
    """Binary form of BYTES elements: a little-endian uint32 length before each."""
    return b"".join(part for item in elements for part in (len(item).to_bytes(UINT32_BYTES, "little"), item))


def bytes_offsets(data: Buffer, count: int) -> list[int]:
    """Where each of `count` BYTES elements starts, and the end: `count + 1` offsets.

    Raises:
        InputError: the data does not hold exactly `count` elements.
    """
    offsets = [0]
    position, end = 0, len(data)
    for _ in range(count):
        if position + UINT32_BYTES > end:
            raise InputError(f"{count} elements were expected; the data ends after {len(offsets) - 1}")
        position += UINT32_BYTES + int.from_bytes(data[position : position + UINT32_BYTES], "little")
        if position > end:
            raise InputError(f"element {len(offsets) - 1} is longer than what is left of the data")
        offsets.append(position)
    if position != end:
        raise InputError(f"{count} elements take {position} bytes; the data has {end}")
    return offsets


def to_json(name: str, dtype: str, count: int, data: Buffer) -> bytes:
    """Turn a tensor's binary form into a flat JSON array of `count` values.

    Raises:
        InputError: the type is binary only, there are too many values, or BYTES are not UTF-8.
    """
    if count > JSON_VALUES_MAX:
        raise InputError(
            f"output '{name}' has {count} values; at most {JSON_VALUES_MAX} are written as JSON: "
            "ask for binary data"
        )
    if dtype == "BYTES":
        offsets = bytes_offsets(data, count)
        try:
            texts = [str(data[start + UINT32_BYTES : end], "utf-8") for start, end in pairwise(offsets)]
        except UnicodeDecodeError:
            raise InputError(f"output '{name}' is not UTF-8, which JSON needs: ask for binary data") from None
        return msgspec.json.encode(texts)
    if KINDS[dtype].element is None:
        raise InputError(f"output '{name}' is {dtype}, which JSON cannot carry: ask for binary data")
    values: NDArray[Any] = np.frombuffer(data, dtype=KINDS[dtype].numpy)
    if dtype in ("FP32", "FP64") and not np.isfinite(values).all():
        return json.dumps(values.tolist(), separators=(",", ":")).encode()
    return msgspec.json.encode(values.tolist())


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
