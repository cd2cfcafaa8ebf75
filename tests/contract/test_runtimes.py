from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from steelyard.runtime import registry
from steelyard.runtime.base import VariantSpec
from steelyard.runtime.sleep import SleepRuntime
from steelyard.testing.runtime_contract import RuntimeContract


class TestOnnx(RuntimeContract):
    def spec(self, folder: Path) -> VariantSpec:
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Sqrt", ["x"], ["y"])], "sqrt", ends[:1], ends[1:])
        path = folder / "sqrt.onnx"
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path)
        )
        return VariantSpec("sqrt", "onnx", str(path))


class TestPython(RuntimeContract):
    def spec(self, folder: Path) -> VariantSpec:
        (folder / "contract_model.py").write_text(
            "class Model:\n"
            "    signature = {'inputs': {'x': ('FP32', [-1, 2])}, 'outputs': {'y': ('FP32', [-1, 2])}}\n"
            "    def predict(self, batch):\n"
            "        return {'y': batch['x'] ** 2}\n"
        )
        return VariantSpec("square", "python", f"{folder}/contract_model.py:Model")


class TestSleep(RuntimeContract):
    def spec(self, folder: Path) -> VariantSpec:
        return VariantSpec("nap", "sleep", options={"n": 2, "beta_ms": 0.1})


class _Point:
    """An entry point, as an installed package has it."""

    name = "nap2"

    def load(self) -> type[SleepRuntime]:
        return SleepRuntime


class TestRuntimeOfAnotherPackage(RuntimeContract):
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def entry_points(group: str, name: str = "nap2") -> list[_Point]:
            return [_Point()] if (group, name) == ("steelyard.runtimes", "nap2") else []

        monkeypatch.setattr(registry, "entry_points", entry_points)

    def spec(self, folder: Path) -> VariantSpec:
        return VariantSpec("nap", "nap2", options={"n": 2})
