"""gRPC's standard health service: the whole server's health, or that of one service of the spec file.

Readiness is asked for, not announced: a watcher is told of a change within `WATCH_S`.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc

from steelyard.serve.grpc.control import ControlCalls
from steelyard.serve.grpc.messages import HEALTH, INFERENCE, message
from steelyard.serve.grpc.receive import Messages

WATCH_S = 0.25
"""How often a watched service's readiness is looked at."""
_Response = message("grpc.health.v1.HealthCheckResponse")
_Request = message("grpc.health.v1.HealthCheckRequest")


class HealthCalls:
    """Serves `Check` and `Watch`."""

    def __init__(self, control: ControlCalls) -> None:
        self._control = control

    def _status(self, service: str) -> int:
        name = "" if service == INFERENCE else service
        ready = self._control.is_ready(name)
        if ready is None:
            return int(_Response.SERVICE_UNKNOWN)
        return int(_Response.SERVING if ready else _Response.NOT_SERVING)

    async def check(self, asked: Any, context: Any) -> Any:
        """The status now; NOT_FOUND for an unknown service."""
        status = self._status(asked.service)
        if status == _Response.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {asked.service[:200]!r}")
        return _Response(status=status)

    async def watch(self, asked: Any, _: Any) -> AsyncGenerator[Any]:
        """The status now, and each time it changes; an unknown service may yet become known."""
        told = None
        while True:
            status = self._status(asked.service)
            if status != told:
                told = status
                yield _Response(status=status)
            await asyncio.sleep(WATCH_S)


def health_handlers(messages: Messages, control: ControlCalls) -> grpc.GenericRpcHandler:
    """The service."""
    calls = HealthCalls(control)
    return grpc.method_handlers_generic_handler(
        HEALTH,
        {
            "Check": messages.unary(calls.check, request=_Request, response=_Response),
            "Watch": messages.unary_stream(calls.watch, request=_Request, response=_Response),
        },
    )
