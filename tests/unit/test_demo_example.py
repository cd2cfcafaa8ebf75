"""examples/ocr and examples/pages: what they prepare is what their specs serve and their clients send."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from steelyard.config.load import load_spec
from steelyard.config.resolve import resolve

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_example_prepares_what_its_spec_serves(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "ocr" / "ocr.yaml", tmp_path)
    runpy.run_path(str(EXAMPLES / "ocr" / "prepare.py"))["main"](tmp_path)
    deployment = resolve(load_spec(tmp_path / "ocr.yaml"), cores_available=2)
    signature = deployment.services["ocr"].served.signature
    images = np.load(tmp_path / "lines.npz")
    assert images.files == [tensor.name for tensor in signature.inputs] == ["x"]
    assert [tensor.name for tensor in signature.outputs] == ["tokens", "confidence"]
    assert len(images["x"]) == len((tmp_path / "lines.txt").read_text().splitlines()) == 4


@pytest.mark.slow
def test_the_pages_are_what_the_pipeline_takes(tmp_path: Path) -> None:
    for name in ("pages.yaml", "accuracy.json"):
        shutil.copy(EXAMPLES / "pages" / name, tmp_path)
    runpy.run_path(str(EXAMPLES / "pages" / "prepare.py"))["main"](tmp_path, labelled=2)
    deployment = resolve(load_spec(tmp_path / "pages.yaml"), cores_available=2)
    service = deployment.services["pages"].served
    (page,) = service.signature.inputs
    sent, labels = np.load(tmp_path / "pages.npz"), np.load(tmp_path / "labels.npz")
    assert sent.files == labels.files == [page.name, "label"]
    assert (len(sent["page"]), len(labels["page"])) == (4, 2)
    assert sent["page"].shape[1:] == page.shape[1:]
    # Two detectors and four readers; every pair of them was measured.
    measured = {path.accuracy for path in service.service.path_accuracies}
    assert len(service.service.path_accuracies) == 2 * 4
    assert (min(measured), max(measured)) == (0.7133, 0.9629)
