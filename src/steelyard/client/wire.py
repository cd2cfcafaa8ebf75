"""The client's half of the Open Inference Protocol over HTTP, tensors in binary.

A body is JSON followed by the raw tensors in the order of the inputs, little-endian and row-major; the
header `Inference-Header-Content-Length` says where the JSON ends. Source: Open Inference Protocol, binary
tensor data extension.

The rule of this file: tensors are not copied where they lie in memory as they travel (`Pieces` refer to the
caller's arrays, and outputs are views of the answer); whoever needs one piece joins them (`infer_body`).
BF16 goes out of arrays whose type is called `bfloat16` (ml_dtypes) and comes back as its bits in `uint16`.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import numpy as np

from steelyard.core.errors import InputError, ModelError
from steelyard.runtime.base import Array
from steelyard.runtime.dtypes import numpy_dtype, oip_dtype

LENGTH_HEADER = "Inference-Header-Content-Length"

Buffer = bytes | memoryview


class Place(NamedTuple):
    """Where a tensor lies in a registered region of shared memory."""

    region: str
    offset: int
    byte_size: int


class Pieces(NamedTuple):
    """A request's body in pieces, of which the first is its JSON."""

    parts: list[Buffer]
    headers: Mapping[str, str]


class Body(NamedTuple):
    """A request as it goes over the wire."""

    content: bytes
    headers: Mapping[str, str]


class AnswerHead(NamedTuple):
    """The tensors of an answer, and what it says of itself."""

    outputs: dict[str, Array]
    parameters: Mapping[str, Any]
    client_id: str


def infer_pieces(
    inputs: Mapping[str, Array],
    *,
    client_id: str = "",
    outputs: Collection[str] = (),
    places: Mapping[str, Place] | None = None,
) -> Pieces:
    """A request with every tensor in binary, which asks for binary outputs: all, or those named.

    Tensors with a place are not sent: they lie there already.

    Raises:
        InputError: the protocol has no type for an array's.
    """
    described, raw = [], []
    for name, array in inputs.items():
        place = places.get(name) if places else None
        if place is not None:
            parameters: dict[str, Any] = _place_parameters(place)
        else:
            data = tensor_bytes(array)
            raw.append(data)
            parameters = {"binary_data_size": len(data)}
        described.append(
            {"name": name, "shape": array.shape, "datatype": datatype(array), "parameters": parameters}
        )
    asked: dict[str, Any] = {"inputs": described, "parameters": {"binary_data_output": True}}
    if client_id:
        asked["id"] = client_id
    if outputs:
        asked["outputs"] = [{"name": name} for name in outputs]
    head = msgspec.json.encode(asked)
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(head))}
    return Pieces([head, *raw], headers)


def infer_body(inputs: Mapping[str, Array]) -> Body:
    """The same in one piece, built once to be sent often."""
    parts, headers = infer_pieces(inputs)
    return Body(b"".join(parts), headers)


def read_answer(content: Buffer, json_length: int | None) -> AnswerHead:
    """An answer's parts; `json_length` is what `LENGTH_HEADER` says, None for JSON alone.

    Raises:
        InputError: the answer is not what the protocol says.
    """
    view = memoryview(content)
    try:
        head = msgspec.json.decode(view[:json_length])
        position, tensors = json_length or len(view), {}
        for output in head["outputs"]:
            dtype, size = output["datatype"], (output.get("parameters") or {}).get("binary_data_size")
            if size is None:
                array = np.array(output["data"], dtype=numpy_dtype(dtype))
            else:
                array = _from_bytes(view[position : position + size], dtype)
                position += size
            tensors[output["name"]] = array.reshape(output["shape"])
        return AnswerHead(tensors, head.get("parameters") or {}, str(head.get("id") or ""))
    except (msgspec.DecodeError, ModelError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"not an Open Inference Protocol answer: {error!r}") from error


def read_outputs(content: Buffer, json_length: int | None) -> dict[str, Array]:
    """The tensors of an answer; see `read_answer`."""
    return read_answer(content, json_length).outputs


def datatype(array: Array) -> str:
    """The protocol's word for an array's type.

    Raises:
        InputError: it has none, or is no array.
    """
    if not isinstance(getattr(array, "dtype", None), np.dtype):
        raise InputError(f"a tensor has to be a numpy array, not {type(array).__name__}")
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":
        return "BF16"
    try:
        return oip_dtype(array.dtype)
    except ModelError as error:
        raise InputError(str(error)) from None


def tensor_bytes(array: Array) -> Buffer:
    """A tensor as it travels; of the array's own memory where that is in order.

    Raises:
        InputError: the protocol has no type for the array's.
    """
    word = datatype(array)
    if word == "BYTES":
        items = (item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist())
        return b"".join(len(item).to_bytes(4, "little") + item for item in items)
    if word == "BF16":
        array = array.view(np.uint16)
    if not array.size:
        return b""
    flat = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
    return flat.view(np.uint8).data


def base_url(url: str) -> str:
    """A URL without a trailing slash, `http://` unless it names another scheme."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def model_path(model: str) -> str:
    """Where a server has a model: a path, percent-encoded."""
    return f"/v2/models/{quote(model, safe='')}"


def _place_parameters(place: Place) -> dict[str, Any]:
    offset = {"shared_memory_offset": place.offset} if place.offset else {}
    return {"shared_memory_region": place.region, "shared_memory_byte_size": place.byte_size, **offset}


def _from_bytes(data: memoryview, dtype: str) -> Array:
    if dtype != "BYTES":
        return np.frombuffer(data, dtype=numpy_dtype(dtype).newbyteorder("<"))
    items: list[bytes] = []
    position = 0
    while position < len(data):
        end = position + 4 + int.from_bytes(data[position : position + 4], "little")
        items.append(bytes(data[position + 4 : end]))
        position = end
    array: np.ndarray[Any, Any] = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array
