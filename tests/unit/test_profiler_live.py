"""The profiler on real workers: processes, arenas, ONNX Runtime. No test depends on the machine's speed."""

import asyncio
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from steelyard.backend.cpu import usable_core_ids
from steelyard.core.errors import ModelError
from steelyard.profile.times import ProfileTable
from steelyard.profile.types import Profile
from steelyard.profiler.profile import profile_variant, stored_profile
from steelyard.profiler.store import ProfileStore
from steelyard.profiler.subject import Subject
from steelyard.runtime.base import VariantSpec
from steelyard.runtime.inspect import inspect

pytestmark = pytest.mark.slow

NAP = VariantSpec("nap", "sleep", batch_rows_max=4, cores_max=2, options={"alpha_ms": 4, "zeta_ms": 2})


def subject_of(spec: VariantSpec) -> Subject:
    (signature,) = inspect([spec])
    assert not isinstance(signature, str), signature
    return Subject("model", spec, signature, spec.batch_rows_max or 1)


def profiled(subject: Subject, store: ProfileStore) -> Profile:
    core_ids = usable_core_ids()[:2]
    return asyncio.run(profile_variant(subject, store, core_ids=core_ids, form="quick"))


def children() -> set[str]:
    """Process ids of this process's children, zombies included."""
    pid = os.getpid()
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "profiles")


def test_the_sleeping_runtime_is_measured_as_it_sleeps(store: ProfileStore) -> None:
    profile = profiled(subject_of(NAP), store)
    times = ProfileTable([profile])
    for cell in profile.cells:
        # 4 b / c + 2 ms is the least that a batch can take; the machine only adds
        assert cell.p50_s >= (0.004 * cell.rows / cell.cores + 0.002) * 0.999
        assert times.service_time_s_p99("nap", 0, cell.rows, cell.cores) >= cell.p50_s
    assert {(cell.rows, int(cell.cores)) for cell in profile.cells} >= {(1, 1), (4, 1)}
    assert profile.cold_start_s > 0
    assert 0 < profile.resize_s < profile.cold_start_s  # in place, so without a new process
    assert profile.constants.dispatch_s > 0


def test_an_onnx_model_is_measured_with_the_width_that_suits_it(tmp_path: Path, store: ProfileStore) -> None:
    weights = np.zeros((64, 64), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    subject = subject_of(VariantSpec("tiny", "onnx", str(path), batch_rows_max=8, cores_max=2))
    profile = profiled(subject, store)
    assert {cell.rows for cell in profile.cells} == {1, 4, 8}
    assert all(0 < cell.p50_s <= cell.p99_s for cell in profile.cells)
    assert {cell.width for cell in profile.cells if cell.cores == 1} == {"threads"}
    assert stored_profile(subject, store, cores=len(usable_core_ids()[:2])) == profile


def test_a_class_that_raises_ends_the_profiling_with_its_error(tmp_path: Path, store: ProfileStore) -> None:
    (tmp_path / "user.py").write_text(
        "class Model:\n"
        "    signature = {'inputs': {'x': ('FP32', [-1, 2])}, 'outputs': {'y': ('FP32', [-1])}}\n"
        "    def predict(self, batch):\n"
        "        raise ValueError('not today')\n"
    )
    subject = subject_of(VariantSpec("v", "python", f"{tmp_path}/user.py:Model"))
    with pytest.raises(ModelError, match=r"ValueError: not today .*made-up inputs: .*--examples FILE"):
        profiled(subject, store)
    assert not store.directory.exists()


def test_a_run_that_is_cancelled_leaves_no_worker_and_a_usable_profile(store: ProfileStore) -> None:
    subject = subject_of(NAP)
    core_ids = usable_core_ids()[:2]
    before = children()

    async def cancelled_after_the_first_block() -> None:
        task: asyncio.Task[Profile]

        def stop(_done: int, _total: int, label: str) -> None:
            if label.startswith("nap: 4 rows"):
                task.cancel()

        task = asyncio.create_task(
            profile_variant(subject, store, core_ids=core_ids, form="quick", on_progress=stop)
        )
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled_after_the_first_block())
    partial = stored_profile(subject, store, cores=len(core_ids))
    assert partial is not None
    assert {cell.rows for cell in partial.cells} == {1}
    assert children() == before

    resumed = profiled(subject, store)
    assert {cell.rows for cell in resumed.cells} == {1, 4}
    assert set(partial.cells) <= set(resumed.cells)  # what was measured is kept
