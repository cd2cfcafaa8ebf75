"""Run as a process: every endpoint of a live server through tritonclient over HTTP, and shared memory.

Usage: triton_protocol.py ADDRESS. The server has the services `digits` and `twin` of one classifier,
x [-1, 64] -> y [-1, 10]. Ends with status 0 if everything was as a stock client expects it.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

X = np.random.default_rng(3).normal(size=(3, 64)).astype(np.float32)
NAME = f"steelyard-http-{os.getpid()}"
"""Of shared memory, of which every process of the machine sees all."""


def tensor(module: Any = triton) -> Any:
    given = module.InferInput("x", list(X.shape), "FP32")
    given.set_data_from_numpy(X)
    return given


def refused(call: Callable[[], Any], status: str, text: str) -> None:
    found = ("", "no refusal")
    try:
        call()
    except InferenceServerException as error:
        found = (error.status(), error.message())
    assert found[0] == status, found
    assert text in found[1], found


def health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digit")
    server = client.get_server_metadata()
    assert {"statistics", "model_configuration", "system_shared_memory"} <= set(server["extensions"])
    metadata, config = client.get_model_metadata("digits"), client.get_model_config("digits", "1")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    assert config["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [64]}
    assert config["max_batch_size"] >= 8
    refused(lambda: client.get_model_config("digits", "2"), "404", "has no version '2'")


def bounds(client: Any) -> None:
    answer = client.infer("digits", [tensor()], timeout=4_000_000, parameters={"max_latency_ms": 4500})
    assert answer.get_response()["parameters"]["variant"] == "base"
    headers = {"Steelyard-Max-Latency-Ms": "0.001"}
    refused(lambda: client.infer("digits", [tensor()], headers=headers), "503", "cannot meet")
    headers = {"Steelyard-Elapsed-Ms": "10000"}
    refused(lambda: client.infer("digits", [tensor()], headers=headers), "503", "cannot meet")


def statistics(client: Any) -> None:
    (before,) = client.get_inference_statistics("digits")["model_stats"]
    for _ in range(5):
        client.infer("digits", [tensor()])
    (after,) = client.get_inference_statistics("digits", "1")["model_stats"]
    success = [found["inference_stats"]["success"]["count"] for found in (before, after)]
    assert success[1] - success[0] == 5
    assert after["inference_count"] - before["inference_count"] == 5 * len(X)
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert {found["name"] for found in client.get_inference_statistics()["model_stats"]} == {"digits", "twin"}


def shared_memory(client: Any, want: np.ndarray[Any, Any]) -> None:
    client.unregister_system_shared_memory()
    inputs = shm.create_shared_memory_region("in", f"/{NAME}-in", X.nbytes)
    outputs = shm.create_shared_memory_region("out", f"/{NAME}-out", want.nbytes)
    try:
        shm.set_shared_memory_region(inputs, [X])
        client.register_system_shared_memory("in", f"/{NAME}-in", X.nbytes)
        client.register_system_shared_memory("out", f"/{NAME}-out", want.nbytes)
        assert {region["name"] for region in client.get_system_shared_memory_status()} == {"in", "out"}
        given = triton.InferInput("x", list(X.shape), "FP32")
        given.set_shared_memory("in", X.nbytes)
        asked = triton.InferRequestedOutput("y")
        asked.set_shared_memory("out", want.nbytes)
        result = client.infer("digits", [given], outputs=[asked])
        output = result.get_output("y")
        found = shm.get_contents_as_numpy(outputs, np.float32, output["shape"])
        assert np.array_equal(found, want)
        client.unregister_system_shared_memory("in")
        refused(lambda: client.infer("digits", [given]), "400", "no shared memory region 'in' is registered")
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status() == []
    finally:
        shm.destroy_shared_memory_region(inputs)
        shm.destroy_shared_memory_region(outputs)
    refused(lambda: client.register_cuda_shared_memory("c", b"", 0, 8), "400", "CUDA")


def repository(client: Any, want: np.ndarray[Any, Any]) -> None:
    states = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert states == {"digits": "READY", "twin": "READY"}
    for _ in range(2):
        client.unload_model("twin")
        assert not client.is_model_ready("twin")
        assert client.is_server_ready()
        refused(lambda: client.infer("twin", [tensor()]), "404", "model 'twin' is unloaded")
        assert np.array_equal(client.infer("digits", [tensor()]).as_numpy("y"), want)
        client.unload_model("twin")  # is nothing
        client.load_model("twin")
        assert client.is_model_ready("twin")
        assert np.array_equal(client.infer("twin", [tensor()]).as_numpy("y"), want)
        client.load_model("twin")
    refused(lambda: client.load_model("twin", config="{}"), "400", "models come from the spec file")
    refused(lambda: client.load_model("tvin"), "404", "unknown model 'tvin'")


def settings(client: Any) -> None:
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.update_trace_settings("digits", {})["trace_level"] == ["OFF"]
    refused(
        lambda: client.update_trace_settings("digits", {"trace_level": ["TIMESTAMPS"]}), "501", "trace_level"
    )
    assert client.get_log_settings()["log_info"] is True
    refused(lambda: client.update_log_settings({"log_verbose_level": 2}), "501", "log_verbose_level")


async def asynchronous(address: str, want: np.ndarray[Any, Any]) -> None:
    client = triton_aio.InferenceServerClient(address)
    try:
        assert await client.is_server_ready()
        answers = await asyncio.gather(
            *(client.infer("digits", [tensor(triton_aio)], request_id=str(i)) for i in range(20))
        )
        assert [answer.get_response()["id"] for answer in answers] == [str(i) for i in range(20)]
        # in batches with others: within rounding
        assert all(np.allclose(answer.as_numpy("y"), want, rtol=1e-5, atol=1e-5) for answer in answers)
        assert (await client.get_model_config("digits"))["name"] == "digits"
        assert len((await client.get_inference_statistics())["model_stats"]) == 2
    finally:
        await client.close()


def main(address: str) -> None:
    client = triton.InferenceServerClient(address, concurrency=4)
    health_and_metadata(client)
    want = client.infer("digits", [tensor()]).as_numpy("y")
    assert want.shape == (3, 10)
    pending = [client.async_infer("digits", [tensor()]) for _ in range(8)]
    assert all(np.allclose(one.get_result().as_numpy("y"), want, rtol=1e-5, atol=1e-5) for one in pending)
    bounds(client)
    statistics(client)
    shared_memory(client, want)
    repository(client, want)
    settings(client)
    asyncio.run(asynchronous(address, want))
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
