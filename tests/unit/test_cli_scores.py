"""How right an answer is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.cli.scores import metric_named
from steelyard.core.errors import InputError


def score(name: str, answer: Any, label: Any) -> float:
    (found,) = metric_named(name, None)([{"y": np.asarray(answer)}], [label])
    return found


def text(*items: str) -> Any:
    array = np.empty(len(items), dtype=np.object_)
    array[:] = [item.encode() for item in items]
    return array


@pytest.mark.parametrize(
    ("answer", "label", "right"),
    [
        (text("abc"), "abc", 1.0),
        (text("abc"), "abd", 0.0),
        (text("a", "b"), ["a", "b"], 1.0),
        (text("a", "b"), ["a"], 0.0),
        # Several real numbers and one whole: the largest's place. Whole numbers are compared as they are.
        (np.array([[0.1, 0.7, 0.2]]), 1, 1.0),
        (np.array([[0.1, 0.7, 0.2]]), 2, 0.0),
        (np.array([[3]]), 3, 1.0),
        (np.array([[3, 4]]), [3, 4], 1.0),
        (np.array([[3, 4]]), 4, 0.0),
        (np.array([2.5]), 2.5, 1.0),
    ],
)
def test_exact_compares_like_with_like(answer: Any, label: Any, right: float) -> None:
    assert score("exact", answer, label) == right


def test_top1_is_the_largest(tmp_path: Path) -> None:
    assert score("top1", np.array([[1, 9, 3]]), 1) == 1.0
    assert score("top1", np.array([[1, 9, 3]]), 0) == 0.0
    with pytest.raises(InputError, match="top1: want scores as output"):
        score("top1", text("a"), 1)
    with pytest.raises(InputError, match="top1: the answer has 3 scores, label 3 is none of them"):
        score("top1", np.array([[1, 9, 3]]), 3)
    with pytest.raises(InputError, match="exact: the answer has 2 scores, label -1 is none of them"):
        score("exact", np.array([[0.1, 0.9]]), -1)
    with pytest.raises(InputError, match="exact: the answers are numbers, the label is 'a'"):
        score("exact", np.array([1.0]), "a")


def test_which_output_is_looked_at() -> None:
    outputs = {"y": np.array([1]), "z": np.array([2])}
    assert metric_named("exact", "z")([outputs], [2]) == [1.0]
    with pytest.raises(InputError, match="--output: there are several: want one of y, z"):
        metric_named("exact", None)([outputs], [2])
    with pytest.raises(InputError, match="--output: want one of y, z, got w"):
        metric_named("exact", "w")([outputs], [2])


USER = """
import numpy as np
def right(outputs, labels):
    assert outputs["row"].shape == (2, 3) and [a.shape for a in outputs["ragged"]] == [(1, 2), (4, 2)]
    return [float(label == "a") for label in labels]
def wrong_count(outputs, labels): return [1.0]
def out_of_range(outputs, labels): return [0.5, 1.5]
def not_a_number(outputs, labels): return [0.5, float("nan")]
def raises(outputs, labels): raise KeyError("text")
def words(outputs, labels): return ["good", "bad"]
"""


def users(tmp_path: Path, name: str) -> list[float]:
    file = tmp_path / "scores.py"
    file.write_text(USER)
    outputs = [
        {"row": np.zeros((1, 3)), "ragged": np.zeros((1, 2))},
        {"row": np.ones((1, 3)), "ragged": np.zeros((4, 2))},
    ]
    return metric_named(f"{file}:{name}", None)(outputs, ["a", "b"])


def test_a_users_function_gets_rows_together_and_the_rest_as_lists(tmp_path: Path) -> None:
    assert users(tmp_path, "right") == [1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_count", r"gave scores of shape \[1\] for 2 examples"),
        ("out_of_range", r"gave a score of 1.5; want them in \[0, 1\]"),
        ("not_a_number", "gave a score of nan"),
        ("raises", "raised KeyError: 'text'"),
        ("words", "raised ValueError: could not convert string"),
        ("missing", "has no 'missing'"),
    ],
)
def test_what_a_users_function_does_wrong_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        users(tmp_path, name)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(InputError, match="--metric: want exact, top1 or module:function, got f1"):
        metric_named("f1", None)
    with pytest.raises(InputError, match="--metric: cannot import nowhere"):
        metric_named("nowhere.at.all:f", None)
