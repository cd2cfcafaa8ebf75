"""The page pipeline's real models, run in this process: the graphs do what their stages promise."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from steelyard.demo.lines import find_font
from steelyard.demo.pages.draw import draw_pages
from steelyard.demo.pages.glue import Crop, join
from steelyard.demo.pages.models import PageModels, prepare_models
from steelyard.demo.pages.scores import right_lines

pytestmark = pytest.mark.slow


def test_clean_pages_are_read(page_models: PageModels) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1

    def run(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        answers: list[np.ndarray] = session.run(None, inputs)
        return answers

    pages = draw_pages(3, np.random.default_rng(5), font=find_font(), difficulty="clean")
    images = np.stack([page.image for page in pages])
    (masks,) = run(page_models.detectors["tiny"], page=images)
    assert masks.shape == images.shape[:3]
    cropped = Crop().predict({"mask": masks, "page": images})
    lines = np.concatenate(cropped["lines"])
    (angles,) = run(page_models.classifier, line=lines)
    for name, reader in page_models.readers.items():
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


def test_the_second_time_nothing_is_written(page_models: PageModels) -> None:
    folder = page_models.classifier.parent
    written = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert prepare_models(folder) == page_models
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == written
