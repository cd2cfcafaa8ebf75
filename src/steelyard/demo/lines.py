"""Images of text lines whose text is known exactly, because they are rendered here from an installed font.

An image goes through the recogniser's own preparation (PP-OCR): BGR, height 48, (x / 255 - 0.5) / 0.5,
padded on the right with zeros to a width of 320. Rendering draws at height 48 at once, so that nothing is
resized. The same seed gives the same lines on every machine with the same font.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import InputError

HEIGHT, WIDTH = 48, 320

_FONT_DIRECTORIES = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts")
_FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "Arial.ttf")
_FONT_SIZES = (26, 32)
_WORDS = tuple(
    """
    account address amount annual april artist autumn balance basket before berlin bridge bright budget button
    camera canvas capital carbon casual castle center change charge choice circle client coffee copper corner
    cotton course cousin credit danger dealer debate degree demand design detail dinner direct doctor dollar
    dragon driver during editor effect effort eleven empire energy engine enough ethics evening export fabric
    factor family farmer father figure finger finish flight flower forest formal format fourth future garden
    gather german global golden ground growth guitar hammer handle harbor height hidden honest hotel hungry
    impact import income indeed inform insect inside invoice island itself jacket jungle junior kernel kitchen
    ladder laptop lately launch lawyer leader lemon letter liquid listen little living london lovely machine
    magnet manner marble margin market master matter meadow medium member memory mental method middle minute
    mirror mobile modern moment monday monkey mother motion museum nation native nature nearly needle number
    object office orange orchard origin output oxygen packet palace paper parcel parent partly pattern pencil
    people period person phrase planet player pocket poetry policy powder prince proper public purple puzzle
    rabbit random rather reader reason recent record region remote repair report rescue result return ribbon
    river rocket sample school screen season second secret senior series signal silver simple single sister
    socket spirit spring square stable statue steady stream street studio summer supply switch symbol system
    tailor talent temple tender tennis thirty ticket timber tissue tomato total travel treaty tunnel twelve
    unique update valley velvet vendor vessel victor violet vision volume walnut wealth weekly window winner
    winter wisdom wonder worker yellow zebra
    """.split()  # noqa: SIM905 -- a list of words is easier to read without quotes
)


class Line(NamedTuple):
    """A line to read: its exact text, and the recogniser's input, float32 of shape (3, 48, 320)."""

    text: str
    tensor: NDArray[np.float32]


def find_font() -> Path:
    """An installed TrueType font for Latin text.

    Raises:
        InputError: none of the known ones is installed.
    """
    for name in _FONTS:
        for directory in _FONT_DIRECTORIES:
            found = next(Path(directory).rglob(name), None)
            if found is not None:
                return found
    raise InputError("no TrueType font found; install one, for example the package fonts-dejavu-core")


def draw_lines(count: int, rng: np.random.Generator, *, font: Path) -> list[Line]:
    """`count` lines of two to four words and numbers in varying size, ink, paper and position."""
    return [_draw(rng, font) for _ in range(count)]


def _draw(rng: np.random.Generator, font: Path) -> Line:
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(font), int(rng.integers(*_FONT_SIZES, endpoint=True)))
    left = int(rng.integers(4, 12))
    text = some_text(rng, words=int(rng.integers(2, 5)))
    while face.getlength(text) > WIDTH - 2 * left:
        text = text.rpartition(" ")[0]
    paper, ink = rng.integers(225, 256, size=3), rng.integers(0, 90, size=3)
    width = min(WIDTH, round(face.getlength(text)) + 2 * left)
    image = Image.new("RGB", (width, HEIGHT), tuple(paper.tolist()))
    middle = HEIGHT // 2 + int(rng.integers(-2, 3))
    ImageDraw.Draw(image).text((left, middle), text, fill=tuple(ink.tolist()), font=face, anchor="lm")
    return Line(text, prepare(np.asarray(image)))


def some_text(rng: np.random.Generator, *, words: int) -> str:
    """`words` words of the list, every fourth one a number, first letters sometimes large."""
    drawn = [
        str(rng.integers(10, 10_000)) if rng.random() < 0.25 else str(rng.choice(_WORDS))
        for _ in range(words)
    ]
    return " ".join(word.capitalize() if rng.random() < 0.4 else word for word in drawn)


def prepare(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The recogniser's input (3, 48, 320) from an RGB image (48, up to 320, 3)."""
    bgr = rgb[:, :, ::-1].astype(np.float32).transpose(2, 0, 1)
    tensor = np.zeros((3, HEIGHT, WIDTH), dtype=np.float32)
    tensor[:, :, : bgr.shape[2]] = (bgr / 255 - 0.5) / 0.5
    return tensor
