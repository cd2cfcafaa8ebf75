"""Pages of text lines whose text is known exactly, because they are rendered here from an installed font.

A page is an RGB image of 480 x 640 with a few lines of two words, in one or two columns, some of them upside
down as a whole. It gets harder with `difficulty`: less contrast, blur and noise. The same seed gives the same
pages on every machine with the same font.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.demo.lines import some_text

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

HEIGHT, WIDTH = 480, 640
LINES_MAX = 12
UPSIDE_DOWN_SHARE = 0.25
_FONT_SIZES = (24, 28)
_PITCH = 58
_COLUMNS = (20, 330)
_LINE_WIDTH_MAX = 275
_EMPTY_SHARE = 0.35
"""Of the places for a line."""


class Difficulty(NamedTuple):
    """How pages are spoilt: least difference of ink and paper, blur in pixels, noise in grey levels."""

    contrast: int
    blur: float
    noise: float


DIFFICULTIES = {
    "clean": Difficulty(150, 0.0, 0.0),
    "medium": Difficulty(80, 0.9, 18.0),
    "hard": Difficulty(70, 1.1, 22.0),
}


class Page(NamedTuple):
    """A page to read: uint8 of shape (480, 640, 3), RGB; and its lines, top to bottom, left to right."""

    image: NDArray[np.uint8]
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """What a perfect reader answers: the lines, each on one of its own."""
        return "\n".join(self.lines)


def draw_pages(count: int, rng: np.random.Generator, *, font: Path, difficulty: str = "medium") -> list[Page]:
    """`count` pages of 1 to `LINES_MAX` lines.

    Raises:
        KeyError: no such difficulty.
    """
    spoil = DIFFICULTIES[difficulty]
    return [_draw(rng, font, spoil) for _ in range(count)]


def _draw(rng: np.random.Generator, font: Path, spoil: Difficulty) -> Page:
    from PIL import Image, ImageDraw

    paper = int(rng.integers(max(200, spoil.contrast), 256))
    image = Image.new("RGB", (WIDTH, HEIGHT), tuple((paper - rng.integers(0, 12, size=3)).tolist()))
    pen = ImageDraw.Draw(image)
    lines: list[str] = []
    rows = HEIGHT // _PITCH - 1
    places = [(row, column) for row in range(rows) for column in range(len(_COLUMNS))]
    filled = [place for place in places if rng.random() >= _EMPTY_SHARE][:LINES_MAX]
    for row, column in filled or places[:1]:
        ink = int(rng.integers(0, paper - spoil.contrast + 1))
        top = _PITCH // 2 + row * _PITCH + int(rng.integers(0, 7))
        lines.append(_write(pen, rng, font, (_COLUMNS[column] + int(rng.integers(0, 12)), top), ink))
    if rng.random() < UPSIDE_DOWN_SHARE:
        image = image.transpose(Image.Transpose.ROTATE_180)
    return Page(_spoilt(image, rng, spoil), tuple(lines))


def _write(pen: object, rng: np.random.Generator, font: Path, at: tuple[int, int], ink: int) -> str:
    from PIL import ImageDraw, ImageFont

    assert isinstance(pen, ImageDraw.ImageDraw)
    face = ImageFont.truetype(str(font), int(rng.integers(*_FONT_SIZES, endpoint=True)))
    text = some_text(rng, words=2)
    if face.getlength(text) > _LINE_WIDTH_MAX:
        text = text.partition(" ")[0]
    pen.text(at, text, fill=(ink, ink, ink), font=face)
    return text


def _spoilt(image: "PilImage", rng: np.random.Generator, spoil: Difficulty) -> NDArray[np.uint8]:
    from PIL import ImageFilter

    if spoil.blur:
        image = image.filter(ImageFilter.GaussianBlur(spoil.blur))
    pixels = np.asarray(image, dtype=np.float32)
    if spoil.noise:
        pixels = pixels + rng.normal(0.0, spoil.noise, size=pixels.shape).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)
