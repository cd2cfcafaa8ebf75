"""Inputs to warm up and measure with, where no real request is at hand.

Zeros, and empty strings: valid for every operator's index and enumeration inputs, and dense arithmetic on a
CPU takes the same time for any finite values. Denormals and data-dependent control flow are the exceptions.
"""

import numpy as np

from steelyard.core.errors import ModelError
from steelyard.runtime.base import Array, Signature, TensorSpec, VariantSpec
from steelyard.runtime.dtypes import numpy_dtype


def example_inputs(spec: VariantSpec, signature: Signature, rows: int) -> dict[str, Array]:
    """One batch of `rows` rows, shapes from the model and, where those are dynamic, from `spec.example`.

    Raises:
        ModelError: an input has dynamic dimensions and the spec gives no example for them.
    """
    return {
        tensor.name: _example(tensor_shape(spec, signature, tensor, rows), tensor)
        for tensor in signature.inputs
    }


def tensor_shape(spec: VariantSpec, signature: Signature, tensor: TensorSpec, rows: int) -> tuple[int, ...]:
    """The shape of one input for `rows` rows; all but the leading axis from the model or the example.

    Raises:
        ModelError: a dimension is known from neither, or the example contradicts the model.
    """
    shape = (rows, *tensor.shape[1:]) if signature.batchable else tensor.shape
    example = spec.example.get(tensor.name)
    if example is not None:
        given = (rows, *example) if signature.batchable else example
        fits = len(given) == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, given, strict=True)
        )
        if not fits:
            raise ModelError(
                f"variant {spec.name}: example of input {tensor.name} has shape {list(example)}, "
                f"but the model takes {list(shape[1:] if signature.batchable else shape)}"
            )
        return given
    if -1 in shape:
        raise ModelError(
            f"variant {spec.name}: input {tensor.name} has dynamic dimensions {list(tensor.shape)}; "
            f"give `example: {{{tensor.name}: {{shape: [...]}}}}`"
            + (" without the leading one" if signature.batchable else "")
        )
    return shape


def _example(shape: tuple[int, ...], tensor: TensorSpec) -> Array:
    if tensor.dtype == "BYTES":
        return np.full(shape, b"", dtype=np.object_)
    return np.zeros(shape, dtype=numpy_dtype(tensor.dtype))
