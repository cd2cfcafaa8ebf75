"""Markdown that several pages are made of."""

from collections.abc import Iterable, Sequence

Cells = Sequence[object]


def table(head: Cells, rows: Iterable[Cells]) -> str:
    """A table; all but the first column are right-aligned."""
    align = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, align, *rows))
