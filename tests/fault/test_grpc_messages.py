"""Messages that do not end: a client of bare HTTP/2 that begins many large calls and finishes none."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from steelyard.serve.edge import EdgeSettings
from steelyard.serve.edge.malloc import in_use_bytes
from steelyard.serve.grpc.messages import INFERENCE, InferRequest, InferResponse
from steelyard.testing.grpc import running_grpc
from steelyard.testing.intake import ComputingIntake, served

pytestmark = pytest.mark.slow

MIB = 1 << 20
LIMITS = EdgeSettings(body_bytes_max=4 * MIB, buffered_bytes_max=8 * MIB)
SECONDS_MAX = 60.0

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4
FRAME_BYTES = 16_384
"""RFC 9113: the largest frame, and names of what is used of the protocol."""


class UnfinishedCalls:
    """Begins calls on one connection, and sends all of each message but its last byte, as windows allow.

    Attributes:
        ended: calls that the server has ended, by stream.
    """

    def __init__(self, port: int, calls: int, message_bytes: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS_MAX)
        self._initial = self._window = 65_535
        self._windows: dict[int, int] = {}
        prefix = b"\0" + struct.pack(">I", message_bytes)
        self._unsent = {1 + 2 * index: prefix + bytes(message_bytes - 1) for index in range(calls)}
        self.ended: set[int] = set()
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        for stream in self._unsent:
            self._windows[stream] = self._initial
            self._socket.sendall(frame(HEADERS, END_HEADERS, stream, header_block()))

    def push(self) -> None:
        """Send until every message lacks its last byte or its call has ended."""
        while self._unsent:
            moved = False
            for stream in list(self._unsent):
                part = self._unsent[stream][: min(FRAME_BYTES, self._window, self._windows[stream])]
                if part:
                    self._socket.sendall(frame(DATA, 0, stream, part))
                    self._window -= len(part)
                    self._windows[stream] -= len(part)
                    self._unsent[stream] = self._unsent[stream][len(part) :]
                    moved = True
                if not self._unsent[stream]:
                    del self._unsent[stream]
            if self._unsent and not moved:
                self._hear()

    def wait_ended(self, calls: int) -> None:
        """Until the server has ended so many of the calls."""
        while len(self.ended) < calls:
            self._hear()

    def close(self) -> None:
        self._socket.close()

    def _hear(self) -> None:
        head = self._exactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big")
        payload = self._exactly(length)
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == INITIAL_WINDOW_SIZE:
                    for known in self._windows:
                        self._windows[known] += value - self._initial
                    self._initial = value
            self._socket.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream:
                self._windows[stream] += more
            else:
                self._window += more
        elif kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
            self.ended.add(stream)
            self._unsent.pop(stream, None)
        assert kind != GOAWAY, payload

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self._socket.recv(size - len(found))
            assert part, "the server closed the connection"
            found += part
        return found


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header_block() -> bytes:
    """HPACK: every field literal, not indexed, not compressed (RFC 7541, 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{INFERENCE}/ModelInfer",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


@contextmanager
def serving() -> Iterator[int]:
    tensors = {"x": ("UINT8", (-1, -1))}
    intake = ComputingIntake({"x": served("x", tensors, tensors)}, lambda arrays: arrays)
    with running_grpc(intake, settings=LIMITS) as server:
        yield server.port
    assert intake.arena.bytes_used == 0
    intake.close()


def infer(channel: grpc.Channel, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    data = np.arange(size, dtype=np.uint8)
    asked = InferRequest(model_name="x", raw_input_contents=[data.tobytes()])
    asked.inputs.add(name="x", datatype="UINT8", shape=[1, size])
    call = channel.unary_unary(
        f"/{INFERENCE}/ModelInfer",
        request_serializer=InferRequest.SerializeToString,
        response_deserializer=InferResponse.FromString,
    )
    return np.frombuffer(call(asked, timeout=SECONDS_MAX).raw_output_contents[0], np.uint8)


def test_messages_that_do_not_end_are_bounded_together() -> None:
    """20 calls of 3 MiB: 60 MiB of messages that each are within their limit, where all may take 8.

    Of them at most two fit; with any three, 9 MiB, the server goes on to end some.
    """
    with serving() as port:
        before = in_use_bytes()
        assert before is not None
        flood = UnfinishedCalls(port, calls=20, message_bytes=3 * MIB)
        try:
            flood.push()
            flood.wait_ended(18)
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                assert len(infer(channel, MIB)) == MIB  # others are served
            during = in_use_bytes()
            assert during is not None
            # What two unfinished messages take, and the mebibyte above, in few copies.
            assert during - before < LIMITS.buffered_bytes_max + 4 * MIB
        finally:
            flood.close()


def test_a_crowd_of_large_messages_is_answered_or_told_to_come_back() -> None:
    """32 clients with 4 MiB each at once, 128 MiB where 8 may be under way: each has one of two answers."""
    outcomes: list[str] = []

    def call(channel: grpc.Channel) -> None:
        try:
            infer(channel, 4 * MIB - 1024)
        except grpc.RpcError as error:
            told = dict(error.trailing_metadata() or ())
            outcomes.append(f"{error.code().name} {told.get('grpc-retry-pushback-ms')}")
        else:
            outcomes.append("OK")

    options = [("grpc.max_receive_message_length", -1)]
    with serving() as port, grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        clients = [threading.Thread(target=call, args=(channel,)) for _ in range(32)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(SECONDS_MAX)
        assert len(outcomes) == 32
        assert set(outcomes) <= {"OK", "RESOURCE_EXHAUSTED 1000"}
        assert "OK" in outcomes or infer(channel, MIB).size == MIB
