"""The contract of a runtime: run one batch of one variant. Lives in the worker; nothing here is async."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import ModelError
from steelyard.core.types import Frozen

Array = NDArray[Any]
Value = Array | list[Array]
"""A tensor of a batch: an array whose leading axis is its rows, or *ragged*: one array for each row."""
Width = Literal["lanes", "threads"]


class TensorSpec(Frozen, frozen=True):
    """A tensor a model takes or gives: OIP dtype; shape with -1 for every dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Signature(Frozen, frozen=True):
    """A variant's inputs and outputs, and whether its leading axis is dynamic (`batchable`)."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool
    platform: str = "onnxruntime_onnx"


class VariantSpec(Frozen, frozen=True):
    """How to make one variant, as plain values: what the worker gets over its socket.

    Attributes:
        name: the variant's.
        kind: a registered runtime: `onnx`, `python` or `sleep`.
        target: the ONNX file's path, or `module:Class`; empty for `sleep`.
        batch_rows_max: rows in one batch; None asks the model (1 without a dynamic leading axis).
        cores_max: most cores a replica may get; n-thread sessions are kept up to it.
        providers: ONNX Runtime execution providers, in order.
        session_options: extra ONNX Runtime config entries, by key.
        example: shape by input name, for dynamic dimensions (without the leading one), to warm up
            and to profile with.
        options: the runtime's own (for `sleep`: its latency coefficients; for `python`: passed to `setup`).
        eager: make the sessions of all widths before the variant counts as loaded: the profiler measures at
            once what a server would rather build behind its first requests, so it waits in `set_cores`.
    """

    name: str
    kind: str
    target: str = ""
    batch_rows_max: int | None = None
    cores_max: int = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    session_options: dict[str, str] = msgspec.field(default_factory=dict)
    example: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    eager: bool = False


class WidthRule(Frozen, frozen=True):
    """From `rows` rows on, on `cores` cores, run a batch this wide; the profile says which is faster."""

    cores: int
    rows: int
    width: Width


class Runtime(Protocol):
    """One loaded variant. Calls come one at a time, from the worker's only request thread."""

    signature: Signature

    def set_cores(self, cores: float) -> None:
        """Run the next batch on `cores` cores: choose the number of lanes or threads. Fast; never raises."""
        ...

    def set_widths(self, rules: Sequence[WidthRule]) -> None:
        """How to use more than one core, by rows; without rules, the runtime's default."""
        ...

    def run(self, inputs: Mapping[str, Value], rows: int) -> Mapping[str, Value]:
        """Run one batch of `rows` rows.

        A runtime whose models take arrays alone makes them of what is ragged with `one_array`.

        Raises:
            InputError: the model does not take what a request has sent.
            ModelError: the model raised, or answered with another number of rows.
        """
        ...

    def close(self) -> None:
        """Free threads and memory."""
        ...


def one_array(spec: VariantSpec, signature: Signature, name: str, value: Value) -> Array:
    """An input as one array, for a model that takes nothing else.

    A model without a batch axis takes the array of its one row, with or without a leading axis of 1, as it
    declares. Rows of equal shape are stacked.

    Raises:
        ModelError: the rows' shapes differ.
    """
    if isinstance(value, list):
        if signature.batchable and any(array.shape != value[0].shape for array in value):
            shapes = ", ".join(str(list(array.shape)) for array in value[:4])
            raise ModelError(f"variant {spec.name}: rows of input {name} have different shapes: {shapes}")
        value = np.stack(value) if signature.batchable else value[0]
    if not signature.batchable:
        ranks = [len(tensor.shape) for tensor in signature.inputs if tensor.name == name]
        if ranks == [value.ndim - 1] and value.shape[0] == 1:
            value = value.reshape(value.shape[1:])
        elif ranks == [value.ndim + 1]:
            value = value[np.newaxis]
    return value
