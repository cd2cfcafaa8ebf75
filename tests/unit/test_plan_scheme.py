"""Schemes for pipelines of which a row takes 0.1 s on one core and 0.07 s on two (10 and 14.3 rows/s)."""

import numpy as np
import pytest

from steelyard.plan.scheme import STEPS, KnownStage, best_scheme, drawn_rows, longest_s, scheme_of


def stage(
    name: str, *after: str, table: tuple[tuple[float, ...], ...] = ((0.1, 0.07),), parks: bool = False
) -> KnownStage:
    return KnownStage(name, after, 1, table, 6.0, parks)


def counts(*runs: tuple[int, int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.concatenate([np.full(seconds, rows, dtype=np.int64) for seconds, rows in runs])


def test_rows_are_drawn_into_their_own_second() -> None:
    drawn = drawn_rows(counts((1, 3), (1, 0), (1, 50)))
    assert drawn.reshape(3, STEPS).sum(axis=1).tolist() == [3.0, 0.0, 50.0]
    assert drawn.tolist() == drawn_rows(counts((1, 3), (1, 0), (1, 50))).tolist()


def test_a_constant_rate_has_constant_replicas() -> None:
    # 39 rows/s in 60 s, served in 62: 37.7/s. Four carry 40/s; three would need 3 + 7.7 / 4.29 = 4.8 cores.
    # With patience of 2 s the draw hardly matters.
    scheme = scheme_of([stage("a")], counts((60, 39)), [0.2], slack_s=2.2, cores=16)
    assert scheme.patience_s == pytest.approx(2.0)
    assert set(scheme.replicas[0][5:55].tolist()) == {4}
    assert scheme.core_seconds == pytest.approx(4 * 62, rel=0.05)  # the last rows may be served 2 s later


def test_a_peak_shorter_than_a_cold_start_is_carried_by_cores() -> None:
    # 25 for 4 s among 18 rows/s: two replicas carry 20/s on 2 cores, 28.6/s on 4: 8 core-seconds more than at
    # most, where a third replica costs 6 for its start and 4 for itself.
    short = scheme_of([stage("a")], counts((30, 18), (4, 25), (30, 18)), [0.2], slack_s=0.7, cores=16)
    assert short.replicas[0].max() == 2
    # 38 for 40 s: two cannot carry it at all
    long = scheme_of([stage("a")], counts((30, 18), (40, 38), (30, 18)), [0.2], slack_s=0.7, cores=16)
    assert set(long.replicas[0][32:68].tolist()) == {4}
    assert set(long.replicas[0][:25].tolist()) == {2}


def test_replicas_that_may_be_parked_stay_and_those_of_the_first_half_minute_are_there() -> None:
    # 38 rows/s for 10 s, twice. A replica more costs 6 core-seconds to start; parked it costs nothing, and
    # the second peak needs no start.
    rows = counts((40, 8), (10, 38), (40, 8), (10, 38), (20, 8))
    parked = scheme_of([stage("a", parks=True)], rows, [0.2], slack_s=1.2, cores=16)
    assert parked.first == (1,)
    assert set(parked.replicas[0][41:99].tolist()) == {4}
    awake = scheme_of([stage("a")], rows, [0.2], slack_s=1.2, cores=16)
    assert awake.replicas[0][60:80].max() == 1
    assert parked.core_seconds < awake.core_seconds - 15
    early = scheme_of([stage("a", parks=True)], counts((10, 38), (50, 8)), [0.2], slack_s=1.2, cores=16)
    assert early.first == (4,)


def test_the_stage_behind_gets_the_flow_later() -> None:
    # Three replicas from second 10 on; behind the first stage's budget of 3 s that is second 13. (A first
    # replica too many costs nothing but its core.)
    chain = [stage("a"), stage("b", "a")]
    scheme = scheme_of(chain, counts((10, 8), (40, 27)), [3.0, 0.2], slack_s=4.2, cores=16)
    first, second = (int(np.argmax(replicas >= 3)) for replicas in scheme.replicas)
    assert (first, second) == (10, 13)


def test_the_longest_path_counts() -> None:
    # a then b and c side by side, then d: 0.1 + max(0.2, 0.4) + 0.1
    graph = [stage("a"), stage("b", "a"), stage("c", "a"), stage("d", "b", "c")]
    assert longest_s(graph, [0.1, 0.2, 0.4, 0.1]) == pytest.approx(0.6)


def test_patience_is_worth_more_than_a_batch_where_batches_gain_nothing() -> None:
    # Two rows take twice as long as one: single rows, and all the rest is patience.
    scheme = best_scheme([stage("a", table=((0.1,), (0.2,)))], counts((60, 35)), slack_s=1.0, cores=16)
    assert scheme.ladders[0].of(4).rows.tolist() == [1]
    # Two rows in the time of one: the batch is taken, and half the cores do.
    better = best_scheme([stage("a", table=((0.1,), (0.1,)))], counts((60, 35)), slack_s=1.0, cores=16)
    assert better.ladders[0].of(2).rows.tolist() == [2]
    assert better.core_seconds < 0.6 * scheme.core_seconds


def test_an_slo_that_nothing_meets_takes_the_fastest() -> None:
    scheme = best_scheme([stage("a")], counts((10, 5)), slack_s=0.05, cores=4)
    assert scheme.patience_s == 0.0
    assert scheme.ladders[0].budget_s == pytest.approx(0.14)  # 0.07 s on two cores, and as much for the wait


def test_without_traffic_one_replica_each() -> None:
    for rows in (counts((5, 0)), np.zeros(0, dtype=np.int64)):
        scheme = best_scheme([stage("a"), stage("b", "a")], rows, slack_s=1.0, cores=4)
        assert all(set(replicas.tolist()) <= {1} for replicas in scheme.replicas)
