"""From the bytes of a `ModelInferRequest` to checked inputs, by reference to those bytes.

The rule of this file: what is asked is brought into the words of the HTTP edge (`edge/head.py`), and checked
there. All inputs that are not in shared memory have raw contents, in the order of the inputs, or all have
typed ones. FP16 and BF16 have no typed form.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from steelyard.core.errors import InputError
from steelyard.serve.edge.answers import MODEL_VERSION
from steelyard.serve.edge.body import Body
from steelyard.serve.edge.bounds import Bounds
from steelyard.serve.edge.codec import Inference, Route
from steelyard.serve.edge.head import (
    Head,
    HeadInput,
    HeadOutput,
    InputParameters,
    OutputParameters,
    Parameters,
)
from steelyard.serve.edge.replies import RefusedError
from steelyard.serve.edge.shared_memory import Regions
from steelyard.serve.edge.shown import shown
from steelyard.serve.edge.tensors import KINDS, pack_bytes
from steelyard.serve.grpc.messages import InferRequest
from steelyard.serve.grpc.wire import split

T = TypeVar("T")
Chunk = bytes | memoryview

CONTENTS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where typed contents of a datatype are; the others are raw only."""
_WIRE_TYPES: dict[str, type[np.generic]] = {
    "bool_contents": np.bool_,
    "int_contents": np.int32,
    "int64_contents": np.int64,
    "uint_contents": np.uint32,
    "uint64_contents": np.uint64,
    "fp32_contents": np.float32,
    "fp64_contents": np.float64,
}


class Asked(NamedTuple):
    """An inference request, decoded but for its tensors.

    Attributes:
        message: without raw contents.
        raw: views of those.
    """

    message: Any
    raw: list[memoryview]

    @property
    def is_typed(self) -> bool:
        """Whether inputs have typed contents; the answer has, too, where it can."""
        return not self.raw and any(given.HasField("contents") for given in self.message.inputs)


def decode(data: bytes, head_bytes_max: int) -> Asked:
    """Decode a message.

    Raises:
        InputError: it is no `ModelInferRequest`.
        RefusedError: it has more than `head_bytes_max` apart from raw contents.
    """
    head, raw = split(data)
    if len(head) > head_bytes_max:
        text = f"the message has {len(head)} bytes besides raw_input_contents, the limit is {head_bytes_max}"
        raise RefusedError(413, f"{text}: send large tensors as raw_input_contents")
    try:
        return Asked(InferRequest.FromString(head), raw)
    except DecodeError as error:
        raise InputError(f"the message is not a ModelInferRequest: {error}") from None


def check(asked: Asked, route: Route, bounds: Bounds, regions: Regions | None) -> Inference:
    """Check one request.

    Args:
        asked: the request.
        route: the service asked.
        bounds: what the call's metadata state.
        regions: shared memory; None: not for this client.

    Raises:
        InputError: anything about the request is not what the service takes.
        RefusedError: there is no such version.
    """
    message = asked.message
    if message.model_version not in ("", MODEL_VERSION):
        version = shown(message.model_version)
        raise RefusedError(404, f"model '{route.name}' has no version {version}; it has '{MODEL_VERSION}'")
    inputs, chunks = _inputs(message.inputs, asked.raw)
    head = Head(
        inputs,
        message.id,
        _converted("the request", message.parameters, Parameters),
        [_output(output) for output in message.outputs],
    )
    assert head.parameters is not None
    head.parameters.binary_data_output = True
    return route.check(head, Body(chunks, "its size"), bounds, regions)


def _inputs(given: Sequence[Any], raw: Sequence[memoryview]) -> tuple[list[HeadInput], list[Chunk]]:
    """The inputs as a JSON head would describe them, and the binary data that would follow."""
    heads: list[HeadInput] = []
    chunks: list[Chunk] = []
    for one in given:
        parameters = _converted(f"input {shown(one.name)}", one.parameters, InputParameters)
        parameters.binary_data_size = None
        if parameters.shared_memory_region is None:
            chunk = _next_raw(one, raw, len(chunks)) if raw else _typed(one)
            parameters.binary_data_size = len(chunk)
            chunks.append(chunk)
        elif one.HasField("contents"):
            raise InputError(f"input {shown(one.name)} is in shared memory and has contents, too")
        heads.append(HeadInput(one.name, one.datatype, list(one.shape), parameters))
    if raw and len(chunks) != len(raw):
        raise InputError(
            f"raw_input_contents has {len(raw)} tensors; {len(chunks)} inputs are not in shared memory"
        )
    return heads, chunks


def _next_raw(given: Any, raw: Sequence[memoryview], index: int) -> memoryview:
    if given.HasField("contents"):
        raise InputError(f"input {shown(given.name)} has contents, and the request raw_input_contents, too")
    if index >= len(raw):
        raise InputError(f"raw_input_contents has {len(raw)} tensors; input {shown(given.name)} has none")
    return raw[index]


def _typed(given: Any) -> bytes:
    """Typed contents in binary form.

    Raises:
        InputError: there are none, or values that the datatype does not have.
    """
    what = f"input {shown(given.name)}"
    field = CONTENTS.get(given.datatype)
    filled = [known.name for known, _ in given.contents.ListFields()]
    if not filled:
        if math.prod(given.shape):
            raise InputError(f"{what} has neither contents nor raw_input_contents")
        return b""
    if field is None:
        raise InputError(f"{what} is {given.datatype[:20]}, which has no typed contents: use raw contents")
    if filled != [field]:
        raise InputError(f"{what} is {given.datatype[:20]} and has {', '.join(filled)}; {field} was expected")
    values = getattr(given.contents, field)
    if len(values) != math.prod(given.shape):
        raise InputError(f"{what} of shape {list(given.shape)[:8]} has {len(values)} values in {field}")
    if field == "bytes_contents":
        return pack_bytes(values)
    array: NDArray[Any] = np.array(values, _WIRE_TYPES[field])
    kind = KINDS[given.datatype].numpy
    if kind.kind in "iu" and kind.itemsize < 4 and len(array):
        bounds = np.iinfo(kind)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise InputError(f"{what}: {field} has a value out of range for {given.datatype}")
    return array.astype(kind).tobytes()


def _output(given: Any) -> HeadOutput:
    parameters = _converted(f"output {shown(given.name)}", given.parameters, OutputParameters)
    parameters.binary_data = None  # a word of HTTP's
    return HeadOutput(given.name, parameters)


def _converted(what: str, given: Any, kind: type[T]) -> T:
    """Parameters that mean something here; others are ignored, as the protocol allows.

    Raises:
        InputError: one has a value of another type.
    """
    if not given:  # mostly
        return kind()
    values = {
        name: getattr(value, value.WhichOneof("parameter_choice") or "", None)
        for name, value in given.items()
    }
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{what} has a parameter that is not what is taken: {error}") from None
