"""The gRPC listener: grpc.aio on the running loop, every service of `serve.grpc` on one port.

The rule of this file: what a client may make us hold is bounded. A message has at most `body_bytes_max`
bytes, as a body over HTTP, and at most 2 GiB; what is decoded of it has at most `json_bytes_max`; all
together are bounded by `receive.Messages`, through which every message is read. A connection has at most
`STREAMS_MAX` calls, the server `CALLS_MAX`; clients that have vanished are found by pings, and their requests
leave the queue.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import grpc
import grpc.aio

from steelyard.core.errors import InputError
from steelyard.serve.base import Intake
from steelyard.serve.edge.http import OnStatus
from steelyard.serve.edge.listen import ListenError
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.replies import RefusedError
from steelyard.serve.edge.settings import EdgeSettings
from steelyard.serve.edge.shared_memory import Regions
from steelyard.serve.grpc.callers import is_local, metadata_of
from steelyard.serve.grpc.control import CALLS, ControlCalls
from steelyard.serve.grpc.health import health_handlers
from steelyard.serve.grpc.inference import InferenceCalls
from steelyard.serve.grpc.messages import INFERENCE, methods
from steelyard.serve.grpc.receive import Messages, decoded
from steelyard.serve.grpc.reflection import reflection_handlers
from steelyard.serve.grpc.refusals import abort

MESSAGE_BYTES_MAX = (1 << 31) - 1
"""What gRPC's length of a message can say to stock clients."""
STREAMS_MAX = 1024
CALLS_MAX = 8192
PING_EVERY_MS = 60_000
PING_WAIT_MS = 20_000
CLIENT_PING_MS_MIN = 5_000
"""Clients may ping this often, also while they have no call; more often is answered, too, never punished."""


class GrpcListener:
    """A listening gRPC server; `port` is the one that was bound."""

    def __init__(self, server: grpc.aio.Server, port: int, grace_s: float) -> None:
        self._server = server
        self._grace_s = grace_s
        self._stopping: asyncio.Task[None] | None = None
        self.port = port

    def stop_accepting(self) -> None:
        """Take no further call; those under way have the grace period. Safe to call twice."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._server.stop(self._grace_s))

    async def stop(self, *, linger_s: float = 0.0) -> None:
        """Take no further call, and end those that are left when `linger_s` is over."""
        self.stop_accepting()
        await self._server.stop(linger_s)
        if self._stopping is not None:
            await self._stopping


async def serve_grpc(
    intake: Intake,
    host: str,
    port: int,
    *,
    settings: EdgeSettings | None = None,
    log: EventLog | None = None,
    on_status: OnStatus | None = None,
    grace_s: float = 30.0,
    reuse_port: bool = False,
) -> GrpcListener:
    """Serve the protocol over gRPC on the running loop; returns once it listens.

    Args:
        intake: the server behind the edge.
        host: address or name to bind.
        port: 0 lets the system choose.
        settings: limits and choices; those about bodies hold for messages.
        log: where failed requests are logged; nowhere if None.
        on_status: told the service and the status, in HTTP's terms, of each inference request at its end.
        grace_s: seconds that calls under way have to end once no further ones are taken.
        reuse_port: the server has bound the port for this listener (`edge.listen.reserve`).

    Raises:
        ListenError: the address cannot be bound.
    """
    settings = settings or EdgeSettings()
    regions = Regions()
    control = ControlCalls(intake, regions)
    messages = Messages(settings)
    inference = InferenceCalls(intake, regions, settings, log, on_status, host=host)
    server = grpc.aio.server(options=_options(settings, reuse_port), maximum_concurrent_rpcs=CALLS_MAX)
    server.add_generic_rpc_handlers(
        (
            _protocol_handlers(messages, inference, control, host, settings),
            health_handlers(messages, control),
            *reflection_handlers(messages),
        )
    )
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(place)
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {place}: {error}") from None
    await server.start()
    return GrpcListener(server, bound, grace_s)


def _options(settings: EdgeSettings, reuse_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", min(settings.body_bytes_max, MESSAGE_BYTES_MAX)),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_concurrent_streams", STREAMS_MAX),
        ("grpc.so_reuseport", int(reuse_port)),  # else a taken port is an error, not half of the connections
        ("grpc.keepalive_time_ms", PING_EVERY_MS),
        ("grpc.keepalive_timeout_ms", PING_WAIT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", CLIENT_PING_MS_MIN),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def _protocol_handlers(
    messages: Messages, inference: InferenceCalls, control: ControlCalls, host: str, settings: EdgeSettings
) -> grpc.GenericRpcHandler:
    """The protocol's service; inference takes and gives encoded messages (`wire`)."""
    handlers: dict[str, grpc.RpcMethodHandler] = {
        "ModelInfer": messages.unary(inference.infer),
        "ModelStreamInfer": messages.stream(inference.stream),
    }
    for name, (request, response) in methods(INFERENCE).items():
        if name in CALLS:
            handlers[name] = messages.unary(
                control_call(partial(control.call, name), request, response, host, settings.json_bytes_max),
                response=response,
            )
    return grpc.method_handlers_generic_handler(INFERENCE, handlers)


def control_call(
    call: Callable[..., Coroutine[Any, Any, Any]], request: Any, response: Any, host: str, bytes_max: int
) -> Callable[[bytes, Any], Coroutine[Any, Any, Any]]:
    """What serves a control call: its message is decoded on the loop, so it may have `bytes_max` only."""

    async def answer(data: bytes, context: Any) -> Any:
        try:
            if len(data) > bytes_max:
                raise RefusedError(413, f"the message has {len(data)} bytes, the limit is {bytes_max}")
            asked = decoded(request, data)
            local = is_local(context.peer(), metadata_of(context), host)
            return await call(asked, response, local=local)
        except RefusedError as error:
            await abort(context, error)
        except InputError as error:
            await abort(context, RefusedError(400, str(error)))

    return answer
