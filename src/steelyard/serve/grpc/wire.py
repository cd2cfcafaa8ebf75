"""Encoded messages taken apart and put together, for the sake of the tensors in them.

The rule of this file: protobuf never sees tensor data. It would copy it into its own objects, and out of them
again; here the raw contents stay where gRPC put them until they are copied into the arena, and an answer's
are joined to the encoded rest once. That a message is its fields one after another, in any order, is
protobuf's promise (protobuf.dev/programming-guides/encoding).
"""

from collections.abc import Sequence

from steelyard.core.errors import InputError

RAW_INPUT_TAG = 7 << 3 | 2
"""`raw_input_contents` of a request, length-delimited."""
RAW_OUTPUT_TAG = bytes([6 << 3 | 2])
"""`raw_output_contents` of an answer."""
INFER_RESPONSE_TAG = bytes([2 << 3 | 2])
"""`infer_response` of a stream's answer."""
FIELDS_MAX = 4096
"""Top-level fields of a request: they are walked one by one."""
_VARINT_BYTES_MAX = 10
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def split(message: bytes) -> tuple[bytes, list[memoryview]]:
    """A `ModelInferRequest` without its raw contents, and those, as views of the message.

    Raises:
        InputError: it is no encoded message, or has more than `FIELDS_MAX` fields.
    """
    view = memoryview(message)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    at = kept_from = fields = 0
    while at < len(message):
        fields += 1
        if fields > FIELDS_MAX:
            raise InputError(f"the message has over {FIELDS_MAX} inputs, outputs and parameters together")
        field_at = at
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _DELIMITED:
            length, at = _varint(message, at)
            start, at = at, at + length
        elif kind == _VARINT:
            start, at = at, _varint(message, at)[1]
        elif kind in (_FIXED32, _FIXED64):
            start, at = at, at + (4 if kind == _FIXED32 else 8)
        else:
            raise _malformed()
        if at > len(message):
            raise _malformed()
        if tag == RAW_INPUT_TAG:
            rest.append(view[kept_from:field_at])
            raw.append(view[start:at])
            kept_from = at
    if not raw:
        return message, raw
    rest.append(view[kept_from:])
    return b"".join(rest), raw


def with_raw_outputs(head: bytes, outputs: Sequence[Sequence[memoryview]]) -> bytes:
    """An encoded `ModelInferResponse`, and the pieces of each of its outputs: the whole answer."""
    parts: list[bytes | memoryview] = [head]
    for pieces in outputs:
        parts += (RAW_OUTPUT_TAG, varint(sum(map(len, pieces))), *pieces)
    return b"".join(parts)


def in_stream(response: bytes) -> bytes:
    """An encoded `ModelStreamInferResponse` with this `infer_response`."""
    return b"".join((INFER_RESPONSE_TAG, varint(len(response)), response))


def varint(value: int) -> bytes:
    """A number >= 0 as protobuf has it: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    if at < len(message) and message[at] < 0x80:  # mostly
        return message[at], at + 1
    value = shift = 0
    for position in range(at, min(at + _VARINT_BYTES_MAX, len(message))):
        byte = message[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise _malformed()


def _malformed() -> InputError:
    return InputError("the message is not a ModelInferRequest: it cannot be decoded")
