"""Shared memory for payloads: one memfd, written by its owner alone and mapped read-only by everybody else.

Rules of this file:
- The file is sized once and sealed against shrinking (a reader can never meet SIGBUS), growing, and any
  further writable mapping: a worker that runs foreign code cannot scribble over a request. It is sparse:
  pages that were never written cost nothing.
- Slots come from a binary buddy system (Knowlton, CACM 1965): powers of two from 256 B up to the largest
  that fits, freed in any order, merged with their buddies. So memory that small tensors used comes back for
  large ones. Some slots of each size, `KEPT_MAX` at most, are kept as they are for the next tensors of that
  size, as requests come and go alike, a batch of them at a time: splitting and merging an idle arena's levels
  costs three times the rest. The kept ones are merged before the arena is called full.
- A slot is a 64-byte header followed by the tensor. The header's first word is the slot's generation: a
  number never used twice, 0 once freed. Owner and readers refuse a reference whose generation is not the
  one in the slot. A reader that *holds* a view is not protected: owners free only what nobody reads
  (`Release`, `ReleaseOutputs`).
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterable

from steelyard.core.types import TensorRef

SLOT_BYTES_MIN = 256
KEPT_MAX = 64  # as many as the requests of a large batch
HEADER_BYTES = 64  # a cache line: tensors start aligned for vector loads
_WORD_BYTES = 8
_F_SEAL_FUTURE_WRITE = 0x0010  # linux/fcntl.h, Linux 5.1; not in Python's fcntl


class StaleRefError(Exception):
    """A reference outlived its slot, or never belonged to this arena: the holder is too late."""


class Arena:
    """The owner's side of a payload arena.

    Args:
        name: goes into every reference; unique among the arenas of a server.
        bytes_max: size of the whole arena, headers and rounding included; rounded down to a whole slot.

    Raises:
        ValueError: `bytes_max` is less than one page.
        OSError: the machine cannot map that much.
    """

    def __init__(self, name: str, bytes_max: int) -> None:
        if bytes_max < mmap.PAGESIZE:
            raise ValueError(f"an arena needs at least {mmap.PAGESIZE} bytes, not {bytes_max}")
        self.name = name
        self.bytes_max = bytes_max - bytes_max % SLOT_BYTES_MIN
        self.bytes_used = 0
        self.fd = os.memfd_create(f"steelyard-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, self.bytes_max)
            self._map = mmap.mmap(self.fd, self.bytes_max, mmap.MAP_SHARED)
        except OSError:
            os.close(self.fd)
            raise
        _seal(self.fd)
        self._memory = memoryview(self._map)
        self._words = self._memory.cast("Q")
        self._generation = 0
        self._taken: set[TensorRef] = set()
        # free[order] holds the offsets of free slots of SLOT_BYTES_MIN << order; a dict is an ordered set:
        # the slot freed last, whose pages are warm, is taken first, and a buddy is removed in O(1).
        self._free = _whole_slots(self.bytes_max)
        self._kept: dict[int, list[int]] = {order: [] for order in range(len(self._free))}  # freed last: last

    def alloc(self, length: int) -> TensorRef | None:
        """Take a slot for `length` bytes; None if no slot is large enough: the arena is full. O(log size)."""
        order = ((length + HEADER_BYTES - 1) // SLOT_BYTES_MIN).bit_length()
        kept = self._kept.get(order)
        offset = kept.pop() if kept else self._split(order)
        if offset is None:
            self._merge_kept()
            offset = self._split(order)
            if offset is None:
                return None
        self._generation += 1
        self.bytes_used += SLOT_BYTES_MIN << order
        self._words[offset // _WORD_BYTES] = self._generation
        ref = TensorRef(self.name, offset + HEADER_BYTES, length, self._generation)
        self._taken.add(ref)
        return ref

    def put(self, data: memoryview) -> TensorRef | None:
        """Take a slot for these bytes and copy them there; None if the arena is full."""
        ref = self.alloc(len(data))
        if ref is not None:
            self._memory[ref.offset : ref.offset + ref.length] = data
        return ref

    def view(self, ref: TensorRef) -> memoryview:
        """The tensor's bytes, writable.

        Raises:
            StaleRefError: the reference was freed, or is another arena's.
        """
        if ref not in self._taken:
            raise StaleRefError(f"{ref} is not held in arena {self.name}")
        return self._memory[ref.offset : ref.offset + ref.length]

    def free(self, ref: TensorRef) -> None:
        """Give a slot back; views of it must not be used any more. O(log size).

        Raises:
            StaleRefError: it was freed before, or is another arena's.
        """
        try:
            self._taken.remove(ref)
        except KeyError:
            raise StaleRefError(f"{ref} is not held in arena {self.name}") from None
        order, offset = _order(ref.length + HEADER_BYTES), ref.offset - HEADER_BYTES
        self.bytes_used -= SLOT_BYTES_MIN << order
        self._words[offset // _WORD_BYTES] = 0
        kept = self._kept[order]
        if len(kept) < KEPT_MAX:
            kept.append(offset)
        else:
            self._merge(order, offset)

    def close(self) -> None:
        """Close the file; the memory goes with the last mapping. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        _unmap(self._words, self._memory, self._map)

    def _split(self, wanted: int) -> int | None:
        """The offset of a free slot of this order, cut from the smallest that is large enough."""
        order = next((o for o in range(wanted, len(self._free)) if self._free[o]), None)
        if order is None:
            return None
        offset, _ = self._free[order].popitem()
        while order > wanted:
            order -= 1
            self._free[order][offset + (SLOT_BYTES_MIN << order)] = None
        return offset

    def _merge_kept(self) -> None:
        """Put all kept slots among the free ones."""
        for order, kept in self._kept.items():
            while kept:
                self._merge(order, kept.pop())

    def _merge(self, order: int, offset: int) -> None:
        """Put a slot among the free ones, joined with its buddy for as long as that is free, too."""
        while order + 1 < len(self._free):
            buddy = offset ^ (SLOT_BYTES_MIN << order)
            if buddy not in self._free[order]:
                break
            del self._free[order][buddy]
            offset = min(offset, buddy)
            order += 1
        self._free[order][offset] = None


class ArenaReader:
    """Another process's arena, read-only.

    Args:
        name: the owner's name for it.
        fd: its memfd; the reader takes it over and closes it.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        try:
            self.bytes_max = os.fstat(fd).st_size
            self._map = mmap.mmap(fd, self.bytes_max, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(fd)
        self._memory = memoryview(self._map)
        self._words = self._memory.cast("Q")

    def view(self, ref: TensorRef) -> memoryview:
        """The tensor's bytes, read-only.

        Raises:
            StaleRefError: the slot was freed or taken again since, or the reference lies outside.
        """
        arena, offset, length, generation = ref
        slot, end = offset - HEADER_BYTES, offset + length
        if arena != self.name or slot < 0 or length < 0 or end > self.bytes_max or slot % SLOT_BYTES_MIN:
            raise StaleRefError(f"{ref} does not lie in arena {self.name}")
        if self._words[slot // _WORD_BYTES] != generation:
            raise StaleRefError(f"{ref} was freed by the owner of arena {self.name}")
        return self._memory[offset:end]

    def close(self) -> None:
        """Unmap; safe to call twice."""
        _unmap(self._words, self._memory, self._map)


def slots_bytes(lengths: Iterable[int]) -> int:
    """How much of an arena tensors of these lengths take.

    An empty arena holds them exactly if it has as much: slots are powers of two, as are the blocks they are
    cut from, the smallest that will do.
    """
    return sum(SLOT_BYTES_MIN << _order(length + HEADER_BYTES) for length in lengths)


def _order(bytes_needed: int) -> int:
    """Smallest k with `SLOT_BYTES_MIN << k >= bytes_needed`."""
    return ((bytes_needed - 1) // SLOT_BYTES_MIN).bit_length()


def _whole_slots(bytes_max: int) -> list[dict[int, None]]:
    """Free slots of an empty arena, by order: the binary digits of its size, largest first, hence aligned."""
    slots = bytes_max // SLOT_BYTES_MIN
    free: list[dict[int, None]] = [{} for _ in range(slots.bit_length())]
    offset = 0
    for order in reversed(range(slots.bit_length())):
        if slots >> order & 1:
            free[order][offset] = None
            offset += SLOT_BYTES_MIN << order
    return free


def _seal(fd: int) -> None:
    """Fix the size, and refuse every writable mapping but the one the owner has."""
    fixed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fixed | _F_SEAL_FUTURE_WRITE)
    except OSError:  # Linux before 5.1: readers still map read-only, they are just not forced to
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fixed)


def _unmap(words: memoryview, memory: memoryview, mapping: mmap.mmap) -> None:
    # A view somebody still holds keeps its pages mapped until it goes; closing must not fail because of it.
    with contextlib.suppress(BufferError):
        words.release()
        memory.release()
        mapping.close()
