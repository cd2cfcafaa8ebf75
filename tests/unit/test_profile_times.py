from math import exp

import pytest

from steelyard.core.errors import ProfileError
from steelyard.profile.surface import Point, Surface
from steelyard.profile.times import CoefficientTimes, DeclaredTimes, ProfileTable
from steelyard.profile.types import Cell, DeclaredLatency, Profile


def profile(*cells: Cell, variant: str = "v") -> Profile:
    return Profile("m", variant, "hash", "machine", "runtime", cells, 0.1, 0.0001)


def surface(*points: tuple[int, float, float]) -> Surface:
    """Points (rows, cores, ms) with a p99 of 1.5 times the median."""
    return Surface([Point(rows, cores, ms / 1000, ms * 1.5 / 1000) for rows, cores, ms in points])


def test_measured_points_are_returned_as_they_are() -> None:
    table = ProfileTable([profile(Cell(0, 1, 1, 0.010, 0.012, 9), Cell(0, 4, 1, 0.036, 0.050, 9))])
    assert table.service_time_s("v", 0, 4, 1) == 0.036
    assert table.service_time_s_p99("v", 0, 4, 1.0) == 0.050
    assert not table.extrapolates("v", 0, 4, 1)


def test_between_two_row_counts_a_power_law_runs_through_both() -> None:
    # 10 ms at 1 row, 40 ms at 16: exponent log 4 / log 16 = 1/2, so 4 rows take 10 x 4^(1/2) = 20 ms.
    assert surface((1, 1, 10), (16, 1, 40)).p50_s(4, 1) == pytest.approx(0.020)


def test_between_two_core_counts_amdahl_holds() -> None:
    # 40 ms on 1 core, 16 ms on 4: a + b / c with b = 24 / (1 - 1/4) = 32, a = 8; on 2 cores 8 + 16 = 24 ms.
    assert surface((1, 1, 40), (1, 4, 16)).p50_s(1, 2) == pytest.approx(0.024)


def test_parts_of_a_core_are_straight_in_speed() -> None:
    measured = surface((1, 1, 30), (1, 2, 20))
    assert measured.p50_s(1, 0.5) == pytest.approx(0.060)  # half the speed of 1 core
    assert measured.p50_s(1, 1.5) == pytest.approx(0.024)  # (1/30 + 1/20) / 2 = 1/24 a ms


def test_a_quota_stalls_once_a_period_and_the_p99_says_so() -> None:
    measured = surface((1, 1, 30), (1, 2, 20))
    assert measured.p99_s(1, 1) == pytest.approx(0.045)
    # 1.5 x 60 ms, and a stall of 10 ms x (1 - 0.5 / 1)
    assert measured.p99_s(1, 0.5) == pytest.approx(0.095)
    # 1.5 x 24 ms, and 10 ms x (1 - 1.5 / 2)
    assert measured.p99_s(1, 1.5) == pytest.approx(0.0385)


def test_a_measured_part_of_a_core_beats_the_rule() -> None:
    measured = surface((1, 0.5, 70), (1, 1, 30))
    assert measured.p50_s(1, 0.5) == pytest.approx(0.070)
    assert measured.p99_s(1, 0.5) == pytest.approx(0.105)  # as measured, stalls included
    assert measured.p50_s(1, 0.75) == pytest.approx(1 / (0.5 / 0.070 + 0.5 / 0.030))
    assert not measured.extrapolates(1, 0.75)


def test_beyond_the_table_the_fit_continues_from_its_edge() -> None:
    # 12 and 22 ms: 10 ms a row and 2 ms. The fit is exact, so 4 rows take 42 ms and its residual is 1.
    measured = surface((1, 1, 12), (2, 1, 22))
    assert measured.p50_s(4, 1) == pytest.approx(0.042)
    assert measured.p99_s(4, 1) == pytest.approx(0.063)
    assert measured.extrapolates(4, 1)
    assert measured.extrapolates(1, 2)
    assert not measured.extrapolates(2, 0.5)  # by the rule for parts of a core


def test_what_is_guessed_carries_the_residual_of_the_fit() -> None:
    measured = surface((1, 1, 10), (2, 1, 10), (4, 1, 30), (1, 2, 8), (2, 2, 8), (4, 2, 8))
    assert measured.fit.residual_ratio > 1
    guessed = measured.p50_s(8, 1) * 1.5 * measured.fit.residual_ratio
    assert measured.p99_s(8, 1) == pytest.approx(guessed)


def test_a_larger_batch_is_never_planned_as_faster() -> None:
    measured = surface((1, 1, 10), (2, 1, 9), (4, 1, 20))
    assert measured.p50_s(2, 1) == 0.010


def test_more_cores_may_be_slower_as_measured() -> None:
    assert surface((1, 1, 3.3), (1, 2, 3.5)).p50_s(1, 2) == 0.0035


def test_holes_in_the_grid_take_the_shape_of_the_fit() -> None:
    # (4, 2) is missing; the rest follows 10 b / c + 2 ms exactly, so it is 22 ms.
    measured = surface((1, 1, 12), (4, 1, 42), (1, 2, 7))
    assert measured.p50_s(4, 2) == pytest.approx(0.022, rel=0.01)


def test_an_unmeasured_bucket_borrows_the_next_larger() -> None:
    table = ProfileTable([profile(Cell(0, 1, 1, 0.010, 0.012, 9), Cell(2, 1, 1, 0.030, 0.040, 9))])
    assert table.service_time_s("v", 1, 1, 1) == 0.030
    assert table.service_time_s("v", 5, 1, 1) == 0.030
    assert table.extrapolates("v", 1, 1, 1)


@pytest.mark.parametrize(
    "cells",
    [
        (),
        (Cell(0, 1, 1, float("nan"), 0.1, 9),),
        (Cell(0, 1, 1, -0.1, 0.1, 9),),
        (Cell(0, 1, 1, 0.2, 0.1, 9),),
        (Cell(0, 1, 1, 0.1, float("inf"), 9),),
        (Cell(0, 0, 1, 0.1, 0.1, 9),),
        (Cell(0, 1, 0, 0.1, 0.1, 9),),
        (Cell(0, 1, 1, 0.1, 0.1, 9), Cell(0, 1, 1, 0.1, 0.1, 9)),
    ],
)
def test_a_broken_profile_is_refused_by_name(cells: tuple[Cell, ...]) -> None:
    with pytest.raises(ProfileError, match="profile of variant v: "):
        ProfileTable([profile(*cells)])


def test_no_profile_and_two_profiles_are_refused() -> None:
    one = profile(Cell(0, 1, 1, 0.1, 0.1, 9))
    with pytest.raises(ProfileError, match="steelyard profile"):
        ProfileTable([])
    with pytest.raises(ProfileError, match="two profiles of variant v"):
        ProfileTable([one, one])
    with pytest.raises(ProfileError, match="no profile of variant w; known are v"):
        ProfileTable([one]).service_time_s("w", 0, 1, 1)


def test_no_cores_take_no_time_that_could_be_told() -> None:
    with pytest.raises(ProfileError, match="no service time on 0"):
        surface((1, 1, 10)).p50_s(1, 0.0)


def test_published_coefficients() -> None:
    # YOLOv5n in Themis: 148.8 b/c + 37.5 b + 5.4/c - 15.5 ms; b = 2, c = 4: 74.4 + 75 + 1.35 - 15.5 = 135.25
    times = CoefficientTimes(148.8, 37.5, 5.4, -15.5)
    assert times.service_time_s("yolo", 0, 2, 4) == pytest.approx(0.13525)
    assert times.service_time_s_p99("yolo", 0, 2, 4) == pytest.approx(0.13525 * exp(2.32635 * 0.05), rel=1e-4)
    assert times.service_time_s("yolo", 0, 1, 0.5) == pytest.approx(2 * 0.1762)


def test_coefficients_that_give_no_time_are_refused_where_they_do() -> None:
    with pytest.raises(ProfileError, match="declared latency is -5 ms for 1 rows on 1 cores"):
        CoefficientTimes(5, 0, 0, -10).service_time_s("v", 0, 1, 1)
    with pytest.raises(ProfileError, match="finite"):
        CoefficientTimes(float("nan"), 0, 0, 1)
    with pytest.raises(ProfileError, match="spread"):
        CoefficientTimes(1, 0, 0, 1, spread=-1)


def test_coefficients_of_another_quantile_are_brought_to_the_median() -> None:
    declared = DeclaredLatency((0, 10, 0, 0), stat="p95", spread=0.1)
    # z = 1.645 at 95 %: median 10 / e^0.1645 ms; the p99 is e^0.2326 times that.
    assert DeclaredTimes(declared).service_time_s("v", 0, 1, 1) == pytest.approx(0.008483, rel=1e-3)
    assert DeclaredTimes(declared).service_time_s_p99("v", 0, 1, 1) == pytest.approx(0.010705, rel=1e-3)


@pytest.mark.parametrize(("distribution", "ratio"), [("fixed", 1.0), ("exponential", 6.644)])
def test_the_distribution_gives_the_tail(distribution: str, ratio: float) -> None:
    # exponential: ln 100 / ln 2 = 6.644 medians
    declared = DeclaredLatency((0, 10, 0, 0), distribution=distribution)  # type: ignore[arg-type]
    assert DeclaredTimes(declared).service_time_s_p99("v", 0, 1, 1) == pytest.approx(0.010 * ratio, rel=1e-3)


def test_a_declared_table_is_interpolated_like_a_measured_one() -> None:
    declared = DeclaredLatency(table=((1, 1, 30, 45), (1, 2, 20, None)), spread=0.0)
    times = DeclaredTimes(declared)
    assert times.service_time_s("any", 3, 1, 1.5) == pytest.approx(0.024)
    assert times.service_time_s_p99("any", 0, 1, 1) == pytest.approx(0.045)
    assert times.service_time_s_p99("any", 0, 1, 2) == pytest.approx(0.020)  # no p99 given, no spread
    assert times.extrapolates("any", 0, 2, 1)


def test_a_declaration_is_coefficients_or_a_table() -> None:
    for declared in (DeclaredLatency(), DeclaredLatency((1, 1, 1, 1), table=((1, 1, 1, None),))):
        with pytest.raises(ProfileError, match="one of the two"):
            DeclaredTimes(declared)
