"""What goes wrong while somebody is told of a request's end stays with that request.

The commands for many requests come from one event. An exception out of one's answer must not keep the others
from theirs, so it is caught where ends are told, and said where all errors of a loop are said.
"""

import asyncio

from steelyard.core.types import RequestId


def untold(request_id: RequestId, error: Exception) -> None:
    """Say that a request's end could not be told, and go on."""
    asyncio.get_running_loop().call_exception_handler(
        {
            "message": f"request {request_id.front_end}-{request_id.sequence} could not be told of its end",
            "exception": error,
        }
    )
