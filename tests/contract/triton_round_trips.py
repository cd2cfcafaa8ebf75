"""Run as a process: tensors of every datatype and rank through tritonclient over HTTP, equal bit for bit.

Usage: triton_round_trips.py PORT SEED. Service `rank<n>` echoes an input of each datatype, all of rank n.
Prints how many tensors came back.
"""

import asyncio
import sys
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils as utils

DATATYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.object_,
}  # fmt: skip
BINARY_ONLY = ("FP16", "BF16")


def random_array(datatype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Any bits but those of NaNs, which JSON does not keep."""
    count = int(np.prod(shape))
    if datatype == "BYTES":
        items = np.empty(count, dtype=object)
        items[:] = [
            bytes(rng.integers(32, 127, size=rng.integers(0, 6), dtype=np.uint8)) for _ in range(count)
        ]
        return items.reshape(shape)
    if datatype == "BOOL":
        return rng.integers(0, 2, size=shape).astype(np.bool_)
    dtype = np.dtype(DATATYPES[datatype])
    values = rng.integers(0, 256, size=count * dtype.itemsize, dtype=np.uint8).view(dtype)
    if dtype.kind in "fV":  # V: numpy's kind of bfloat16
        values = np.where(np.isnan(values), np.zeros_like(values), values)
    shaped: np.ndarray[Any, Any] = values.reshape(shape)
    return shaped


def cases(rank: int, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """An array of each datatype, sizes 0 to 3."""
    return {name: random_array(name, tuple(rng.integers(0, 4, size=rank)), rng) for name in DATATYPES}


def given(arrays: dict[str, np.ndarray[Any, Any]], binary: bool, module: Any) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), name)
        tensor.set_data_from_numpy(array, binary_data=binary or name in BINARY_ONLY)
        inputs.append(tensor)
    return inputs


def wanted(binary: bool, module: Any) -> list[Any]:
    return [
        module.InferRequestedOutput(name, binary_data=binary or name in BINARY_ONLY) for name in DATATYPES
    ]


def check(arrays: dict[str, np.ndarray[Any, Any]], result: Any) -> int:
    for name, array in arrays.items():
        back = result.as_numpy(name)
        assert back.shape == array.shape, (name, back.shape, array.shape)
        if name == "BYTES":
            items = [item if isinstance(item, bytes) else item.encode() for item in back.ravel().tolist()]
            assert items == array.ravel().tolist(), name
        else:
            assert back.dtype == array.dtype, (name, back.dtype)
            assert back.tobytes() == array.tobytes(), (name, back, array)
    return len(arrays)


def main(port: str, seed: str) -> None:
    rng = np.random.default_rng(int(seed))
    assert utils.np_to_triton_dtype(np.float16) == "FP16"
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    count = 0
    for rank in range(6):
        for binary_in, binary_out in ((True, True), (False, True), (True, False), (False, False)):
            arrays = cases(rank, rng)
            result = client.infer(
                f"rank{rank}", given(arrays, binary_in, triton), outputs=wanted(binary_out, triton)
            )
            count += check(arrays, result)
        for coding in ("gzip", "deflate"):
            arrays = cases(rank, rng)
            result = client.infer(
                f"rank{rank}",
                given(arrays, True, triton),
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )
            count += check(arrays, result)
    count += check_non_finite(client, rng)
    client.close()
    sys.stdout.write(f"{count + asyncio.run(concurrent(port, rng))}\n")


def check_non_finite(client: Any, rng: np.random.Generator) -> int:
    """What JSON has no numbers for is written as bare words, as Triton does, in both directions."""
    arrays = cases(1, rng)
    for name in ("FP32", "FP64"):
        arrays[name] = np.array([np.nan, np.inf, -np.inf, -0.0], DATATYPES[name])
    result = client.infer("rank1", given(arrays, False, triton), outputs=wanted(False, triton))
    return check(arrays, result)


async def concurrent(port: str, rng: np.random.Generator) -> int:
    """The asyncio client, several requests at once."""
    client = triton_aio.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        arrays = [cases(rank, rng) for rank in range(6)]
        results = await asyncio.gather(
            *(
                client.infer(f"rank{rank}", given(found, True, triton_aio))
                for rank, found in enumerate(arrays)
            )
        )
    finally:
        await client.close()
    return sum(check(found, result) for found, result in zip(arrays, results, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
