"""A request's body as it came: a list of chunks, read front to back.

The rule of this file: chunks are never joined for a tensor's sake. `pieces` hands out views of them, and
the arena gets each byte by exactly one copy; only the JSON head, which a parser needs in one piece, may be
joined.
"""

from collections.abc import Sequence

Pieces = tuple[memoryview, ...]


class Body:
    """A cursor over the chunks of one body; views stay valid as long as the chunks do.

    Args:
        chunks: the body.
        size_word: what states a tensor's size in it, for messages.
    """

    __slots__ = ("_at", "_chunks", "_index", "left", "size_word")

    at = -1
    """Where the next bytes are counted from the first; -1 where it does not matter, as they are here."""

    def __init__(self, chunks: Sequence[bytes | memoryview], size_word: str = "binary_data_size") -> None:
        self._chunks = chunks
        self.size_word = size_word
        self._index = 0
        self._at = 0
        self.left = sum(map(len, chunks))
        """Bytes not yet taken."""

    def take(self, size: int) -> bytes | memoryview:
        """The next `size` bytes in one piece; `size` is at most `left`."""
        pieces = self.pieces(size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def pieces(self, size: int) -> Pieces:
        """The next `size` bytes as views of the chunks they came in; `size` is at most `left`."""
        assert 0 <= size <= self.left, (size, self.left)
        self.left -= size
        end = self._at + size
        if size and end < len(self._chunks[self._index]):  # mostly: a small body is one chunk
            at, self._at = self._at, end
            return (memoryview(self._chunks[self._index])[at:end],)
        found: list[memoryview] = []
        while size:
            chunk = self._chunks[self._index]
            end = min(self._at + size, len(chunk))
            if end > self._at:
                found.append(memoryview(chunk)[self._at : end])
            size -= end - self._at
            self._at = end
            if end == len(chunk):
                self._index, self._at = self._index + 1, 0
        return tuple(found)


class BodyToCome(Body):
    """A body of which only the length is known: where a tensor is in it can be said, its bytes not.

    Args:
        length: bytes of tensors to come.
    """

    __slots__ = ("at",)

    def __init__(self, length: int) -> None:
        super().__init__(())
        self.left = length
        self.at = 0

    def pieces(self, size: int) -> Pieces:
        """Nothing; the cursor moves on by `size` bytes, at most `left`."""
        self.left -= size
        self.at += size
        return ()
