"""What the connections of one listener share that take inference requests directly (`connection.py`)."""

from typing import Any, Final

from steelyard.serve.edge.http_head import InferHeads
from steelyard.serve.edge.incoming import Placing
from steelyard.serve.edge.inferences import Inferences
from steelyard.serve.edge.places import Places
from steelyard.serve.edge.reply_heads import ReplyHeads

READ_BYTES_MAX: Final = 1 << 18


class DirectWay:
    """Made once for each listener.

    Args:
        inferences: where requests go.
        reply_heads: the listener's.
        rest_s_max: how long a connection stays open without a request.
        connections: the open ones; each is among them by itself.
        connections_max: how many may be (`places`).
    """

    def __init__(
        self,
        inferences: Inferences,
        reply_heads: ReplyHeads,
        *,
        rest_s_max: float,
        connections: set[Any],
        connections_max: int,
    ) -> None:
        self.inferences = inferences
        self.reply_heads = reply_heads
        self.intake = inferences.intake
        self.rest_s_max = rest_s_max
        self.connections = connections
        self.places = Places(connections, connections_max)
        self.heads = InferHeads(inferences.routes, inferences.settings.body_bytes_max)
        self.placing = Placing(inferences)
        self.buffer = bytearray(READ_BYTES_MAX)
        self.view = memoryview(self.buffer)
        self.unread_bytes = 0
        """Of all answers that wait for their clients."""
