"""Models that do next to nothing, and a spec that serves them, to measure what serving adds."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES, OUTPUTS = 784, 10


def write_model(path: Path, floats: int) -> None:
    """x [-1, floats] -> the first 784 of them times a matrix -> y [-1, 10]."""
    rng = np.random.default_rng(0)
    constants = {
        "start": np.array([0]),
        "end": np.array([FEATURES]),
        "axis": np.array([1]),
        "w": rng.standard_normal((FEATURES, OUTPUTS), dtype=np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["x", "start", "end", "axis"], ["first"]),
            helper.make_node("MatMul", ["first", "w"], ["y"]),
        ],
        "first",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", floats])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", OUTPUTS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_spec(folder: Path, sizes: Mapping[str, int]) -> Path:
    """A spec with a service by each name of `sizes`, whose tensor has so many floats; models beside it."""
    latency = "{alpha_ms: 0.1, beta_ms: 0, gamma_ms: 0.1, zeta_ms: 0}"
    models = services = ""
    for name, floats in sizes.items():
        write_model(folder / f"{name}.onnx", floats)
        variant = f"{{onnx: {folder / name}.onnx, cores_max: 1, batch_max: 1, latency: {latency}}}"
        models += f"  {name}: {{variants: {{only: {variant}}}}}\n"
        services += f"  {name}: {{slo: {{latency: 1s}}, pipeline: {{run: {{model: {name}}}}}}}\n"
    replica = "{name: static, replicas: 1, cores: 0.5, batch: 1}"
    spec = folder / "spec.yaml"
    spec.write_text(
        f"version: 1\nmodels:\n{models}services:\n{services}policies:\n  one: {replica}\npolicy: one\n"
    )
    return spec
