"""How well a page was read: the share of its lines that are right to the last character, and in place.

What `steelyard profile --labels` calls for the page pipeline; a label is the page's text, a line each.
"""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray


def score_pages(outputs: Mapping[str, NDArray[Any]], labels: Sequence[str]) -> NDArray[np.float64]:
    """One score in [0, 1] a page: outputs has `text`, (pages,) of UTF-8 bytes or str."""
    texts = [text.decode() if isinstance(text, bytes) else str(text) for text in outputs["text"].ravel()]
    return np.array([right_lines(text, label) for text, label in zip(texts, labels, strict=True)])


def right_lines(text: str, label: str) -> float:
    """Share of the label's lines that the text has, in order; lines too many cost as much as missing ones."""
    read, wanted = text.split("\n"), label.split("\n")
    matcher = SequenceMatcher(None, read, wanted, autojunk=False)
    matched = sum(block.size for block in matcher.get_matching_blocks())
    return matched / max(len(read), len(wanted))
