import pytest
from msgspec.structs import replace

from steelyard.core.errors import ProfileError, SpecError
from steelyard.core.types import Stage, Variant
from steelyard.plan.problem import PlannedService, PlanProblem, PlanStage, stage_of, tabulate

ONE = ((0.1,),)


class Times:
    """10 ms a row, divided by the cores; the tail is twice that."""

    def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        return 0.01 * rows / cores

    def service_time_s_p99(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        return 0.02 * rows / cores


def test_a_table_has_a_line_a_batch_and_a_column_a_size() -> None:
    assert tabulate(lambda rows, cores: rows / cores, 2, 3) == ((1.0, 1 / 2, 1 / 3), (2.0, 1.0, 2 / 3))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_table_of_anything_but_positive_times_is_refused(value: float) -> None:
    with pytest.raises(ProfileError, match=rf"2 rows on 1 cores take {value} s: want a time > 0"):
        tabulate(lambda rows, cores: value if rows == 2 else 1.0, 2, 1)


def test_a_stage_of_a_service_takes_its_profile_over() -> None:
    stage = Stage("read", (Variant("v", batch_rows_max=2, cores_max=4),), after=("crop",), fan_out=3)
    made = stage_of(stage, stage.variants[0], Times(), cores_max=2, ratio=1.5)
    assert (made.name, made.after, made.fan_out) == ("read", ("crop",), 3.0)
    assert (made.rows_max, made.cores_max) == (2, 2)
    assert made.service_time_s[1][1] == pytest.approx(1.5 * 0.01 * 2 / 2)
    assert made.latency_s[0][0] == pytest.approx(1.5 * 0.02)


def test_edges_are_checked() -> None:
    a, b = PlanStage("a", ONE), PlanStage("b", ONE, after=("a",))
    assert PlanProblem("s", (a, b), 1.0, 1.0).after() == ((), (0,))
    with pytest.raises(SpecError, match="stage b: after a, want one of those before it: none"):
        PlanProblem("s", (b, a), 1.0, 1.0).after()
    with pytest.raises(SpecError, match="stage a: there are two of that name"):
        PlanProblem("s", (a, a), 1.0, 1.0).after()


def test_the_gap_is_a_share_of_the_bound() -> None:
    plan = PlannedService("s", (), 1.0, 11.0, 10.0)
    assert plan.gap == pytest.approx(0.1)
    assert replace(plan, cost_bound=11.0).gap == 0.0
    assert replace(plan, cost_bound=11.0 - 1e-12).gap == 0.0
