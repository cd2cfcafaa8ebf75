"""Real ONNX models, made here with the `onnx` package, through the real ONNX Runtime."""

from pathlib import Path
from threading import Event

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from steelyard.core.errors import InputError, ModelError
from steelyard.runtime.base import Array, Signature, TensorSpec, VariantSpec, WidthRule
from steelyard.runtime.onnx import OnnxRuntime
from steelyard.runtime.sessions import Sessions

WIDTH = 16
WEIGHTS = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
LANES = (WidthRule(2, 1, "lanes"),)


def save(
    path: Path, node: onnx.NodeProto, dtype: int, given: list[int | str], answer: list[int | str]
) -> str:
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info("x", dtype, given)],
        [helper.make_tensor_value_info("y", dtype, answer)],
        [numpy_helper.from_array(WEIGHTS, "w")] if "w" in node.input else [],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return str(path)


def identity(path: Path, dtype: int, shape: list[int | str]) -> VariantSpec:
    target = save(path, helper.make_node("Identity", ["x"], ["y"]), dtype, shape, shape)
    return VariantSpec("identity", "onnx", target)


@pytest.fixture
def spec(tmp_path: Path) -> VariantSpec:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    target = save(tmp_path / "matmul.onnx", node, TensorProto.FLOAT, ["n", WIDTH], ["n", WIDTH])
    return VariantSpec("matmul", "onnx", target, cores_max=2)


def rows_of(rows: int) -> Array:
    return np.random.default_rng(rows).standard_normal((rows, WIDTH)).astype(np.float32)


def test_signature_has_oip_words_and_minus_one_for_dynamic_dimensions(spec: VariantSpec) -> None:
    tensors = (TensorSpec("x", "FP32", (-1, WIDTH)),), (TensorSpec("y", "FP32", (-1, WIDTH)),)
    assert OnnxRuntime(spec).signature == Signature(*tensors, batchable=True)


def test_a_model_with_a_fixed_leading_axis_is_not_batchable(tmp_path: Path) -> None:
    runtime = OnnxRuntime(identity(tmp_path / "fixed.onnx", TensorProto.FLOAT, [1, 3]))
    assert not runtime.signature.batchable
    assert runtime.run({"x": np.ones((1, 3), np.float32)}, 1)["y"].shape == (1, 3)


def test_answers_are_those_of_bare_onnx_runtime(spec: VariantSpec) -> None:
    runtime = OnnxRuntime(spec)
    bare = ort.InferenceSession(spec.target, providers=["CPUExecutionProvider"])
    for rows in (1, 3, 8):
        x = rows_of(rows)
        assert np.array_equal(runtime.run({"x": x}, rows)["y"], bare.run(None, {"x": x})[0])


@pytest.mark.parametrize("rules", [(), LANES], ids=["threads", "lanes"])
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_every_width_answers_the_same_rows_in_order(
    spec: VariantSpec, rules: tuple[WidthRule, ...], rows: int
) -> None:
    runtime = OnnxRuntime(replace(spec, eager=True))
    runtime.set_widths(rules)
    x = rows_of(rows)
    for cores in (1.0, 2.0, 0.5, 1.5, 1.0):
        runtime.set_cores(cores)
        np.testing.assert_allclose(runtime.run({"x": x}, rows)["y"], x @ WEIGHTS, rtol=1e-4, atol=1e-5)
    runtime.close()


@pytest.mark.parametrize("cores", [1.0, 2.0])
def test_one_row_repeated_by_a_stride_of_0_is_a_batch(spec: VariantSpec, cores: float) -> None:
    runtime = OnnxRuntime(replace(spec, eager=True))
    runtime.set_widths(LANES)
    runtime.set_cores(cores)
    row = rows_of(1)
    answer = runtime.run({"x": np.broadcast_to(row, (7, WIDTH))}, 7)["y"]
    np.testing.assert_allclose(answer, np.repeat(row, 7, axis=0) @ WEIGHTS, rtol=1e-4, atol=1e-5)
    runtime.close()


@pytest.mark.parametrize(
    ("onnx_type", "row"),
    [
        (TensorProto.BFLOAT16, np.array([[1, 2]], np.uint16)),
        (TensorProto.FLOAT16, np.array([[1, 2]], np.float16)),
        (TensorProto.STRING, np.array([[b"a", b"b"]], np.object_)),
    ],
)
def test_such_a_row_of_any_kind(tmp_path: Path, onnx_type: int, row: Array) -> None:
    runtime = OnnxRuntime(identity(tmp_path / "any.onnx", onnx_type, ["n", 2]))
    answer = runtime.run({"x": np.broadcast_to(row, (3, 2))}, 3)["y"]
    assert answer.tolist() == np.repeat(row, 3, axis=0).tolist()


def test_sessions_of_the_other_widths_are_built_behind_the_first(spec: VariantSpec) -> None:
    runtime = OnnxRuntime(replace(spec, cores_max=3))
    built = [runtime.sessions.counts]
    runtime.set_cores(2)
    assert runtime.sessions.wait(30)
    built.append(runtime.sessions.counts)
    assert built == [(1,), (1, 2, 3)]
    runtime.close()


def test_the_first_session_is_that_of_the_cores_to_start_with(spec: VariantSpec) -> None:
    assert OnnxRuntime(spec, 2.0).sessions.counts == (2,)


def test_a_width_that_only_runs_lanes_gets_no_session(spec: VariantSpec) -> None:
    runtime = OnnxRuntime(spec)
    runtime.set_widths(LANES)
    runtime.set_cores(2)
    assert runtime.sessions.wait(30)
    assert runtime.sessions.counts == (1,)
    runtime.close()


def test_while_a_session_is_built_the_nearest_one_is_used(spec: VariantSpec) -> None:
    building, go_on = Event(), Event()

    def hold(_: ort.InferenceSession) -> None:
        building.set()
        assert go_on.wait(30)

    sessions = Sessions(spec, 1, hold)
    sessions.want([2])
    assert building.wait(30)
    assert sessions.best(2) is sessions.best(1)
    go_on.set()
    assert sessions.wait(30)
    assert sessions.best(2) is not sessions.best(1)
    sessions.close()


def test_a_session_that_cannot_be_built_later_leaves_the_first_in_use(spec: VariantSpec) -> None:
    sessions = Sessions(spec, 1)
    Path(spec.target).unlink()
    sessions.want([2])
    assert sessions.wait(30)
    assert "no such model file" in sessions.error
    assert sessions.best(2) is sessions.best(1)


def test_strings_are_bytes_outside_and_utf8_inside(tmp_path: Path) -> None:
    runtime = OnnxRuntime(identity(tmp_path / "text.onnx", TensorProto.STRING, ["n", 2]))
    x = np.array([[b"a", "ä".encode()], [b"", b"42"]], dtype=np.object_)
    assert runtime.run({"x": x}, 2)["y"].tolist() == x.tolist()
    with pytest.raises(InputError, match="UTF-8"):
        runtime.run({"x": np.array([[b"\xff", b""]], dtype=np.object_)}, 1)


@pytest.mark.parametrize(
    ("onnx_type", "word", "dtype"),
    [
        (TensorProto.FLOAT16, "FP16", np.float16),
        (TensorProto.BFLOAT16, "BF16", np.uint16),
        (TensorProto.DOUBLE, "FP64", np.float64),
        (TensorProto.INT64, "INT64", np.int64),
        (TensorProto.UINT8, "UINT8", np.uint8),
        (TensorProto.BOOL, "BOOL", np.bool_),
    ],
)
def test_every_element_type_passes_unchanged(tmp_path: Path, onnx_type: int, word: str, dtype: type) -> None:
    runtime = OnnxRuntime(identity(tmp_path / "typed.onnx", onnx_type, ["n", 2]))
    x: Array = np.array([[0, 1], [1, 1]]).astype(dtype)
    y = runtime.run({"x": x}, 2)["y"]
    assert runtime.signature.inputs[0].dtype == word
    assert y.dtype == x.dtype
    assert np.array_equal(y, x)


def test_an_output_with_other_rows_is_an_error(tmp_path: Path) -> None:
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    target = save(tmp_path / "twice.onnx", node, TensorProto.FLOAT, ["n", 2], ["m", 2])
    runtime = OnnxRuntime(VariantSpec("twice", "onnx", target))
    with pytest.raises(ModelError, match=r"output y has shape \[6, 2\] for 3 rows"):
        runtime.run({"x": np.ones((3, 2), np.float32)}, 3)


def test_inputs_the_model_refuses_are_an_error_of_one_line(spec: VariantSpec) -> None:
    with pytest.raises(ModelError, match=r"^variant matmul: .*Got: 3 Expected: 16") as caught:
        OnnxRuntime(spec).run({"x": np.ones((2, 3), np.float32)}, 2)
    assert "\n" not in str(caught.value)


def test_a_lane_that_fails_fails_the_batch(spec: VariantSpec) -> None:
    runtime = OnnxRuntime(spec)
    runtime.set_widths(LANES)
    runtime.set_cores(2)
    with pytest.raises(ModelError, match="Expected: 16"):
        runtime.run({"x": np.ones((4, 3), np.float32)}, 4)
    x = rows_of(4)
    np.testing.assert_allclose(runtime.run({"x": x}, 4)["y"], x @ WEIGHTS, rtol=1e-4, atol=1e-5)
    runtime.close()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    with pytest.raises(ModelError, match=f"no such model file: {path}"):
        OnnxRuntime(VariantSpec("v", "onnx", str(path)))


def test_a_corrupt_file_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "corrupt.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=f"^variant v: {path} does not load: .*") as caught:
        OnnxRuntime(VariantSpec("v", "onnx", str(path)))
    assert "\n" not in str(caught.value)


def test_an_unknown_provider_lists_the_known_ones(spec: VariantSpec) -> None:
    with pytest.raises(ModelError, match=r"unknown provider 'CUDA'; known are .*CPUExecutionProvider"):
        OnnxRuntime(replace(spec, providers=("CUDA",)))


def test_spinning_cannot_be_turned_on(spec: VariantSpec) -> None:
    with pytest.raises(ModelError, match="allow_spinning is always 0"):
        OnnxRuntime(replace(spec, session_options={"session.intra_op.allow_spinning": "1"}))


def test_other_session_options_are_passed_on(spec: VariantSpec) -> None:
    runtime = OnnxRuntime(replace(spec, session_options={"session.disable_prepacking": "1"}))
    session = runtime.sessions.best(1)
    assert session.get_session_options().get_session_config_entry("session.disable_prepacking") == "1"
    assert session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session.get_session_options().intra_op_num_threads == 1


def test_only_tensors_can_be_served(tmp_path: Path) -> None:
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n"])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    model = helper.make_model(
        helper.make_graph([node], "seq", [given], [sequence]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, str(tmp_path / "sequence.onnx"))
    with pytest.raises(ModelError, match=r"output y is seq\(tensor\(float\)\); only tensors"):
        OnnxRuntime(VariantSpec("v", "onnx", str(tmp_path / "sequence.onnx")))
