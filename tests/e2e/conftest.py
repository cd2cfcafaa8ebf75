"""Real models and spec files for end-to-end tests; `steelyard.testing.live.serve` starts servers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from steelyard.demo.pages.models import PageModels, prepare_models

FEATURES, HIDDEN, CLASSES = 64, 128, 10


@pytest.fixture(scope="session")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier with a dynamic leading axis: x [-1, 64] -> y [-1, 10]."""
    rng = np.random.default_rng(7)
    weights = {
        "w1": rng.normal(size=(FEATURES, HIDDEN)).astype(np.float32),
        "b1": rng.normal(size=HIDDEN).astype(np.float32),
        "w2": rng.normal(size=(HIDDEN, CLASSES)).astype(np.float32),
        "b2": rng.normal(size=CLASSES).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"]),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path_factory.mktemp("models") / "mlp.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def page_models(tmp_path_factory: pytest.TempPathFactory) -> PageModels:
    """The page pipeline's models, made anew: some seconds."""
    return prepare_models(tmp_path_factory.mktemp("page-models"))
