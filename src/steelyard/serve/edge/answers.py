"""From a completed request to the bytes of its answer. Pure: reads outputs through the function it is given.

The rule of this file: an output is copied once, from the worker's memory into the body, and only the
request's own rows of it (`outputs`).
"""

import math
from typing import NamedTuple

import msgspec

from steelyard.core.commands import Complete
from steelyard.serve.edge.codec import Answer, Inference, Route
from steelyard.serve.edge.outputs import (
    AnswerParameters,
    Read,
    answer_parameters,
    given_outputs,
    joined,
    request_output,
)
from steelyard.serve.edge.tensors import Buffer, to_json

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


class _AnswerHead(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_OutputHead]
    parameters: AnswerParameters
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
    wanted = asked.answers or [Answer(spec, False) for spec in given_outputs(route, complete)]
    for spec, binary, span in wanted:
        shape, pieces = request_output(route, spec, complete, read)
        head = _OutputHead(spec.name, spec.dtype, shape)
        if span is not None:
            size = span.write(spec.name, pieces)
            head.parameters = _SharedSize(span.region.name, size, span.offset)
        elif binary:
            head.parameters = _BinarySize(sum(map(len, pieces)))
            binaries += pieces
            any_binary = True
        else:
            head.data = msgspec.Raw(to_json(spec.name, spec.dtype, math.prod(shape), joined(pieces)))
        outputs.append(head)
    head_json = msgspec.json.encode(
        _AnswerHead(route.name, MODEL_VERSION, outputs, answer_parameters(complete), asked.client_id)
    )
    if not any_binary:
        return AnswerBody(head_json, None)
    return AnswerBody(b"".join((head_json, *binaries)), len(head_json))
