from collections.abc import Callable
from itertools import product
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.plan.themis import (
    Choice,
    ThemisStage,
    capacity_rps,
    horizontal,
    vertical,
    vertical_with_extra,
)


def coefficients(alpha: float, beta: float, gamma: float, zeta: float) -> Callable[[int, int], float]:
    return lambda rows, cores: alpha * rows / cores + beta * rows + gamma / cores + zeta


YOLO = ThemisStage(coefficients(148.8, 37.5, 5.4, -15.5), 8, 8)
RESNET = ThemisStage(coefficients(34.7, 2.06, 19.5, 14.3), 8, 8)
VIDEO = (YOLO, RESNET)
SLO_MS = 780


def test_capacity_counts_the_fill_time_as_busy() -> None:
    # l(1, 1) = 148.8 + 37.5 + 5.4 - 15.5 = 176.2 ms, so 5.675 rows/s
    assert capacity_rps(YOLO, 1, 1, 10.0) == pytest.approx(1000 / 176.2)
    # l(2, 1) = 297.6 + 75 + 5.4 - 15.5 = 362.5 ms; q(2) = 100 ms at 10/s: 2000 / 462.5
    assert capacity_rps(YOLO, 2, 1, 10.0) == pytest.approx(2000 / 462.5)


def test_horizontal_on_the_video_pipeline() -> None:
    # YOLOv5n at 10/s: b = 1 needs ceil(10 x 176.2 / 1000) = 2 replicas, b = 2 ceil(10 x 462.5 / 2000) = 3.
    # ResNet18: l(1, 1) = 34.7 + 2.06 + 19.5 + 14.3 = 70.56 ms: ceil(0.7056) = 1. In all 3 cores, 177 + 71 ms.
    assert horizontal(VIDEO, 10, SLO_MS) == (Choice(2, 1, 1, 177), Choice(1, 1, 1, 71))


def test_horizontal_has_no_answer_when_one_core_is_too_slow() -> None:
    # 177 + 71 = 248 ms are the least; budgets go up to T - 1
    assert horizontal(VIDEO, 5, 248) is None
    assert horizontal(VIDEO, 5, 249) is not None


def test_vertical_takes_the_fewest_cores_a_replica() -> None:
    # With 2 + 1 replicas at 20/s YOLOv5n must give 10 each: l(1, c) <= 100 ms.
    # c = 2: 74.4 + 37.5 + 2.7 - 15.5 = 99.1 ms, 10.09/s each: enough.
    # ResNet18, alone at 20/s, l <= 50: c = 2: 17.35 + 2.06 + 9.75 + 14.3 = 43.46 ms: enough, 70.56 is not;
    # but a batch of 3 on one core: 104.1 + 6.18 + 19.5 + 14.3 = 144.08 and q = 100: 3000 / 244.08 = 12.3: no.
    assert vertical(VIDEO, 20, SLO_MS, (2, 1)) == (Choice(2, 2, 1, 100), Choice(1, 2, 1, 44))


def test_the_vertical_objective_is_the_sum_of_cores_not_of_replicas_times_cores() -> None:
    # Both stages alike. 20 ms are to be saved, which a second core does on either; of equal sums the first
    # listed wins, although the first stage has 5 replicas and the second only 1.
    stage = ThemisStage(lambda rows, cores: 40.0 / cores, 2, 1)
    assert vertical((stage, stage), 1, 61, (5, 1)) in (
        (Choice(5, 2, 1, 20), Choice(1, 1, 1, 40)),
        (Choice(5, 1, 1, 40), Choice(1, 2, 1, 20)),
    )


def test_extra_replicas_carry_what_the_largest_feasible_rate_leaves() -> None:
    # One replica of YOLOv5n, 2 cores at most: l(1, 2) = 99.1 ms -> 10.09/s. At 25/s the largest feasible
    # rate is 10, and 15 / 10.09 -> 2 more replicas. No larger batch is better: at 10/s a batch of 2 waits
    # 100 ms: 148.8 + 75 + 2.7 - 15.5 = 211 ms, 2000 / 311 = 6.4/s.
    small = YOLO._replace(cores_max=2)
    choices, extra = vertical_with_extra((small,), 25, SLO_MS, (1,))
    assert choices == (Choice(1, 2, 1, 100),)
    assert extra == (2,)


def test_nothing_extra_where_cores_carry_it() -> None:
    assert vertical_with_extra(VIDEO, 20, SLO_MS, (2, 1))[1] == (0, 0)


def test_a_rate_of_zero_is_one_core_and_one_replica() -> None:
    assert horizontal(VIDEO, 0, SLO_MS) == (Choice(1, 1, 1, 177), Choice(1, 1, 1, 71))
    assert vertical(VIDEO, 0, SLO_MS, (3, 2)) == (Choice(3, 1, 1, 177), Choice(2, 1, 1, 71))


def test_an_slo_that_nothing_meets_takes_all_cores() -> None:
    slow = ThemisStage(lambda rows, cores: 100.0 * rows / cores, 4, 4)
    choices, extra = vertical_with_extra((slow,), 50, 20, (1,))  # 25 ms at best
    assert choices == (Choice(1, 4, 1, 25),)
    assert extra == (1,)  # 40/s are carried, 10 are left: one more


stage_numbers = st.tuples(st.integers(1, 60), st.integers(0, 20), st.integers(0, 30), st.integers(1, 30))


@given(st.lists(stage_numbers, min_size=1, max_size=2), st.integers(1, 60), st.integers(20, 400))
def test_both_programs_are_as_cheap_as_by_brute_force(
    numbers: list[tuple[int, int, int, int]], rate: int, slo_ms: int
) -> None:
    stages = [ThemisStage(coefficients(*(float(x) for x in n)), 3, 3) for n in numbers]

    def time_ms(stage: ThemisStage, rows: int, cores: int) -> int:
        return ceil(stage.latency_ms(rows, cores) + (rows - 1) * 1000.0 / rate)

    ours = horizontal(stages, rate, slo_ms)
    costs = [
        sum(ceil(rate / capacity_rps(s, b, 1, rate)) for s, b in zip(stages, rows, strict=True))
        for rows in product(range(1, 4), repeat=len(stages))
        if sum(time_ms(s, b, 1) for s, b in zip(stages, rows, strict=True)) <= slo_ms - 1
    ]
    assert (sum(c.replicas for c in ours) if ours else None) == min(costs, default=None)

    replicas = tuple(1 + i for i in range(len(stages)))
    upright = vertical(stages, rate, slo_ms, replicas)
    cells = list(product(range(1, 4), range(1, 4)))
    sums = [
        sum(cores for _, cores in cell)
        for cell in product(cells, repeat=len(stages))
        if all(
            n * capacity_rps(s, b, c, rate) >= rate
            for s, n, (b, c) in zip(stages, replicas, cell, strict=True)
        )
        and sum(time_ms(s, b, c) for s, (b, c) in zip(stages, cell, strict=True)) <= slo_ms - 1
    ]
    assert (sum(c.cores for c in upright) if upright else None) == min(sums, default=None)
