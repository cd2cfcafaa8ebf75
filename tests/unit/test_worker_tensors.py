"""Tensors between arenas and arrays: views, one gather copy, BYTES, and refusals."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError, ModelError
from steelyard.core.types import Tensor, TensorRef
from steelyard.runtime.base import Array, Signature, TensorSpec
from steelyard.runtime.dtypes import DTYPES, numpy_dtype
from steelyard.worker.arena import Arena
from steelyard.worker.messages import Part
from steelyard.worker.tensors import Gatherer, as_array, free, store

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


def part(tensor: Tensor, row_start: int = 0, rows: int | None = None) -> Part:
    total = tensor.shape[0]
    return Part(row_start, total - row_start if rows is None else rows, total, (tensor,))


def test_one_part_is_a_view_and_not_a_copy(arena: Arena) -> None:
    tensor = put(arena, np.arange(12, dtype=np.float32).reshape(4, 3))
    inputs = Gatherer().gather([part(tensor, 1, 2)], arena.view)
    assert np.array_equal(inputs["x"], [[3, 4, 5], [6, 7, 8]])
    arena.view(tensor.ref)[12:16] = np.float32(99).tobytes()  # row 1, column 0
    assert inputs["x"][0, 0] == 99


def test_a_whole_request_alone_need_not_have_rows(arena: Arena) -> None:
    # A model without batches: one "row", whatever the leading axis is.
    image = put(arena, np.ones((7, 5), np.uint8))
    inputs = Gatherer().gather([Part(0, 1, 1, (image,))], arena.view)
    assert inputs["x"].shape == (7, 5)


def test_parts_are_gathered_in_order_into_one_kept_buffer(arena: Arena) -> None:
    a, b = (put(arena, np.full((2, 3), value, np.float32)) for value in (1, 2))
    gatherer = Gatherer()
    first = gatherer.gather([part(b), part(a, 0, 1)], arena.view)["x"]
    assert np.array_equal(first[:, 0], [2, 2, 1])
    second = gatherer.gather([part(a), part(b, 1)], arena.view)["x"]
    assert np.array_equal(second[:, 0], [1, 1, 2])
    assert np.shares_memory(first, second)


def test_bytes_are_decoded_and_gathered(arena: Arena) -> None:
    a = put(arena, np.array([b"one", b""], dtype=np.object_), word="BYTES")
    b = put(arena, np.array([b"\xff\0"], dtype=np.object_), word="BYTES")
    assert list(Gatherer().gather([part(a), part(b)], arena.view)["x"]) == [b"one", b"", b"\xff\0"]


@pytest.mark.parametrize(
    "mixed",
    [np.zeros((1, 4), np.float32), np.zeros((1, 3), np.int32)],
    ids=["shape", "type"],
)
def test_what_does_not_fit_together_is_refused(arena: Arena, mixed: Array) -> None:
    parts = [part(put(arena, np.zeros((1, 3), np.float32))), part(put(arena, mixed))]
    with pytest.raises(InputError, match="mixes shapes or types of input x"):
        Gatherer().gather(parts, arena.view)


def test_other_names_are_refused(arena: Arena) -> None:
    rows = np.zeros((1, 3), np.float32)
    with pytest.raises(InputError, match="other inputs than x"):
        Gatherer().gather([part(put(arena, rows)), part(put(arena, rows, "z"))], arena.view)


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
