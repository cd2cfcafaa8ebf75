"""How an inference request over HTTP lives and ends: clients that leave, read slowly or send slowly."""

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from steelyard.core.commands import Shed
from steelyard.serve.edge import EdgeSettings, make_app
from steelyard.serve.edge.exchange import CLIENT_GONE
from steelyard.testing.http import HttpAnswer, ask_app, call_app
from steelyard.testing.intake import ComputingIntake, served

SERVICES = {"mlp": served("mlp", {"x": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 4))})}
PATH = "/v2/models/mlp/infer"
GOOD = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
BODY = json.dumps(GOOD).encode()
SCOPE = {"type": "http", "method": "POST", "path": PATH, "headers": []}
Message = MutableMapping[str, Any]


@pytest.fixture(name="intake")
def _intake() -> Iterator[ComputingIntake]:
    intake = ComputingIntake(SERVICES, lambda arrays: {"y": arrays["x"]})
    yield intake
    assert intake.arena.bytes_used == 0
    intake.close()


def test_statuses_are_told(intake: ComputingIntake) -> None:
    told: list[tuple[str, int]] = []
    app = make_app(intake, on_status=lambda service, status: told.append((service, status)))
    ask_app(app, "POST", PATH, GOOD)
    ask_app(app, "POST", PATH, {"inputs": []})
    asyncio.run(call_app(app, "POST", PATH, [b"{", b"}"], disconnect_after=1))
    assert told == [("mlp", 200), ("mlp", 400), ("mlp", CLIENT_GONE)]


def test_a_client_that_leaves_cancels_its_request(intake: ComputingIntake) -> None:
    intake.held = True
    app = make_app(intake)
    assert asyncio.run(call_app(app, "POST", PATH, [BODY], disconnect_after=1)) is None
    assert intake.cancelled == [intake.requests[-1].id]
    assert not intake.open


def test_an_answer_that_cannot_be_sent_at_once_is_finished_by_a_task(intake: ComputingIntake) -> None:
    """The HTTP server's `send` waits while the client does not read; so must we, and lose no answer."""

    async def run() -> list[str]:
        intake.held = True
        sent: list[str] = []
        may_send, gone = asyncio.Event(), asyncio.Event()
        messages: list[Message] = [{"type": "http.request", "body": BODY}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            await may_send.wait()
            sent.append(message["type"])
            if message["type"] == "http.response.body":
                gone.set()

        app = make_app(intake)
        call = asyncio.create_task(app(dict(SCOPE), receive, send))
        while not intake.open:
            await asyncio.sleep(0)
        intake.finish(next(iter(intake.open)))
        assert not sent
        may_send.set()
        await asyncio.wait_for(call, 5)
        return sent

    assert asyncio.run(run()) == ["http.response.start", "http.response.body"]
    assert intake.cancelled == []


def test_a_slow_body_is_408_and_gives_its_memory_back(intake: ComputingIntake) -> None:
    async def run() -> tuple[int, Any]:
        app = make_app(intake, settings=EdgeSettings(body_s_max=0.01))
        sent: list[Any] = []
        first = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> Any:
            if sent:  # ASGI: so after the answer
                return {"type": "http.disconnect"}
            return first.pop() if first else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await asyncio.wait_for(app(dict(SCOPE), receive, send), 5)
        return sent[0]["status"], json.loads(sent[1]["body"])

    assert asyncio.run(run()) == (408, {"error": "the body did not arrive within 0.01 s"})


def test_buffered_bytes_come_back_whatever_happens(intake: ComputingIntake) -> None:
    """Four requests of 300 bytes pass, one after another, where 400 may be buffered at once."""
    app = make_app(intake, settings=EdgeSettings(buffered_bytes_max=400, body_bytes_max=350))
    body = json.dumps(GOOD | {"parameters": {"pad": "p" * 200}}).encode()
    assert 280 < len(body) < 350
    for _ in range(2):
        assert ask_app(app, "POST", PATH, body).status == 200
        assert ask_app(app, "POST", PATH, b"{" * 300).status == 400
        assert ask_app(app, "POST", PATH, b"{" * 360).status == 413
        halves = [body[:200], body[200:]]
        assert asyncio.run(call_app(app, "POST", PATH, halves, disconnect_after=1)) is None


def test_a_shed_request_is_answered_once(intake: ComputingIntake) -> None:
    intake.held = True
    app = make_app(intake)

    async def run() -> HttpAnswer | None:
        body = json.dumps(GOOD | {"id": "ü\n"}).encode()
        call = asyncio.create_task(call_app(app, "POST", PATH, [body]))
        while not intake.open:
            await asyncio.sleep(0)
        request_id = next(iter(intake.open))
        intake.finish(request_id, Shed(request_id, "age"))
        return await call

    answer = asyncio.run(run())
    assert answer is not None
    assert (answer.status, answer.json()["reason"], answer.headers["x-request-id"]) == (503, "age", "??")


def test_an_answer_that_the_model_did_not_promise_is_500(intake: ComputingIntake) -> None:
    app = make_app(intake)
    intake.services = {"mlp": served("mlp", {"x": ("FP32", (-1, 4))}, {"y": ("INT8", (-1, 4))})}
    answer = ask_app(app, "POST", PATH, GOOD)
    line = "service 'mlp', variant 'only', gave output 'y' as INT8; FP32 was promised"
    assert (answer.status, answer.json()) == (500, {"error": line, "reason": "model_error"})


def test_a_bug_in_an_answer_fails_one_request_only(intake: ComputingIntake) -> None:
    app = make_app(intake)
    read, intake.read = intake.read, None  # type: ignore[assignment]
    assert ask_app(make_app(intake), "POST", PATH, GOOD).status == 500
    intake.read = read  # type: ignore[method-assign]
    assert ask_app(app, "POST", PATH, GOOD).status == 200
