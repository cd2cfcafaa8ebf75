"""A message's headers by name. One that is repeated is all its values, joined by commas (RFC 9110, 5.3).

So nothing that is stated twice is half heard: a bound of two values is no number, and refused.
"""

from collections.abc import Sequence


def by_name(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers (or a gRPC call's metadata) as they came, names in lower case, by name."""
    headers = dict(pairs)
    if len(headers) == len(pairs):
        return headers
    headers.clear()
    for name, value in pairs:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers
