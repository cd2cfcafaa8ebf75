"""On which side of its mark each name stands, so that names cover neither each other nor other marks.

Greedy, in the order given: the first side in `SIDES` that is free, or the one that covers least.
"""

from collections.abc import Sequence
from typing import NamedTuple

SIDES = {"top center": (0, 1), "bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0)}
"""Plotly's names of the sides, and where they are."""
LETTER_PX, LINE_PX, MARK_PX = 7.0, 15.0, 14.0
"""Of 12 px Open Sans, rather too much than too little; and of a mark."""


class Box(NamedTuple):
    """Pixels, from the lower left corner of the chart."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: "Box") -> float:
        """Square pixels that both cover."""
        wide = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        high = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, wide) * max(0.0, high)


def sides(names: Sequence[str], places: Sequence[tuple[float, float]], chart: Box) -> list[str]:
    """The side for each name.

    Args:
        names: of the marks; an empty one takes no place.
        places: of the marks, in pixels.
        chart: what lies outside of it counts as covered.
    """
    marks = [Box(x - MARK_PX / 2, y - MARK_PX / 2, MARK_PX, MARK_PX) for x, y in places]
    taken: list[Box] = []
    chosen = []
    for index, (name, (x, y)) in enumerate(zip(names, places, strict=True)):
        others = [*taken, *marks[:index], *marks[index + 1 :]]
        boxes = {side: _box(name, x, y, *where) for side, where in SIDES.items()}
        covered = {
            side: sum(box.overlap(other) for other in others) + box.width * box.height - box.overlap(chart)
            for side, box in boxes.items()
        }
        side = min(boxes, key=lambda side: covered[side])
        taken.append(boxes[side])
        chosen.append(side)
    return chosen


def _box(name: str, x: float, y: float, right: int, up: int) -> Box:
    width, height = LETTER_PX * len(name), LINE_PX
    across, along = (MARK_PX + width) / 2, (MARK_PX + height) / 2
    return Box(x + right * across - width / 2, y + up * along - height / 2, width, height)
