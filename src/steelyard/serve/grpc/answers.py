"""From a completed request to the bytes of its `ModelInferResponse`.

The rule of this file: outputs are copied once, from the worker's memory into the message. They are raw
contents unless the request's inputs were typed and every output has a typed form. An output that is written
to shared memory has empty raw contents, as their number and order are those of the outputs.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from steelyard.core.commands import Complete
from steelyard.core.errors import ModelError
from steelyard.runtime.base import TensorSpec
from steelyard.serve.edge.answers import MODEL_VERSION
from steelyard.serve.edge.codec import Answer, Inference, Route
from steelyard.serve.edge.outputs import Read, answer_parameters, given_outputs, joined, request_output
from steelyard.serve.edge.tensors import KINDS, UINT32_BYTES, bytes_offsets
from steelyard.serve.grpc.messages import InferResponse
from steelyard.serve.grpc.requests import CONTENTS
from steelyard.serve.grpc.wire import with_raw_outputs


def encode_answer(route: Route, asked: Inference, complete: Complete, read: Read, *, typed: bool) -> bytes:
    """Build the answer.

    Raises:
        InputError: shared memory that an output was to be written to is too small, or gone.
        ModelError: the model did not give what its signature promises.
    """
    answer = InferResponse(model_name=route.name, model_version=MODEL_VERSION, id=asked.client_id)
    set_parameters(answer.parameters, msgspec.to_builtins(answer_parameters(complete)))
    wanted = asked.answers or [Answer(spec, True) for spec in given_outputs(route, complete)]
    typed = typed and all(spec.dtype in CONTENTS for spec, _, _ in wanted)
    raw: list[Sequence[memoryview]] = []
    for spec, _, span in wanted:
        shape, pieces = request_output(route, spec, complete, read)
        output = answer.outputs.add(name=spec.name, datatype=spec.dtype, shape=shape)
        if span is not None:
            size = span.write(spec.name, pieces)
            place = {"shared_memory_region": span.region.name, "shared_memory_byte_size": size}
            if span.offset:
                place["shared_memory_offset"] = span.offset
            set_parameters(output.parameters, place)
            pieces = []
        elif typed:
            _set_contents(output.contents, spec, math.prod(shape), joined(pieces))
        raw.append(pieces)
    head = answer.SerializeToString()
    return head if typed else with_raw_outputs(head, raw)


def set_parameters(parameters: Any, values: dict[str, Any]) -> None:
    """Put values into a map of `InferParameter`, each as what it is; None is left out."""
    for name, value in values.items():
        if isinstance(value, bool):
            parameters[name].bool_param = value
        elif isinstance(value, int):
            parameters[name].int64_param = value
        elif isinstance(value, float):
            parameters[name].double_param = value
        elif value is not None:
            parameters[name].string_param = value


def _set_contents(contents: Any, spec: TensorSpec, count: int, data: bytes | memoryview) -> None:
    values = getattr(contents, CONTENTS[spec.dtype])
    if spec.dtype == "BYTES":
        offsets = bytes_offsets(data, count)
        values.extend(bytes(data[start + UINT32_BYTES : end]) for start, end in pairwise(offsets))
        return
    array = np.frombuffer(data, KINDS[spec.dtype].numpy)
    if len(array) != count:
        raise ModelError(f"output '{spec.name}' has {len(array)} values for {count}")
    values.extend(array.tolist())
