"""Words of clients as error lines show them."""

from collections.abc import Iterable

SHOWN_CHARS_MAX = 40


def quoted(names: Iterable[str]) -> str:
    """Names one after another, in quotes."""
    return ", ".join(f"'{name}'" for name in names)


def shown(value: str | bytes) -> str:
    """A client's word in quotes, cut to a sensible length, on one line."""
    cut = value[:SHOWN_CHARS_MAX]
    return repr(cut if isinstance(cut, str) else cut.decode("latin-1"))
