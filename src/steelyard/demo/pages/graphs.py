"""The models of the page pipeline: PP-OCR as it ships, with what goes before and after it put into the graph.

Requests carry pages as bytes of an image and answers carry code points, so that hardly anything but the
networks' own work happens between stages: uint8 in, normalised inside; a mask of bytes out of the detector;
code points out of every recogniser, whatever its dictionary. Weights stay as they are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

MARK_LEAST = 0.3
"""Probability from which a pixel is part of a line (PP-OCR's `thresh`)."""
TURN_LEAST = 0.5
CLASSIFIER_WIDTH = 192
_DETECTOR_MEAN, _DETECTOR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
_BACKWARDS = -(2**31)


def make_detector(source: Path, target: Path) -> None:
    """`page` uint8 (b, h, w, 3) to `mask` uint8 (b, h, w): 1 in the core of a line; h, w: multiples of 32."""
    graph = _Graph(source)
    graph.normalise("page", _DETECTOR_MEAN, _DETECTOR_STD, ("batch", "height", "width", 3))
    marked = graph.node("Greater", graph.raw, graph.constant("mark_least", np.float32(MARK_LEAST)))
    squeezed = graph.node("Squeeze", marked, graph.constant("channel", np.array([1], np.int64)))
    graph.output("mask", "UINT8", ("batch", "height", "width"), graph.node("Cast", squeezed, to=2))
    graph.save(target)


def make_classifier(source: Path, target: Path, *, height: int, width: int) -> None:
    """`line` uint8 (b, height, width, 3) to `angle` int64 (b,): 1 where it is upside down."""
    graph = _Graph(source)
    left = graph.node(
        "Slice", "line", *graph.constants("cut", ([0], [CLASSIFIER_WIDTH], [2], [1]), np.int64), before=True
    )
    graph.normalise("line", _HALF, _HALF, ("batch", height, width, 3), of=left)
    turned = graph.node("Slice", graph.raw, *graph.constants("turned", ([1], [2], [1], [1]), np.int64))
    sure = graph.node("Greater", turned, graph.constant("turn_least", np.float32(TURN_LEAST)))
    flat = graph.node("Reshape", sure, graph.constant("flat", np.array([-1], np.int64)))
    graph.output("angle", "INT64", ("batch",), graph.node("Cast", flat, to=7))
    graph.save(target)


def make_reader(source: Path, target: Path, characters: Sequence[str], *, height: int, width: int) -> None:
    """`line` uint8 (b, height, width, 3) and `angle` int64 (b,) to `codes` int32 (b, steps) and `confidence`.

    Lines with angle 1 are turned before they are read. Code point 0 is CTC's blank; a character of the
    dictionary that is not one code point becomes U+FFFD.
    """
    graph = _Graph(source)
    graph.input("angle", "INT64", ("batch",))
    turned = graph.node(
        "Slice",
        "line",
        *graph.constants("turn", ([-1, -1], [_BACKWARDS] * 2, [1, 2], [-1, -1]), np.int64),
        before=True,
    )
    is_turned = graph.node("Cast", "angle", to=9, before=True)
    shape = graph.constant("as_rows", np.array([-1, 1, 1, 1], np.int64))
    wide = graph.node("Reshape", is_turned, shape, before=True)
    upright = graph.node("Where", wide, turned, "line", before=True)
    graph.normalise("line", _HALF, _HALF, ("batch", height, width, 3), of=upright)
    points = [ord(character) if len(character) == 1 else 0xFFFD for character in characters]
    table = graph.constant("code_points", np.array([0, *points[1:]], np.int32))
    tokens = graph.node("ArgMax", graph.raw, axis=2, keepdims=0)
    graph.output("codes", "INT32", ("batch", "steps"), graph.node("Gather", table, tokens, axis=0))
    sure = graph.node("ReduceMax", graph.raw, axes=[2], keepdims=0)
    graph.output("confidence", "FP32", ("batch", "steps"), sure)
    graph.save(target)


class _Graph:
    """A model being extended at both ends; `raw` is its own only output."""

    def __init__(self, source: Path) -> None:
        import onnx

        self._onnx = onnx
        self._model: ModelProto = onnx.load(source)
        self.raw = self._model.graph.output[0].name
        self._own_input = self._model.graph.input[0].name
        self._count = 0
        self._before = 0
        del self._model.graph.output[:]
        del self._model.graph.input[:]

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Declare an input."""
        self._model.graph.input.append(self._value(name, dtype, shape))

    def output(self, name: str, dtype: str, shape: Sequence[int | str], value: str) -> None:
        """Give a value out under a name."""
        self._model.graph.node.append(self._onnx.helper.make_node("Identity", [value], [name]))
        self._model.graph.output.append(self._value(name, dtype, shape))

    def constant(self, name: str, value: object) -> str:
        """An initializer."""
        tensor = self._onnx.numpy_helper.from_array(np.asarray(value), f"steelyard_{name}")
        self._model.graph.initializer.append(tensor)
        return str(tensor.name)

    def constants(self, name: str, values: Sequence[Sequence[int]], dtype: type[np.generic]) -> list[str]:
        """Several of them."""
        return [self.constant(f"{name}_{i}", np.array(value, dtype)) for i, value in enumerate(values)]

    def node(self, kind: str, *inputs: str, before: bool = False, **attributes: Any) -> str:
        """Append a node, or put it before the model's own, in the order of the calls; its output's name."""
        self._count += 1
        result = f"steelyard_{self._count}"
        node = self._onnx.helper.make_node(kind, list(inputs), [result], **attributes)
        if before:
            self._model.graph.node.insert(self._before, node)
            self._before += 1
        else:
            self._model.graph.node.append(node)
        return result

    def normalise(
        self,
        name: str,
        mean: Sequence[float],
        std: Sequence[float],
        shape: Sequence[int | str],
        *,
        of: str | None = None,
    ) -> None:
        """Feed the model with RGB bytes in rows: BGR, (x / 255 - mean) / std, channels first."""
        self.input(name, "UINT8", shape)
        scale = np.array([1.0 / (255.0 * s) for s in std], np.float32).reshape(1, 3, 1, 1)
        shift = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32).reshape(1, 3, 1, 1)
        order = self.constant("bgr", np.array([2, 1, 0], np.int64))
        swapped = self.node("Gather", of or name, order, axis=3, before=True)
        first = self.node("Transpose", swapped, perm=[0, 3, 1, 2], before=True)
        real = self.node("Cast", first, to=1, before=True)
        scaled = self.node("Mul", real, self.constant("scale", scale), before=True)
        shifted = self.node("Add", scaled, self.constant("shift", shift), before=True)
        self._model.graph.node.insert(
            self._before, self._onnx.helper.make_node("Identity", [shifted], [self._own_input])
        )
        self._before += 1

    def save(self, target: Path) -> None:
        """Check and write the model.

        Raises:
            onnx.checker.ValidationError: the model was not what this file expects.
        """
        self._onnx.checker.check_model(self._model)
        self._onnx.save(self._model, target)

    def _value(self, name: str, dtype: str, shape: Sequence[int | str]) -> object:
        kinds = {"UINT8": 2, "INT32": 6, "INT64": 7, "FP32": 1}
        return self._onnx.helper.make_tensor_value_info(name, kinds[dtype], list(shape))
