"""Classes of requests: the order stays that of deadlines; weights say who is shed if not all can be served.

One row takes 10 ms, and a batch of eight 80: batches gain nothing, so each is one row.
"""

from steelyard.core.commands import Complete, Reject, Shed
from steelyard.core.events import RequestArrived
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Request, RequestId, Service, SloClass, Stage, Variant
from steelyard.testing.bench import ServiceBench, ends, sequences
from steelyard.testing.builders import TableTimes, make_plan, times_by_stage
from steelyard.testing.one_machine import GivenReplica, OneMachine

TIMES = TableTimes({1: 0.010, 8: 0.080})
SERVICE = Service(
    "ocr",
    0.1,
    (Stage("main", (Variant("model", batch_rows_max=8, cores_max=4),)),),
    reply_s=0.0,
    classes={"gold": SloClass(0.1, 4.0), "plain": SloClass(0.1, 1.0)},
)
OPEN = StageRules(admission="open")


def request(sequence: int, arrived_s: float, slo_class: str, *, slo_s: float = 0.1) -> Request:
    return Request(RequestId(0, sequence), "ocr", 1, "x", arrived_s, arrived_s + slo_s, slo_class=slo_class)


def bench_with(rules: StageRules) -> ServiceBench:
    bench = ServiceBench(SERVICE, TIMES, make_plan(SERVICE, rules=rules))
    bench.ready()
    return bench


def arrive(bench: ServiceBench, sequence: int, slo_class: str, *, slo_s: float = 0.1) -> None:
    bench.tell(RequestArrived(request(sequence, bench.now_s, slo_class, slo_s=slo_s)))


def test_the_lighter_goes_so_that_the_heavier_is_in_time() -> None:
    # Free at 10 ms. Two plain ones are due at 30 and 31 ms, gold at 35: the three would end at 20, 30 and 40.
    # One has to go: the later of the plain ones.
    bench = bench_with(OPEN)
    arrive(bench, 1, "plain")
    arrive(bench, 2, "plain", slo_s=0.030)
    arrive(bench, 3, "plain", slo_s=0.031)
    arrive(bench, 4, "gold", slo_s=0.035)
    bench.complete()
    assert [n for n, end in ends(bench.last).items() if isinstance(end, Shed)] == [3]
    assert sequences(bench.running()) == [2]
    bench.complete()
    assert sequences(bench.running()) == [4]


def test_nobody_goes_for_somebody_of_the_same_weight() -> None:
    bench = bench_with(OPEN)
    arrive(bench, 1, "gold")
    for sequence, slo_s in ((2, 0.030), (3, 0.031), (4, 0.035)):
        arrive(bench, sequence, "gold", slo_s=slo_s)
    bench.complete()
    assert not any(isinstance(end, Shed) for end in ends(bench.last).values())
    assert sequences(bench.running()) == [2]


def test_nobody_goes_while_all_can_be_served() -> None:
    bench = bench_with(OPEN)
    arrive(bench, 1, "plain")
    arrive(bench, 2, "plain", slo_s=0.030)
    arrive(bench, 3, "gold", slo_s=0.035)
    bench.complete()
    assert not any(isinstance(end, Shed) for end in ends(bench.last).values())


def test_a_heavier_one_is_admitted_over_lighter_ones() -> None:
    # Nine wait before it: it would end at 110 ms. Only those as heavy count.
    bench = bench_with(StageRules())
    for sequence in range(1, 11):
        arrive(bench, sequence, "plain")
    arrive(bench, 11, "plain")
    assert isinstance(ends(bench.last)[11], Reject)
    arrive(bench, 12, "gold")
    assert not ends(bench.last)


def test_under_twice_the_load_the_heavier_class_is_served() -> None:
    """200 a second where 100 can be served, a quarter of them gold: those fit, and nearly all make it."""
    machine = ServiceMachine(SERVICE, times_by_stage(SERVICE, TIMES), make_plan(SERVICE))
    arrivals = [request(n, n / 200, "gold" if n % 4 == 0 else "plain") for n in range(1000)]

    def sample_s(variant: str, bucket: int, rows: int, cores: float) -> float:
        return TIMES.service_time_s(variant, bucket, rows, cores)

    outcomes = OneMachine(machine, [GivenReplica(1.0, ("model",))], arrivals, sample_s).run()
    served = {"gold": 0, "plain": 0}
    for outcome in outcomes.values():
        served[outcome.request.slo_class] += isinstance(outcome.end, Complete) and not outcome.end.late
    assert served["gold"] >= 0.98 * 250
    assert served["gold"] + served["plain"] >= 480  # of 500 that could be served in 5 s
