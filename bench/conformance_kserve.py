"""Run in an environment with the KServe SDK: its clients, REST and gRPC, against servers that echo.

Usage: conformance_kserve.py URL GRPC_ADDRESS SEED. Service `<datatype><rank>`, such as `fp323`, echoes its
input `x`, which must come back bit for bit. Prints JSON: tensors compared, by protocol and datatype.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

Infer = Callable[[str, Any], Awaitable[Any]]

DATATYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip
"""All that the SDK has: not BF16."""


def random_array(datatype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    count = int(np.prod(shape))
    if datatype == "BYTES":
        items = np.empty(count, dtype=object)
        items[:] = [f"w{rng.integers(1000)}".encode() for _ in range(count)]
        return items.reshape(shape)
    if datatype == "BOOL":
        return rng.integers(0, 2, size=shape).astype(np.bool_)
    dtype = np.dtype(DATATYPES[datatype])
    values = rng.integers(0, 256, size=count * dtype.itemsize, dtype=np.uint8).view(dtype)
    if dtype.kind == "f":
        values = np.where(np.isfinite(values), values, np.zeros_like(values))
    shaped: np.ndarray[Any, Any] = values.reshape(shape)
    return shaped


async def round_trip(infer: Infer, datatype: str, rank: int, binary: bool, seed: int) -> bool:
    """One tensor there and back; False where the SDK itself cannot send it in this form.

    Over gRPC, what is not binary has typed contents.
    """
    rng = np.random.default_rng((seed, rank, binary))
    array = random_array(datatype, tuple(int(size) for size in rng.integers(0, 4, size=rank)), rng)
    if datatype == "FP16" and not binary:
        return False
    given = InferInput("x", list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    name = f"{datatype.lower()}{rank}"
    request = InferRequest(name, [given], request_id="q", parameters={"binary_data_output": binary})
    answer = await infer(name, request)
    assert (answer.model_name, answer.id) == (name, "q")
    (output,) = answer.outputs
    back = output.as_numpy()
    assert list(output.shape) == list(array.shape), (name, output.shape, array.shape)
    if datatype == "BYTES":
        words = [word if isinstance(word, bytes) else word.encode() for word in back.ravel().tolist()]
        assert words == array.ravel().tolist(), name
    else:
        assert back.dtype == array.dtype, (name, back.dtype, array.dtype)
        assert back.tobytes() == array.tobytes(), (name, back, array)
    return True


async def round_trips(infer: Infer, seed: int) -> Counter[str]:
    compared: Counter[str] = Counter()
    for datatype in DATATYPES:
        for rank in range(6):
            for binary in (True, False):
                compared[datatype] += await round_trip(infer, datatype, rank, binary, seed)
    return compared


async def over_rest(url: str, seed: int) -> Counter[str]:
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=20)) as client:
        assert await client.is_server_live(url) is True
        assert await client.is_server_ready(url) is True
        assert await client.is_model_ready(url, "fp320")
        assert not await client.is_model_ready(url, "no-such-model")
        return await round_trips(lambda name, request: client.infer(url, request, model_name=name), seed)


async def over_grpc(address: str, seed: int) -> Counter[str]:
    async with InferenceGRPCClient(address, timeout=20) as client:
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("fp320") is True
        return await round_trips(lambda _, request: client.infer(request), seed)


async def main(url: str, address: str, seed: str) -> None:
    compared = {"http": await over_rest(url, int(seed)), "grpc": await over_grpc(address, int(seed))}
    sys.stdout.write(json.dumps(compared) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
