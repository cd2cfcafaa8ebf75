"""How runs are told apart: by colour, dash and mark, on light and dark grounds.

The rule of this file: a policy has a colour, and its form on the shared data plane (`+ours`) has the same one
with another dash and an open mark, so that twenty runs need ten colours. The colours are of middling
lightness (after Okabe and Ito, "Color Universal Design", 2008, and Tol, "Colour Schemes", 2021); as no ten
colours are told apart by everyone, neighbours in the list also differ in dash and mark.
"""

from collections.abc import Iterable
from typing import NamedTuple

COLOURS = (
    "#0f9d7e",
    "#e08a00",
    "#4d8fdb",
    "#c7609d",
    "#8a7be0",
    "#a8792f",
    "#2fb3c6",
    "#9aa02a",
    "#6d8f9c",
    "#5f6fb0",
    "#7a7f87",
    "#c9b458",
    "#4f8a3c",
)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down")
_OURS = "+ours"


class Style(NamedTuple):
    """Colour as in CSS, dash and mark as Plotly calls them."""

    colour: str
    dash: str
    mark: str


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A style for each label, in the order of their first appearance; they repeat when there are more."""
    found: dict[str, Style] = {}
    policies: dict[str, int] = {}
    for label in labels:
        policy = label.removesuffix(_OURS)
        index = policies.setdefault(policy, len(policies))
        colour, mark = COLOURS[index % len(COLOURS)], _MARKS[index % len(_MARKS)]
        dash = _DASHES[index % len(_DASHES)]
        if label != policy:
            dash, mark = _DASHES[(index + 1) % len(_DASHES)], f"{mark}-open"
        found.setdefault(label, Style(colour, dash, mark))
    return found
