"""Run as a process: every datatype through a live server's worker and back, with tritonclient over HTTP.

Usage: triton_datatypes.py ADDRESS SERVICE DATATYPES. The service gives `out_<datatype>` for each
`in_<datatype>`, of shape [-1, 2]; DATATYPES are comma-separated.
"""

import sys
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import triton_to_np_dtype


def array(datatype: str, rows: int, rng: np.random.Generator) -> Any:
    if datatype == "BYTES":
        words = np.empty((rows, 2), dtype=object)
        words[:] = [["", "é".encode()], *([b"word", b"x" * 300] for _ in range(rows - 1))]
        return words
    dtype = np.dtype(ml_dtypes.bfloat16 if datatype == "BF16" else triton_to_np_dtype(datatype))
    if datatype == "BOOL":
        return rng.integers(0, 2, size=(rows, 2)).astype(bool)
    values = rng.integers(0, 256, size=rows * 2 * dtype.itemsize, dtype=np.uint8).view(dtype).reshape(rows, 2)
    if dtype.kind in "fV":
        values = np.where(np.isnan(values), np.zeros_like(values), values)
    return values


def main(address: str, service: str, names: str) -> None:
    rng = np.random.default_rng(5)
    client = triton.InferenceServerClient(address)
    for rows in (1, 3, 7):
        arrays = {name: array(name, rows, rng) for name in names.split(",")}
        inputs = []
        for name, values in arrays.items():
            given = triton.InferInput(f"in_{name}", list(values.shape), name)
            given.set_data_from_numpy(values)
            inputs.append(given)
        result = client.infer(service, inputs)
        for name, values in arrays.items():
            back = result.as_numpy(f"out_{name}")
            if name == "BYTES":
                assert [w if isinstance(w, bytes) else w.encode() for w in back.ravel()] == [
                    w if isinstance(w, bytes) else w.encode() for w in values.ravel()
                ]
            else:
                assert (back.dtype, back.shape, back.tobytes()) == (
                    values.dtype,
                    values.shape,
                    values.tobytes(),
                ), (name, values, back)
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
