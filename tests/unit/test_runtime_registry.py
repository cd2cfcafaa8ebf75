import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from steelyard.core.errors import ModelError
from steelyard.runtime.base import Signature, TensorSpec, VariantSpec
from steelyard.runtime.dtypes import DTYPES, numpy_dtype, oip_dtype
from steelyard.runtime.example import example_inputs
from steelyard.runtime.inspect import inspect
from steelyard.runtime.registry import make, names
from steelyard.runtime.sleep import SleepRuntime

SLEEP = VariantSpec(
    "nap", "sleep", options={"alpha_ms": 2, "beta_ms": 1, "gamma_ms": 4, "zeta_ms": 3, "n": 2}
)


def test_an_unknown_runtime_lists_the_known_ones_nearest_first() -> None:
    with pytest.raises(ModelError, match="unknown runtime 'onxx'; known are onnx, python, sleep"):
        make(VariantSpec("v", "onxx"))
    assert names() == ("onnx", "python", "sleep")


def test_dtypes_go_there_and_back() -> None:
    back = {word: oip_dtype(numpy_dtype(word)) for word in DTYPES}
    assert {word: other for word, other in back.items() if word != other} == {
        "BF16": "UINT16"
    }  # only its bits
    assert oip_dtype(np.dtype("S5")) == oip_dtype(np.dtype("U5")) == "BYTES"
    assert oip_dtype(np.dtype(">f4")) == "FP32"


def test_unknown_dtypes_are_named() -> None:
    with pytest.raises(ModelError, match="unknown dtype 'FP8'; known are BOOL"):
        numpy_dtype("FP8")
    with pytest.raises(ModelError, match="complex64"):
        oip_dtype(np.dtype(np.complex64))


def test_the_fake_sleeps_as_long_as_its_formula_says() -> None:
    runtime = SleepRuntime(SLEEP)
    # 2 b / c + 1 b + 4 / c + 3 ms: b = 4, c = 1: 8 + 4 + 4 + 3; b = 4, c = 2: 4 + 4 + 2 + 3
    assert runtime.service_time_s(4, 1) == pytest.approx(0.019)
    assert runtime.service_time_s(4, 2) == pytest.approx(0.013)
    assert runtime.service_time_s(4, 0.5) == pytest.approx(0.038)  # half of a core: twice one core's time


def test_the_fake_answers_with_its_input() -> None:
    runtime = make(SLEEP)
    x = np.array([[1, 2], [3, 4]], np.float32)
    assert np.array_equal(runtime.run({"x": x}, 2)["y"], x)
    with pytest.raises(ModelError, match="takes an input `x`, not z"):
        runtime.run({"z": x}, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1}, "nearest is alpha_ms"),
        ({"beta_ms": "fast"}, "want a number"),
        ({"seed": float("nan")}, "nan"),
        ({"seed": -1}, "option seed is -1, want at least 0"),
        ({"n": 0}, "option n is 0, want at least 1"),
    ],
)
def test_the_fake_refuses_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make(VariantSpec("nap", "sleep", options=options))


def signature(*shape: int, dtype: str = "FP32", batchable: bool = True) -> Signature:
    return Signature((TensorSpec("x", dtype, shape),), (), batchable)


def test_example_inputs_take_dynamic_dimensions_from_the_spec() -> None:
    spec = VariantSpec("v", "onnx", example={"x": (3, 48, 320)})
    assert example_inputs(spec, signature(-1, 3, 48, -1), 4)["x"].shape == (4, 3, 48, 320)
    assert example_inputs(VariantSpec("v", "onnx"), signature(-1, 7), 2)["x"].shape == (2, 7)
    assert example_inputs(VariantSpec("v", "onnx"), signature(1, 7, batchable=False), 1)["x"].shape == (1, 7)
    assert example_inputs(VariantSpec("v", "onnx"), signature(-1, dtype="BYTES"), 2)["x"].tolist() == [
        b"",
        b"",
    ]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            {},
            r"input x has dynamic dimensions \[-1, 3, -1\]; give `example: \{x: \{shape: \[...\]\}\}`",
        ),
        ({"x": (4, 10)}, r"example of input x has shape \[4, 10\], but the model takes \[3, -1\]"),
        ({"x": (3,)}, r"has shape \[3\], but the model takes \[3, -1\]"),
    ],
)
def test_a_shape_that_nobody_knows_is_asked_for(example: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        example_inputs(VariantSpec("v", "onnx", example=example), signature(-1, 3, -1), 1)


@pytest.mark.slow
def test_models_are_inspected_in_a_process_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "fatal.py").write_text("import os\nprint('hello')\nos.kill(os.getpid(), 9)\n")
    (tmp_path / "loud.py").write_text(
        "print('noise on standard output')\ndef predict(batch):\n    return batch\n"
    )
    answers = inspect(
        [
            SLEEP,
            VariantSpec("missing", "onnx", str(tmp_path / "none.onnx")),
            VariantSpec("fatal", "python", f"{tmp_path}/fatal.py:Model"),
            VariantSpec("loud", "python", f"{tmp_path}/loud.py:predict"),
        ]
    )
    assert answers[0] == SleepRuntime(SLEEP).signature
    assert answers[1] == f"variant missing: no such model file: {tmp_path}/none.onnx"
    assert answers[2] == f"variant fatal: {tmp_path}/fatal.py:Model: loading it killed the process (SIGKILL)"
    assert isinstance(answers[3], Signature)


@pytest.mark.slow
def test_who_asked_may_be_gone_before_the_answer() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "steelyard.runtime.inspect"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as asked:
        assert asked.stdin is not None
        assert asked.stdout is not None
        assert asked.stderr is not None
        asked.stdout.close()
        asked.stdin.write(msgspec.json.encode((sys.path, [SLEEP])))
        asked.stdin.close()
        assert asked.stderr.read() == b""
    assert asked.returncode == 0
