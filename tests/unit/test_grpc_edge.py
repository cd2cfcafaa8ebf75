"""What the gRPC edge does with requests, called straight; tensors bit for bit, refusals as statuses."""

import asyncio
import math
import re
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.commands import NearestBounds, Reject, Shed
from steelyard.core.types import RequestId
from steelyard.serve.edge import EdgeSettings
from steelyard.serve.edge.replies import RefusedError, end_refusal
from steelyard.serve.edge.shared_memory import Regions
from steelyard.serve.edge.tensors import KINDS, pack_bytes
from steelyard.serve.grpc.callers import is_local
from steelyard.serve.grpc.control import ControlCalls
from steelyard.serve.grpc.listen import control_call
from steelyard.serve.grpc.messages import INFERENCE, InferRequest, InferResponse, methods
from steelyard.serve.grpc.refusals import OVERLOAD_STATUS, status_code, trailing_metadata
from steelyard.serve.grpc.requests import CONTENTS
from steelyard.testing.grpc import FakeContext, RefusedCallError, ask
from steelyard.testing.intake import ComputingIntake, served

SERVICES = {
    "x": served("x", {"x": ("FP32", (-1, 2))}, {"y": ("FP32", (-1, 2))}, slo_s=0.5, classes={"gold": 0.2}),
    **{
        dtype: served(dtype, {"t": (dtype, (-1, -1))}, {"t": (dtype, (-1, -1))}, batchable=False)
        for dtype in KINDS
    },
}


def model(arrays: Any) -> Any:
    if "x" not in arrays:
        return arrays
    with np.errstate(all="ignore"):
        return {"y": arrays["x"] * np.float32(2)}


@pytest.fixture(name="intake")
def _intake() -> Iterator[ComputingIntake]:
    intake = ComputingIntake(SERVICES, model, arena_bytes=1 << 20)
    yield intake
    assert intake.arena.bytes_used == 0
    intake.close()


def typed(**changes: Any) -> Any:
    message = InferRequest(model_name=changes.pop("model_name", "x"), **changes)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.5, 2.0])
    return message


def answer(intake: ComputingIntake, message: Any, context: FakeContext | None = None) -> Any:
    return InferResponse.FromString(ask(intake, message.SerializeToString(), context))


def refusal(
    intake: ComputingIntake, message: Any, context: FakeContext | None = None, **settings: Any
) -> RefusedCallError:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    with pytest.raises(RefusedCallError) as found:
        ask(intake, data, context, settings=EdgeSettings(**settings))
    return found.value


def test_typed_contents_are_answered_with_typed_contents(intake: ComputingIntake) -> None:
    found = answer(intake, typed(id="7"))
    assert (found.model_name, found.model_version, found.id) == ("x", "1", "7")
    assert list(found.outputs[0].contents.fp32_contents) == [3.0, 4.0]  # twice 1.5 and 2
    assert not found.raw_output_contents
    assert found.parameters["variant"].string_param == "only"
    assert found.parameters["queue_ms"].double_param == 1.0


def test_raw_contents_are_answered_with_raw_contents(intake: ComputingIntake) -> None:
    message = InferRequest(model_name="x", raw_input_contents=[np.array([1, 2, 3, 4], np.float32).tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[2, 2])
    found = answer(intake, message)
    assert list(found.outputs[0].shape) == [2, 2]
    assert np.frombuffer(found.raw_output_contents[0], np.float32).tolist() == [2, 4, 6, 8]


@given(st.data(), st.sampled_from(sorted(KINDS)), st.booleans())
def test_tensors_come_back_bit_for_bit(data: st.DataObject, dtype: str, raw: bool) -> None:
    raw = raw or dtype not in CONTENTS
    shape = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    count = math.prod(shape)
    if dtype == "BYTES":
        content = pack_bytes(data.draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count)))
    elif dtype == "BOOL":
        content = bytes(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    else:
        size = count * KINDS[dtype].item_bytes
        content = data.draw(st.binary(min_size=size, max_size=size))
    message = InferRequest(model_name=dtype)
    tensor = message.inputs.add(name="t", datatype=dtype, shape=shape)
    if raw:
        message.raw_input_contents.append(content)
    elif dtype == "BYTES":
        tensor.contents.bytes_contents.extend(elements(content))
    else:
        values = np.frombuffer(content, KINDS[dtype].numpy)
        if np.isnan(values.astype(float)).any():  # a Python float keeps a NaN, not its payload
            values = np.nan_to_num(values)
        content = values.tobytes()
        getattr(tensor.contents, CONTENTS[dtype]).extend(values.tolist())
    intake = ComputingIntake(SERVICES, model, arena_bytes=1 << 16)
    found = answer(intake, message)
    output = found.outputs[0]
    assert tuple(output.shape) == shape
    if found.raw_output_contents:
        assert bytes(found.raw_output_contents[0]) == content
    elif dtype == "BYTES":
        assert pack_bytes(output.contents.bytes_contents) == content
    else:
        values = getattr(output.contents, CONTENTS[dtype])
        assert np.array(values, KINDS[dtype].numpy).tobytes() == content
    if count:
        assert bool(found.raw_output_contents) == raw
    assert intake.arena.bytes_used == 0
    intake.close()


def elements(content: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "little")
        found.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return found


@pytest.mark.parametrize(
    ("context", "parameters", "seconds"),
    [
        (FakeContext(), {}, 0.5),  # the objective
        (FakeContext(left_s=0.3), {}, 0.3),  # the call's deadline is nearer
        (FakeContext(left_s=3.0), {}, 0.5),  # it is not
        (FakeContext([("steelyard-max-latency-ms", "400")], left_s=0.45), {}, 0.4),
        (FakeContext([("steelyard-elapsed-ms", "100")], left_s=0.45), {}, 0.4),  # 0.5 - 0.1
        (FakeContext([("steelyard-slo-class", "gold")]), {}, 0.2),
        (FakeContext(), {"timeout": 250_000}, 0.25),
    ],
)
def test_the_deadline_is_the_nearest_of_all(
    intake: ComputingIntake, context: FakeContext, parameters: dict[str, int], seconds: float
) -> None:
    message = typed()
    for name, value in parameters.items():
        message.parameters[name].int64_param = value
    called_s = intake.now_s()
    answer(intake, message, context)
    request = intake.requests[-1]
    # What the call's deadline leaves counts from the call, everything else from the arrival after it.
    assert called_s + seconds - 1e-6 <= request.deadline_s <= request.arrived_s + seconds + 1e-6


def test_an_answer_is_compressed_for_a_client_that_asks(intake: ComputingIntake) -> None:
    context = FakeContext([("accept-encoding", "gzip")])
    answer(intake, typed(), context)
    assert context.compression == grpc.Compression.Gzip


def with_contents(field: str, values: list[Any], **changes: Any) -> Any:
    message = InferRequest(model_name=changes.pop("model_name", "x"))
    tensor = message.inputs.add(**{"name": "x", "datatype": "FP32", "shape": [1, 2], **changes})
    getattr(tensor.contents, field).extend(values)
    return message


def raw(contents: list[bytes], inputs: int = 1, *, id: str = "", **changes: Any) -> Any:  # noqa: A002
    message = InferRequest(model_name="x", id=id, raw_input_contents=contents)
    for _ in range(inputs):
        message.inputs.add(**{"name": "x", "datatype": "FP32", "shape": [1, 2], **changes})
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"\xff\xff", "the message is not a ModelInferRequest"),
        (b"\x0a\x02\xff\xfe", "the message is not a ModelInferRequest"),  # a name that is not UTF-8
        (with_contents("int_contents", [1, 2]), "is FP32 and has int_contents; fp32_contents was expected"),
        (with_contents("fp32_contents", [1.0]), "of shape [1, 2] has 1 values in fp32_contents"),
        (with_contents("fp32_contents", []), "input 'x' has neither contents nor raw_input_contents"),
        (with_contents("fp32_contents", [1.0, 2.0], datatype="FP16"), "is FP16, which has no typed contents"),
        (with_contents("fp32_contents", [1.0, 2.0], datatype="??"), "is ??, which has no typed contents"),
        (with_contents("fp32_contents", [1.0, 2.0], name="z"), "unknown input 'z'"),
        (
            with_contents("int_contents", [1, 300], name="t", datatype="INT8", model_name="INT8"),
            "int_contents has a value out of range for INT8",
        ),
        (raw([b"12345678"], 2), "raw_input_contents has 1 tensors; input 'x' has none"),
        (raw([b"12345678", b""]), "raw_input_contents has 2 tensors; 1 inputs are not in shared memory"),
        (raw([b"1234"]), "input 'x' of shape [1, 2] and type FP32 takes 8 bytes; its size is 4"),
        (raw([b"12345678"], shape=[1, 3]), "has shape [1, 3]; [-1, 2] was expected"),
        (raw([b"12345678"], datatype="INT32"), "input 'x' is INT32; FP32 was expected"),
    ],
)
def test_what_the_service_does_not_take_is_an_invalid_argument(
    intake: ComputingIntake, message: Any, text: str
) -> None:
    found = refusal(intake, message)
    assert found.code == grpc.StatusCode.INVALID_ARGUMENT
    assert text in str(found)
    assert "\n" not in str(found)


@given(st.data(), st.booleans())
def test_no_message_makes_the_edge_fail(data: st.DataObject, is_raw: bool) -> None:
    """A good message with some bytes changed or cut: answered, or refused as what the client sent."""
    message = raw([b"12345678"], id="7") if is_raw else typed(id="7")
    message.inputs[0].parameters["shared_memory_offset"].int64_param = 3
    message.outputs.add(name="y").parameters["classification"].int64_param = 0
    sent = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    intake = ComputingIntake(SERVICES, model, arena_bytes=1 << 16)
    code = grpc.StatusCode.OK
    try:
        InferResponse.FromString(ask(intake, bytes(sent[: data.draw(st.integers(0, len(sent)))])))
    except RefusedCallError as error:
        code = error.code
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert intake.arena.bytes_used == 0
    intake.close()


def test_both_kinds_of_contents_are_an_invalid_argument(intake: ComputingIntake) -> None:
    found = refusal(intake, typed(raw_input_contents=[b"12345678"]))
    assert "input 'x' has contents, and the request raw_input_contents, too" in str(found)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model_name": "y"}, "unknown model 'y'; known models: 'x'"),
        ({"model_version": "2"}, "model 'x' has no version '2'; it has '1'"),
    ],
)
def test_what_is_not_there_is_not_found(intake: ComputingIntake, fields: Any, text: str) -> None:
    found = refusal(intake, typed(**fields))
    assert (found.code, text in str(found)) == (grpc.StatusCode.NOT_FOUND, True)


def test_an_unloaded_service_is_not_found(intake: ComputingIntake) -> None:
    intake.repository.states["x"] = False  # type: ignore[attr-defined]
    found = refusal(intake, typed())
    assert (found.code, found.metadata) == (grpc.StatusCode.NOT_FOUND, {"steelyard-reason": "unloaded"})


def test_a_wrong_bound_names_its_metadata(intake: ComputingIntake) -> None:
    found = refusal(intake, typed(), FakeContext([("steelyard-min-accuracy", "2")]))
    assert found.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "Steelyard-Min-Accuracy must lie in [0, 1]" in str(found)


def test_metadata_of_ours_that_there_is_not_are_refused(intake: ComputingIntake) -> None:
    found = refusal(intake, typed(), FakeContext([("steelyard-max-latncy-ms", "5")]))
    assert found.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "'Steelyard-Max-Latncy-Ms'; did you mean Steelyard-Max-Latency-Ms?" in str(found)


def test_a_large_message_has_its_tensors_raw(intake: ComputingIntake) -> None:
    found = refusal(intake, typed(id="i" * 100), json_bytes_max=99)
    assert found.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "send large tensors as raw_input_contents" in str(found)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\n\x05abc", "the message cannot be decoded"),  # a name of 5 bytes, 3 of which are there
        (b"\n\x08abcdefgh", "the message has 10 bytes, the limit is 9"),
    ],
)
def test_control_calls_take_small_messages_that_can_be_decoded(data: bytes, text: str) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    request, response = methods(INFERENCE)["ModelMetadata"]
    serve = control_call(never, request, response, "127.0.0.1", 9)
    with pytest.raises(RefusedCallError, match=text) as found:
        asyncio.run(serve(data, FakeContext()))
    assert found.value.code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "fields", "text"),
    [
        ("ModelMetadata", {"name": "stats"}, "unknown model 'stats'"),
        ("ModelMetadata", {"name": "x/config"}, "unknown model 'x/config'"),
        ("ModelReady", {"name": "x/versions/1"}, "unknown model 'x/versions/1'"),
        ("ModelMetadata", {"name": "x", "version": "1/stats"}, "model 'x' has no version '1%2Fstats'"),
        ("TraceSetting", {"model_name": "x/versions/1"}, "unknown model 'x/versions/1'"),
        ("RepositoryModelLoad", {"model_name": ""}, "unknown model ''"),
        ("RepositoryModelUnload", {"model_name": "x/load"}, "unknown model 'x/load'"),
    ],
)
def test_a_name_leads_to_no_other_page(
    intake: ComputingIntake, method: str, fields: dict[str, str], text: str
) -> None:
    request, response = methods(INFERENCE)[method]
    calls = ControlCalls(intake, Regions())
    with pytest.raises(RefusedError, match=f"^{re.escape(text)}") as found:
        asyncio.run(calls.call(method, request(**fields), response, local=True))
    assert found.value.status == 404


def test_a_full_arena_is_an_exhausted_resource() -> None:
    intake = ComputingIntake(SERVICES, model, arena_bytes=1 << 12)
    found = refusal(intake, raw([bytes(8 * 2000)], shape=[2000, 2]), json_bytes_max=1 << 20)
    assert found.code == grpc.StatusCode.INVALID_ARGUMENT  # more rows than a request may have
    message = InferRequest(model_name="UINT8", raw_input_contents=[bytes(4000)])
    message.inputs.add(name="t", datatype="UINT8", shape=[1, 4000])
    other = intake.arena.alloc(1)
    assert other is not None
    found = refusal(intake, message)
    assert found.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert found.metadata["steelyard-reason"] == "memory_full"
    intake.arena.free(other)
    assert intake.arena.bytes_used == 0
    intake.close()


def test_what_the_arena_can_never_hold_is_an_invalid_argument(intake: ComputingIntake) -> None:
    size = intake.arena.bytes_max  # and a header
    message = InferRequest(model_name="UINT8", raw_input_contents=[bytes(size)])
    message.inputs.add(name="t", datatype="UINT8", shape=[1, size])
    found = refusal(intake, message)
    assert found.code == grpc.StatusCode.INVALID_ARGUMENT  # which no client tries again
    assert f"take {2 * size} bytes of memory" in str(found)
    assert "grpc-retry-pushback-ms" not in found.metadata


def test_overload_is_an_exhausted_resource_and_says_when_to_come_back() -> None:
    for end in (Shed(RequestId(0, 1), "deadline"), Reject(RequestId(0, 1), "queue_full", retry_after_s=0.25)):
        error = end_refusal("x", end, OVERLOAD_STATUS)
        assert status_code(error) == grpc.StatusCode.RESOURCE_EXHAUSTED
    # a quarter of a second
    assert trailing_metadata(error) == (
        ("steelyard-reason", "queue_full"),
        ("steelyard-retry-after-ms", "250"),
        ("grpc-retry-pushback-ms", "250"),
    )


def test_a_stopping_server_is_unavailable_so_that_clients_go_elsewhere() -> None:
    error = end_refusal("x", Reject(RequestId(0, 1), "draining", None), OVERLOAD_STATUS)
    assert status_code(error) == grpc.StatusCode.UNAVAILABLE


def test_a_deadline_that_no_server_could_keep_is_not_to_be_tried_again() -> None:
    end = Reject(RequestId(0, 1), "deadline", None, NearestBounds(max_latency_ms=20.0))
    # 1.05 * 20 ms + 1 ms; a negative pushback is "never" (gRFC A6)
    assert trailing_metadata(end_refusal("x", end, OVERLOAD_STATUS)) == (
        ("steelyard-reason", "deadline"),
        ("grpc-retry-pushback-ms", "-1"),
        ("steelyard-nearest", '{"max_latency_ms":22.0}'),
    )


def test_impossible_bounds_say_the_nearest() -> None:
    end = Reject(RequestId(0, 1), "bounds", None, nearest=NearestBounds(min_accuracy=0.9))
    error = end_refusal("x", end, OVERLOAD_STATUS)
    assert status_code(error) == grpc.StatusCode.FAILED_PRECONDITION
    assert dict(trailing_metadata(error))["steelyard-nearest"] == '{"min_accuracy":0.9}'


@pytest.mark.parametrize(
    ("peer", "listens_on", "local"),
    [
        ("ipv4:127.0.0.1:5000", "0.0.0.0", True),
        ("ipv6:%5B::1%5D:5000", "::", True),
        ("ipv6:[::ffff:127.0.0.1]:5000", "::", True),
        ("unix:", "0.0.0.0", True),
        ("ipv4:10.0.0.7:5000", "0.0.0.0", False),
        ("ipv4:10.0.0.7:5000", "10.0.0.7", True),
    ],
)
def test_shared_memory_is_for_this_host(peer: str, listens_on: str, local: bool) -> None:
    assert is_local(peer, {}, listens_on) is local
    assert not is_local(peer, {b"x-forwarded-for": b"10.0.0.9"}, listens_on) or peer == "unix:"


def test_a_region_is_not_for_others(intake: ComputingIntake) -> None:
    message = InferRequest(model_name="x")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_byte_size"].int64_param = 8
    assert "only clients on the server's host" in str(
        refusal(intake, message, FakeContext(peer="ipv4:10.0.0.7:1"))
    )
    assert "no shared memory region 'r'" in str(refusal(intake, message))
