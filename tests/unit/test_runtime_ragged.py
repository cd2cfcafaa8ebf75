"""Lists of arrays, one a row, into and out of runtimes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.core.errors import ModelError
from steelyard.runtime.base import Array, Signature, TensorSpec, Value, VariantSpec, one_array
from steelyard.runtime.python import PythonRuntime

MODEL = """
import numpy as np

class Declared:
    signature = {
        "inputs": {"x": ("FP32", [-1, 2])},
        "outputs": {"points": ("FP32", [-1, 2]), "names": ("BYTES", [-1]), "y": ("FP32", [-1])},
    }
    def predict(self, batch):
        return self.answer(batch)

    def setup(self, options):
        self.answer = lambda batch: eval(options["answer"])

def free(batch):
    return {"seen": [np.shape(x) for x in batch["x"]], "y": [x * 2 for x in batch["x"]]}

class Whole:
    signature = {"inputs": {"x": ("FP32", [2, 2])}, "outputs": {"y": ("FP32", [-1])}}
    def predict(self, batch):
        return {"y": batch["x"].sum(axis=0)}
"""
VARIANT = VariantSpec("v", "python", "model.py:Model")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "ragged_model.py"
    path.write_text(MODEL)
    return path


def answer(model: Path, text: str) -> dict[str, Value]:
    """What a class with a signature returns for two rows."""
    spec = VariantSpec("v", "python", f"{model}:Declared", options={"answer": text})
    return PythonRuntime(spec).run({"x": np.ones((2, 2), np.float32)}, 2)


def shapes(value: Value) -> Any:
    return [array.shape for array in value] if isinstance(value, list) else value.shape


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # points are declared with two dimensions: arrays of two are the elements of a row each ...
        ("{'points': [np.ones((3, 2)), np.ones((0, 2))]}", [(3, 2), (0, 2)]),
        ("{'points': [np.ones((1, 2)), np.ones((1, 2))]}", [(1, 2), (1, 2)]),
        # ... and arrays of one are rows, as they always were.
        ("{'points': [np.ones(2), np.ones(2)]}", (2, 2)),
        ("{'points': [[1, 2], [3, 4]]}", (2, 2)),
        # Elements one by one.
        ("{'points': [[np.ones(2), np.ones(2)], []]}", [(2, 2), (0,)]),
        ("{'y': [np.ones(3), np.ones(1)]}", [(3,), (1,)]),
        ("{'y': [1.0, 2.0]}", (2,)),
        ("{'names': [np.array(['a', 'b']), np.array([])]}", [(2,), (0,)]),
    ],
)
def test_the_signature_tells_elements_from_rows(model: Path, text: str, wanted: Any) -> None:
    ((name, value),) = answer(model, text).items()
    assert shapes(value) == wanted
    arrays = value if isinstance(value, list) else [value]
    assert {array.dtype for array in arrays} == {np.dtype(object if name == "names" else np.float32)}


def test_texts_are_bytes(model: Path) -> None:
    (names,) = answer(model, "{'names': [np.array(['ä']), np.array(['b', 'c'])]}").values()
    assert [array.tolist() for array in names] == [["ä".encode()], [b"b", b"c"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'points': [np.ones((3, 2))]}", "variant v: output points is a list of 1 for 2 rows"),
        ("{'points': [[np.ones(2), np.ones(3)], []]}", "variant v: output points of .*inhomogeneous"),
    ],
)
def test_a_wrong_list_is_an_error_of_one_line(model: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        answer(model, text)


def test_without_a_signature_a_list_of_arrays_is_ragged(model: Path) -> None:
    runtime = PythonRuntime(VariantSpec("v", "python", f"{model}:free"))
    rows: list[Array] = [np.ones((2, 3), np.float32), np.empty((0, 3), np.float32)]
    found = runtime.run({"x": rows}, 2)
    assert np.asarray(found["seen"]).tolist() == [[2, 3], [0, 3]]
    assert shapes(found["y"]) == [(2, 3), (0, 3)]


def test_a_model_without_a_batch_axis_takes_the_array_of_its_only_row(model: Path) -> None:
    runtime = PythonRuntime(VariantSpec("v", "python", f"{model}:Whole"))
    x = np.arange(4, dtype=np.float32).reshape(2, 2)
    given: tuple[Value, ...] = ([x], x, x[np.newaxis])
    for value in given:
        assert np.asarray(runtime.run({"x": value}, 1)["y"]).tolist() == [2, 4]


def test_rows_of_one_shape_are_stacked_for_models_and_others_refused() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1, 2, 3)),), (), batchable=True)
    rows: list[Array] = [np.zeros((2, 3)), np.ones((2, 3))]
    assert one_array(VARIANT, signature, "x", rows).shape == (2, 2, 3)
    with pytest.raises(ModelError, match=r"rows of input x have different shapes: \[2, 3\], \[1, 3\]"):
        one_array(VARIANT, signature, "x", [rows[0], rows[1][:1]])
    fixed = Signature((TensorSpec("x", "FP32", (1, 2, 3)),), (), batchable=False)
    assert one_array(VARIANT, fixed, "x", [rows[0]]).shape == (1, 2, 3)
