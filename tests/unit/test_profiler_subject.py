from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from steelyard.core.errors import ModelError, ProfileError
from steelyard.profiler.batches import BatchMaker
from steelyard.profiler.subject import Subject, machine, model_hash, runtime_version
from steelyard.runtime.base import Signature, TensorSpec, VariantSpec
from steelyard.worker.tensors import as_array

IMAGE = Signature((TensorSpec("x", "FP32", (-1, 3, 48, -1)),), (), batchable=True)


def subject(spec: VariantSpec, **changes: object) -> Subject:
    made = Subject("model", spec, Signature((TensorSpec("x", "FP32", (-1, 4)),), (), batchable=True), 8)
    return replace(made, **changes)


@pytest.fixture
def onnx(tmp_path: Path) -> Subject:
    (tmp_path / "model.onnx").write_bytes(b"graph ... location: weights.bin")
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    (tmp_path / "readme.txt").write_text("unrelated")
    return subject(VariantSpec("v", "onnx", str(tmp_path / "model.onnx")))


def test_the_hash_follows_the_content_not_the_name(onnx: Subject, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("model.onnx", "weights.bin"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    moved = replace(onnx, model="other", spec=replace(onnx.spec, name="w", target=str(copy / "model.onnx")))
    assert model_hash(moved) == model_hash(onnx)


def test_the_hash_covers_external_data_and_nothing_unrelated(onnx: Subject, tmp_path: Path) -> None:
    before = model_hash(onnx)
    (tmp_path / "readme.txt").write_text("changed")
    assert model_hash(onnx) == before
    (tmp_path / "weights.bin").write_bytes(b"\1" * 64)
    assert model_hash(onnx) != before


@pytest.mark.parametrize(
    "changes",
    [
        {"example": {"x": (5,)}},
        {"session_options": {"session.disable_prepacking": "1"}},
        {"providers": ("CUDAExecutionProvider",)},
        {"options": {"a": 1}},
    ],
    ids=lambda changes: str(next(iter(changes))),
)
def test_the_hash_covers_what_decides_how_long_it_runs(onnx: Subject, changes: dict[str, object]) -> None:
    assert model_hash(replace(onnx, spec=replace(onnx.spec, **changes))) != model_hash(onnx)


def test_the_hash_leaves_out_what_does_not(onnx: Subject) -> None:
    wider = replace(onnx.spec, cores_max=8, batch_rows_max=64, eager=True)
    assert model_hash(replace(onnx, spec=wider, batch_rows_max=64)) == model_hash(onnx)


def test_a_python_class_is_its_source(tmp_path: Path) -> None:
    path = tmp_path / "user.py"
    path.write_text("def predict(batch): return batch\n")
    spec = VariantSpec("v", "python", f"{path}:predict")
    before = model_hash(subject(spec))
    assert model_hash(subject(replace(spec, target=f"{path}:other"))) != before
    path.write_text("def predict(batch): return {}\n")
    assert model_hash(subject(spec)) != before


def test_an_importable_class_is_found_without_being_run() -> None:
    spec = VariantSpec("v", "python", "json.tool:main")
    assert model_hash(subject(spec)) != model_hash(subject(replace(spec, target="json.decoder:main")))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx"):
        model_hash(subject(VariantSpec("v", "onnx", str(tmp_path / "none.onnx"))))


def test_the_machine_is_its_cpu_and_usable_cores() -> None:
    assert machine(1).endswith(", 1 core")
    assert machine(2).endswith(", 2 cores")
    assert machine(2) != machine(4)


def test_the_runtime_has_a_version() -> None:
    assert runtime_version("onnx").startswith("onnxruntime 1.")
    assert runtime_version("python").startswith("python on python 3.")


def test_a_bucket_is_measured_at_its_largest_sizes() -> None:
    spec = VariantSpec("v", "onnx", "", example={"x": (3, 48, 100)})
    read = Subject("m", spec, IMAGE, 4, {"x": (3, (160, 320))})
    assert read.bucket_count == 2
    assert read.in_bucket(0).example == {"x": (3, 48, 160)}
    assert read.in_bucket(1).example == {"x": (3, 48, 320)}
    assert Subject("m", spec, IMAGE, 4).in_bucket(0).example == {"x": (3, 48, 100)}


def test_a_bucket_fills_a_dimension_that_has_no_example() -> None:
    read = Subject("m", VariantSpec("v", "onnx", ""), IMAGE, 4, {"x": (3, (160,))})
    assert read.in_bucket(0).example == {"x": (3, 48, 160)}


def test_a_batch_is_a_request_a_row_with_random_numbers() -> None:
    maker = BatchMaker(subject(VariantSpec("v", "sleep")), np.random.default_rng(3))
    batch = maker.make(0, 8)
    assert [request.rows for request in batch.requests] == [1] * 8
    tensor = batch.requests[0].tensors[0]
    values = as_array(tensor, maker.arena.view(tensor.ref))
    assert values.shape == (1, 4)
    assert len(set(values.ravel().tolist())) == 4
    maker.free(batch)
    assert maker.arena.bytes_used == 0
    maker.arena.close()


def test_a_model_without_batches_gets_one_whole_request() -> None:
    fixed = Signature((TensorSpec("x", "INT64", (1, 7)),), (), batchable=False)
    maker = BatchMaker(
        subject(VariantSpec("v", "onnx"), signature=fixed, batch_rows_max=1), np.random.default_rng(3)
    )
    (request,) = maker.make(0, 1).requests
    assert request.tensors[0].shape == (1, 7)
    maker.arena.close()


def test_inputs_that_nobody_knows_are_asked_for() -> None:
    unknown = subject(VariantSpec("v", "python", "mod:Class"), signature=Signature((), (), batchable=True))
    with pytest.raises(
        ProfileError, match="variant v: its inputs are not known; give mod:Class a `signature`"
    ):
        BatchMaker(unknown, np.random.default_rng(0))
