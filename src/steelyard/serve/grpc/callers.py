"""Who calls: a call's metadata in the words of HTTP's headers, and whether it comes from this host."""

from typing import Any
from urllib.parse import unquote

from steelyard.serve.edge import shared_memory
from steelyard.serve.edge.headers import by_name


def metadata_of(context: Any) -> dict[bytes, bytes]:
    """The call's metadata as headers; values of `-bin` keys are bytes already."""
    return by_name(
        [
            (key.encode(), value if isinstance(value, bytes) else value.encode("utf-8"))
            for key, value in context.invocation_metadata() or ()
        ]
    )


def is_local(peer: str, headers: dict[bytes, bytes], listens_on: str) -> bool:
    """Whether a peer such as `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000` or `unix:` is on this host.

    A server that listens on every address cannot tell its own: over those, only loopback is local.
    """
    kind, _, place = unquote(peer).partition(":")
    if kind == "unix":
        return True
    host = place.rpartition(":")[0].strip("[]").removeprefix("::ffff:")
    return shared_memory.is_local({"client": (host, 0), "server": (listens_on, 0)}, headers)
