"""The surge of the page demo, from what stages were measured to take."""

import pytest

from steelyard.core.errors import ProfileError
from steelyard.demo.pages.tour import plan_pages


def row(model: str, variant: str, batch: int, p50_ms: float, cores: int = 1) -> dict[str, object]:
    return {
        "model": model,
        "variant": variant,
        "batch": batch,
        "cores": cores,
        "latency_ms": {"p50": p50_ms},
    }


ROWS = [
    row("detector", "small", 1, 80.0),
    row("detector", "small", 2, 170.0),  # 85 a page: batches gain nothing
    row("detector", "tiny", 1, 30.0),
    row("crop", "crop", 1, 4.0),
    row("classifier", "upright", 1, 2.0),
    row("classifier", "upright", 16, 16.0),  # 1 a line
    row("reader", "small", 1, 16.0),
    row("reader", "small", 4, 60.0),  # 15 a line
    row("reader", "small", 1, 9.0, cores=2),
    row("text", "text", 1, 1.0),
]


def test_a_page_costs_its_stages_with_lines_in_their_best_batch() -> None:
    surge = plan_pages(ROWS, seconds=20, seed=1)
    # 80 + 4 + 8 * 1 + 8 * 15 + 1 = 213 ms a page; two cores answer 2,000 / 213 = 9.4 a second.
    assert surge.capacity_rps == pytest.approx(2000 / 213)
    # A quarter more from stage to stage: 266.25 ms; four times that, rounded up to 10 ms.
    assert surge.one_line_ms == pytest.approx(266.25)
    assert surge.slo_ms == 1070.0
    assert (surge.from_s, surge.to_s) == (6, 14)
    # 0.3 of it for 12 s and 1.3 for 8 s is 14 s' worth, 131 pages on average.
    assert 90 < sum(surge.counts) < 175


def test_a_stage_that_was_not_measured_is_named() -> None:
    with pytest.raises(ProfileError, match="nothing of text/text"):
        plan_pages(ROWS[:-1], seconds=20, seed=1)
    with pytest.raises(ProfileError, match="want at least 12, got 3"):
        plan_pages(ROWS, seconds=3, seed=1)
