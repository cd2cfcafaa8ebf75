"""The page pipeline's own code: drawing, boxes from a mask, cutting, order of lines, scores."""

import numpy as np
import pytest

from steelyard.demo.lines import find_font
from steelyard.demo.pages.draw import DIFFICULTIES, HEIGHT, LINES_MAX, WIDTH, draw_pages
from steelyard.demo.pages.glue import PAD, Crop, Join, cut, find_boxes, join, read_codes
from steelyard.demo.pages.scores import right_lines, score_pages


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_same_seed_draws_the_same_pages(difficulty: str) -> None:
    font = find_font()
    first, again = (draw_pages(2, np.random.default_rng(3), font=font, difficulty=difficulty) for _ in "ab")
    for page, other in zip(first, again, strict=True):
        assert page.image.shape == (HEIGHT, WIDTH, 3)
        assert page.image.dtype == np.uint8
        assert 1 <= len(page.lines) <= LINES_MAX
        assert page.text.split("\n") == list(page.lines)
        assert (page.image == other.image).all()
        assert page.lines == other.lines


def mask_of(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = 1
    return mask


def test_boxes_are_cut_apart_by_rows_and_columns_and_grown() -> None:
    # Two columns at different heights share rows 100..120, so rows alone do not part them.
    found = find_boxes(mask_of((100, 20, 120, 200), (110, 330, 130, 500), (200, 20, 220, 100)))
    # Each is 20 high and grows by ceil(20 * 0.35) = 7 on every side.
    assert found.tolist() == [[93, 13, 127, 207], [103, 323, 137, 507], [193, 13, 227, 107]]


def test_words_of_one_line_stay_together_and_specks_are_left_out() -> None:
    found = find_boxes(mask_of((100, 20, 120, 100), (100, 110, 120, 200), (300, 10, 304, 14)))
    assert len(found) == 1
    assert find_boxes(mask_of()).shape == (0, 4)


def test_a_box_at_the_edge_stays_on_the_page() -> None:
    assert find_boxes(mask_of((0, 0, 20, 640))).tolist() == [[0, 0, 27, 640]]


def test_a_crop_is_scaled_and_padded() -> None:
    page = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)
    line = cut(page, np.array([10, 10, 34, 110], np.int32))
    # 24 high becomes 48, so 100 wide becomes 200; the other 120 of 320 are padding.
    assert (line[:, :200] == 7).all()
    assert (line[:, 200:] == PAD).all()
    wide = cut(page, np.array([10, 0, 34, 640], np.int32))
    assert (wide == 7).all()  # 1,280 would be too wide: squeezed to 320


def test_crop_gives_each_page_its_own_lines() -> None:
    masks = np.stack([mask_of((100, 20, 120, 200), (200, 20, 220, 100)), mask_of()])
    answer = Crop().predict({"mask": masks, "page": np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)})
    assert [lines.shape for lines in answer["lines"]] == [(2, 48, 320, 3), (0, 48, 320, 3)]
    assert [boxes.shape for boxes in answer["boxes"]] == [(2, 4), (0, 4)]


def codes_of(text: str, steps: int = 8) -> np.ndarray:
    """As CTC spells it: each character twice, and a blank (0) before the next."""
    spelt = [code for character in text for code in (ord(character), ord(character), 0)]
    return np.array((spelt + [0] * steps)[: max(steps, len(spelt))], np.int32)


def test_codes_collapse() -> None:
    assert read_codes(codes_of("ab")) == "ab"
    assert read_codes(np.array([0, 97, 97, 0, 97, 0], np.int32)) == "aa"
    assert read_codes(np.zeros(4, np.int32)) == ""


def test_lines_are_joined_in_reading_order_and_backwards_upside_down() -> None:
    codes = np.stack([codes_of("d"), codes_of("a"), codes_of("b")])
    boxes = np.array([[100, 10, 130, 99], [12, 10, 40, 99], [10, 330, 42, 400]], np.int32)
    assert join(codes, np.array([0, 0, 1]), boxes) == "a\nb\nd"  # b begins higher, but in the same row
    assert join(codes, np.array([1, 0, 1]), boxes) == "d\nb\na"
    answer = Join().predict(
        {"codes": [codes, codes[:0]], "angle": [np.zeros(3), np.zeros(0)], "boxes": [boxes, boxes[:0]]}
    )
    assert answer["text"].tolist() == ["a\nb\nd", ""]


def test_scores_count_lines_in_place() -> None:
    assert right_lines("a\nb\nc", "a\nb\nc") == 1.0
    assert right_lines("a\nc", "a\nb\nc") == pytest.approx(2 / 3)
    assert right_lines("a\nx\nb\nc", "a\nb\nc") == pytest.approx(3 / 4)
    assert right_lines("c\nb\na", "a\nb\nc") == pytest.approx(1 / 3)  # one of them is still in order
    scores = score_pages({"text": np.array([b"a\nb", b""], dtype=object)}, ["a\nb", "a"])
    assert scores.tolist() == [1.0, 0.0]
