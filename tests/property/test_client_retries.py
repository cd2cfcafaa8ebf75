"""Retries on time of their own: whatever a server does, no call outlives its time or floods an overload."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.client.errors import ClientError, RejectedError
from steelyard.client.http import Reply, Send
from steelyard.client.retries import SPARE, Retries
from steelyard.client.session import Bounds, Pause, Session

INPUTS = {"x": np.zeros((1, 1), np.float32)}
DONE = Reply(200, {}, b'{"outputs":[]}')


class Server:
    """Each request takes a while, and ends in a refusal, in silence, or in an answer."""

    def __init__(self, script: list[tuple[float, float | None]]) -> None:
        self.now_s = 100.0
        self.sent: list[tuple[float, Send]] = []
        self.pauses_s: list[tuple[float, float]] = []
        self._script = script
        self._asked_to_wait_s = 0.0

    def answer(self, send: Send) -> Reply:
        self.sent.append((self.now_s, send))
        takes_s, retry_after_s = self._script.pop(0) if self._script else (0.0, 0.0)
        if self.now_s + takes_s >= send.deadline_s:
            self.now_s = max(self.now_s, send.deadline_s)
            raise TimeoutError
        self.now_s += takes_s
        if retry_after_s is None:
            self._asked_to_wait_s = 0.0
            raise ConnectionResetError("reset")
        if not self._script:
            return DONE
        self._asked_to_wait_s = retry_after_s
        body = {"error": "no", "reason": "deadline", "retry_after_ms": retry_after_s * 1e3}
        return Reply(503, {}, json.dumps(body).encode())

    def pause(self, seconds: float) -> None:
        self.pauses_s.append((seconds, self._asked_to_wait_s))
        self.now_s += seconds

    def call(self, session: Session, bounds: Bounds, timeout_s: float | None) -> bool:
        """Whether it was answered."""
        steps = session.infer("m", INPUTS, bounds, timeout_s=timeout_s)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    self.pause(step.seconds)
                    step = next(steps)
                    continue
                try:
                    reply = self.answer(step)
                except OSError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration:
            return True
        except ClientError:
            return False


def session_on(server: Server, retries: Retries) -> Session:
    return Session(
        lambda: server.now_s, timeout_s=None, retries=retries, rng=random.Random(1), shared_memory=False
    )


SECONDS = st.floats(0.0, 2.0)
SCRIPTS = st.lists(st.tuples(SECONDS, st.none() | SECONDS), min_size=1, max_size=8)


@given(SCRIPTS, st.floats(1.0, 5000.0), st.none() | st.floats(0.01, 5.0), st.integers(1, 6))
def test_nothing_is_sent_after_the_end_and_every_pause_is_long_enough(
    script: list[tuple[float, float | None]],
    max_latency_ms: float,
    timeout_s: float | None,
    attempts_max: int,
) -> None:
    server = Server(script)
    began_s = server.now_s
    session = session_on(server, Retries(attempts_max=attempts_max))
    server.call(session, Bounds(max_latency_ms=max_latency_ms), timeout_s)
    due_s = began_s + min(max_latency_ms / 1e3, timeout_s or np.inf)
    assert 1 <= len(server.sent) <= attempts_max
    for at_s, send in server.sent:
        assert at_s < due_s
        told_ms = float(send.headers["Steelyard-Max-Latency-Ms"])
        assert np.isclose(told_ms, (due_s - at_s) * 1e3, rtol=1e-5)  # what is left of the call's own time
    for pause_s, asked_s in server.pauses_s:
        assert asked_s <= pause_s <= asked_s + 1.0  # never before Retry-After; jitter within the backoff
    if timeout_s is not None:
        assert server.now_s <= began_s + timeout_s + 1e-9


@given(st.integers(1, 60), st.floats(0.0, 1.0))
def test_retries_of_all_calls_are_a_share_of_them(calls: int, share_max: float) -> None:
    server = Server([(0.0, 0.0)] * 10_000)  # refuses always
    session = session_on(server, Retries(attempts_max=4, share_max=share_max))
    for _ in range(calls):
        server.call(session, Bounds(), None)
    assert len(server.sent) - calls <= SPARE + calls * share_max + 1e-9


def test_the_server_is_not_asked_when_nothing_is_left() -> None:
    server = Server([(0.5, 0.0), (0.0, 0.0)])
    steps = session_on(server, Retries()).infer("m", INPUTS, Bounds(max_latency_ms=400))
    step = next(steps)
    assert isinstance(step, Send)
    refusal = server.answer(step)  # 100 ms after the bound
    with pytest.raises(RejectedError) as raised:  # what the server said is what is told
        steps.send(refusal)
    assert raised.value.reason == "deadline"
    assert len(server.sent) == 1
