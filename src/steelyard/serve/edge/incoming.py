"""The body of an inference request that does not come in one piece.

The rules of this file:
- As soon as its JSON is here and says where its tensors lie, their slots are taken from the arena, and what
  is left of the body is read from the socket straight into them: no byte is copied twice.
- A client that announces much and sends little must not keep others out of the arena. Bodies that are not
  complete hold an eighth of it at most; beyond that, and where the tensors' places are not known, a body is
  collected outside, within the limits of all bodies (`receive.py`).
"""

from typing import Final

from steelyard.core.types import Request, Tensor
from steelyard.serve.edge.codec import Inference
from steelyard.serve.edge.exchange import Exchange
from steelyard.serve.edge.http_head import InferHead
from steelyard.serve.edge.inferences import Inferences
from steelyard.serve.edge.inputs import free, store

PLACED_SHARE: Final = 8
PLACED_BYTES_MIN: Final = 1 << 16
"""Smaller bodies are collected: two reads more cost as much as copying them."""


class Placing:
    """Which part of the arena bodies hold that are not complete.

    Args:
        inferences: whose arena it is.

    Attributes:
        bytes_left: that such bodies may still take.
        bytes_min: smaller bodies are collected.
    """

    def __init__(self, inferences: Inferences) -> None:
        self.inferences = inferences
        self.arena = inferences.intake.arena
        self.bytes_left = self.arena.bytes_max // PLACED_SHARE
        self.bytes_min = PLACED_BYTES_MIN


class Incoming:
    """One body; give it back by `request` or `drop`.

    Args:
        head: of its request.
        placing: shared by all bodies of an edge.

    Attributes:
        head: of its request.
        left: bytes that have still to come.
    """

    __slots__ = (
        "_asked",
        "_chunk",
        "_is_placed",
        "_may_place",
        "_placing",
        "_slots",
        "_tensors",
        "head",
        "left",
    )

    def __init__(self, head: InferHead, placing: Placing) -> None:
        self.left = head.length
        self.head = head
        self._placing = placing
        self._may_place = head.json_length is not None and head.length >= placing.bytes_min
        self._is_placed = False
        self._chunk = bytearray()
        self._slots: list[memoryview] = []
        self._asked: Inference | None = None
        self._tensors: tuple[Tensor, ...] = ()

    @property
    def slot(self) -> memoryview | None:
        """Where the next bytes are to be read to; None: anywhere, for `take`."""
        return self._slots[0] if self._slots else None

    def filled(self, size: int) -> None:
        """So many bytes were read into `slot`."""
        self.left -= size
        slot = self._slots[0]
        if size < len(slot):
            self._slots[0] = slot[size:]
        else:
            del self._slots[0]

    def take(self, data: memoryview) -> None:
        """Keep bytes that came, at most `left` of them.

        Raises:
            RefusedError: all bodies together are too much.
        """
        self._placing.inferences.bodies.hold(len(data))
        self._chunk += data
        self.left -= len(data)
        if self._may_place and self.left and len(self._chunk) >= (self.head.json_length or 0):
            self._may_place = False
            self._place()

    def request(self, exchange: Exchange, is_local: bool) -> Request:
        """The request, whose body is complete now; `is_local` is its connection.

        Raises:
            InputError: it is not what the service takes.
            RefusedError: it is too large, memory is full, or the service was unloaded meanwhile.
        """
        inferences = self._placing.inferences
        try:
            if self._asked is None:
                return inferences.direct_request(exchange, self.head, memoryview(self._chunk), is_local)
            made = inferences.placed_request(exchange, self._asked, self._tensors)
            self._tensors = ()
            return made
        finally:
            self.drop()

    def drop(self) -> None:
        """Give back what is held; safe to call twice."""
        self._slots = []
        self._placing.inferences.bodies.buffered_bytes -= len(self._chunk)
        self._chunk = bytearray()
        if self._is_placed:
            self._is_placed = False
            self._placing.bytes_left += self.head.length
            free(self._tensors, self._placing.arena)
            self._tensors = ()

    def _place(self) -> None:
        """Take slots for the tensors, if they are known and there is room."""
        placing, length = self._placing, self.head.length
        asked = self.head.layout(memoryview(self._chunk))
        if asked is None or length > placing.bytes_left:
            return
        tensors = store(asked.inputs, placing.arena)
        if tensors is None:  # there may be room when the body is complete
            return
        self._asked, self._tensors, self._is_placed = asked, tensors, True
        placing.bytes_left -= length
        placed = sorted(zip(asked.inputs, tensors, strict=True), key=lambda pair: pair[0].at)
        self._slots = [placing.arena.view(tensor.ref) for given, tensor in placed if given.length]
        self._move(memoryview(self._chunk)[self.head.json_length :])
        placing.inferences.bodies.buffered_bytes -= len(self._chunk)
        self._chunk = bytearray()

    def _move(self, data: memoryview) -> None:
        """Copy what has come already to its place."""
        self.left += len(data)
        while data:
            slot = self._slots[0]
            size = min(len(slot), len(data))
            slot[:size] = data[:size]
            self.filled(size)
            data = data[size:]
