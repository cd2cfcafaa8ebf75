"""What waits in one stage: one ordered queue, with a bucket for each batch key.

Each piece stands in two sorted lists, that of everybody and that of its key; while all keys are equal, the
two are one list. So the most urgent piece, and the most urgent ones that could share a batch with it, are
both at hand; adding and removing is a bisection and a move of pointers. The queue's length is bounded by
admission.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from steelyard.core.plan import Order
from steelyard.core.work import Piece

Entry = tuple[float, int, Piece]
"""(order, sequence, piece); sequences are unique, so pieces themselves are never compared."""


class StageQueue:
    """Pieces in order of deadline or of arrival at the stage.

    Attributes:
        order: `edf` or `fifo`.
        entries: all of them, most urgent first. For reading only.
        rows: rows that wait.
    """

    def __init__(self, order: Order = "edf") -> None:
        self.order = order
        self._is_fifo = order == "fifo"
        self._buckets: dict[str, list[Entry]] = {}
        self.entries: list[Entry] = []
        self.rows = 0

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, piece: Piece) -> None:
        """Let a piece wait."""
        piece.order_s = order_s = piece.visit.arrived_s if self._is_fifo else piece.due_s
        piece.is_queued = True
        entry = (order_s, piece.sequence, piece)
        entries, buckets = self.entries, self._buckets
        self.rows += piece.rows
        if not entries:
            buckets[piece.key] = entries
            entries.append(entry)
            return
        if (bucket := buckets.get(piece.key)) is not entries:
            if bucket is not None:
                insort(bucket, entry)
            else:
                if len(buckets) == 1:  # of another key: from now on the lists differ
                    (key,) = buckets
                    buckets[key] = list(entries)
                buckets[piece.key] = [entry]
        if entry < entries[-1]:
            insort(entries, entry)
        else:
            entries.append(entry)  # mostly, who comes last is due last

    def remove(self, piece: Piece) -> None:
        """Take out a piece that waits."""
        assert piece.is_queued, f"piece {piece.sequence} does not wait"
        place = (piece.order_s, piece.sequence)
        bucket = self._buckets[piece.key]
        if len(bucket) == 1:
            del self._buckets[piece.key]
        elif bucket is not self.entries:
            del bucket[bisect_left(bucket, place)]
        del self.entries[bisect_left(self.entries, place)]
        self.rows -= piece.rows
        piece.is_queued = False

    def take(self, pieces: list[Piece]) -> None:
        """Take out several pieces that wait, in their order."""
        entries, count = self.entries, len(pieces)
        if count == len(entries):  # all that wait
            for piece in pieces:
                piece.is_queued = False
            self.rows = 0
            entries.clear()
            self._buckets.clear()
            return
        if (
            len(self._buckets) > 1
            or entries[0][2] is not pieces[0]
            or entries[count - 1][2] is not pieces[-1]
        ):
            for piece in pieces:
                self.remove(piece)
            return
        for piece in pieces:  # the first ones, all of one key
            piece.is_queued = False
            self.rows -= piece.rows
        bucket = self._buckets[pieces[0].key]
        del entries[:count]
        if bucket is not entries:
            del bucket[:count]

    def head(self) -> Piece:
        """The most urgent piece; the queue must not be empty."""
        return self.entries[0][2]

    def buckets(self) -> list[list[Entry]]:
        """Pieces by key, most urgent first in each; the bucket with the most urgent head first.

        Those whose batch did not end come last: whoever ran with them next would have to wait for it again.
        """
        if len(self._buckets) == 1:
            return list(self._buckets.values())
        return sorted(self._buckets.values(), key=lambda bucket: (bucket[0][2].is_suspect, *bucket[0][:2]))

    def bucket(self, key: str) -> list[Entry] | None:
        """What waits under a key, most urgent first; None if nothing does."""
        return self._buckets.get(key)

    def place_of(self, order_s: float) -> int:
        """How many would be served before a new piece of that order."""
        return bisect_left(self.entries, (order_s, float("inf")))

    def rows_before(self, order_s: float) -> float:
        """Rows that would be served before a new piece of that order.

        Counted in pieces of mean size, so that it takes O(log n); exact if all pieces have equally many rows.
        """
        count = self.place_of(order_s)
        return count * self.rows / len(self.entries) if count else 0.0

    def __iter__(self) -> Iterator[Piece]:
        return (entry[2] for entry in self.entries)
