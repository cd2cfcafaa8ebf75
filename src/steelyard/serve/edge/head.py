"""The JSON head of an inference request, as typed structs.

The rule of this file: fields that mean nothing here are skipped without being built, and tensor data stays
raw JSON until the tensor's type is known. Source: Open Inference Protocol v2 (REST).
"""

import json

import msgspec

from steelyard.core.errors import InputError


class InputParameters(msgspec.Struct):
    """Parameters of an input tensor that are understood; others are ignored."""

    binary_data_size: int | None = None
    shared_memory_region: str | None = None
    shared_memory_byte_size: int | None = None
    shared_memory_offset: int | None = None


class HeadInput(msgspec.Struct):
    """An input tensor; `data` is empty where its bytes follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class OutputParameters(msgspec.Struct):
    """Parameters of a requested output that are understood or refused; others are ignored."""

    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None
    shared_memory_byte_size: int | None = None
    shared_memory_offset: int | None = None


class HeadOutput(msgspec.Struct):
    """A requested output."""

    name: str
    parameters: OutputParameters | None = None


class Parameters(msgspec.Struct):
    """The request parameters that mean something here; others are ignored, as the protocol allows.

    `null` is what some clients write for what they leave out.

    `timeout` is in microseconds (Triton's); what the bounds mean is said in `edge/bounds.py`.
    """

    binary_data_output: bool | None = None
    timeout: int | float | None = None
    max_latency_ms: int | float | None = None
    elapsed_ms: int | float | None = None
    slo_class: str | None = None
    min_accuracy: int | float | None = None
    max_core_ms: int | float | None = None


class Head(msgspec.Struct):
    """The whole head. A raw request, which has none, behaves as `Head([])` with binary answers."""

    inputs: list[HeadInput]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[HeadOutput] | None = None


NON_FINITE_BYTES_MAX = 1 << 20
"""Of JSON with the words `NaN` or `Infinity`: 0.3 s for a parser of Python's on the loop that all share."""

_decode = msgspec.json.Decoder(Head).decode


def parse_head(head: bytes | memoryview) -> Head:
    """Decode the JSON head.

    Raises:
        InputError: it is not JSON, or not an inference request.
    """
    try:
        return _decode(head)
    except msgspec.ValidationError as error:
        raise InputError(f"the body is not an inference request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = _parse_with_non_finite(bytes(head))
        if found is None:
            raise InputError(f"the body's JSON cannot be read: {error}") from None
        return found


def _parse_with_non_finite(head: bytes) -> Head | None:
    """Python's parser also takes the bare words `NaN` and `Infinity`, as tritonclient writes; else None."""
    if b"NaN" not in head and b"Infinity" not in head:
        return None
    if len(head) > NON_FINITE_BYTES_MAX:
        raise InputError(
            f"the body's JSON has NaN or Infinity, and {len(head)} bytes; at most {NON_FINITE_BYTES_MAX} are "
            "taken with them: send large tensors as binary data"
        )
    try:
        tree = json.loads(head)
        for given in tree["inputs"]:
            if "data" in given:
                given["data"] = msgspec.Raw(json.dumps(given["data"]).encode())
        found = msgspec.convert(tree, Head)
        (
            found.id or ""
        ).encode()  # goes back to the client; half of a surrogate pair, which is no text, cannot
        return found
    except msgspec.ValidationError as error:
        raise InputError(f"the body is not an inference request: {error}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
