"""Labelled examples from files: what is taken, and what is wrong in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.cli.examples import is_nan, read_examples
from steelyard.core.errors import InputError
from steelyard.runtime.base import Signature, TensorSpec

X = TensorSpec("x", "FP32", (-1, 2))
ROWS = Signature((X,), (), batchable=True)
ONE = Signature((TensorSpec("x", "UINT8", (1, -1)),), (), batchable=False)
TEXT = Signature((TensorSpec("t", "BYTES", (-1,)),), (), batchable=True)


def lines(folder: Path, *given: Any) -> Path:
    file = folder / "labels.jsonl"
    file.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in given))
    return file


def arrays(folder: Path, **given: Any) -> Path:
    file = folder / "labels.npz"
    np.savez(file, **given)
    return file


def refusal(file: Path, signature: Signature = ROWS) -> str:
    with pytest.raises(InputError) as raised:
        read_examples(file, signature)
    assert "\n" not in str(raised.value)
    return str(raised.value).replace(str(file.parent), "F")


def test_arrays_have_one_example_an_entry(tmp_path: Path) -> None:
    found = read_examples(arrays(tmp_path, x=np.array([[1, 2], [3, 4]]), label=[7, 8]), ROWS)
    assert [(example.inputs["x"].tolist(), example.label) for example in found] == [
        ([[1.0, 2.0]], 7),
        ([[3.0, 4.0]], 8),
    ]
    assert found[0].inputs["x"].dtype == np.float32


def test_a_service_without_a_leading_dimension_takes_examples_as_they_are(tmp_path: Path) -> None:
    (example,) = read_examples(arrays(tmp_path, x=np.zeros((1, 1, 5)), label=["a"]), ONE)
    assert (example.inputs["x"].shape, example.label) == ((1, 5), "a")


def test_lines_write_inputs_out_or_name_their_files(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.array([5.0, 6.0]))
    file = lines(tmp_path, {"x": [1, 2], "label": "a"}, "", {"x": "one.npy", "label": ["b", "c"]})
    found = read_examples(file, ROWS)
    assert [(example.inputs["x"].tolist(), example.label) for example in found] == [
        ([[1.0, 2.0]], "a"),
        ([[5.0, 6.0]], ["b", "c"]),
    ]


def test_an_image_is_its_pixels(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image.fromarray(pixels).save(tmp_path / "a.png")
    signature = Signature((TensorSpec("page", "UINT8", (-1, 2, 4, 3)),), (), batchable=True)
    (example,) = read_examples(lines(tmp_path, {"page": "a.png", "label": "x"}), signature)
    assert np.array_equal(example.inputs["page"], pixels[np.newaxis])


def test_text_is_itself(tmp_path: Path) -> None:
    (example,) = read_examples(lines(tmp_path, {"t": "hällo", "label": 1}), TEXT)
    assert example.inputs["t"].tolist() == ["hällo".encode()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": [1, 2]}, "--labels: F/labels.jsonl:1: want an object with the inputs and 'label'"),
        ("{", "--labels: F/labels.jsonl:1: not JSON: "),
        (
            {"y": [1, 2], "label": 1},
            "--labels: F/labels.jsonl:1: unknown input y (known: x)",
        ),
        ({"label": 1}, "--labels: F/labels.jsonl:1: input x is missing"),
        ({"x": [1, 2, 3], "label": 1}, "--labels: F/labels.jsonl:1: x: want FP32 [2], got INT64 [3]"),
        ({"x": [1, "a"], "label": 1}, "--labels: F/labels.jsonl:1: x: want FP32 [2], got "),
        ({"x": [[1], [1, 2]], "label": 1}, "--labels: F/labels.jsonl: "),
        ({"x": "gone.npy", "label": 1}, "--labels: cannot read F/gone.npy: No such file or directory"),
        (
            {"x": "a.txt", "label": 1},
            "--labels: F/labels.jsonl:1: x: want numbers or a file (.npy, .png, .jpg, .jpeg), got 'a.txt'",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, given: Any, message: str) -> None:
    found = refusal(lines(tmp_path, given))
    assert found.startswith(message), found


def test_a_label_file_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    x = np.zeros((3, 2))
    assert refusal(arrays(tmp_path, x=x, label=[1, 2])) == (
        "--labels: F/labels.npz: label has 2 entries, x has 3"
    )
    assert refusal(arrays(tmp_path, x=x)) == "--labels: F/labels.npz: no array 'label' (known: x)"
    assert refusal(arrays(tmp_path, x=np.zeros((0, 2)), label=[])) == "--labels: F/labels.npz: no examples"


def test_labels_that_are_all_nan_are_refused(tmp_path: Path) -> None:
    x = np.zeros((2, 2))
    message = "--labels: F/labels.npz: every label is NaN: no answer equals that"
    assert refusal(arrays(tmp_path, x=x, label=[np.nan, np.nan])) == message
    assert refusal(arrays(tmp_path, x=x, label=np.full((2, 3), np.nan))) == message
    one = {"x": [1, 2], "label": float("nan")}
    assert refusal(lines(tmp_path, one, one)) == message.replace("npz", "jsonl")
    # A metric of the user's may know what a missing label means.
    assert len(read_examples(arrays(tmp_path, x=x, label=[np.nan, 1.0]), ROWS)) == 2
    assert [is_nan(value) for value in (np.nan, [np.nan, 1.0], [], "nan", 1, None, [[np.nan]])] == [
        True,
        False,
        False,
        False,
        False,
        False,
        True,
    ]


def test_examples_may_be_without_labels(tmp_path: Path) -> None:
    for file in (
        arrays(tmp_path, x=np.zeros((2, 2))),
        arrays(tmp_path, x=np.zeros((2, 2)), label=[np.nan, np.nan]),
        lines(tmp_path, {"x": [0, 0]}, {"x": [0, 0], "label": 1}),
    ):
        assert len(read_examples(file, ROWS, option="--examples", labelled=False)) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": np.zeros(()), "y": [1]}, "--examples: F/labels.npz: unknown input y (known: x)"),
        ({}, "--examples: F/labels.npz: input x is missing"),
        ({"x": np.zeros((0, 2))}, "--examples: F/labels.npz: no examples"),
        ({"x": np.zeros((2, 3))}, "--examples: F/labels.npz: example 0: x: want FP32 [2], got FP64 [3]"),
        ({"x": np.zeros((2, 2)), "label": [1]}, "--examples: F/labels.npz: label has 1 entries, x has 2"),
    ],
)
def test_wrong_examples_are_told_by_their_option(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_examples(arrays(tmp_path, **given), ROWS, option="--examples", labelled=False)
    assert str(raised.value).replace(str(tmp_path), "F") == message


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "labels.csv") == "--labels: F/labels.csv: want .npz or .jsonl, got '.csv'"
    assert refusal(tmp_path / "gone.npz") == "--labels: cannot read F/gone.npz: No such file or directory"
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    assert refusal(tmp_path / "bad.npz").startswith("--labels: F/bad.npz: ")


def test_numbers_that_do_not_fit_their_type_are_refused(tmp_path: Path) -> None:
    message = "--labels: F/labels.jsonl:1: x: not all values are UINT8"
    assert refusal(lines(tmp_path, {"x": [[300]], "label": 1}), ONE) == message
    assert refusal(lines(tmp_path, {"x": [[0.5]], "label": 1}), ONE) == message
