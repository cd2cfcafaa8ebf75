"""What a server answers, as values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from steelyard.client.errors import AnswerError
from steelyard.client.http import Reply
from steelyard.client.wire import LENGTH_HEADER, read_answer
from steelyard.core.errors import InputError
from steelyard.runtime.base import Array, TensorSpec

_LENGTH = LENGTH_HEADER.lower().encode()


class Answer(NamedTuple):
    """An answered request; what the server did not say is None or empty.

    Attributes:
        outputs: tensors by name; views of the answer that cannot be written to (BF16 as its bits in uint16).
        variant: that answered the last stage.
        variants: that answered, by stage, where there are several; that of most rows where several did.
        accuracy: estimated for those variants.
        is_accuracy_measured: that was measured end to end; otherwise the product of the stages'.
        queue_ms: queueing delay.
        service_ms: how long its batches ran.
        core_ms: core-milliseconds spent on it.
        bounds_missed: names of its own bounds that were missed.
        request_id: its name, as the caller gave it.
        attempts: how many requests it took.
        variant_rows: rows by variant, of the stages at which several answered.
    """

    outputs: dict[str, Array]
    variant: str = ""
    variants: Mapping[str, str] = {}
    accuracy: float | None = None
    is_accuracy_measured: bool | None = None
    queue_ms: float | None = None
    service_ms: float | None = None
    core_ms: float | None = None
    bounds_missed: tuple[str, ...] = ()
    request_id: str = ""
    attempts: int = 1
    variant_rows: Mapping[str, Mapping[str, int]] = {}


class ModelMetadata(NamedTuple):
    """What a model takes and gives; -1 for a dynamic dimension, the leading one included."""

    name: str
    platform: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def to_answer(reply: Reply, attempts: int) -> Answer:
    """The answer that a 200 holds.

    Raises:
        AnswerError: it is not what the protocol says.
    """
    length = reply.headers.get(_LENGTH)
    try:
        if length is not None and not length.isdigit():
            raise InputError(f"{LENGTH_HEADER} is {length!r}")
        outputs, told, client_id = read_answer(reply.body, int(length) if length else None)
        return Answer(
            outputs,
            str(told.get("variant", "")),
            _by_stage(str(told.get("variants", ""))),
            told.get("accuracy"),
            told.get("accuracy_measured"),
            told.get("queue_ms"),
            told.get("service_ms"),
            told.get("core_ms"),
            tuple(filter(None, str(told.get("bounds_missed", "")).split(","))),
            client_id,
            attempts,
            _rows_by(str(told.get("variant_rows", ""))),
        )
    except (InputError, AttributeError) as error:
        raise AnswerError(f"the answer cannot be read: {error}", status=reply.status) from error


def read_metadata(told: Any) -> ModelMetadata:
    """A model's metadata from its page.

    Raises:
        AnswerError: it is not what the protocol says.
    """
    try:
        inputs, outputs = (
            tuple(TensorSpec(one["name"], one["datatype"], tuple(one["shape"])) for one in told[side])
            for side in ("inputs", "outputs")
        )
        return ModelMetadata(
            told["name"], told.get("platform", ""), tuple(told.get("versions", ())), inputs, outputs
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise AnswerError(f"the answer is not a model's metadata: {error!r}", status=200) from error


def _by_stage(text: str) -> dict[str, str]:
    pairs = (pair.partition(":") for pair in text.split(",") if pair)
    return {stage: variant for stage, _, variant in pairs}


def _rows_by(text: str) -> dict[str, dict[str, int]]:
    """`stage:variant=rows,...`; a count that is no number is not the protocol's.

    Raises:
        InputError: there is one.
    """
    found: dict[str, dict[str, int]] = {}
    for entry in filter(None, text.split(",")):
        name, _, rows = entry.rpartition("=")
        stage, _, variant = name.partition(":")
        if not rows.isdigit():
            raise InputError(f"variant_rows is {text!r}")
        found.setdefault(stage, {})[variant] = int(rows)
    return found
