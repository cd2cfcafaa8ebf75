"""Who must be answered sooner keeps a replica behind free in time, as long as others can wait.

A chain of `a` on two replicas (1, 2) and `b` on one (3), 10 ms a batch; the objective is 100 ms. Request 1
comes to `a` at 5 ms and so to `b` at 15; request 2 comes to `a` at 10 ms, and to `b` at 20. With a latency of
22 ms it must be done at 32: `b` must begin with it at 22, and a batch that begins at 15 ends at 25.
"""

import pytest

from steelyard.core.claims import CLAIMS_MAX
from steelyard.core.forming import SHED_LAG_S
from steelyard.core.types import Service, Stage, Variant
from steelyard.testing.bench import ServiceBench, batches, sequences
from steelyard.testing.builders import TableTimes

MODEL = Variant("m", None, batch_rows_max=4, cores_max=1)


def chain() -> ServiceBench:
    service = Service("ocr", 0.1, (Stage("a", (MODEL,)), Stage("b", (MODEL,), ("a",))), reply_s=0.0)
    bench = ServiceBench(service, TableTimes({1: 0.010}))
    for replica_id, stage in ((1, "a"), (2, "a"), (3, "b")):
        bench.ready(replica_id, variants=("m",), stage=stage)
    return bench


def at_15_ms(*, second_s: float, first_s: float = 0.1) -> ServiceBench:
    """Both have come, and request 1 has just come to `b`."""
    bench = chain()
    bench.now_s = 0.005
    bench.arrive(slo_s=first_s)
    bench.now_s = 0.010
    bench.arrive(slo_s=second_s)
    bench.complete(bench.machine.stages["a"].batches[1].replica.id, service_s=0.005)
    assert bench.now_s == pytest.approx(0.015)
    return bench


def begun(bench: ServiceBench) -> list[list[int]]:
    """The requests of each batch that the last event began."""
    return [sequences(batch) for batch in batches(bench.last)]


def test_a_batch_that_would_make_another_late_waits_and_takes_it_along() -> None:
    bench = at_15_ms(second_s=0.022)
    assert begun(bench) == []
    bench.complete(2, service_s=0.005)
    assert begun(bench) == [[2, 1]]  # the more urgent one first
    assert not bench.machine.stages["b"].claims.by_id


def test_whoever_asks_for_no_more_than_the_objective_claims_nothing() -> None:
    bench = at_15_ms(second_s=0.1)
    assert begun(bench) == [[1]]


def test_a_claim_that_can_be_kept_behind_the_batch_holds_nothing() -> None:
    # 15 + 10 + 10 = 35 ms, and request 2 has time until 36
    assert begun(at_15_ms(second_s=0.026)) == [[1]]


def test_who_could_not_wait_for_as_long_does_not() -> None:
    # request 1 is due at 5 + 36 = 41 ms; behind request 2, which is due at 32, it would take until 42
    assert begun(at_15_ms(second_s=0.022, first_s=0.036)) == [[1]]


def test_a_claim_ends_with_its_request() -> None:
    bench = at_15_ms(second_s=0.022)
    bench.now_s = 0.016
    bench.cancel(2)
    assert begun(bench) == [[1]]
    assert not bench.machine.stages["b"].claims.by_id


def test_a_claim_that_cannot_be_kept_any_more_holds_nothing() -> None:
    bench = at_15_ms(second_s=0.022)
    bench.wake()  # request 2 has not come
    assert bench.now_s == pytest.approx(0.022 + SHED_LAG_S)
    assert begun(bench) == [[1]]


def test_claims_are_few() -> None:
    bench = chain()
    for _ in range(CLAIMS_MAX + 10):
        bench.arrive(slo_s=0.099)
    assert len(bench.machine.stages["b"].claims.by_id) == CLAIMS_MAX
