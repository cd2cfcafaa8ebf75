"""The surge follows from the profile; the comparison from the mean; the spec from both."""

from pathlib import Path

import numpy as np
import pytest

from steelyard.config.load import load_spec
from steelyard.core.errors import ProfileError
from steelyard.demo.plan import Cell, plan_surge
from steelyard.demo.spec import write_spec
from steelyard.demo.tour import fixed_allocations

CELLS = [Cell(1, 1, 20.0), Cell(4, 1, 64.0), Cell(8, 1, 100.0), Cell(1, 2, 12.0), Cell(4, 2, 40.0)]


def test_surge_is_scaled_to_the_best_batch_on_one_core() -> None:
    surge = plan_surge(CELLS, seconds=200, seed=3)
    # 4 / 64 ms = 62.5 lines/s beats 1 / 20 ms = 50; a batch of 8 is beyond what the demo allows.
    assert (surge.capacity_rps, surge.best_batch, surge.one_line_ms) == (62.5, 4, 20.0)
    # 8 * 20 ms = 160 ms, a multiple of 10.
    assert surge.slo_ms == 160.0
    assert (surge.from_s, surge.to_s) == (60, 140)
    counts = np.array(surge.counts)
    # Means 0.4 * 62.5 = 25 over 120 s and 1.3 * 62.5 = 81.25 over 80 s;
    # standard errors sqrt(25/120) = 0.46 and sqrt(81.25/80) = 1.01.
    calm, busy = np.concatenate([counts[:60], counts[140:]]), counts[60:140]
    assert abs(calm.mean() - 25) < 4 * 0.46
    assert abs(busy.mean() - 81.25) < 4 * 1.01
    assert surge == plan_surge(CELLS, seconds=200, seed=3)


def test_the_slo_is_rounded_up_to_ten_milliseconds() -> None:
    # 8 * 17.3 = 138.4 -> 140.
    assert plan_surge([Cell(1, 1, 17.3)], seconds=20, seed=1).slo_ms == 140.0


def test_equal_batches_prefer_the_smaller() -> None:
    assert plan_surge([Cell(1, 1, 10.0), Cell(4, 1, 40.0)], seconds=20, seed=1).best_batch == 1


@pytest.mark.parametrize(
    ("cells", "seconds", "message"),
    [([Cell(1, 2, 9.0)], 50, "no single line on one core"), (CELLS, 3, "want at least 12, got 3")],
)
def test_too_little_to_plan_with_is_refused(cells: list[Cell], seconds: int, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        plan_surge(cells, seconds=seconds, seed=1)


@pytest.mark.parametrize(
    ("mean_cores", "expected"),
    [(1.4, [1, 2]), (1.0, [1]), (2.0, [2]), (0.6, [1]), (2.3, [2]), (1.0 + 1e-12, [1])],
)
def test_fixed_allocations_lie_just_below_and_above_the_mean(mean_cores: float, expected: list[int]) -> None:
    assert fixed_allocations(mean_cores) == expected


def test_the_spec_is_one_that_steelyard_reads(tmp_path: Path) -> None:
    (tmp_path / "rec.onnx").touch()
    write_spec(tmp_path / "demo.yaml", tmp_path / "rec.onnx", slo_ms=140.0, fixed_batch=1)
    spec = load_spec(tmp_path / "demo.yaml").spec
    assert list(spec.services) == ["lines"]
    assert set(spec.policies) == {"fixed-1", "fixed-2"}
