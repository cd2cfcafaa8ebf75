"""Ways to talk to the gRPC edge in tests: straight, and through a real server on a real socket."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager

import grpc

from steelyard.serve.base import Intake
from steelyard.serve.edge.http import OnStatus
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.edge.shared_memory import Regions
from steelyard.serve.grpc import serve_grpc
from steelyard.serve.grpc.inference import InferenceCalls
from steelyard.testing.http import RunningServer, running_listener


class RefusedCallError(Exception):
    """A call ended with a status that is not OK."""

    def __init__(self, code: grpc.StatusCode, text: str, metadata: dict[str, str]) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code = code
        self.metadata = metadata


class FakeContext:
    """As much of a call as an edge looks at.

    Args:
        metadata: the client's.
        left_s: seconds left until its deadline; None without one.
        peer: its address, as gRPC writes it.
    """

    def __init__(
        self,
        metadata: Sequence[tuple[str, str]] = (),
        *,
        left_s: float | None = None,
        peer: str = "ipv4:127.0.0.1:1",
    ) -> None:
        self._metadata, self._left_s, self._peer = metadata, left_s, peer
        self.compression: grpc.Compression | None = None

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """What the client sent along."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Until its deadline."""
        return self._left_s

    def peer(self) -> str:
        """The client's address."""
        return self._peer

    def set_compression(self, compression: grpc.Compression) -> None:
        """Of the answer."""
        self.compression = compression

    async def abort(self, code: grpc.StatusCode, text: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        """End the call. Raises RefusedCallError."""
        raise RefusedCallError(code, text, dict(metadata))


def ask(
    intake: Intake,
    data: bytes,
    context: FakeContext | None = None,
    *,
    settings: EdgeSettings | None = None,
) -> bytes:
    """One `ModelInfer` without a server, from and to encoded messages. Raises RefusedCallError."""
    calls = InferenceCalls(intake, Regions(), settings or EdgeSettings(), None, None, host="127.0.0.1")
    return asyncio.run(calls.infer(data, context or FakeContext()))


def running_grpc(
    intake: Intake, *, settings: EdgeSettings | None = None, on_status: OnStatus | None = None
) -> AbstractContextManager[RunningServer]:
    """Serve an intake over gRPC on a free port of 127.0.0.1, until the block ends."""
    return running_listener(
        lambda: serve_grpc(intake, "127.0.0.1", 0, settings=settings, on_status=on_status, grace_s=5)
    )
