"""The client for threads: blocking sockets, one pool of connections for all threads that share it."""

import math
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from steelyard.client.answers import Answer, ModelMetadata
from steelyard.client.errors import ClientError
from steelyard.client.http import (
    Address,
    BrokenError,
    Reply,
    ReplyReader,
    Send,
    encode_request,
    parse_address,
)
from steelyard.client.retries import Retries
from steelyard.client.session import Bounds, Pause, Session, Steps
from steelyard.client.wire import Buffer
from steelyard.core.errors import InputError
from steelyard.runtime.base import Array

T = TypeVar("T")

RECEIVE_BYTES = 1 << 16
_WAIT_S_MAX = 1e6
"""Sockets and locks take no more."""
_PIECES_MAX = 512
"""Of one `sendmsg`; the system takes 1024."""


class Client:
    """Asks a server of the Open Inference Protocol; may be shared by threads.

    Connections are kept alive and reused. Every call raises a `ClientError` of the kind that fits:
    `InvalidInputError`, `NotFoundError`, `RejectedError`, `ShedError`, `UnavailableError`,
    `ModelFailedError`, `AnswerError`, or `DeadlineExceededError`.

    Args:
        url: the server's, such as `http://localhost:8080`; without a scheme it is http.
        timeout_s: seconds until a call that states no other gives up; None never.
        retries: whether and when calls are tried again.
        connections_max: open at a time; further calls wait for one, and their time runs.
        shared_memory: on the server's own host, pass large inputs through shared memory.
        tls: context for https; the system's certificates by default.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        timeout_s: float | None = 30.0,
        retries: Retries = Retries(),  # noqa: B008 -- a frozen value
        connections_max: int = 16,
        shared_memory: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._session = Session(
            time.monotonic,
            timeout_s=timeout_s,
            retries=retries,
            rng=random.Random(),
            shared_memory=shared_memory,
        )
        self._connections = _Connections(parse_address(url), connections_max, tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        max_latency_ms: float | None = None,
        min_accuracy: float | None = None,
        max_core_ms: float | None = None,
        slo_class: str | None = None,
        timeout_s: float | None = None,
        outputs: Collection[str] = (),
        request_id: str = "",
    ) -> Answer:
        """Run a model on one request's tensors.

        Args:
            model: the service's name.
            inputs: arrays by input name; the first axis counts rows where the model has one for them.
            max_latency_ms: milliseconds from now in which the answer is wanted, retries and all. One that is
                late all the same says so in `bounds_missed`.
            min_accuracy: least accuracy of the answer, in [0, 1].
            max_core_ms: most core-milliseconds to spend.
            slo_class: a class of the service.
            timeout_s: seconds from now until this call gives up; the client's by default.
            outputs: which ones to get; all by default.
            request_id: its name in the server's logs and in the answer.

        Raises:
            ClientError: it was not answered; the kind says why.
        """
        bounds = Bounds(max_latency_ms, min_accuracy, max_core_ms, slo_class)
        return self._run(
            self._session.infer(
                model, inputs, bounds, timeout_s=timeout_s, outputs=outputs, request_id=request_id
            )
        )

    def metadata(self, model: str) -> ModelMetadata:
        """What a model takes and gives. Raises ClientError."""
        return self._run(self._session.metadata(model))

    def statistics(self, model: str | None = None) -> list[dict[str, Any]]:
        """The server's statistics of one model, or of each. Raises ClientError."""
        return self._run(self._session.statistics(model))

    def is_ready(self, model: str | None = None) -> bool:
        """Whether a model, or the whole server, takes requests; False where nobody answers."""
        return self._run(self._session.is_ready(model))

    def close(self) -> None:
        """Give back connections and shared memory; calls of other threads fail."""
        try:
            self._run(self._session.close())
        finally:
            self._connections.close()

    def _run(self, steps: Steps[T]) -> T:
        """Do what a call yields until it returns."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    reply = self._connections.exchange(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as done:
            value: T = done.value
            return value


class _Connections:
    """Connections that are kept alive; the one used last is taken first, so that the others grow old."""

    def __init__(self, address: Address, connections_max: int, tls: ssl.SSLContext | None) -> None:
        if connections_max < 1:
            raise InputError(f"connections_max: want at least 1, got {connections_max}")
        self._address = address
        self._tls = (tls or ssl.create_default_context()) if address.is_tls else None
        self._slots = threading.BoundedSemaphore(connections_max)
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._is_closed = False

    def exchange(self, send: Send) -> Reply:
        """Send a request and read its answer.

        Raises:
            TimeoutError: it did not come by the deadline.
            OSError: the connection failed.
            InputError: the request cannot be put into HTTP.
        """
        pieces = encode_request(send, self._address)
        if not self._slots.acquire(timeout=_left_s(send.deadline_s)):
            raise TimeoutError("no connection was free in time")
        try:
            return self._exchange(pieces, send.deadline_s)
        finally:
            self._slots.release()

    def close(self) -> None:
        """Close all that are idle, and each other one when its call ends."""
        with self._lock:
            self._is_closed = True
            while self._idle:
                self._idle.pop().close()

    def _exchange(self, pieces: list[Buffer], deadline_s: float) -> Reply:
        connection = self._take_idle()
        if connection is not None:
            try:
                return self._use(connection, pieces, deadline_s)
            except BrokenError as error:
                if not error.is_silent:
                    raise
                # The server has closed it while it was idle, and the others, too: not a failure yet.
                self._forget_idle()
        return self._use(self._connect(deadline_s), pieces, deadline_s)

    def _use(self, connection: socket.socket, pieces: list[Buffer], deadline_s: float) -> Reply:
        try:
            reply = _exchange_over(connection, pieces, deadline_s)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            is_kept = not (reply.is_last or self._is_closed)
            if is_kept:
                self._idle.append(connection)
        if not is_kept:
            connection.close()
        return reply

    def _take_idle(self) -> socket.socket | None:
        with self._lock:
            if self._is_closed:
                raise ClientError("the client is closed")
            while self._idle:
                connection = self._idle.pop()
                if not _has_spoken(connection):
                    return connection
                connection.close()
        return None

    def _forget_idle(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _connect(self, deadline_s: float) -> socket.socket:
        host, port = self._address.host, self._address.port
        plain = socket.create_connection((host, port), timeout=_left_s(deadline_s))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._tls.wrap_socket(plain, server_hostname=host) if self._tls else plain
        except BaseException:
            plain.close()
            raise


def _has_spoken(connection: socket.socket) -> bool:
    """Whether something came, or its end, though nothing was asked: that is no answer to the next request."""
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _exchange_over(connection: socket.socket, pieces: Sequence[Buffer], deadline_s: float) -> Reply:
    refused: OSError | None = None
    try:
        _send(connection, pieces, deadline_s)
    except TimeoutError:
        raise
    except OSError as error:  # a server may answer, and close, before it has read a body it does not want
        refused = error
    reader = ReplyReader()
    while True:
        connection.settimeout(_left_s(deadline_s))
        try:
            reply = reader.feed(connection.recv(RECEIVE_BYTES))
        except BrokenError:
            raise
        except ConnectionError as error:
            raise BrokenError(str(refused or error), is_silent=not reader.has_begun) from error
        if reply is not None:
            return reply._replace(is_last=True) if refused else reply


def _send(connection: socket.socket, pieces: Sequence[Buffer], deadline_s: float) -> None:
    if isinstance(connection, ssl.SSLSocket):  # which cannot gather
        connection.settimeout(_left_s(deadline_s))
        connection.sendall(b"".join(pieces))
        return
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        connection.settimeout(_left_s(deadline_s))
        sent = connection.sendmsg(left[:_PIECES_MAX])
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]


def _left_s(deadline_s: float) -> float | None:
    """As sockets take it: seconds > 0, None for ever. Raises TimeoutError."""
    if math.isinf(deadline_s):
        return None
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the time was over")
    return min(left_s, _WAIT_S_MAX)
