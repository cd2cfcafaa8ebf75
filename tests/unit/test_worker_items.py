"""Counting and selecting items: what a batch's outputs mean to the stages behind."""

from typing import Any

import numpy as np
import pytest

from steelyard.core.errors import ModelError
from steelyard.core.types import Comparison, Condition
from steelyard.runtime.base import Array, Signature, TensorSpec, Value
from steelyard.worker.items import Made, settle
from steelyard.worker.messages import Taker

ROWS = Signature((), (), batchable=True)
LINES = [np.arange(6.0).reshape(3, 2), np.empty((0, 2)), np.array([[8.0, 9.0]])]
SCORES = [np.array([0.9, 0.1, 0.7]), np.empty(0), np.array([0.2])]


def taker(each: str = "lines", when: Condition | None = None, *outputs: str) -> Taker:
    return Taker("read", each, when, outputs)


def when(tensor: str, comparison: Comparison = ">", value: float = 0.5) -> Condition:
    return Condition("crop", tensor, comparison, value)


def made(outputs: dict[str, Value], *takers: Taker, rows: int = 3, signature: Signature = ROWS) -> Made:
    return settle(outputs, rows, signature, takers)


def lists(value: Value) -> list[Any]:
    return [array.tolist() for array in value]


def test_a_list_of_arrays_is_counted_by_row() -> None:
    found = made({"lines": LINES}, taker())
    assert found.items == {"@lines": (3, 0, 1), "read": (3, 0, 1)}
    assert lists(found.outputs["lines"]) == lists(LINES)


def test_a_condition_on_items_selects_among_them() -> None:
    found = made(
        {"lines": LINES, "scores": SCORES, "page": np.array([1, 2, 3])},
        taker("lines", when("scores"), "lines", "page"),
    )
    assert found.items["read"] == (2, 0, 0)  # 0.9 and 0.7 of the first row
    assert lists(found.outputs["lines@read"]) == [[[0, 1], [4, 5]], [], []]
    assert "page@read" not in found.outputs  # one a row: repeated by the counts
    assert found.items["@lines"] == (3, 0, 1)  # who takes all of them still can


def test_a_condition_with_one_number_a_row_decides_on_all_its_items() -> None:
    found = made({"lines": LINES, "ok": np.array([[1.0], [1.0], [0.0]])}, taker("lines", when("ok"), "lines"))
    assert found.items["read"] == (3, 0, 0)


@pytest.mark.parametrize(
    ("comparison", "counts"),
    [
        # values 0.5, nan, 0.2 against 0.5
        (">", (0, 0, 0)), (">=", (1, 0, 0)), ("<", (0, 0, 1)), ("<=", (1, 0, 1)), ("==", (1, 0, 0)),
        ("!=", (0, 1, 1)),
    ],
)  # fmt: skip
def test_a_condition_alone_selects_rows(comparison: Comparison, counts: tuple[int, ...]) -> None:
    y = np.arange(3)
    sure = np.array([0.5, np.nan, 0.2])
    found = made({"y": y, "sure": sure, "lines": LINES}, taker("", when("sure", comparison), "y", "lines"))
    assert found.items["read"] == counts
    selected = [row for row, count in zip(y, counts, strict=True) if count]
    assert np.concatenate(list(found.outputs["y@read"])).tolist() == selected
    assert "lines@read" not in found.outputs


def test_a_model_without_a_batch_axis_counts_its_leading_dimension() -> None:
    outputs = (
        TensorSpec("boxes", "FP32", (-1, 4)), TensorSpec("map", "FP32", (1, 8, 8)),
        TensorSpec("size", "FP32", (2,)), TensorSpec("sharpness", "FP32", ()),
    )  # fmt: skip
    signature = Signature((), outputs, batchable=False)
    arrays: dict[str, Value] = {
        "boxes": np.zeros((5, 4)), "map": np.zeros((1, 8, 8)), "size": np.zeros(2),
        "sharpness": np.array(0.7),
    }  # fmt: skip
    found = made(arrays, taker("boxes", when("sharpness"), "boxes", "size"), rows=1, signature=signature)
    assert found.items == {"@boxes": (5,), "read": (5,)}
    shapes = {name: np.shape(value) for name, value in found.outputs.items()}
    # The others are the only row's, and get an axis for it.
    assert shapes == {
        "boxes": (5, 4), "map": (1, 8, 8), "size": (1, 2), "sharpness": (1,), "boxes@read": (1, 5, 4),
    }  # fmt: skip


def test_the_only_stage_of_a_service_gives_what_its_model_gives() -> None:
    signature = Signature((), (TensorSpec("size", "FP32", (2,)),), batchable=False)
    found = settle({"size": np.zeros(2)}, 1, signature, None)
    assert np.shape(found.outputs["size"]) == (2,)
    assert found.items == {}


def test_lists_that_are_all_empty_are_rows_without_elements() -> None:
    found = made({"lines": np.asarray([[], []]), "scores": np.asarray([[], []])},
                 taker("lines", when("scores"), "lines"), rows=2)  # fmt: skip
    assert found.items == {"@lines": (0, 0), "@scores": (0, 0), "read": (0, 0)}


def test_empty_rows_take_the_type_and_shape_of_the_others() -> None:
    sloppy: list[Array] = [np.array([]), np.ones((2, 3), np.float32)]
    found = made({"lines": sloppy}, taker(), rows=2)
    first = found.outputs["lines"][0]
    assert (first.dtype, first.shape) == (np.float32, (0, 3))


@pytest.mark.parametrize(
    ("outputs", "takers", "message"),
    [
        ({"y": 3}, (), "output y is int, no array"),
        ({"y": np.zeros(2)}, (), r"output y has shape \[2\] for 3 rows"),
        ({"lines": LINES[:2]}, (), "output lines is a list of 2 arrays for 3 rows"),
        ({"lines": [*LINES[:2], np.zeros((1, 5))]}, (), r"output lines mixes elements of float64 \[2\] and"),
        ({"lines": LINES}, (taker("boxes"),), "stage read takes output boxes; there are lines"),
        ({"lines": np.zeros(3)}, (taker(),), "output lines, which is one array for all rows"),
        (
            {"lines": LINES, "boxes": [np.zeros((1, 4))] * 3}, (taker("lines", None, "boxes"),),
            r"output boxes has \[1, 1, 1\] elements a row, lines has \[3, 0, 1\]: stage read takes both",
        ),
        (
            {"lines": LINES, "scores": [np.zeros(1)] * 3}, (taker("lines", when("scores")),),
            "stage read runs when scores > 0.5: want 3 numbers of a row, got 1 of float64",
        ),
        ({"y": np.zeros((3, 2))}, (taker("", when("y")),), "want 1 numbers of a row, got 2 of float64"),
        ({"y": np.array([b"a"] * 3, object)}, (taker("", when("y")),), "got 1 of object"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused(
    outputs: dict[str, Value], takers: tuple[Taker, ...], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        made(outputs, *takers)
