"""Markdown that several pages are made of."""

from collections.abc import Iterable, Sequence

Cells = Sequence[object]


def table(head: Cells, rows: Iterable[Cells], words: int = 1) -> str:
    """A table; the first `words` columns are left-aligned, the others, which hold figures, right-aligned."""
    align = [*["---"] * words, *["---:"] * (len(head) - words)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, align, *rows))
