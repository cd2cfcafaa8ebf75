"""Surges are found by the stated rule, apart from each other, and nowhere near missing seconds."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from surges import ONSET_AT_S, filled, like_the_papers, surges

SECONDS = 6000


def series(path: Path, *steps: tuple[int, int, int], missing: tuple[int, ...] = ()) -> Path:
    """50 requests a second, and other counts in `[from_s, to_s)`; zeros where data is missing."""
    counts = np.full(SECONDS, 50)
    for from_s, to_s, count in steps:
        counts[from_s:to_s] = count
    counts[list(missing)] = 0
    path.write_bytes(gzip.compress("\n".join(map(str, counts)).encode()))
    return path


def test_the_steepest_comes_first_and_slices_do_not_overlap(tmp_path: Path) -> None:
    trace = series(tmp_path / "a.gz", (1000, 1300, 160), (1400, 1500, 170), (3000, 3300, 200))
    found = surges(trace, 2)
    # 200 / 50 = 4 at second 3000. At 1400 it would be 170 / 50, but 160 / 50 at 1000 is nearer than 660 s to
    # it and less steep, so 1400 is taken and 1000 is not.
    assert [each.onset_s for each in found] == [3000, 1400]
    assert found[0].growth == pytest.approx(4.0)
    assert found[0].from_s == 3000 - ONSET_AT_S


def test_a_slice_with_missing_seconds_is_not_taken(tmp_path: Path) -> None:
    steps = ((1000, 1300, 200), (3000, 3300, 160))
    trace = series(tmp_path / "b.gz", *steps, missing=(1200,))
    found = surges(trace, 1)
    assert abs(found[0].onset_s - 3000) < 10


def test_missing_seconds_are_straight_lines(tmp_path: Path) -> None:
    assert filled(np.array([10, 0, 0, 40])).tolist() == [10.0, 20.0, 30.0, 40.0]


def test_too_few_surges_are_an_error(tmp_path: Path) -> None:
    trace = series(tmp_path / "c.gz", (1000, 1300, 140))  # 2.8 times
    with pytest.raises(SystemExit, match="0 surges of at least 3x, want 1"):
        surges(trace, 1)


def test_the_slice_like_the_papers_is_found(tmp_path: Path) -> None:
    # 50, then 171, then 220 until 320 s after the onset, then 50 again: the papers' levels exactly.
    trace = series(tmp_path / "d.gz", (1000, 1300, 300), (4000, 4020, 171), (4020, 4320, 220))
    assert like_the_papers(trace).onset_s == 4000
