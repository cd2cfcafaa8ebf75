"""The spec of the page pipeline: detect, cut out, tell which way up, read, put together; who may answer.

`orient` and `read` take one row a line, so that lines of all pages share batches; `text` waits for all
lines of its page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from steelyard.demo.pages.draw import HEIGHT, WIDTH
from steelyard.demo.pages.models import PageModels

SERVICE = "pages"
DETECTOR, CLASSIFIER, READER = "detector", "classifier", "reader"
LINES_MEAN = 8.0
"""Lines of a page as `draw` makes them, to plan before there is traffic."""
_GLUE = "steelyard.demo.pages.glue"


def pages_spec(
    models: PageModels,
    *,
    slo_ms: float,
    cores: int,
    detectors: Sequence[str],
    readers: Sequence[str],
    accuracies: Mapping[tuple[str, str], float],
    policies: Mapping[str, Any],
    fractions: str = "lent",
) -> dict[str, Any]:
    """The spec as a mapping.

    Args:
        models: the files.
        slo_ms: latency bound of a page.
        cores: of the server.
        detectors: variants that may detect, the preferred one first.
        readers: variants that may read, likewise.
        accuracies: of a whole page, measured, by (detector, reader); pairs that are missing are estimated.
        policies: named configurations.
        fractions: of a core that stages share: `lent` or `capped`.
    """
    page = {"page": {"shape": [HEIGHT, WIDTH, 3]}}
    variants = {
        DETECTOR: {
            name: {"onnx": str(models.detectors[name]), "batch_max": 2, "cores_max": cores, "example": page}
            for name in detectors
        },
        CLASSIFIER: {"upright": {"onnx": str(models.classifier), "batch_max": 16}},
        READER: {
            name: {"onnx": str(models.readers[name]), "batch_max": 16, "cores_max": cores} for name in readers
        },
    }
    service: dict[str, Any] = {
        "slo": {"latency": f"{slo_ms:g}ms"},
        "inputs": {"page": {"dtype": "UINT8", "shape": [-1, HEIGHT, WIDTH, 3]}},
        "pipeline": {
            "detect": {"model": DETECTOR, "inputs": {"page": "request.page"}},
            "crop": {"python": f"{_GLUE}:Crop", "inputs": {"mask": "detect.mask", "page": "request.page"}},
            "orient": {"model": CLASSIFIER, "each": "crop.lines", "inputs": {"line": "crop.lines"}},
            "read": {
                "model": READER,
                "each": "crop.lines",
                "inputs": {"line": "crop.lines", "angle": "orient.angle"},
            },
            "text": {
                "python": f"{_GLUE}:Join",
                "inputs": {"codes": "read.codes", "angle": "orient.angle", "boxes": "crop.boxes"},
            },
        },
        "outputs": {"text": "text.text"},
        "items": {"crop.lines": {"mean": LINES_MEAN, "distribution": "poisson"}},
        "path_accuracies": [
            {"variants": {"detect": detector, "read": reader}, "accuracy": round(accuracy, 4)}
            for (detector, reader), accuracy in accuracies.items()
            if detector in detectors and reader in readers
        ],
    }
    if not service["path_accuracies"]:
        del service["path_accuracies"]
    return {
        "version": 1,
        "cluster": {"backend": "local", "cores": cores, "fractions": fractions},
        "models": {name: {"variants": entries} for name, entries in variants.items()},
        "services": {SERVICE: service},
        "policies": dict(policies),
        "policy": "steelyard",
    }


def write_spec(path: Path, spec: Mapping[str, Any]) -> None:
    """Write it as YAML."""
    path.write_text(yaml.safe_dump(dict(spec), sort_keys=False))
