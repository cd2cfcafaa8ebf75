"""The Python stages of the page pipeline: from a mask to upright crops' candidates, and from codes to a text.

Both take and give batches: `Crop` makes a list of lines for each page, `Join` gets lists back, one a page.
They run in workers of their own, with cores and service times like any model's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.demo.pages.draw import HEIGHT, WIDTH

LINE_HEIGHT, LINE_WIDTH = 48, 320
STEPS = 40
"""Places that a recogniser tells apart along a line."""
PAD = 128
"""Grey beside a crop narrower than `LINE_WIDTH`: 0 after normalisation, as the recogniser knows it."""

GAP_ROWS, GAP_COLUMNS = 1, 16
"""Empty rows, or columns, that part two lines."""
BOX_MIN = 6
GROW = 0.35
"""The detector marks the core of a line: a box grows by this share of its height on every side."""

Boxes = NDArray[np.int32]


class Crop:
    """`mask` uint8 (b, h, w) and `page` uint8 (b, h, w, 3) to each page's `lines` and `boxes`.

    `lines` are uint8 (k, 48, 320, 3), `boxes` int32 (k, 4).
    """

    signature = {
        "inputs": {"mask": ("UINT8", [-1, HEIGHT, WIDTH]), "page": ("UINT8", [-1, HEIGHT, WIDTH, 3])},
        "outputs": {"lines": ("UINT8", [-1, LINE_HEIGHT, LINE_WIDTH, 3]), "boxes": ("INT32", [-1, 4])},
    }

    def predict(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, list[NDArray[Any]]]:
        """Cut every line out of every page."""
        boxes = [find_boxes(mask) for mask in batch["mask"]]
        lines = [
            np.stack([cut(page, box) for box in of_page])
            if len(of_page)
            else np.empty((0, LINE_HEIGHT, LINE_WIDTH, 3), np.uint8)
            for page, of_page in zip(batch["page"], boxes, strict=True)
        ]
        return {"lines": lines, "boxes": list(boxes)}


class Join:
    """Lists of `codes` (k, steps), `angle` (k,) and `boxes` (k, 4), one a page, to its `text`, (b,) BYTES."""

    signature = {
        "inputs": {"codes": ("INT32", [-1, STEPS]), "angle": ("INT64", [-1]), "boxes": ("INT32", [-1, 4])},
        "outputs": {"text": ("BYTES", [-1])},
    }

    def predict(self, batch: Mapping[str, Sequence[NDArray[Any]]]) -> dict[str, NDArray[np.object_]]:
        """Read every page, in its own direction."""
        pages = zip(batch["codes"], batch["angle"], batch["boxes"], strict=True)
        # A page of one line may come without the axis of its lines: so it does when the stage is measured.
        texts = [
            join(
                np.reshape(codes, (-1, np.shape(codes)[-1])),
                np.reshape(angle, -1),
                np.reshape(boxes, (-1, 4)),
            )
            for codes, angle, boxes in pages
        ]
        return {"text": np.array(texts, dtype=np.object_)}


def find_boxes(mask: NDArray[np.uint8]) -> Boxes:
    """Boxes (top, left, bottom, right) of the marked regions, int32 (k, 4), by recursive XY-cut.

    Source: Nagy and Seth, Hierarchical representation of optically scanned documents, ICPR 1984.
    """
    height, width = mask.shape
    found: list[tuple[int, int, int, int]] = []
    for top, bottom in _runs(np.any(mask, axis=1), GAP_ROWS):
        for left, right in _runs(np.any(mask[top:bottom], axis=0), GAP_COLUMNS):
            inner = _runs(np.any(mask[top:bottom, left:right], axis=1), GAP_ROWS)
            found += [(top + first, left, top + last, right) for first, last in inner]
    boxes = np.array(found, dtype=np.int32).reshape(-1, 4)
    tall, wide = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    boxes, tall = boxes[(tall >= BOX_MIN) & (wide >= BOX_MIN)], tall[(tall >= BOX_MIN) & (wide >= BOX_MIN)]
    margin = np.ceil(tall * GROW).astype(np.int32)
    boxes[:, :2] -= margin[:, None]
    boxes[:, 2:] += margin[:, None]
    return np.clip(boxes, 0, np.array([height, width, height, width], dtype=np.int32))


def _runs(marked: NDArray[np.bool_], gap: int) -> list[tuple[int, int]]:
    """Half-open runs of marked places; runs that are closer than `gap` are one."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False])).astype(np.int8)))
    runs: list[tuple[int, int]] = []
    for first, last in edges.reshape(-1, 2).tolist():
        if runs and first - runs[-1][1] < gap:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    return runs


def cut(page: NDArray[np.uint8], box: NDArray[np.int32]) -> NDArray[np.uint8]:
    """One line, uint8 (48, 320, 3): scaled to the height, squeezed if it would be too wide, else padded."""
    from PIL import Image

    top, left, bottom, right = box.tolist()
    width = min(LINE_WIDTH, max(1, round((right - left) * LINE_HEIGHT / (bottom - top))))
    crop = Image.fromarray(page[top:bottom, left:right]).resize(
        (width, LINE_HEIGHT), Image.Resampling.BILINEAR
    )
    line = np.full((LINE_HEIGHT, LINE_WIDTH, 3), PAD, dtype=np.uint8)
    line[:, :width] = np.asarray(crop)
    return line


def join(codes: NDArray[np.int32], angle: NDArray[np.int64], boxes: Boxes) -> str:
    """One page's text: lines from top to bottom and left to right; backwards if most are upside down."""
    texts = [read_codes(line) for line in codes]
    order = [i for row in _rows(boxes) for i in row]
    if 2 * int(angle.sum()) > len(texts):
        order.reverse()
    return "\n".join(texts[i] for i in order)


def _rows(boxes: Boxes) -> list[list[int]]:
    """Indices of boxes by row: a box belongs to a row if its middle lies in the row's first box."""
    rows: list[list[int]] = []
    for i in np.argsort(boxes[:, 0], kind="stable").tolist():
        middle = (int(boxes[i, 0]) + int(boxes[i, 2])) // 2
        if rows and middle < int(boxes[rows[-1][0], 2]):
            rows[-1].append(i)
        else:
            rows.append([i])
    return [sorted(row, key=lambda i: int(boxes[i, 1])) for row in rows]


def read_codes(codes: NDArray[np.int32]) -> str:
    """CTC's collapse of one line's code points, shape (steps,): repeats become one, then blanks (0) go.

    Source: Graves et al., Connectionist Temporal Classification, ICML 2006, section 3.1.
    """
    first = np.ones(len(codes), dtype=np.bool_)
    first[1:] = codes[1:] != codes[:-1]
    return "".join(map(chr, codes[first & (codes != 0)].tolist()))
