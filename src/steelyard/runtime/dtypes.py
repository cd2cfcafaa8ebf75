"""Element types in three tongues: the Open Inference Protocol's words, numpy's and ONNX's.

Two of them have no numpy type of their own. `BF16` travels as its raw 16 bits in `uint16`; `BYTES` is an
object array of `bytes` (ONNX strings are UTF-8 and are converted by the ONNX runtime). Source: Open Inference
Protocol, "Tensor Data Types"; ONNX `TensorProto.DataType`.
"""

from typing import Any

import numpy as np

from steelyard.core.errors import ModelError

_NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
    "BYTES": np.dtype(np.object_),
}
_OIP = {dtype: word for word, dtype in _NUMPY.items() if word != "BF16"}
_ONNX = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}

DTYPES = tuple(_NUMPY)


def numpy_dtype(oip: str) -> np.dtype[Any]:
    """The numpy type that carries an OIP type.

    Raises:
        ModelError: no such OIP type.
    """
    try:
        return _NUMPY[oip]
    except KeyError:
        raise ModelError(f"unknown dtype {oip!r}; known are {', '.join(DTYPES)}") from None


def oip_dtype(dtype: np.dtype[Any]) -> str:
    """The OIP word for a numpy type; string types of any length are `BYTES`.

    Raises:
        ModelError: the protocol has no such type (complex, dates, records ...).
    """
    if dtype.kind in "SU":
        return "BYTES"
    try:
        return _OIP[dtype.newbyteorder("=")]
    except KeyError:
        raise ModelError(f"numpy type {dtype} has no counterpart in the Open Inference Protocol") from None


def oip_from_onnx(onnx_type: str) -> str | None:
    """The OIP word for ONNX Runtime's type string (`tensor(float)`), None for what cannot be served."""
    return _ONNX.get(onnx_type)
