"""Ladders of a stage of which one row takes 0.1 / c s plus 0.02 s, and two rows 0.1 s / c + 0.06 s."""

import numpy as np
import pytest

from steelyard.plan.ladder import StageLadders

TIMES = ((0.12, 0.07), (0.16, 0.11))


def test_cores_are_spread_evenly_and_the_best_batch_counts() -> None:
    # One core: single rows 1 / 0.12 = 8.33/s, pairs 2 / 0.16 = 12.5/s. Two cores: 2 / 0.11 = 18.18/s.
    ladder = StageLadders(TIMES, parks=False).of(2)
    assert ladder.cores.tolist() == [2, 3, 4]
    assert ladder.rates.tolist() == pytest.approx([25.0, 12.5 + 2 / 0.11, 4 / 0.11])
    assert ladder.rows.tolist() == [2, 2, 2]
    assert ladder.busy_s.tolist() == [0.16, 0.16, 0.11]


def test_replicas_without_cores_are_parked() -> None:
    # One of two on one core: 12.5/s. Two cores carry 18.18/s on one replica, 25/s on two.
    ladder = StageLadders(TIMES).of(2)
    assert ladder.cores.tolist() == [1, 2, 3, 4]
    assert ladder.active.tolist() == [1, 2, 2, 2]
    assert ladder.rates.tolist() == pytest.approx([12.5, 25.0, 12.5 + 2 / 0.11, 4 / 0.11])
    assert StageLadders(TIMES).of(1).active.tolist() == [1, 1]


def test_where_one_core_is_too_slow_fewer_replicas_have_two() -> None:
    # Single rows must be within 0.1 s: 0.07 s on two cores. An odd core is of no use.
    ladder = StageLadders(TIMES, 0.1).of(3)
    assert ladder.active.tolist()[1::2] == [1, 2, 3]
    assert ladder.rates.tolist() == pytest.approx([n / 0.07 for n in (0, 1, 0, 2, 0, 3)])
    assert ladder.entry_for(np.full(6, 15.0)) == 3


def test_a_batch_and_the_wait_for_a_replica_keep_the_budget() -> None:
    # Pairs and the wait: 0.16 x 1.5 = 0.24 s on two replicas, 0.16 x 2 = 0.32 s on one; 0.22 s on two cores.
    ladders = StageLadders(TIMES, 0.24)
    assert ladders.of(2).rows.tolist() == [1, 2, 2, 2]
    assert ladders.of(1).rows.tolist() == [1, 2]
    assert ladders.of(1).rates.tolist() == pytest.approx([1 / 0.12, 2 / 0.11])


def test_a_budget_below_a_single_row_carries_nothing() -> None:
    ladder = StageLadders(TIMES, 0.1).of(1)
    assert ladder.rates.tolist() == pytest.approx([0.0, 1 / 0.07])
    assert ladder.entry_for(np.zeros(2)) == 1  # even without any traffic


def test_a_smaller_batch_that_is_nearly_as_good_is_preferred() -> None:
    # 2 / 0.199 = 10.05/s are less than 1 % more than 1 / 0.1 = 10/s
    assert StageLadders(((0.1,), (0.199,))).of(1).rows.tolist() == [1]


def test_the_first_entry_that_carries_what_is_asked_of_it() -> None:
    ladder = StageLadders(TIMES).of(2)  # 12.5, 25, 30.7 and 36.4 rows/s
    assert ladder.entry_for(np.full(4, 24.0)) == 1
    assert ladder.entry_for(np.array([13.0, 26.0, 31.0, 36.0])) == 3
    assert ladder.entry_for(np.full(4, 99.0)) == 3  # none does: what carries most


def test_cores_for_a_rate_in_the_mean() -> None:
    # Two replicas: 12.5/s at 1 core, 25 at 2, 30.68 at 3, 36.36 at 4. Halfway between takes half a core, and
    # 72.73 is as much again as the most cores carry.
    rates = np.array([0.0, 25.0, 25.0 + (2 / 0.11 - 12.5) / 2, 4 / 0.11, 8 / 0.11])
    assert StageLadders(TIMES).cores_for(2, rates, 100.0).tolist() == pytest.approx([1, 2, 2.5, 4, 104])
    awake = StageLadders(TIMES, parks=False)
    assert awake.cores_for(2, rates, 100.0).tolist() == pytest.approx([2, 2, 2.5, 4, 104])
