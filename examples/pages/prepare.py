"""Write the models that `pages.yaml` serves, pages to send and labelled ones into this folder.

Needs the extra `demo`: pip install '../..[demo]' in this folder.
"""

import shutil
from pathlib import Path

import numpy as np

from steelyard.demo.lines import find_font
from steelyard.demo.pages.draw import Page, draw_pages
from steelyard.demo.pages.models import prepare_models

SENT, LABELLED = 4, 130


def main(folder: Path, labelled: int = LABELLED) -> None:
    """Write the models, and pages with their text: to send (`pages.npz`), to measure with (`labels.npz`)."""
    models = prepare_models(folder / "made")
    for name, made in models.detectors.items():
        shutil.copy(made, folder / f"det-{name}.onnx")
    for name, made in models.readers.items():
        shutil.copy(made, folder / f"rec-{name}.onnx")
    shutil.copy(models.classifier, folder / "upright.onnx")
    shutil.rmtree(folder / "made")
    save(folder / "pages.npz", drawn(SENT, seed=7))
    save(folder / "labels.npz", drawn(labelled, seed=1_000_003))


def drawn(count: int, *, seed: int) -> list[Page]:
    """Pages as the accuracies were measured on: blurred and noisy, a quarter of them upside down."""
    return draw_pages(count, np.random.default_rng(seed), font=find_font(), difficulty="medium")


def save(path: Path, pages: list[Page]) -> None:
    """Inputs by name and `label`, as `steelyard profile --labels` takes them."""
    images, texts = np.stack([page.image for page in pages]), np.array([page.text for page in pages])
    np.savez(path, page=images, label=texts)


if __name__ == "__main__":
    main(Path(__file__).parent)
