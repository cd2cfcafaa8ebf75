"""The fit against published measurements: latencies of YOLOv5s and ResNet18 on CPU, ms, from Themis and
Sponge."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import ProfileError
from steelyard.profile.fit import FitPoint, LatencyFit, fit, non_negative_least_squares

CORES = (1, 2, 4, 8, 16)
YOLOV5S_MS = {
    1: (152, 118, 76, 57, 53),
    2: (288, 194, 138, 100, 80),
    4: (606, 382, 234, 180, 145),
    8: (1275, 836, 502, 353, 263),
}
RESNET18_MS = {
    1: (46, 29, 18, 12, 13),
    2: (79, 45, 27, 18, 15),
    4: (145, 82, 50, 31, 27),
    8: (228, 136, 88, 57, 46),
    16: (384, 222, 169, 115, 88),
}


def points(table_ms: Mapping[int, tuple[int, ...]]) -> list[FitPoint]:
    return [
        FitPoint(rows, cores, ms / 1000)
        for rows, row in table_ms.items()
        for cores, ms in zip(CORES, row, strict=True)
    ]


def ordinary(measured: list[FitPoint]) -> LatencyFit:
    """What both papers' code does: unweighted, unbounded least squares."""
    rows, cores, times = (np.array(column, dtype=float) for column in zip(*measured, strict=True))
    basis = np.stack([rows / cores, rows, 1 / cores, np.ones_like(rows)], axis=1)
    alpha, beta, gamma, zeta = np.linalg.lstsq(basis, times, rcond=None)[0].tolist()
    return LatencyFit(alpha, beta, gamma, zeta, residual_ratio=1, error_ratio_mean=0)


def quality(found: LatencyFit, measured: list[FitPoint]) -> tuple[float, float]:
    """(mean error, worst under-prediction), both relative to what was measured."""
    ratios = [found.time_s(point.rows, point.cores) / point.time_s for point in measured]
    return float(np.mean([abs(ratio - 1) for ratio in ratios])), 1 - min(ratios)


@pytest.mark.parametrize(
    ("table_ms", "ordinary_quality", "relative_quality"),
    [
        (YOLOV5S_MS, (0.057, 0.21), (0.042, 0.14)),
        (RESNET18_MS, (0.086, 0.27), (0.058, 0.17)),
    ],
    ids=["yolov5s", "resnet18"],
)
def test_relative_errors_fit_the_published_tables_better(
    table_ms: Mapping[int, tuple[int, ...]],
    ordinary_quality: tuple[float, float],
    relative_quality: tuple[float, float],
) -> None:
    measured = points(table_ms)
    assert quality(ordinary(measured), measured) == pytest.approx(ordinary_quality, abs=0.015)
    # Non-negative coefficients cost up to one and a half percentage points of what relative weights gain.
    found = quality(fit(measured), measured)
    assert found == pytest.approx(relative_quality, abs=0.018)
    assert found < ordinary_quality


def test_the_residual_ratio_makes_most_fitted_values_safe() -> None:
    measured = points(YOLOV5S_MS)
    found = fit(measured)
    safe = [found.time_s(p.rows, p.cores) * found.residual_ratio >= p.time_s for p in measured]
    assert sum(safe) == 19  # of 20: the 0.95 quantile
    assert found.error_ratio_mean == pytest.approx(quality(found, measured)[0])


@given(
    coefficients=st.tuples(*[st.floats(0.001, 10)] * 4),
    grid=st.sampled_from([((1, 2, 4), (1.0, 2.0)), ((1, 8, 16), (1.0, 2.0, 4.0))]),
)
def test_a_table_that_follows_the_model_is_recovered(
    coefficients: tuple[float, float, float, float], grid: tuple[tuple[int, ...], tuple[float, ...]]
) -> None:
    truth = LatencyFit(*coefficients, residual_ratio=1, error_ratio_mean=0)
    found = fit([FitPoint(rows, cores, truth.time_s(rows, cores)) for rows, cores in product(*grid)])
    for rows, cores in product((1, 3, 32), (1, 3, 16)):
        assert found.time_s(rows, cores) == pytest.approx(truth.time_s(rows, cores), rel=2e-3)


@given(
    times=st.lists(st.floats(1e-5, 100), min_size=6, max_size=6),
    rows=st.integers(1, 64),
    cores=st.floats(1, 64),
)
def test_whatever_was_measured_more_rows_never_cost_less_nor_more_cores_more(
    times: list[float], rows: int, cores: float
) -> None:
    grid = product((1, 4, 16), (1.0, 2.0))
    found = fit([FitPoint(*place, time_s) for place, time_s in zip(grid, times, strict=True)])
    assert 0 < found.time_s(rows, cores) <= found.time_s(rows + 1, cores)
    assert found.time_s(rows, cores + 1) <= found.time_s(rows, cores)


def test_with_one_core_count_no_gain_from_cores_is_assumed() -> None:
    found = fit([FitPoint(1, 1, 0.012), FitPoint(4, 1, 0.042)])  # 10 ms a row and 2 ms
    assert (found.beta_s, found.zeta_s) == pytest.approx((0.010, 0.002))
    assert found.time_s(4, 8) == pytest.approx(0.042)


def test_with_one_batch_size_cost_is_assumed_proportional_to_rows() -> None:
    found = fit([FitPoint(1, 1, 0.012), FitPoint(1, 2, 0.007)])  # 10 ms / c and 2 ms
    assert found.time_s(5, 1) == pytest.approx(0.060)


def test_non_negative_least_squares_is_exact() -> None:
    # Unbounded, x = (3, -1). Bounded: x2 = 0, x1 = a1.t / a1.a1 = (2 + 1) / (1 + 1).
    matrix, target = np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([2.0, 1.0])
    assert non_negative_least_squares(matrix, target) == pytest.approx((1.5, 0.0))


@pytest.mark.parametrize("bad", [float("nan"), 0.0, -1.0, float("inf")])
def test_times_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(ProfileError, match="cannot fit"):
        fit([FitPoint(1, 1, bad)])


def test_nothing_cannot_be_fitted() -> None:
    with pytest.raises(ProfileError, match="no measured points"):
        fit([])
