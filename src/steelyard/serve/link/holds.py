"""Which batches' outputs front ends still have to read: a batch's place is given back when all have. Pure.

The rules of this file:
- A front end reads answers in the order in which they were sent and says how many it has read. So an answer
  is known by its number on the link, and one number acknowledges all before it.
- A batch's outputs are known by the reference of the first of them, whose generation is never used twice.
- A front end that is lost reads nothing any more; outputs of a replica that is gone are nobody's.
"""

import heapq
from collections.abc import Callable, Iterable
from itertools import count

from steelyard.core.commands import Complete, ReleaseOutputs
from steelyard.core.events import BatchCompleted
from steelyard.core.types import TensorRef


class _Held:
    """A release that waits for `readers` front ends."""

    __slots__ = ("command", "readers")

    def __init__(self, command: ReleaseOutputs) -> None:
        self.command = command
        self.readers = 0


class _Reader:
    """One front end: answers sent and read, and the releases that wait for it, by number."""

    __slots__ = ("read", "sent", "waiting")

    def __init__(self) -> None:
        self.sent = self.read = 0
        self.waiting: list[tuple[int, int, _Held]] = []


class Holds:
    """Defers releases until the front ends that read a batch have done so.

    Args:
        release: gives a batch's outputs back; called exactly once for each command handed to `release`.
    """

    def __init__(self, release: Callable[[ReleaseOutputs], None]) -> None:
        self._release = release
        self._readers: dict[int, _Reader] = {}
        self._made: dict[int, dict[int, TensorRef]] = {}  # replica -> batch -> its first output
        self._reading: dict[TensorRef, dict[int, int]] = {}  # first output -> front end -> its last answer
        self._order = count()

    def add(self, front_end: int) -> None:
        """A front end reads answers from now on."""
        self._readers[front_end] = _Reader()

    def made(self, batch: BatchCompleted) -> None:
        """A batch has outputs that answers may lie in."""
        if self._readers and batch.outputs:
            self._made.setdefault(batch.replica_id, {})[batch.batch_id] = batch.outputs[0].ref

    def sent(self, front_end: int, answer: Complete) -> None:
        """An answer goes to a front end, which is to read what it names."""
        reader = self._readers[front_end]
        reader.sent += 1
        for parts in answer.answers.values():
            for part in parts:
                if part.outputs:
                    self._reading.setdefault(part.outputs[0].ref, {})[front_end] = reader.sent

    def release(self, command: ReleaseOutputs) -> None:
        """Give a batch's outputs back as soon as nobody reads them."""
        ref = self._made.get(command.replica_id, {}).pop(command.batch_id, None)
        held = _Held(command)
        for front_end, number in self._reading.pop(ref, {}).items() if ref is not None else ():
            reader = self._readers.get(front_end)
            if reader is not None and number > reader.read:
                held.readers += 1
                heapq.heappush(reader.waiting, (number, next(self._order), held))
        if not held.readers:
            self._release(command)

    def read(self, front_end: int, answers: int) -> None:
        """A front end has read so many answers in all."""
        reader = self._readers[front_end]
        reader.read = max(reader.read, answers)
        while reader.waiting and reader.waiting[0][0] <= reader.read:
            self._let_go(heapq.heappop(reader.waiting)[2])

    def lost(self, front_end: int) -> None:
        """A front end has gone; nothing happens if it was not there."""
        reader = self._readers.pop(front_end, None)
        if reader is not None:
            for _, _, held in sorted(reader.waiting, key=lambda entry: entry[:2]):
                self._let_go(held)

    def gone(self, replica_id: int) -> None:
        """A replica has gone, and its outputs with it."""
        self._forget(self._made.pop(replica_id, {}).values())

    def progress(self, front_end: int) -> tuple[int, int]:
        """Answers that a front end has read, and those that it has yet to read."""
        reader = self._readers[front_end]
        return reader.read, reader.sent - reader.read

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept for anybody."""
        waiting = any(reader.waiting for reader in self._readers.values())
        return not (waiting or self._reading or any(self._made.values()))

    def _let_go(self, held: _Held) -> None:
        held.readers -= 1
        if not held.readers:
            self._release(held.command)

    def _forget(self, refs: Iterable[TensorRef]) -> None:
        for ref in refs:
            self._reading.pop(ref, None)
