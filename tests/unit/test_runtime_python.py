from pathlib import Path

import numpy as np
import pytest

from steelyard.core.errors import InputError, ModelError
from steelyard.runtime.base import Array, TensorSpec, Value, VariantSpec
from steelyard.runtime.python import PythonRuntime

MODEL = """
import numpy as np

class Model:
    signature = {"inputs": {"x": ("FP32", [-1, 2])}, "outputs": {"y": ("FP32", [-1])}}

    def setup(self, options):
        self.factor = options.get("factor", 1)
        self.cores = []

    def set_cores(self, cores):
        if cores == 3:
            raise RuntimeError("three is too many")

    def predict(self, batch):
        x = batch["x"]
        if x[0, 0] < 0:
            raise ValueError("negative\\nrows")
        if x[0, 0] > 99:
            return {"y": np.zeros(len(x) + 1)}
        return {"y": x.sum(axis=1) * self.factor}

class NoDict:
    def predict(self, batch):
        return [1, 2]

class Names:
    def predict(self, batch):
        return {"name": np.array(["a", "b"])}

class Odd:
    def predict(self, batch):
        return {3: batch["x"]} if batch["x"][0] else {"y": np.array([None, "a"])}

class Long:
    def predict(self, batch):
        raise ValueError("ab " * 1000)

class NoSetup:
    def setup(self, options):
        raise OSError("no weights here")

    def predict(self, batch):
        return batch

def double(batch):
    return {"y": batch["x"] * 2}

number = 3
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "user_model.py"
    path.write_text(MODEL)
    return str(path)


def spec(module: str, name: str, **options: float) -> VariantSpec:
    return VariantSpec("v", "python", f"{module}:{name}", options=dict(options))


def array(value: Value) -> Array:
    """An output that is one array, not a list of them."""
    assert isinstance(value, np.ndarray)
    return value


def test_a_class_is_set_up_and_called(module: str) -> None:
    runtime = PythonRuntime(spec(module, "Model", factor=2))
    x = np.array([[1, 2], [3, 4]], np.float32)
    y = array(runtime.run({"x": x}, 2)["y"])
    assert y.tolist() == [6.0, 14.0]  # (1 + 2) x 2, (3 + 4) x 2
    assert y.dtype == np.float32  # as the signature says, whatever the class computed in


def test_its_signature_is_its_own(module: str) -> None:
    signature = PythonRuntime(spec(module, "Model")).signature
    assert signature.inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert signature.batchable
    assert signature.platform == "python"


@pytest.mark.parametrize("shape", [[None, 2], ["n", 2], [-2, 2], [1.5], [True]])
def test_a_signature_has_whole_numbers_as_sizes(tmp_path: Path, shape: list[object]) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "def odd(batch): return batch\n"
        f"odd.signature = {{'inputs': {{'x': ('FP32', {shape})}}, 'outputs': {{'x': ('FP32', [-1, 2])}}}}\n"
    )
    with pytest.raises(ModelError) as caught:
        PythonRuntime(VariantSpec("base", "python", f"{file}:odd"))
    assert str(caught.value).endswith(f"x: want whole numbers as shape, -1 where it is dynamic, got {shape}")


def test_a_function_is_taken_too(module: str) -> None:
    runtime = PythonRuntime(spec(module, "double"))
    assert array(runtime.run({"x": np.array([1.5])}, 1)["y"]).tolist() == [3.0]


def test_an_error_carries_the_last_line_of_the_traceback(module: str) -> None:
    runtime = PythonRuntime(spec(module, "Model"))
    with pytest.raises(
        ModelError, match=r"predict .*ValueError: negative rows \(user_model.py, line 18, in predict"
    ):
        runtime.run({"x": np.array([[-1, 0]], np.float32)}, 1)


def test_a_long_error_is_cut(module: str) -> None:
    with pytest.raises(
        ModelError, match=r"ValueError: ab ab .* ab? \.\.\. \(user_model.py, line \d+, in predict"
    ) as caught:
        PythonRuntime(spec(module, "Long")).run({"x": np.ones(1)}, 1)
    assert len(str(caught.value)) < 1400


def test_other_rows_are_an_error(module: str) -> None:
    with pytest.raises(ModelError, match=r"output y has shape \[2\] for 1 rows"):
        PythonRuntime(spec(module, "Model")).run({"x": np.array([[100, 0]], np.float32)}, 1)


def test_something_else_than_a_dict_is_an_error(module: str) -> None:
    with pytest.raises(ModelError, match="predict returned list"):
        PythonRuntime(spec(module, "NoDict")).run({"x": np.ones(1)}, 1)


def test_strings_leave_as_bytes(module: str) -> None:
    answer = PythonRuntime(spec(module, "Names")).run({"x": np.ones(2)}, 2)
    assert array(answer["name"]).tolist() == [b"a", b"b"]


def test_what_is_no_text_and_no_name_is_an_error(module: str) -> None:
    runtime = PythonRuntime(spec(module, "Odd"))
    with pytest.raises(ModelError, match=r"output y of .*TypeError: want text or bytes, got NoneType"):
        runtime.run({"x": np.zeros(2)}, 2)
    with pytest.raises(ModelError, match=r"variant .*: predict named an output 3, want text"):
        runtime.run({"x": np.ones(2)}, 2)


def test_what_set_cores_raises_fails_the_next_batch_only(module: str) -> None:
    runtime = PythonRuntime(spec(module, "Model"))
    runtime.set_cores(3)
    x = np.ones((1, 2), np.float32)
    with pytest.raises(ModelError, match="three is too many"):
        runtime.run({"x": x}, 1)
    assert array(runtime.run({"x": x}, 1)["y"]).tolist() == [2.0]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_colon", "want `module:Class`"),
        ("no_such_module_at_all:Model", "ModuleNotFoundError"),
        ("nowhere.py:Model", "no such file: nowhere.py"),
        ("{module}:Nobody", "has no 'Nobody'"),
        ("{module}:number", "has no method `predict`"),
        ("{module}:NoSetup", "OSError: no weights here"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(module: str, target: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        PythonRuntime(VariantSpec("v", "python", target.format(module=module)))
    assert "\n" not in str(caught.value)


def answering(folder: Path, dtype: str, shape: str, value: str) -> Value:
    """What a class makes of one row that promises y of a type and shape, and returns something else."""
    path = folder / "answering.py"
    path.write_text(
        "import numpy as np\n"
        "class Model:\n"
        f"    signature = {{'inputs': {{'x': ('FP32', [-1])}}, 'outputs': {{'y': ('{dtype}', {shape})}}}}\n"
        f"    def predict(self, batch): return {{'y': {value}}}\n"
    )
    runtime = PythonRuntime(VariantSpec("v", "python", f"{path}:Model"))
    return runtime.run({"x": np.zeros(1, np.float32)}, 1)["y"]


@pytest.mark.parametrize(
    ("dtype", "shape", "value", "message"),
    [
        ("FP32", [-1, 2], "np.zeros((1, 3))", "output y has shape [1, 3]; [-1, 2] was promised"),
        ("FP32", [-1, 2], "np.zeros((1, 1, 2))", "output y has shape [1, 1, 2]; [-1, 2] was promised"),
        ("FP32", [-1, 2], "[np.zeros((2, 3))]", "output y has shape [2, 3]; [-1, 2] was promised"),
        ("FP32", [-1], "np.array(['1'])", "output y is <U1; FP32 was promised"),
        ("FP32", [-1], "[None]", "output y is object; FP32 was promised"),
        ("FP32", [-1], "np.ones(1) * 1j", "output y is complex128; FP32 was promised"),
        ("INT64", [-1], "[0.5]", "output y is float64; INT64 was promised"),
        ("UINT8", [-1], "[256]", "output y has 256 to 256, which UINT8 cannot hold"),
        ("UINT8", [-1], "[-1]", "output y has -1 to -1, which UINT8 cannot hold"),
        ("INT32", [-1, 2], "[[2**31, 0]]", "output y has 0 to 2147483648, which INT32 cannot hold"),
        ("INT64", [-1], "np.array([2**63], np.uint64)", "which INT64 cannot hold"),
        ("INT64", [-1], "np.zeros(1, 'datetime64[s]')", "output y is datetime64[s]; INT64 was promised"),
        ("FP32", [-1, -1], "[[1, 2], [3]]", "output y of "),
    ],
)
def test_an_answer_of_another_type_or_shape_is_one_clear_line(
    tmp_path: Path, dtype: str, shape: list[int], value: str, message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        answering(tmp_path, dtype, str(shape), value)
    assert str(caught.value).startswith("variant v: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "value", "answer"),
    [
        ("FP32", "[1]", [1.0]),
        ("UINT8", "[7]", [7]),
        ("BOOL", "[1]", [True]),
        ("FP16", "np.array([1e9])", [np.inf]),
        ("BYTES", "['a']", [b"a"]),
        ("BYTES", "[b'a\\0']", [b"a\0"]),
        ("BYTES", "['a\\0']", [b"a\0"]),
        ("UINT8", "[255]", [255]),
        ("BOOL", "[256]", [True]),
        ("INT64", "[True]", [1]),
    ],
)
def test_numbers_take_the_type_that_was_promised(
    tmp_path: Path, dtype: str, value: str, answer: list[object]
) -> None:
    assert list(answering(tmp_path, dtype, "[-1]", value)) == answer


def test_bytes_that_nothing_promised_keep_the_zeros_at_their_end(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("def predict(batch): return {'y': [b'a\\0', b'\\0'], 'rows': [[b'a\\0'], [b'b']]}\n")
    answer = PythonRuntime(VariantSpec("v", "python", f"{path}:predict")).run({}, 2)
    assert array(answer["y"]).tolist() == [b"a\0", b"\0"]
    assert array(answer["rows"]).tolist() == [[b"a\0"], [b"b"]]


def test_a_class_may_say_that_its_input_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(REFUSING)
    runtime = PythonRuntime(VariantSpec("v", "python", f"{path}:Model"))
    with pytest.raises(InputError, match=r"^variant v: no JPEG$"):
        runtime.run({}, 1)
    with pytest.raises(ModelError, match=r"^variant v: setup of .*Refused: no JPEG \(model.py, line 7"):
        PythonRuntime(VariantSpec("v", "python", f"{path}:Model", options={"now": 1}))


REFUSING = """\
import steelyard
class Refused(steelyard.InputError):
    def __init__(self, code, why): super().__init__(why)
class Model:
    signature = {"inputs": {}, "outputs": {}}
    def setup(self, options):
        if options: raise Refused(4, "no JPEG")
    def predict(self, batch): raise Refused(4, "no JPEG")
"""
