"""Names beside their marks."""

from hypothesis import given
from hypothesis import strategies as st

from steelyard.report.labels import SIDES, Box, sides

CHART = Box(0.0, 0.0, 640.0, 268.0)


def test_boxes_overlap_by_what_both_cover() -> None:
    assert Box(0, 0, 4, 3).overlap(Box(2, 1, 9, 9)) == 2 * 2
    assert Box(0, 0, 4, 3).overlap(Box(4, 0, 1, 1)) == 0


def test_a_lone_name_stands_above_its_mark() -> None:
    assert sides(["steelyard"], [(300, 100)], CHART) == ["top center"]


def test_names_of_close_marks_take_different_sides() -> None:
    # 20 px apart, each name 63 px wide: above both they would cover each other by 43 px.
    assert sides(["steelyard", "steelyard"], [(300, 100), (320, 100)], CHART) == [
        "top center",
        "bottom center",
    ]


def test_no_name_leaves_the_chart() -> None:
    # Half of the name is 31.5 px; the mark is 10 px from the right edge, near the top.
    assert sides(["steelyard"], [(630, 258)], CHART) == ["middle left"]
    assert sides(["steelyard"], [(3, 258)], CHART) == ["middle right"]


def test_a_name_does_not_cover_an_unnamed_mark() -> None:
    assert sides(["themis", ""], [(300, 100), (300, 115)], CHART)[0] == "bottom center"


@given(st.lists(st.tuples(st.floats(50, 590), st.floats(30, 238)), max_size=6))
def test_each_name_has_a_side(places: list[tuple[float, float]]) -> None:
    found = sides(["p"] * len(places), places, CHART)
    assert len(found) == len(places)
    assert set(found) <= set(SIDES)
