"""Compressed bodies, both ways, within a limit.

The rule of this file: compression costs more than many inferences, so an answer is compressed only for a
client that asks for it rather than one that merely allows it. `Accept-Encoding: gzip` asks (what
tritonclient's `response_compression_algorithm` sends); `gzip, deflate` lists what an HTTP library can read,
and identity is as welcome to it; a weight of `identity` below that of a coding asks too.
"""

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from steelyard.core.errors import InputError

Coding = Literal["gzip", "deflate"]
_WINDOW_BITS: dict[str, int] = {"gzip": 31, "deflate": 15}
INLINE_BYTES = 1 << 16
"""Bodies up to this size are (de)compressed on the serving loop (under 1 ms); larger ones on a thread."""
INLINE_INFLATED_BYTES = 1 << 20
"""What a small body may become on the serving loop (a few ms): 64 KiB can hold 64 MiB."""
MEMBERS_MAX = 4096
"""Of a gzip body: each is begun anew, and an empty one is 20 bytes. Block-wise gzip has one in 64 KiB."""
_PIECE_BYTES = 1 << 16
"""What is left of a piece behind the end of a member is copied, so pieces are small."""
_LEVEL = 1
ACCEPT_BYTES_MAX = 512
"""Of an `Accept-Encoding` that is looked into: far above any real one."""


class TooLargeError(Exception):
    """A body is, or grows, over the limit."""


def request_coding(value: bytes | None) -> Coding | None:
    """The coding that `Content-Encoding` names; None for identity.

    Raises:
        InputError: it is one that is not served.
    """
    name = b"" if value is None else value.strip().lower()
    if name in (b"", b"identity"):
        return None
    if name == b"gzip":
        return "gzip"
    if name == b"deflate":
        return "deflate"
    raise InputError(f"Content-Encoding {name[:40].decode('latin-1')!r} is not served; use gzip or deflate")


def inflate(chunks: Sequence[bytes], coding: Coding, bytes_max: int) -> bytes:
    """Decompress a whole body, never holding more than `bytes_max` bytes of it.

    Raises:
        InputError: it is not valid data of that coding, or ends early.
        TooLargeError: it is larger than `bytes_max`.
    """
    data = memoryview(b"".join(chunks))
    parts: list[bytes] = []
    left = bytes_max
    at = members = 0
    try:
        while at < len(data):  # gzip allows several members one after another
            members += 1
            if members > MEMBERS_MAX:
                raise InputError(f"the {coding} body has over {MEMBERS_MAX} members")
            stream = zlib.decompressobj(_WINDOW_BITS[coding])
            while not stream.eof:
                piece = data[at : at + _PIECE_BYTES]
                if not piece:
                    raise InputError(f"the {coding} body ends early")
                parts.append(stream.decompress(piece, left + 1))
                left -= len(parts[-1])
                if left < 0:
                    raise TooLargeError
                at += len(piece) - len(stream.unused_data)
    except zlib.error as error:
        raise InputError(f"the body is not {coding}: {error}") from None
    return b"".join(parts)


def answer_coding(accept: bytes | None) -> Coding | None:
    """The coding that `Accept-Encoding` asks for; None to send the answer as it is."""
    return _asked_coding(accept) if accept and len(accept) <= ACCEPT_BYTES_MAX else None


@lru_cache(maxsize=64)  # clients of one kind send one value
def _asked_coding(accept: bytes) -> Coding | None:
    weights: dict[str, float] = {}
    for entry in accept.decode("latin-1").lower().split(","):
        name, _, parameters = entry.partition(";")
        weights[name.strip()] = _weight(parameters)
    best = max(("gzip", "deflate"), key=lambda name: weights.get(name, 0.0))
    weight = weights.get(best, 0.0)
    identity = weights.get("identity", 0.0 if len(weights) == 1 else 1.0)
    if weight <= identity:
        return None
    return "gzip" if best == "gzip" else "deflate"


def _weight(parameters: str) -> float:
    key, _, value = parameters.strip().partition("=")
    if key.strip() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if math.isfinite(weight) else 0.0


def compress(body: bytes, coding: Coding) -> bytes:
    """Compress an answer, fast rather than small."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS[coding])
    return stream.compress(body) + stream.flush()
