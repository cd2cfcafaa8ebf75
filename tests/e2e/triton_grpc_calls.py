"""Run as a process: every call of a live server through tritonclient over gRPC.

Usage: python -m tests.e2e.triton_grpc_calls ADDRESS, in the project's folder. The server has the services
`digits` and `twin` of one classifier of accuracy 0.9, x [-1, 64] -> y [-1, 10]. Ends with status 0 if
everything was as a stock client expects it.
"""

import os
import queue
import sys
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

X = np.random.default_rng(3).normal(size=(3, 64)).astype(np.float32)
NAME = f"steelyard-grpc-{os.getpid()}"
"""Of shared memory, of which every process of the machine sees all."""
OVERLOADED = "StatusCode.RESOURCE_EXHAUSTED"


def tensor() -> Any:
    given = triton.InferInput("x", list(X.shape), "FP32")
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
    refused(lambda: client.is_model_ready("digit"), "StatusCode.NOT_FOUND", "unknown model 'digit'")
    assert {"statistics", "model_configuration"} <= set(client.get_server_metadata().extensions)
    metadata, config = client.get_model_metadata("digits"), client.get_model_config("digits", "1").config
    (given,) = metadata.inputs
    assert (given.name, given.datatype, list(given.shape)) == ("x", "FP32", [-1, 64])
    assert list(metadata.versions) == ["1"]
    assert (config.input[0].name, config.input[0].data_type, list(config.input[0].dims)) == ("x", 11, [64])
    assert config.max_batch_size >= 8
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    refused(
        lambda: client.get_model_config("digits", "2"), "StatusCode.NOT_FOUND", "digits' has no version '2'"
    )
    refused(
        lambda: client.infer("digits", [tensor()], model_version="2"), "StatusCode.NOT_FOUND", "no version"
    )


def bounds(client: Any) -> None:
    answer = client.infer("digits", [tensor()], timeout=4_000_000, parameters={"max_latency_ms": 4500})
    parameters = answer.get_response().parameters
    assert parameters["variant"].string_param == "base"
    assert parameters["accuracy"].double_param == 0.9
    late = {"steelyard-max-latency-ms": "0.001"}
    refused(lambda: client.infer("digits", [tensor()], headers=late), OVERLOADED, "cannot meet")
    later = {"steelyard-elapsed-ms": "10000"}
    refused(lambda: client.infer("digits", [tensor()], headers=later), OVERLOADED, "cannot meet")
    headers = {"steelyard-max-latency-ms": "soon"}
    refused(
        lambda: client.infer("digits", [tensor()], headers=headers),
        "StatusCode.INVALID_ARGUMENT",
        "must be a number > 0",
    )
    refused(
        lambda: client.infer("digits", [tensor()], parameters={"min_accuracy": 0.95}),
        "StatusCode.FAILED_PRECONDITION",
        "min_accuracy 0.9 could be met",
    )
    refused(lambda: client.infer("digits", [tensor()], parameters={"min_accuracy": "high"}),
            "StatusCode.INVALID_ARGUMENT", "min_accuracy")  # fmt: skip


def statistics(client: Any) -> None:
    (before,) = client.get_inference_statistics("digits").model_stats
    for _ in range(5):
        client.infer("digits", [tensor()])
    (after,) = client.get_inference_statistics("digits", "1").model_stats
    assert after.inference_stats.success.count - before.inference_stats.success.count == 5
    assert after.inference_count - before.inference_count == 5 * len(X)
    assert {found.name for found in client.get_inference_statistics().model_stats} == {"digits", "twin"}


def streamed(client: Any, want: np.ndarray[Any, Any]) -> None:
    """Answers over one stream, some of them at a time, in the order of their requests."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(20):
        client.async_stream_infer("digits", [tensor()], request_id=str(number))
    for number in range(20):
        result, error = answers.get(timeout=50)
        assert error is None, error
        assert result.get_response().id == str(number)
        np.testing.assert_allclose(result.as_numpy("y"), want, rtol=1e-5, atol=1e-5)
    client.stop_stream()


def shared_memory(client: Any, want: np.ndarray[Any, Any]) -> None:
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    inputs = shm.create_shared_memory_region("in", f"/{NAME}-in", X.nbytes)
    outputs = shm.create_shared_memory_region("out", f"/{NAME}-out", want.nbytes + 8)
    try:
        shm.set_shared_memory_region(inputs, [X])
        client.register_system_shared_memory("in", f"/{NAME}-in", X.nbytes)
        client.register_system_shared_memory("out", f"/{NAME}-out", want.nbytes + 8)
        assert set(client.get_system_shared_memory_status().regions) == {"in", "out"}
        assert client.get_system_shared_memory_status("in").regions["in"].byte_size == X.nbytes
        given = triton.InferInput("x", list(X.shape), "FP32")
        given.set_shared_memory("in", X.nbytes)
        asked = triton.InferRequestedOutput("y")
        asked.set_shared_memory("out", want.nbytes, offset=8)
        result = client.infer("digits", [given], outputs=[asked])
        output = result.get_output("y")
        assert output.parameters["shared_memory_byte_size"].int64_param == want.nbytes
        assert list(result.get_response().raw_output_contents) == [b""]
        found = shm.get_contents_as_numpy(outputs, np.float32, output.shape, 8)
        assert np.allclose(found, want, rtol=1e-5, atol=1e-5)
        client.unregister_system_shared_memory("in")
        refused(
            lambda: client.infer("digits", [given]),
            "StatusCode.INVALID_ARGUMENT",
            "no shared memory region 'in'",
        )
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
    finally:
        shm.destroy_shared_memory_region(inputs)
        shm.destroy_shared_memory_region(outputs)
    refused(lambda: client.register_cuda_shared_memory("c", b"", 0, 8), "StatusCode.UNIMPLEMENTED", "CUDA")


def repository(client: Any, want: np.ndarray[Any, Any]) -> None:
    states = {entry.name: entry.state for entry in client.get_model_repository_index().models}
    assert states == {"digits": "READY", "twin": "READY"}
    client.unload_model("twin")
    assert not client.is_model_ready("twin")
    assert client.is_server_ready()
    refused(lambda: client.infer("twin", [tensor()]), "StatusCode.NOT_FOUND", "model 'twin' is unloaded")
    client.load_model("twin")
    assert client.is_model_ready("twin")
    back = client.infer("twin", [tensor()]).as_numpy("y")
    assert np.allclose(back, want, rtol=1e-5, atol=1e-5)
    refused(
        lambda: client.load_model("twin", config="{}"),
        "StatusCode.INVALID_ARGUMENT",
        "come from the spec file",
    )
    refused(lambda: client.load_model("tvin"), "StatusCode.NOT_FOUND", "unknown model 'tvin'")


def settings(client: Any) -> None:
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    assert list(client.update_trace_settings("digits", {}).settings["trace_rate"].value) == ["1000"]
    refused(
        lambda: client.update_trace_settings("digits", {"trace_level": ["TIMESTAMPS"]}),
        "StatusCode.UNIMPLEMENTED",
        "trace_level",
    )
    assert client.get_log_settings().settings["log_info"].bool_param is True
    refused(
        lambda: client.update_log_settings({"log_verbose_level": 2}),
        "StatusCode.UNIMPLEMENTED",
        "log_verbose",
    )


def trailing_metadata(address: str) -> None:
    """What a client may act on, seen without tritonclient, which drops it."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="digits")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 64]).contents.fp32_contents.extend([0.5] * 64)
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        typed = infer(request, timeout=50)
        assert len(typed.outputs[0].contents.fp32_contents) == 10
        assert not typed.raw_output_contents
        try:
            infer(request, metadata=(("steelyard-elapsed-ms", "9999"),))
        except grpc.RpcError as error:
            found = dict(error.trailing_metadata())
        assert found["steelyard-reason"] == "deadline"
        assert float(found["steelyard-retry-after-ms"]) > 0
        assert int(found["grpc-retry-pushback-ms"]) > 0


def main(address: str) -> None:
    client = triton.InferenceServerClient(address)
    health_and_metadata(client)
    want = client.infer("digits", [tensor()]).as_numpy("y")
    assert want.shape == (3, 10)
    bounds(client)
    statistics(client)
    streamed(client, want)
    shared_memory(client, want)
    repository(client, want)
    settings(client)
    trailing_metadata(address)
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
