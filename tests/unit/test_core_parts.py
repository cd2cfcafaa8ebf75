"""The parts of a stage: queue, corrections, estimates, mix, routing."""

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.estimate import Estimator
from steelyard.core.events import ReplicaReady, ReplicaResized
from steelyard.core.lifecycle import Replica, ReplicaPool
from steelyard.core.mix import VariantMix
from steelyard.core.plan import Order, VariantShare
from steelyard.core.queue import StageQueue
from steelyard.core.residuals import Residuals
from steelyard.core.routing import LeastFinish, RoundRobin
from steelyard.core.stage import StageState
from steelyard.core.types import Stage, Variant
from steelyard.core.work import OpenRequest, Piece, Visit
from steelyard.testing.builders import STAGE, TableTimes, make_request

TABLE = TableTimes({1: 0.010, 8: 0.020})
STAGE_OF_ONE = Stage(STAGE, (Variant("model", batch_rows_max=8, cores_max=2),))
MAIN = StageState(STAGE_OF_ONE, TABLE, None, queue_rows_max=100)


def make_piece(
    sequence: int, due_s: float, *, rows: int = 1, key: str = "x", arrived_s: float = 0.0
) -> Piece:
    request = make_request(sequence, arrived_s, slo_s=due_s - arrived_s, rows=rows, batch_key=key)
    visit = Visit(OpenRequest(request, due_s), MAIN, rows, arrived_s)
    return Piece(visit, 0, rows, sequence)


class TestQueue:
    @given(
        due_s=st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=20),
        keys=st.lists(st.sampled_from("xyz"), min_size=20, max_size=20),
        order=st.sampled_from(["edf", "fifo"]),
        data=st.data(),
    )
    def test_it_is_sorted_whatever_comes_and_goes(
        self, due_s: list[float], keys: list[str], order: Order, data: st.DataObject
    ) -> None:
        queue = StageQueue(order)
        waiting = []
        for sequence, (due, key) in enumerate(zip(due_s, keys, strict=False)):
            piece = make_piece(sequence, due, key=key, rows=1 + sequence % 3, arrived_s=-float(sequence % 4))
            queue.add(piece)
            waiting.append(piece)
        waiting.sort(
            key=lambda piece: (piece.visit.arrived_s if order == "fifo" else piece.due_s, piece.sequence)
        )
        assert list(queue) == waiting
        gone = data.draw(st.sets(st.sampled_from(waiting), min_size=1))
        queue.take([piece for piece in waiting if piece in gone])
        left = [piece for piece in waiting if piece not in gone]
        assert list(queue) == left
        assert queue.rows == sum(piece.rows for piece in left)
        heads = [bucket[0][2] for bucket in queue.buckets()]
        assert [head.sequence for head in heads] == [
            piece.sequence for piece in left if piece.key not in {q.key for q in left[: left.index(piece)]}
        ]

    def test_rows_before_counts_all_that_are_not_later(self) -> None:
        queue = StageQueue()
        for sequence in range(4):
            queue.add(make_piece(sequence, 0.1 * (1 + sequence), rows=2))
        assert queue.rows_before(0.05) == 0
        assert queue.rows_before(0.2) == 4  # equals go before: they came first
        assert queue.rows_before(9.0) == 8


class TestResiduals:
    def test_nothing_observed_changes_nothing(self) -> None:
        assert Residuals().ratio("model", 1, 1.0) == 1.0

    def test_a_point_is_believed_in_proportion_to_its_evidence(self) -> None:
        residuals = Residuals()
        residuals.observe("model", 1, 1.0, 2.0, now_s=0.0)
        # Variant: log 2 from one batch. Point: log 2 with weight 1/5. Both say 2.
        assert residuals.ratio("model", 1, 1.0) == pytest.approx(2.0)
        residuals.observe("model", 8, 1.0, 1.0, now_s=0.0)
        # Variant: (log 2 + 0) / 2. Point of one row: 4/5 of that and 1/5 of log 2 = 0.6 log 2.
        assert residuals.ratio("model", 1, 1.0) == pytest.approx(exp(0.6 * log(2)))
        # A point that never ran has its variant's: 0.5 log 2. Another variant has none.
        assert residuals.ratio("model", 4, 2.0) == pytest.approx(2**0.5)
        assert residuals.ratio("other", 1, 1.0) == 1.0

    @given(st.lists(st.floats(0.0, 1e6), min_size=1))
    def test_corrections_are_bounded(self, ratios: list[float]) -> None:
        residuals = Residuals()
        for ratio in ratios:
            residuals.observe("model", 1, 1.0, ratio, now_s=0.0)
        assert 0.25 - 1e-9 <= residuals.ratio("model", 1, 1.0) <= 8.0 + 1e-9

    def test_it_follows_a_change_within_a_few_batches(self) -> None:
        residuals = Residuals()
        for _ in range(100):
            residuals.observe("model", 1, 1.0, 1.0, now_s=0.0)
        for _ in range(20):
            residuals.observe("model", 1, 1.0, 2.0, now_s=0.0)
        assert residuals.ratio("model", 1, 1.0) > 1.5

    def test_what_is_not_confirmed_fades(self) -> None:
        residuals = Residuals()
        residuals.observe("model", 1, 1.0, 4.0, now_s=10.0)
        residuals.fade(now_s=10.9)
        assert residuals.ratio("model", 1, 1.0) == pytest.approx(4.0)
        residuals.fade(now_s=12.0)
        assert residuals.ratio("model", 1, 1.0) == pytest.approx(4.0**0.25)
        assert residuals.mean_ratio == pytest.approx(4.0**0.25)


class TestEstimator:
    def test_the_correction_applies_at_once(self) -> None:
        estimator = Estimator(STAGE_OF_ONE, TABLE)
        assert estimator.service_s("model", 0, 1, 1.0) == pytest.approx(0.010)
        estimator.line("model", 0, 1.0).observe(1, 0.030, now_s=0.0)
        assert estimator.service_s("model", 0, 1, 1.0) == pytest.approx(0.030)

    def test_sizes_are_those_that_raise_throughput(self) -> None:
        # Rows a second: 100, 2/0.015 = 133, 3/0.024 = 125, 4/0.028 = 143, 8/0.06 = 133.
        table = TableTimes({1: 0.010, 2: 0.015, 3: 0.024, 4: 0.028, 8: 0.060})
        assert Estimator(STAGE_OF_ONE, table).sizes("model", 0, 1.0, 8) == (1, 2, 4)

    def test_a_model_that_gains_nothing_from_batches_has_one_size(self) -> None:
        assert Estimator(STAGE_OF_ONE, TableTimes({1: 0.010, 8: 0.080})).sizes("model", 0, 1.0, 8) == (1,)

    def test_rows_are_limited_by_plan_and_model(self) -> None:
        estimator = Estimator(STAGE_OF_ONE, TABLE)
        assert estimator.rows_max("model", 32) == 8
        assert estimator.rows_max("model", 4) == 4

    def test_cores_are_usable_up_to_what_the_variant_takes(self) -> None:
        estimator = Estimator(STAGE_OF_ONE, TABLE)
        assert estimator.cores_usable("model", 1.0, 0.5) == 1.5
        assert estimator.cores_usable("model", 1.0, 5.0) == 2.0
        assert estimator.cores_usable("model", 3.0, 5.0) == 3.0  # it has more than it can use: not taken away


class TestMix:
    @given(st.floats(0.05, 0.95), st.lists(st.integers(1, 8), min_size=50, max_size=50))
    def test_served_shares_stay_near_planned_ones(self, share: float, batches: list[int]) -> None:
        mix = VariantMix((VariantShare("a", share), VariantShare("b", 1 - share)))
        served = {"a": 0, "b": 0}
        for rows in batches:
            variant = mix.ranked(("b", "a"))[0]
            mix.serve(variant, rows)
            served[variant] += rows
        # The one that runs leads, so no credit ever passes the largest batch.
        assert abs(served["a"] - share * sum(batches)) <= 8

    def test_a_variant_that_was_away_does_not_take_over(self) -> None:
        mix = VariantMix((VariantShare("a", 0.5), VariantShare("b", 0.5)))
        for _ in range(1000):
            mix.serve("a", 1)
        streak = 0
        while mix.ranked(("a", "b"))[0] == "b":
            mix.serve("b", 1)
            streak += 1
        assert streak == 128  # credits of 64 rows each way, one row's two halves at a time

    def test_variants_without_a_share_answer_only_alone(self) -> None:
        mix = VariantMix((VariantShare("a", 1.0), VariantShare("b", 0.0)))
        assert mix.ranked(("b", "a")) == ("a",)
        assert mix.ranked(("b", "c")) == ("b",)


class TestRouting:
    def test_least_finish_takes_the_fastest_and_then_the_lowest_id(self) -> None:
        pool = ReplicaPool()
        for replica_id, cores in ((3, 1.0), (2, 2.0), (1, 1.0)):
            pool.ready(ReplicaReady(replica_id, STAGE, "local", cores, ("model",)))
        mix = VariantMix((VariantShare("model", 1.0),))
        router = LeastFinish(pool, Estimator(STAGE_OF_ONE, TABLE), mix)
        assert [replica.id for replica in router.order(pool.idle, make_piece(1, 1.0))] == [2, 1, 3]
        pool.resize(ReplicaResized(2, 1.0))  # now all of them are equally fast
        assert [replica.id for replica in router.order(pool.idle, make_piece(1, 1.0))] == [1, 2, 3]

    def test_round_robin_goes_on_after_the_last(self) -> None:
        router = RoundRobin()
        idle = {replica.id: replica for replica in (ready(3, 1.0), ready(2, 1.0), ready(1, 1.0))}
        order = []
        for _ in range(4):
            chosen = router.order(idle, make_piece(1, 1.0))[0]
            router.took(chosen)
            order.append(chosen.id)
        assert order == [1, 2, 3, 1]


def ready(replica_id: int, cores: float) -> Replica:
    pool = ReplicaPool()
    pool.ready(ReplicaReady(replica_id, STAGE, "local", cores, ("model",)))
    replica = pool.get(replica_id)
    assert replica is not None
    return replica
