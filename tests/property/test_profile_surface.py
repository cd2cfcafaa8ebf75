"""Laws of a service-time surface, for whatever was measured:

* it never falls in rows, p50 and p99, on any number of cores;
* p50 <= p99, and both are positive and finite;
* parts of a core lie between the whole ones around them, and stretch one core's time below it;
* where the grid was measured and did not fall in rows, it is returned unchanged.
"""

from itertools import product
from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.profile.surface import Point, Surface


@st.composite
def points(draw: st.DrawFn) -> list[Point]:
    rows = draw(st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True))
    cores = draw(
        st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0, 4.0, 8.0]), min_size=1, max_size=4, unique=True)
    )
    places = draw(st.lists(st.sampled_from(list(product(rows, cores))), min_size=1, unique=True))
    times = st.tuples(st.floats(1e-5, 10), st.floats(1, 5))
    return [Point(*place, p50_s, p50_s * tail) for place in places for p50_s, tail in [draw(times)]]


@given(measured=points(), rows=st.integers(1, 200), cores=st.floats(0.05, 32))
def test_never_falling_in_rows_and_never_nonsense(measured: list[Point], rows: int, cores: float) -> None:
    surface = Surface(measured)
    for number in (cores, float(max(1, round(cores)))):
        for ask in (surface.p50_s, surface.p99_s):
            assert 0 < ask(rows, number) <= ask(rows + 1, number) * (1 + 1e-12)
        assert surface.p50_s(rows, number) <= surface.p99_s(rows, number) * (1 + 1e-12)
        assert isfinite(surface.p99_s(rows, number))


@given(measured=points(), rows=st.integers(1, 100), cores=st.floats(0.05, 8))
def test_parts_of_a_core_lie_between_whole_ones(measured: list[Point], rows: int, cores: float) -> None:
    surface = Surface([point for point in measured if point.cores >= 1] or [Point(1, 1.0, 0.01, 0.02)])
    if cores < 1:
        assert surface.p50_s(rows, cores) == pytest.approx(surface.p50_s(rows, 1.0) / cores)
    else:
        ends = surface.p50_s(rows, float(int(cores))), surface.p50_s(rows, float(-(-cores // 1)))
        assert min(ends) * (1 - 1e-9) <= surface.p50_s(rows, cores) <= max(ends) * (1 + 1e-9)


@given(measured=points())
def test_a_sound_grid_is_returned_unchanged(measured: list[Point]) -> None:
    surface = Surface(measured)
    for point in measured:
        below = [p for p in measured if p.cores == point.cores and p.rows < point.rows]
        complete = {p.rows for p in measured} == {p.rows for p in measured if p.cores == point.cores}
        if complete and all(p.p50_s <= point.p50_s and p.p99_s <= point.p99_s for p in below):
            assert surface.p50_s(point.rows, point.cores) == pytest.approx(point.p50_s)
            assert surface.p99_s(point.rows, point.cores) == pytest.approx(point.p99_s)
            assert not surface.extrapolates(point.rows, point.cores)
