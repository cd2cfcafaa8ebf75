"""The three models that every server gets, and what is sent to them.

All take `x`, float32 with a dynamic leading axis; a request is one row of it. The two perceptrons are made
here with fixed random weights: what they answer means nothing, what they cost does. The recogniser is
PP-OCRv6 tiny, which ships in the package of the demo, with its decoding appended as the demo does it. Its
shape is fixed to a line of 48 x 320.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from steelyard.demo.lines import HEIGHT, WIDTH
from steelyard.demo.pages.models import READERS
from steelyard.demo.recogniser import decode_in_graph, package_folder

Floats = NDArray[np.float32]


class Model(NamedTuple):
    """One file to serve.

    Attributes:
        name: as clients and tables call it.
        file: the ONNX file.
        row: shape of a request's one row.
        output: its only output.
        dtype: of that output.
        gains: rows cost less in company, as those of matrix products do, and those of convolutions do not.
    """

    name: str
    file: Path
    row: tuple[int, ...]
    output: str
    dtype: str
    gains: bool

    def rows(self, count: int) -> Floats:
        """Random rows, the same every time; shape (count, *row)."""
        return np.random.default_rng(count).standard_normal((count, *self.row), dtype=np.float32)


LAYERS = {"small": (784, 128, 10), "gemm": (1024,) * 7}
NAMES = (*LAYERS, "ocr")
_OCR_ROW = (3, HEIGHT, WIDTH)


def prepare(folder: Path) -> dict[str, Model]:
    """Write what is missing in `folder`; the models by name."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {}
    for name, sizes in LAYERS.items():
        file = folder / f"{name}-{'-'.join(map(str, sizes))}.onnx"
        if not file.exists():
            _perceptron(file, sizes)
        models[name] = Model(name, file, sizes[:1], "y", "float32", True)
    file = folder / "ocr-tiny-tokens.onnx"
    if not file.exists():
        _recogniser(file)
    models["ocr"] = Model("ocr", file, _OCR_ROW, "tokens", "int64", False)
    return models


def answers(model: Model, rows: Floats) -> NDArray[np.float64]:
    """What ONNX Runtime answers, as numbers, one row after another."""
    session = ort.InferenceSession(model.file, session_options(), providers=["CPUExecutionProvider"])
    found = [session.run([model.output], {"x": row[None]})[0][0] for row in rows]
    return np.asarray(found, dtype=np.float64)


def session_options() -> "ort.SessionOptions":
    """One thread, as everywhere in this comparison: there is one core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return options


def _recogniser(file: Path) -> None:
    """Rows of one width, and of the demo's two outputs the tokens alone."""
    partial = file.with_suffix(".partial")
    decode_in_graph(package_folder() / READERS["tiny"].network, partial)
    model = onnx.load(partial)
    graph = model.graph
    del graph.output[1:]
    graph.node.remove(next(node for node in graph.node if "confidence" in node.output))
    for place, size in zip(graph.input[0].type.tensor_type.shape.dim[1:], _OCR_ROW, strict=True):
        place.ClearField("dim_param")
        place.dim_value = size
    onnx.save(model, partial)
    partial.replace(file)


def _perceptron(file: Path, sizes: Sequence[int]) -> None:
    """Gemm and Relu, one pair a layer, no Relu after the last; written whole or not at all."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], "x"
    for index, (rows, columns) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        weights = (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        bias = rng.standard_normal(columns).astype(np.float32)
        constants += [
            numpy_helper.from_array(weights, f"w{index}"),
            numpy_helper.from_array(bias, f"b{index}"),
        ]
        out = "y" if last else f"h{index}"
        nodes.append(helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], [out]))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"a{index}"]))
        value = f"a{index}"
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", sizes[-1]])],
        constants,
    )
    partial = file.with_suffix(".partial")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), partial)
    partial.replace(file)
