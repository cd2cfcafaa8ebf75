"""Tensors between arenas and arrays: views, one gather copy, BYTES, and refusals."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.commands import Slice
from steelyard.core.errors import InputError, ModelError
from steelyard.core.types import Request, RequestId, Tensor, TensorRef
from steelyard.runtime.base import Array, Signature, TensorSpec, Value
from steelyard.runtime.dtypes import DTYPES, numpy_dtype
from steelyard.worker.arena import Arena
from steelyard.worker.messages import WHOLE, Block, Feed
from steelyard.worker.tensors import Gatherer, as_array, free, own_feeds, store

ANY = Signature((), (), batchable=True)


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena("tensors", 1 << 20)
    yield arena
    arena.close()


def put(arena: Arena, array: Array, name: str = "x", word: str = "") -> Tensor:
    signature = Signature((), (TensorSpec(name, word, (-1,)),), batchable=True) if word else ANY
    (tensor,) = store({name: array}, signature, arena)
    return tensor


def block(tensor: Tensor, start: int = 0, rows: int | None = None, repeats: tuple[int, ...] = ()) -> Block:
    return Block(tensor, start, tensor.shape[0] - start if rows is None else rows, repeats)


def gather(arena: Arena, *blocks: Block, counts: tuple[int, ...] | None = None) -> Value:
    return Gatherer().gather([Feed("x", blocks, counts)], arena.view)["x"]


def request(*tensors: Tensor, rows: int = 1) -> Request:
    return Request(RequestId(0, 1), "svc", rows, "", 0.0, 1.0, tensors=tensors)


def test_one_block_is_a_view_and_not_a_copy(arena: Arena) -> None:
    tensor = put(arena, np.arange(12, dtype=np.float32).reshape(4, 3))
    x = gather(arena, block(tensor, 1, 2))
    assert np.array_equal(x, [[3, 4, 5], [6, 7, 8]])
    arena.view(tensor.ref)[12:16] = np.float32(99).tobytes()  # row 1, column 0
    assert x[0][0] == 99


def test_a_whole_request_alone_need_not_have_rows(arena: Arena) -> None:
    # A model without batches: one "row", whatever the leading axis is.
    image = put(arena, np.ones((7, 5), np.uint8))
    feeds = own_feeds([Slice(RequestId(0, 1), 0, 1)], [request(image)])
    assert np.asarray(Gatherer().gather(feeds, arena.view)["x"]).shape == (7, 5)


def test_blocks_are_gathered_in_order_into_one_kept_buffer(arena: Arena) -> None:
    a, b = (put(arena, np.full((2, 3), value, np.float32)) for value in (1, 2))
    gatherer = Gatherer()
    first = gatherer.gather([Feed("x", (block(b), block(a, 0, 1)))], arena.view)["x"]
    assert [row[0] for row in first] == [2, 2, 1]
    second = gatherer.gather([Feed("x", (block(a), block(b, 1)))], arena.view)["x"]
    assert [row[0] for row in second] == [1, 1, 2]
    assert np.shares_memory(np.asarray(first), np.asarray(second))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=6),
    st.sampled_from([(), (0,), (2,), (3, 2)]),
    st.sampled_from(["BOOL", "INT8", "FP16", "FP32", "INT64"]),
)
def test_whole_tensors_are_gathered_as_arrays_of_them_are(
    requests: list[tuple[int, bool]], row_shape: tuple[int, ...], word: str
) -> None:
    arena = Arena("whole", 1 << 20)
    arrays = [
        np.full((rows, *row_shape), value, numpy_dtype(word)) for value, (rows, _) in enumerate(requests)
    ]
    blocks = [
        Block(put(arena, array, word=word), 0, WHOLE if is_whole else rows)
        for array, (rows, is_whole) in zip(arrays, requests, strict=True)
    ]
    x = np.asarray(gather(arena, *blocks))
    assert (x.dtype, x.shape) == (numpy_dtype(word), (sum(map(len, arrays)), *row_shape))
    assert np.array_equal(x, np.concatenate(arrays))
    arena.close()


def test_rows_are_repeated_for_each_item_and_left_out_without_one(arena: Arena) -> None:
    a, b = (put(arena, np.arange(start, start + 3, dtype=np.int64)) for start in (0, 10))
    x = gather(arena, block(a, 0, 3, (2, 0, 1)), block(b, 1, 1, (3,)))
    assert list(x) == [0, 0, 2, 11, 11, 11]


def test_one_row_for_all_of_its_items_is_a_view_and_not_a_copy(arena: Arena) -> None:
    # A page of 120 KB for each of its 200 lines would be 24 MB.
    pages = put(arena, np.arange(90_000, dtype=np.float32).reshape(3, 100, 300))
    x = np.asarray(gather(arena, block(pages, 1, 1, (200,))))
    assert x.shape == (200, 100, 300)
    assert x.strides[0] == 0
    assert np.shares_memory(x, np.frombuffer(arena.view(pages.ref), np.uint8))
    assert np.array_equal(x[7], x[199])
    assert x[0, 0, 0] == 30_000
    assert not x.flags.writeable


def test_repeated_rows_of_several_requests_are_copied_once(arena: Arena) -> None:
    pages = [put(arena, np.full((2, 100, 100), value, np.float32)) for value in (1, 2)]
    feeds = [Feed("x", (block(pages[0], 0, 2, (3, 2)), block(pages[1], 1, 1, (4,)), block(pages[1], 0, 1)))]
    gatherer = Gatherer()
    gatherer.gather(feeds, arena.view)  # from here on there is a buffer
    tracemalloc.start()
    try:
        x = np.asarray(gatherer.gather(feeds, arena.view)["x"])
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert x[:, 0, 0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert most_bytes < x[0].nbytes  # 40 KB of 400: no copy but the one into the buffer


def test_repeated_texts_are_gathered(arena: Arena) -> None:
    texts = put(arena, np.array([b"one", b"two"], np.object_), word="BYTES")
    assert list(gather(arena, block(texts, 0, 2, (2, 1)))) == [b"one", b"one", b"two"]
    assert list(gather(arena, block(texts, 1, 1, (2,)))) == [b"two", b"two"]


def test_bytes_are_decoded_and_gathered(arena: Arena) -> None:
    a = put(arena, np.array([b"one", b""], dtype=np.object_), word="BYTES")
    b = put(arena, np.array([b"\xff\0"], dtype=np.object_), word="BYTES")
    assert list(gather(arena, block(a), block(b), block(a, 0, 1))) == [b"one", b"", b"\xff\0", b"one"]


def test_a_ragged_input_is_one_view_a_row(arena: Arena) -> None:
    tensor = put(arena, np.arange(8, dtype=np.float32).reshape(4, 2))
    rows = gather(arena, block(tensor, 1, 3), counts=(2, 0, 1))
    assert [row.tolist() for row in rows] == [[[2, 3], [4, 5]], [], [[6, 7]]]
    assert rows[1].shape == (0, 2)
    arena.view(tensor.ref)[8:12] = np.float32(99).tobytes()  # row 1, column 0
    assert rows[0][0, 0] == 99


def test_a_row_of_elements_may_lie_in_several_blocks(arena: Arena) -> None:
    tensors = [put(arena, np.arange(start, start + size)) for start, size in ((0, 2), (10, 1), (20, 3))]
    rows = gather(arena, *map(block, tensors), counts=(1, 4, 0, 1))
    # 0 | 1, 10, 20, 21 | nothing | 22
    assert [row.tolist() for row in rows] == [[0], [1, 10, 20, 21], [], [22]]


def test_rows_of_other_shapes_stand_beside_each_other_in_a_ragged_input(arena: Arena) -> None:
    images = [put(arena, np.ones(shape, np.uint8)) for shape in ((4, 5, 3), (2, 7, 3))]
    rows = gather(arena, *map(block, images), counts=(4, 2))
    assert [row.shape for row in rows] == [(4, 5, 3), (2, 7, 3)]


def test_too_few_elements_are_refused(arena: Arena) -> None:
    with pytest.raises(InputError, match="fewer elements than its rows"):
        gather(arena, block(put(arena, np.zeros(2))), counts=(1, 2))


def test_nothing_at_all_has_a_type_and_a_shape(arena: Arena) -> None:
    nothing = Tensor("x", "INT64", (0, 4), TensorRef("", 0, 0, 0))
    rows = gather(arena, Block(nothing, 0, 0), counts=(0, 0))
    assert [(row.dtype, row.shape) for row in rows] == [(np.int64, (0, 4))] * 2


@pytest.mark.parametrize(
    "mixed",
    [np.zeros((1, 4), np.float32), np.zeros((1, 3), np.int32)],
    ids=["shape", "type"],
)
def test_what_does_not_fit_together_is_refused(arena: Arena, mixed: Array) -> None:
    with pytest.raises(InputError, match="mixes shapes or types of input x"):
        gather(arena, block(put(arena, np.zeros((1, 3), np.float32))), block(put(arena, mixed)))


def test_other_names_are_refused(arena: Arena) -> None:
    rows = np.zeros((1, 3), np.float32)
    requests = [request(put(arena, rows)), request(put(arena, rows, "z"))]
    with pytest.raises(InputError, match="other inputs than x"):
        own_feeds([Slice(RequestId(0, 1), 0, 1)] * 2, requests)


def test_the_rows_of_a_ragged_output_are_stored_one_behind_the_other(arena: Arena) -> None:
    rows = [np.full((count, 2), count, np.float32) for count in (2, 0, 1)]
    (stored,) = store({"y": rows}, ANY, arena)
    assert (stored.dtype, stored.shape) == ("FP32", (3, 2))
    assert np.array_equal(as_array(stored, arena.view(stored.ref)), np.concatenate(rows))
    texts = [np.array([b"a", b"bc"], np.object_), np.array([], np.object_)]
    signature = Signature((), (TensorSpec("t", "BYTES", (-1,)),), batchable=True)
    (stored,) = store({"t@read": texts}, signature, arena)  # what was selected of `t` has its type
    assert (stored.dtype, stored.shape) == ("BYTES", (2,))
    assert list(as_array(stored, arena.view(stored.ref))) == [b"a", b"bc"]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x01\0\0\0a", "BYTES end after 1 of 2 elements"),
        (b"\x01\0\0\0a\x05\0\0\0b", "element 1 of BYTES is cut off"),
        (b"\x01\0\0\0a\0\0\0\0rest", "4 bytes follow the 2 elements"),
    ],
)
def test_bad_bytes_are_refused(payload: bytes, message: str) -> None:
    tensor = Tensor("x", "BYTES", (2,), TensorRef("a", 64, len(payload), 1))
    with pytest.raises(InputError, match=message):
        as_array(tensor, memoryview(payload))


def test_a_tensor_shorter_than_its_shape_is_refused() -> None:
    tensor = Tensor("x", "FP32", (2, 2), TensorRef("a", 64, 12, 1))
    with pytest.raises(InputError, match=r"FP32 \[2, 2\] is 16 bytes, not 12"):
        as_array(tensor, memoryview(bytes(12)))


def test_outputs_are_stored_all_or_none(arena: Arena) -> None:
    small, large = np.zeros(4, np.float32), np.zeros(1 << 19, np.float32)  # 2 MiB into 1 MiB
    with pytest.raises(ModelError, match="output large of 2097152 bytes does not fit"):
        store({"small": small, "large": large}, ANY, arena)
    assert arena.bytes_used == 0


def test_freed_outputs_leave_an_empty_arena(arena: Arena) -> None:
    stored = store({"a": np.zeros(4), "b": np.ones((2, 2), np.int8)}, ANY, arena)
    assert arena.bytes_used > 0
    free(stored, arena)
    assert arena.bytes_used == 0


def test_strided_outputs_are_stored_as_they_look(arena: Arena) -> None:
    array = np.arange(12, dtype=np.int64).reshape(3, 4).T[::2]
    tensor = put(arena, array)
    assert np.array_equal(as_array(tensor, arena.view(tensor.ref)), array)


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=5))
def test_every_type_and_shape_comes_back_bit_for_bit(word: str, shape: list[int]) -> None:
    arena = Arena("round-trip", 1 << 20)
    size = int(np.prod(shape, dtype=int))
    if word == "BYTES":
        array = np.empty(size, np.object_)
        array[:] = [bytes([i % 256]) * (i % 7) for i in range(size)]
    else:
        array = np.arange(size).astype(numpy_dtype(word))
    array = array.reshape(shape)
    tensor = put(arena, array, word=word)
    assert (tensor.dtype, tensor.shape) == (word, tuple(shape))
    back = as_array(tensor, arena.view(tensor.ref))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    arena.close()
