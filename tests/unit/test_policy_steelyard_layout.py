"""When the default policy's plan lets a stage hold batches, by what that can save."""

import pytest

from steelyard.core.plan import ReplicaPlan
from steelyard.core.types import Stage, Variant
from steelyard.policies.steelyard.knob import AS_IT_COMES, Knob, knob_at
from steelyard.policies.steelyard.layout import StageLayout, layouts_of
from steelyard.policies.steelyard.sizing import StageSizing
from steelyard.policies.steelyard.targets import StageTarget
from steelyard.profile.times import CoefficientTimes

LOOSE = knob_at(0.07)
WAIT_S = 0.1


def sizing(name: str, *, row_ms: float, batch_ms: float) -> StageSizing:
    """Of a stage that takes so long for each row and each batch, whatever its cores."""
    stage = Stage(name, (Variant("m", None, 8, 4),))
    return StageSizing(stage, CoefficientTimes(0.0, row_ms, 0.0, batch_ms))


def layouts(
    *stages: StageSizing, rows: int = 4, knob: Knob = LOOSE, least: float = 1.0
) -> tuple[StageLayout, ...]:
    return layouts_of(stages, [StageTarget(rows, 1.0, 0.05, WAIT_S, rows, least)] * len(stages), knob)


# 20 core-ms for a single row, (10 * 4 + 10) / 4 = 12.5 for one of four: 7.5 saved.
BATCHES = sizing("batches", row_ms=10.0, batch_ms=10.0)


def test_batches_are_held_where_that_can_save_cores() -> None:
    (alone,) = layouts(BATCHES)
    assert alone.saves == pytest.approx(7.5 / 12.5)
    assert alone.hold_s(2.0) == pytest.approx(LOOSE.hold_share * WAIT_S)


def test_what_saves_little_of_a_request_is_not_waited_for() -> None:
    # Beside 20 core-ms elsewhere 7.5 of 32.5 are saved: 23 %. Beside 30 of 42.5: 18 %.
    held, _ = layouts(BATCHES, sizing("other", row_ms=20.0, batch_ms=0.0))
    assert held.saves == pytest.approx(7.5 / 32.5)
    assert held.hold_s(8.0) > 0.0
    small, other = layouts(BATCHES, sizing("other", row_ms=30.0, batch_ms=0.0))
    assert small.hold_s(8.0) == other.hold_s(8.0) == 0.0


def test_rows_that_a_stage_makes_of_one_count() -> None:
    # Of each row four: 4 * 7.5 of 4 * 12.5 + 30 are saved.
    fanned = sizing("batches", row_ms=10.0, batch_ms=10.0)
    fanned.fan_out = 4.0
    held, _ = layouts(fanned, sizing("other", row_ms=30.0, batch_ms=0.0))
    assert held.saves == pytest.approx(30.0 / 80.0)


def test_the_least_cores_of_a_stage_cannot_be_saved() -> None:
    (whole,) = layouts(BATCHES)
    assert whole.hold_s(1.0) == 0.0
    (parts,) = layouts(BATCHES, least=0.5)
    assert parts.hold_s(1.0) > 0.0  # half of it could be given up
    assert parts.hold_s(0.5) == 0.0


def test_single_rows_wait_for_nobody() -> None:
    (single,) = layouts(BATCHES, rows=1)
    assert single.hold_s(8.0) == 0.0


def test_untouched_nothing_is_held() -> None:
    (untouched,) = layouts(BATCHES, knob=AS_IT_COMES)
    assert untouched.hold_s(8.0) == 0.0


def test_parked_replicas_do_not_count() -> None:
    active, parked = ReplicaPlan(1.0, ("m",), "local"), ReplicaPlan(0.0, ("m",), "local")
    (made,) = layouts(BATCHES)
    assert made.plan((active, parked)).hold_s_max == 0.0
    assert made.plan((active, active)).hold_s_max == made.hold_s(2.0) > 0.0
