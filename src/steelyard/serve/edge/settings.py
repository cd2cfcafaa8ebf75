"""What an operator may choose about the edges."""

from typing import Literal

from steelyard.core.types import Frozen


class EdgeSettings(Frozen, frozen=True):
    """Limits and choices of the HTTP edge; those that gRPC has, too, hold for both.

    Attributes:
        body_bytes_max: largest request body, also after decompression, and largest gRPC message; more is 413.
        json_bytes_max: largest JSON part, and largest part of a message besides raw contents: it is decoded
            on the serving loop, about 10 ms a MiB.
        buffered_bytes_max: all bodies being received together; more is 503. As much may wait of answers that
            their clients do not read; the client beyond is cut off. Over gRPC, messages and answers together.
        body_s_max: seconds a body may take to arrive, else 408.
        overload_status: for rejected and shed requests: 503 (what clients of the protocol expect) or
            429 (what proxies retry on).
        log_requests: log every request, not only those that fail.
    """

    body_bytes_max: int = 64 << 20
    json_bytes_max: int = 8 << 20
    buffered_bytes_max: int = 512 << 20
    body_s_max: float = 30.0
    overload_status: Literal[503, 429] = 503
    log_requests: bool = False
