"""examples/ocr: what it prepares is what its spec serves and its client sends."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from steelyard.config.load import load_spec
from steelyard.config.resolve import resolve

EXAMPLE = Path(__file__).parents[2] / "examples" / "ocr"


@pytest.mark.slow
def test_the_example_prepares_what_its_spec_serves(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "ocr.yaml", tmp_path)
    runpy.run_path(str(EXAMPLE / "prepare.py"))["main"](tmp_path)
    deployment = resolve(load_spec(tmp_path / "ocr.yaml"), cores_available=2)
    signature = deployment.services["ocr"].served.signature
    images = np.load(tmp_path / "lines.npz")
    assert images.files == [tensor.name for tensor in signature.inputs] == ["x"]
    assert [tensor.name for tensor in signature.outputs] == ["tokens", "confidence"]
    assert len(images["x"]) == len((tmp_path / "lines.txt").read_text().splitlines()) == 4
