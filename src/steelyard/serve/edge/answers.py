"""From a completed request to the bytes of its answer. Pure: reads outputs through the function it is given.

The rule of this file: an output is copied once, from the worker's memory into the body, and only the
request's own rows of it (`outputs`). An answer's JSON is the same as that of an earlier one but for its
parameters, so its beginning is written once for all answers to requests of one kind that come alike.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from steelyard.core.commands import Complete
from steelyard.serve.edge.answer_json import BinarySize, HeadStart, OutputHead, SharedSize
from steelyard.serve.edge.codec import Answer, Inference, Route
from steelyard.serve.edge.outputs import (
    Output,
    Read,
    answer_parameters,
    given_outputs,
    joined,
    request_output,
)
from steelyard.serve.edge.tensors import to_json

MODEL_VERSION = "1"
HEADS_MAX = 8
"""Beginnings of answers that are kept for requests of one kind."""


def encode_answer(route: Route, asked: Inference, complete: Complete, read: Read) -> tuple[bytes, int | None]:
    """Build the body of a 200.

    Returns:
        The body, and the length of its JSON head if binary data follows it.

    Raises:
        InputError: an output cannot be written as the client asked (BYTES that are not UTF-8, in JSON;
            shared memory that is too small).
        ModelError: the model did not give what its signature promises.
    """
    wanted = asked.answers or [Answer(spec, False) for spec in given_outputs(route, complete)]
    found = [request_output(route, answer.spec, complete, read) for answer in wanted]
    if asked.heads is not None:
        start = _kept_start(route, wanted, found, asked.heads)
        binaries = [piece for _, pieces in found for piece in pieces]
        is_binary = True
    else:
        start = _start(route, wanted, found)
        binaries = [
            piece
            for answer, (_, pieces) in zip(wanted, found, strict=True)
            if answer.follows
            for piece in pieces
        ]
        is_binary = any(answer.follows for answer in wanted)
    head = start + msgspec.json.encode(answer_parameters(complete)) + _end(asked.client_id)
    return (b"".join((head, *binaries)), len(head)) if is_binary else (head, None)


def _kept_start(
    route: Route, wanted: Sequence[Answer], found: Sequence[Output], heads: dict[tuple[Any, ...], bytes]
) -> bytes:
    """As `_start`, where all outputs are binary: one start for the same shapes and lengths."""
    key = tuple([(shape, *map(len, pieces)) for shape, pieces in found])
    start = heads.get(key)
    if start is None:
        if len(heads) >= HEADS_MAX:
            heads.clear()
        start = heads[key] = _start(route, wanted, found)
    return start


def _start(route: Route, wanted: Sequence[Answer], found: Sequence[Output]) -> bytes:
    """The head up to its parameters; outputs that go to shared memory are written there."""
    outputs: list[OutputHead] = []
    for (spec, binary, span), (shape, pieces) in zip(wanted, found, strict=True):
        head = OutputHead(spec.name, spec.dtype, shape)
        if span is not None:
            size = span.write(spec.name, pieces)
            head.parameters = SharedSize(span.region.name, size, span.offset)
        elif binary:
            head.parameters = BinarySize(sum(map(len, pieces)))
        else:
            head.data = msgspec.Raw(to_json(spec.name, spec.dtype, math.prod(shape), joined(pieces)))
        outputs.append(head)
    start = msgspec.json.encode(HeadStart(route.name, MODEL_VERSION, outputs))
    return start[:-1] + b',"parameters":'


def _end(client_id: str) -> bytes:
    return b',"id":%b}' % msgspec.json.encode(client_id) if client_id else b"}"
