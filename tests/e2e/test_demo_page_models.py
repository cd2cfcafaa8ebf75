"""The page pipeline's real models, run in this process: the graphs do what their stages promise."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from steelyard.demo.lines import find_font
from steelyard.demo.pages.draw import draw_pages
from steelyard.demo.pages.glue import Crop, join
from steelyard.demo.pages.models import prepare_models
from steelyard.demo.pages.scores import right_lines

pytestmark = pytest.mark.slow


def test_clean_pages_are_read(tmp_path: Path) -> None:
    models = prepare_models(tmp_path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1

    def run(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        answers: list[np.ndarray] = session.run(None, inputs)
        return answers

    pages = draw_pages(3, np.random.default_rng(5), font=find_font(), difficulty="clean")
    images = np.stack([page.image for page in pages])
    (masks,) = run(models.detectors["tiny"], page=images)
    assert masks.shape == images.shape[:3]
    cropped = Crop().predict({"mask": masks, "page": images})
    lines = np.concatenate(cropped["lines"])
    (angles,) = run(models.classifier, line=lines)
    for name, reader in models.readers.items():
        codes, confidence = run(reader, line=lines, angle=angles)
        assert codes.dtype == np.int32
        assert confidence.shape == codes.shape
        start, scores = 0, []
        for page, boxes in zip(pages, cropped["boxes"], strict=True):
            rows = slice(start, start + len(boxes))
            scores.append(right_lines(join(codes[rows], angles[rows], boxes), page.text))
            start += len(boxes)
        # 23 lines, which every reader but v5 reads without a mistake.
        assert np.mean(scores) > (0.6 if name == "v5" else 0.9), f"{name}: {scores}"
    assert prepare_models(tmp_path) == models  # the second time nothing is written
