"""The client's half of the Open Inference Protocol over HTTP, tensors in binary, and payloads from files.

A body is JSON followed by the raw tensors in the order of the inputs, little-endian and row-major; the
header `Inference-Header-Content-Length` says where the JSON ends. Source: Open Inference Protocol, binary
tensor data extension. Bodies are built once, before the run, so that sending one costs no encoding.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from steelyard.core.errors import InputError
from steelyard.runtime.base import Array
from steelyard.runtime.dtypes import numpy_dtype, oip_dtype

LENGTH_HEADER = "Inference-Header-Content-Length"


class Body(NamedTuple):
    """A request as it goes over the wire."""

    content: bytes
    headers: Mapping[str, str]


def infer_body(inputs: Mapping[str, Array]) -> Body:
    """A request with every tensor in binary, which asks for binary outputs."""
    raw = [_to_bytes(array) for array in inputs.values()]
    described = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": oip_dtype(array.dtype),
            "parameters": {"binary_data_size": len(data)},
        }
        for (name, array), data in zip(inputs.items(), raw, strict=True)
    ]
    head = msgspec.json.encode({"inputs": described, "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(head))}
    return Body(b"".join([head, *raw]), headers)


def read_outputs(content: bytes, json_length: int | None) -> dict[str, Array]:
    """The tensors of an answer; `json_length` is what `LENGTH_HEADER` says, None for JSON alone.

    Raises:
        InputError: the answer is not what the protocol says.
    """
    try:
        head = msgspec.json.decode(content[:json_length])
        position, tensors = json_length or len(content), {}
        for output in head["outputs"]:
            dtype, size = output["datatype"], (output.get("parameters") or {}).get("binary_data_size")
            if size is None:
                array = np.array(output["data"], dtype=numpy_dtype(dtype))
            else:
                array = _from_bytes(content[position : position + size], dtype)
                position += size
            tensors[output["name"]] = array.reshape(output["shape"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"not an Open Inference Protocol answer: {error!r}") from error
    return tensors


def load_payload(path: Path, input_names: Sequence[str]) -> Body:
    """A request from a file: `.npy` (the only input), `.npz` (inputs by name) or `.json` (a whole body).

    Raises:
        InputError: no such file, another kind of file, or its inputs are not the model's.
    """
    try:
        if path.suffix == ".json":
            content = path.read_bytes()
            json.loads(content)
            return Body(content, {"Content-Type": "application/json"})
        inputs = _arrays(path, input_names)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if sorted(inputs) != sorted(input_names):
        raise InputError(
            f"{path}: the model takes {', '.join(input_names)}; the file has {', '.join(inputs)}"
        )
    return infer_body(inputs)


def _arrays(path: Path, input_names: Sequence[str]) -> dict[str, Array]:
    if path.suffix == ".npy":
        if len(input_names) != 1:
            raise InputError(
                f"{path}: the model takes {', '.join(input_names)}; use an .npz with these names"
            )
        return {input_names[0]: np.load(path, allow_pickle=False)}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    raise InputError(f"{path}: want .npy, .npz or .json, got {path.suffix or 'no suffix'!r}")


def _to_bytes(array: Array) -> bytes:
    if oip_dtype(array.dtype) != "BYTES":
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    items = (item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist())
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def _from_bytes(data: bytes, dtype: str) -> Array:
    if dtype != "BYTES":
        return np.frombuffer(data, dtype=numpy_dtype(dtype).newbyteorder("<"))
    items: list[bytes] = []
    position = 0
    while position < len(data):
        end = position + 4 + int.from_bytes(data[position : position + 4], "little")
        items.append(data[position + 4 : end])
        position = end
    array: np.ndarray[Any, Any] = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array
