"""The payload arena: slots never overlap, are bounded, come back in any order; stale references fail."""

import mmap
import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.types import TensorRef
from steelyard.worker.arena import (
    HEADER_BYTES,
    SLOT_BYTES_MIN,
    Arena,
    ArenaReader,
    StaleRefError,
    slots_bytes,
)

PAGE = mmap.PAGESIZE


def take(arena: Arena, length: int) -> TensorRef:
    ref = arena.alloc(length)
    assert ref is not None
    return ref


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena("test", 64 * PAGE)
    yield arena
    arena.close()


def test_a_tensor_written_by_the_owner_is_read_by_others_without_a_copy(arena: Arena) -> None:
    reader = ArenaReader("test", os.dup(arena.fd))
    ref = take(arena, 5)
    arena.view(ref)[:] = b"hello"
    assert bytes(reader.view(ref)) == b"hello"
    arena.view(ref)[:1] = b"j"  # the reader's map is the same memory
    assert bytes(reader.view(ref)) == b"jello"
    reader.close()


def test_readers_cannot_write(arena: Arena) -> None:
    reader = ArenaReader("test", os.dup(arena.fd))
    ref = take(arena, 5)
    assert reader.view(ref).readonly
    with pytest.raises(PermissionError):
        mmap.mmap(arena.fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, 0)
    reader.close()


def test_tensors_start_on_a_cache_line(arena: Arena) -> None:
    assert all(take(arena, n).offset % HEADER_BYTES == 0 for n in (0, 1, 100, 5000))


def test_a_freed_reference_is_stale_for_owner_and_readers(arena: Arena) -> None:
    reader = ArenaReader("test", os.dup(arena.fd))
    ref = take(arena, 10)
    arena.free(ref)
    again = take(arena, 10)
    assert again.offset == ref.offset  # the warm slot is used again, under a new generation
    assert again.generation != ref.generation
    for refused in (arena.view, arena.free, reader.view):
        with pytest.raises(StaleRefError):
            refused(ref)
    assert len(reader.view(again)) == 10
    reader.close()


@pytest.mark.parametrize(
    "ref",
    [
        TensorRef("other", HEADER_BYTES, 4, 1),
        TensorRef("test", 0, 4, 1),
        TensorRef("test", HEADER_BYTES + 1, 4, 1),
        TensorRef("test", HEADER_BYTES, 1 << 40, 1),
        TensorRef("test", HEADER_BYTES, -1, 1),
        TensorRef("test", HEADER_BYTES, 4, 0),
    ],
)
def test_references_that_point_elsewhere_are_refused(arena: Arena, ref: TensorRef) -> None:
    reader = ArenaReader("test", os.dup(arena.fd))
    arena.alloc(4)
    with pytest.raises(StaleRefError):
        arena.view(ref)
    if ref.generation:
        with pytest.raises(StaleRefError):
            reader.view(ref)
    reader.close()


def test_full_is_none_and_freeing_makes_room(arena: Arena) -> None:
    # 64 pages; a tensor of 8 pages needs 8 pages + header -> a slot of 16: four fit.
    refs = [take(arena, 8 * PAGE) for _ in range(4)]
    assert arena.alloc(1) is None
    arena.free(refs[2])
    assert arena.alloc(1) is not None


def test_bytes_are_put_into_a_slot_of_their_own(arena: Arena) -> None:
    ref = arena.put(memoryview(b"tensor"))
    assert ref is not None
    assert bytes(arena.view(ref)) == b"tensor"
    assert arena.put(memoryview(bytes(65 * PAGE))) is None
    arena.free(ref)
    assert arena.bytes_used == 0


def test_memory_of_small_tensors_comes_back_for_a_large_one(arena: Arena) -> None:
    # 64 pages / 256 B = 1024 smallest slots, freed in an awkward order: odd ones first.
    refs = [take(arena, SLOT_BYTES_MIN - HEADER_BYTES) for _ in range(1024)]
    assert arena.alloc(0) is None
    for ref in refs[1::2] + refs[::2]:
        arena.free(ref)
    assert arena.alloc(64 * PAGE - HEADER_BYTES) is not None


def test_untouched_pages_cost_nothing() -> None:
    arena = Arena("sparse", 1 << 30)
    arena.alloc(1 << 20)
    assert os.fstat(arena.fd).st_blocks * 512 <= 2 * PAGE  # one header's page
    arena.close()


def test_closing_twice_and_with_a_view_held_is_safe() -> None:
    arena = Arena("close", 4 * PAGE)
    view = arena.view(take(arena, 4))
    arena.close()
    arena.close()
    view[:] = b"abcd"  # the mapping lives as long as its views
    assert bytes(view) == b"abcd"


def test_less_than_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        Arena("tiny", 100)


@given(
    st.integers(PAGE, 40 * PAGE),
    st.lists(st.tuples(st.booleans(), st.integers(0, 12 * PAGE)), max_size=60),
)
def test_slots_never_overlap_stay_inside_and_all_come_back(
    bytes_max: int, steps: list[tuple[bool, int]]
) -> None:
    arena = Arena("property", bytes_max)
    reader = ArenaReader("property", os.dup(arena.fd))
    held: list[tuple[TensorRef, bytes]] = []
    for index, (taking, n) in enumerate(steps):
        if taking or not held:
            ref = arena.alloc(n)
            if ref is not None:
                fill = bytes([index % 251 + 1]) * n
                arena.view(ref)[:] = fill
                held.append((ref, fill))
        else:
            arena.free(held.pop(n % len(held))[0])
        spans = sorted((r.offset - HEADER_BYTES, r.offset + r.length) for r, _ in held)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all(start >= 0 and end <= bytes_max for start, end in spans)
        assert arena.bytes_used <= arena.bytes_max
        assert all(bytes(reader.view(r)) == fill for r, fill in held)  # nobody wrote over anybody
    for ref, _ in held:
        arena.free(ref)
    assert arena.bytes_used == 0
    largest = 1 << ((arena.bytes_max // SLOT_BYTES_MIN).bit_length() - 1)
    assert arena.alloc(largest * SLOT_BYTES_MIN - HEADER_BYTES) is not None  # all buddies merged again
    reader.close()
    arena.close()


@given(st.integers(PAGE, 8 * PAGE), st.lists(st.integers(0, 4 * PAGE), max_size=12))
def test_an_empty_arena_holds_what_takes_no_more_than_it_has(bytes_max: int, lengths: list[int]) -> None:
    arena = Arena("test", bytes_max)
    held = [ref for length in lengths if (ref := arena.alloc(length)) is not None]
    assert (len(held) == len(lengths)) == (slots_bytes(lengths) <= arena.bytes_max)
    arena.close()
