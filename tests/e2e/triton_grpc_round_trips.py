"""Run as a process: tensors of every datatype and rank through tritonclient over gRPC, equal bit for bit.

Usage: python -m tests.e2e.triton_grpc_round_trips PORT SEED, in the project's folder. Service `rank<n>`
echoes an input of each datatype, all of rank n. Prints how many tensors came back.
"""

import asyncio
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from tests.contract.triton_round_trips import cases, check

Arrays = dict[str, np.ndarray[Any, Any]]


def given(arrays: Arrays) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), name)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def one_by_one(client: Any, rng: np.random.Generator) -> int:
    count = 0
    for rank in range(6):
        for coding in (None, "gzip", "deflate"):
            arrays = cases(rank, rng)
            headers = {"accept-encoding": coding} if coding else None
            result = client.infer(
                f"rank{rank}", given(arrays), compression_algorithm=coding, headers=headers, request_id="one"
            )
            assert result.get_response().id == "one"
            count += check(arrays, result)
        arrays = cases(rank, rng)
        chosen = dict(reversed(arrays.items()))
        asked = [triton.InferRequestedOutput(name) for name in chosen]
        result = client.infer(f"rank{rank}", given(arrays), outputs=asked)
        assert [output.name for output in result.get_response().outputs] == list(chosen)
        count += check(arrays, result)
    return count


def streamed(client: Any, rng: np.random.Generator) -> int:
    """Many requests over one stream; one that is refused does not end it."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    sent = [cases(rank, rng) for rank in range(6)]
    for rank, arrays in enumerate(sent):
        client.async_stream_infer(f"rank{rank}", given(arrays), request_id=str(rank))
        client.async_stream_infer("rank9", given(arrays))
    count = 0
    for rank, arrays in enumerate(sent):
        result, error = answers.get(timeout=50)
        assert error is None, error
        assert result.get_response().id == str(rank)
        count += check(arrays, result)
        _, error = answers.get(timeout=50)
        assert "unknown model 'rank9'" in str(error)
    client.stop_stream()
    return count


async def concurrent(port: str, rng: np.random.Generator) -> int:
    """The asyncio client: several calls at once, and a stream."""
    client = triton_aio.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        sent = [cases(rank, rng) for rank in range(6)]
        results = await asyncio.gather(
            *(client.infer(f"rank{rank}", given(arrays)) for rank, arrays in enumerate(sent))
        )
        count = sum(check(arrays, result) for arrays, result in zip(sent, results, strict=True))

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for rank, arrays in enumerate(sent):
                yield {"model_name": f"rank{rank}", "inputs": given(arrays)}

        rank = 0
        async for result, error in client.stream_infer(requests()):
            assert error is None
            count += check(sent[rank], result)
            rank += 1
    finally:
        await client.close()
    return count


def main(port: str, seed: str) -> None:
    rng = np.random.default_rng(int(seed))
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    count = one_by_one(client, rng) + streamed(client, rng)
    client.close()
    sys.stdout.write(f"{count + asyncio.run(concurrent(port, rng))}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
