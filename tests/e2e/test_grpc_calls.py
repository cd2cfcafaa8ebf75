"""The gRPC edge on a real socket: cancellation, deadlines, streams, health, reflection, limits, stopping."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from steelyard.core.commands import Shed
from steelyard.serve.edge import EdgeSettings, ListenError, make_app
from steelyard.serve.grpc import serve_grpc
from steelyard.serve.grpc.inference import STREAM_REQUESTS_MAX
from steelyard.serve.grpc.messages import (
    HEALTH,
    INFERENCE,
    REFLECTION,
    InferRequest,
    StreamInferResponse,
    message,
    methods,
)
from steelyard.serve.grpc.reflection import ALPHA
from steelyard.testing.grpc import running_grpc
from steelyard.testing.http import ask_app
from steelyard.testing.intake import ComputingIntake, served

pytestmark = pytest.mark.slow
SECONDS_MAX = 60.0


@pytest.fixture(name="intake")
def _intake() -> Iterator[ComputingIntake]:
    tensors = {"x": ("UINT8", (-1, -1))}
    intake = ComputingIntake({"x": served("x", tensors, tensors)}, lambda arrays: arrays)
    yield intake
    assert intake.arena.bytes_used == 0
    intake.close()


def request(size: int = 2, **fields: Any) -> Any:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    asked = InferRequest(model_name="x", raw_input_contents=[data], **fields)
    asked.inputs.add(name="x", datatype="UINT8", shape=[1, size])
    return asked


def unary(channel: grpc.aio.Channel, method: str, service: str = INFERENCE) -> Any:
    asked, answered = methods(service)[method]
    return channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=asked.SerializeToString,
        response_deserializer=answered.FromString,
    )


def stream(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(
        f"/{INFERENCE}/ModelStreamInfer",
        request_serializer=InferRequest.SerializeToString,
        response_deserializer=StreamInferResponse.FromString,
    )


def with_channel(port: int, use: Callable[[grpc.aio.Channel], Coroutine[Any, Any, None]]) -> None:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

    async def run() -> None:
        async with asyncio.timeout(SECONDS_MAX):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                await use(channel)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not condition():
            await asyncio.sleep(0.002)


def test_a_cancelled_call_takes_its_request_with_it(intake: ComputingIntake) -> None:
    intake.held = True
    statuses: list[tuple[str, int]] = []

    async def use(channel: grpc.aio.Channel) -> None:
        call = unary(channel, "ModelInfer")(request())
        await until(lambda: len(intake.open) == 1)
        call.cancel()
        await until(lambda: not intake.open)

    with running_grpc(intake, on_status=lambda *seen: statuses.append(seen)) as server:
        with_channel(server.port, use)
    assert len(intake.cancelled) == 1
    assert statuses == [("x", 499)]


def test_a_call_whose_deadline_has_passed_leaves_the_end_of_its_request_to_the_core(
    intake: ComputingIntake,
) -> None:
    """It is shed or late, a violation; were it cancelled, nobody would count it."""
    intake.held = True

    async def use(channel: grpc.aio.Channel) -> None:
        await channel.channel_ready()
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await unary(channel, "ModelInfer")(request(), timeout=1.0)
        assert found.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED

    with running_grpc(intake) as server:
        with_channel(server.port, use)
        (asked,) = intake.requests
        assert asked.deadline_s - asked.arrived_s < 2.0  # the call's, not the service's ten seconds
        server.on_loop(lambda: intake.finish(asked.id, Shed(asked.id, "deadline")))
    assert intake.cancelled == []


def test_a_shed_request_is_an_exhausted_resource(intake: ComputingIntake) -> None:
    intake.held = True

    async def use(channel: grpc.aio.Channel) -> None:
        call = unary(channel, "ModelInfer")(request())
        await until(lambda: len(intake.open) == 1)
        (request_id,) = intake.open
        server.on_loop(lambda: intake.finish(request_id, Shed(request_id, "deadline")))
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await call
        assert found.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        trailing = dict(found.value.trailing_metadata() or ())
        assert trailing["steelyard-reason"] == "deadline"
        assert trailing["grpc-retry-pushback-ms"] == "1000"

    with running_grpc(intake) as server:
        with_channel(server.port, use)


def test_a_stream_is_answered_in_order_and_bounded(intake: ComputingIntake) -> None:
    intake.held = True
    total = STREAM_REQUESTS_MAX + 5

    async def requests() -> AsyncIterator[Any]:
        for index in range(total):
            yield request(id=str(index))

    async def use(channel: grpc.aio.Channel) -> None:
        call = stream(channel)(requests())
        await until(lambda: len(intake.open) == STREAM_REQUESTS_MAX)
        for request_id in reversed(list(intake.open)):  # the first is answered last
            assert len(intake.requests) == STREAM_REQUESTS_MAX
            server.on_loop(lambda ended=request_id: intake.finish(ended))  # type: ignore[misc]
        server.on_loop(lambda: setattr(intake, "held", False))
        ids = []
        async for answer in call:
            assert answer.error_message == ""
            ids.append(answer.infer_response.id)
            for request_id in list(intake.open):  # those that were read before they were not held any more
                server.on_loop(lambda ended=request_id: intake.finish(ended))  # type: ignore[misc]
        assert ids == [str(index) for index in range(total)]

    with running_grpc(intake) as server:
        with_channel(server.port, use)


def test_a_refusal_on_a_stream_is_in_band_and_says_whose_it_is(intake: ComputingIntake) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield request(id="one")
        yield InferRequest(model_name="z", id="two")
        yield request(id="three")

    async def use(channel: grpc.aio.Channel) -> None:
        one, two, three = [answer async for answer in stream(channel)(requests())]
        assert (one.error_message, one.infer_response.id) == ("", "one")
        assert two.error_message == "unknown model 'z'; known models: 'x'"
        assert (two.infer_response.model_name, two.infer_response.id) == ("z", "two")
        assert three.infer_response.id == "three"

    with running_grpc(intake) as server:
        with_channel(server.port, use)


def test_a_stream_that_ends_early_takes_its_requests_with_it(intake: ComputingIntake) -> None:
    intake.held = True

    async def use(channel: grpc.aio.Channel) -> None:
        call = stream(channel)()
        for _ in range(3):
            await call.write(request())
        await until(lambda: len(intake.open) == 3)
        call.cancel()
        await until(lambda: not intake.open)

    with running_grpc(intake) as server:
        with_channel(server.port, use)
    assert len(intake.cancelled) == 3


def test_large_messages_pass_and_larger_ones_are_refused(intake: ComputingIntake) -> None:
    """Far over gRPC's own limit of 4 MiB; ours is the one of HTTP's bodies."""

    async def use(channel: grpc.aio.Channel) -> None:
        infer = unary(channel, "ModelInfer")
        asked = request(9 << 20)
        answer: Any = await infer(asked)
        assert answer.raw_output_contents[0] == asked.raw_input_contents[0]
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await infer(request(11 << 20))
        assert found.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    with running_grpc(intake, settings=EdgeSettings(body_bytes_max=10 << 20)) as server:
        with_channel(server.port, use)


def test_health_is_told_and_watched(intake: ComputingIntake) -> None:
    asked, answered = methods(HEALTH)["Check"]
    serving, not_serving, unknown = answered.SERVING, answered.NOT_SERVING, answered.SERVICE_UNKNOWN

    async def use(channel: grpc.aio.Channel) -> None:
        check = unary(channel, "Check", HEALTH)
        for name in ("", "x", INFERENCE):
            assert (await check(asked(service=name))).status == serving
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await check(asked(service="z"))
        assert found.value.code() == grpc.StatusCode.NOT_FOUND
        watch = channel.unary_stream(
            f"/{HEALTH}/Watch",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        assert (await watch(asked(service="z")).read()).status == unknown
        watching = watch(asked(service="x"))
        assert (await watching.read()).status == serving
        server.on_loop(lambda: setattr(intake, "ready", False))
        assert (await watching.read()).status == not_serving
        assert (await check(asked())).status == not_serving
        assert (await unary(channel, "ServerReady")(message("inference.ServerReadyRequest")())).ready is False

    with running_grpc(intake) as server:
        with_channel(server.port, use)


def test_reflection_tells_the_public_names(intake: ComputingIntake) -> None:
    asked, answered = methods(REFLECTION)["ServerReflectionInfo"]

    async def use(channel: grpc.aio.Channel) -> None:
        for service in (REFLECTION, ALPHA):
            call = channel.stream_stream(
                f"/{service}/ServerReflectionInfo",
                request_serializer=asked.SerializeToString,
                response_deserializer=answered.FromString,
            )()
            await call.write(asked(list_services=""))
            names = [found.name for found in (await call.read()).list_services_response.service]
            assert names == [INFERENCE, HEALTH, REFLECTION]
            for name in names:
                await call.write(asked(file_containing_symbol=name))
                (file,) = (await call.read()).file_descriptor_response.file_descriptor_proto
                assert name.rpartition(".")[2].encode() in file
            await call.write(asked(file_by_filename="nothing.proto"))
            assert (await call.read()).error_response.error_code == 5  # NOT_FOUND
            await call.done_writing()

    with running_grpc(intake) as server:
        with_channel(server.port, use)


def test_unknown_methods_are_unimplemented(intake: ComputingIntake) -> None:
    async def use(channel: grpc.aio.Channel) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await channel.unary_unary(f"/{INFERENCE}/Nothing")(b"")
        assert found.value.code() == grpc.StatusCode.UNIMPLEMENTED

    with running_grpc(intake) as server:
        with_channel(server.port, use)


def test_a_taken_port_is_an_error(intake: ComputingIntake) -> None:
    async def listen(port: int) -> None:
        await serve_grpc(intake, "127.0.0.1", port)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}"):
            asyncio.run(listen(port))


def test_a_stopping_listener_answers_what_it_has(intake: ComputingIntake) -> None:
    intake.held = True

    async def run() -> None:
        listener = await serve_grpc(intake, "127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
            call = unary(channel, "ModelInfer")(request())
            await until(lambda: len(intake.open) == 1)
            listener.stop_accepting()
            listener.stop_accepting()
            (request_id,) = intake.open
            intake.finish(request_id)
            answer: Any = await call
            assert np.frombuffer(answer.raw_output_contents[0], np.uint8).tolist() == [0, 0]
            await listener.stop(linger_s=0.5)

    asyncio.run(run())


def test_requests_of_both_edges_in_one_process_never_share_an_id(intake: ComputingIntake) -> None:
    body = {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1, 2], "data": [1, 2]}]}

    async def use(channel: grpc.aio.Channel) -> None:
        for _ in range(3):
            await unary(channel, "ModelInfer")(request())

    for _ in range(2):
        assert ask_app(make_app(intake), "POST", "/v2/models/x/infer", body).status == 200
        with running_grpc(intake) as server:
            with_channel(server.port, use)
    assert len({asked.id for asked in intake.requests}) == 8  # 2 x (1 + 3)
