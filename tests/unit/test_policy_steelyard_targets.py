"""How the default policy shares out a service's latency, and what a stage's replicas can do.

Times here are 10 b / c + 6 b / c' + 4 / c' ms for b rows on c cores with c' = min(c, 1), and the 0.99
quantile is the median times `TAIL` (log-normal, spread 0.05).
"""

from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.types import Service, ServiceTimes, Stage, Variant
from steelyard.plan.graph import longest_path_s
from steelyard.policies.steelyard.sizing import StageSizing
from steelyard.policies.steelyard.targets import LIMIT_GAIN, StageTarget, fitted, share_latency
from steelyard.profile.times import CoefficientTimes, DeclaredTimes
from steelyard.profile.types import DeclaredLatency

SLO_S = 0.16
TAIL = exp(0.05 * 2.3263)
EACH = CoefficientTimes(10.0, 6.0, 0.0, 4.0)


def table(*rows_ms: tuple[int, float]) -> ServiceTimes:
    """Measured times of a model that gains nothing from cores, without a tail."""
    return DeclaredTimes(
        DeclaredLatency(table=tuple((b, c, ms, ms) for b, ms in rows_ms for c in (1.0, 8.0)))
    )


def sizing_of(
    times: ServiceTimes = EACH,
    *,
    name: str = "read",
    batch: int = 8,
    cores_max: int = 2,
    after: tuple[str, ...] = (),
    step: float = 1.0,
) -> StageSizing:
    made = StageSizing(Stage(name, (Variant("m", None, batch, cores_max),), after), times)
    made.step = step
    return made


def targets_of(
    *sizings: StageSizing, slo_s: float = SLO_S, cores: float = 2.0, ratio: float = 1.0, room: float = inf
) -> tuple[StageTarget, ...]:
    service = Service("ocr", slo_s, tuple(s.stage for s in sizings))
    ratios = [ratio] * len(sizings)
    return fitted(share_latency(service, sizings, cores, ratios), sizings, ratios, room)


# Which batch and which cores


def test_the_cheapest_batch_that_leaves_time_to_wait() -> None:
    # One core: 20, 36, 52, 68 and 84 ms for 1 to 5 rows, so 20, 18, 17.3, 17 and 16.8 core-ms a row. Four
    # gain less than 2 % over three, five gain more. Of 159 ms 65 % are 103; five have a tail of 94.
    (target,) = targets_of(sizing_of())
    assert target.cores == 1.0
    assert target.rows == 5
    assert target.service_s == pytest.approx(0.084 * TAIL, rel=1e-3)


def test_a_model_that_batches_do_not_help_takes_single_rows() -> None:
    (target,) = targets_of(sizing_of(table((1, 20.0), (2, 40.0), (4, 82.0), (8, 170.0))))
    assert target.rows == 1


def test_cores_buy_the_time_that_one_core_does_not_have() -> None:
    # 40 ms a row on one core, 20 on two; 65 % of 49 ms are 32.
    (target,) = targets_of(sizing_of(CoefficientTimes(40.0, 0.0, 0.0, 0.0)), slo_s=0.05)
    assert (target.rows, target.cores) == (1, 2.0)


def test_where_nothing_is_fast_enough_the_fastest_is_taken() -> None:
    (target,) = targets_of(
        sizing_of(CoefficientTimes(80.0, 0.0, 0.0, 0.0), cores_max=4), slo_s=0.02, cores=3.0
    )
    assert (target.rows, target.cores) == (1, 3.0)


def test_a_replica_in_calm_times_has_no_more_cores_than_its_variant_and_node() -> None:
    slow = CoefficientTimes(80.0, 0.0, 0.0, 0.0)
    assert targets_of(sizing_of(slow, cores_max=2), slo_s=0.02, cores=8.0)[0].cores == 2.0
    assert targets_of(sizing_of(slow, cores_max=8), slo_s=0.02, cores=1.0)[0].cores == 1.0


def test_slower_than_profiled_means_smaller_batches() -> None:
    # At 1.6 times the profile five rows take 94 x 1.6 = 151 ms; two take 36 x 1.123 x 1.6 = 65, three 93.
    (target,) = targets_of(sizing_of(), ratio=1.6)
    assert target.rows == 3
    assert target.service_s == pytest.approx(0.052 * TAIL * 1.6, rel=1e-3)


# Waiting


def test_one_stage_may_wait_for_what_serving_leaves() -> None:
    (target,) = targets_of(sizing_of())
    assert target.wait_s == pytest.approx(SLO_S - 0.001 - target.service_s)


def chain(*milliseconds: float) -> list[StageSizing]:
    """Stages one after another that take this long for a row, without a tail."""
    names = [f"s{i}" for i in range(len(milliseconds))]
    return [
        sizing_of(table((1, ms), (8, 8 * ms)), name=names[i], after=(names[i - 1],) if i else ())
        for i, ms in enumerate(milliseconds)
    ]


def test_stages_share_the_waiting_half_evenly_and_half_by_their_service_times() -> None:
    # Of 100 ms less the reply's 1: 10 + 30 ms of service leave 59. Half of it evenly: 14.75 each; the other
    # half one to three: 7.375 and 22.125.
    first, second = targets_of(*chain(10.0, 30.0), slo_s=0.1)
    assert first.wait_s == pytest.approx(0.014_75 + 0.007_375)
    assert second.wait_s == pytest.approx(0.014_75 + 0.022_125)


@given(
    milliseconds=st.lists(st.floats(10.0, 40.0), min_size=1, max_size=4),
    slack=st.floats(2.5, 10.0),
)
def test_along_a_chain_serving_and_waiting_add_up_to_the_latency(
    milliseconds: list[float], slack: float
) -> None:
    slo_s = slack * sum(milliseconds) / 1000.0 + 0.001
    found = targets_of(*chain(*milliseconds), slo_s=slo_s)
    assert sum(t.service_s + t.wait_s for t in found) == pytest.approx(slo_s - 0.001)


def test_no_path_of_a_fork_and_join_takes_longer_than_the_latency() -> None:
    times = {"a": 10.0, "b": 20.0, "c": 40.0, "d": 5.0}
    sources = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
    sizings = [sizing_of(table((1, ms), (8, 8 * ms)), name=n, after=sources[n]) for n, ms in times.items()]
    found = targets_of(*sizings, slo_s=0.2)
    after = ((), (0,), (0,), (1, 2))
    total_s = longest_path_s(after, [t.service_s + t.wait_s for t in found])
    assert total_s == pytest.approx(0.199)  # a, c, d: the longest by service is the longest by both
    assert longest_path_s(after, [t.service_s for t in found]) == pytest.approx(0.055)


# Limits


def limits_of(four_ms: float) -> list[tuple[int, int]]:
    """(planned, largest) batch of two stages: 10 ms a row, but four rows in `four_ms`; 61 ms less 1."""
    times = table((1, 10.0), (2, 20.0), (3, 30.0), (4, four_ms))
    stages = sizing_of(times, name="a", batch=4), sizing_of(times, name="b", batch=4, after=("a",))
    return [(t.rows, t.limit) for t in targets_of(*stages, slo_s=0.061)]


def test_the_last_stage_may_form_batches_that_take_its_waiting_time_as_well() -> None:
    # Four rows in 30 ms are cheapest, but 30 + 10 ms are more than 65 % of 60, so single rows are planned.
    # (60 - 20) / 2 = 20 ms may be waited at each: the last stage's batch may take 10 + 20 ms, which is four
    # rows at 10 / 7.5 of the throughput; the first keeps to its single rows.
    assert limits_of(30.0) == [(1, 1), (1, 4)]


def test_no_batch_is_formed_that_is_hardly_cheaper_than_what_was_planned() -> None:
    # 30 ms for three rows fit as well, and save nothing; four rows in 37 ms would save 8 %, and do not fit.
    assert limits_of(37.0) == [(1, 1), (1, 1)]
    assert LIMIT_GAIN > 40 / 37


# Parts of a core


def test_where_a_node_enforces_parts_a_replica_may_have_as_little_as_one_row_in_time_takes() -> None:
    # Five rows on one core are planned, 94 ms. One row has a tail of 49.9 ms on half a core, and 97.4 on a
    # quarter: 20 / c x 1.123, and what a quota's period may add.
    (target,) = targets_of(sizing_of(step=0.25))
    assert (target.cores, target.least) == (1.0, 0.5)
    assert targets_of(sizing_of())[0].least == 1.0


def test_a_service_limited_to_a_part_of_a_core_is_sized_in_parts() -> None:
    sizing = sizing_of(step=0.25)
    assert sizing.sizes(0.5) == [0.25, 0.5]
    assert sizing.sizes(2.5) == [1.0, 2.0]
    assert targets_of(sizing, cores=0.5)[0].cores <= 0.5


# Rates


def reckoned(sizing: StageSizing, rows: int = 2) -> StageSizing:
    sizing.reckon_by(rows, 1.0, 0.1)
    return sizing


def test_a_rate_is_that_of_the_best_batch_reckoned_with() -> None:
    # 18.4, 28.5 (70/s), 73.8 (54/s), 187 ms: two rows are best, as on many convolutions
    sizing = reckoned(sizing_of(table((1, 18.4), (2, 28.5), (4, 73.8), (8, 187.0))), rows=8)
    assert sizing.rate_rps(1.0) == pytest.approx(2 / 0.0285)
    assert reckoned(sizing, rows=1).rate_rps(1.0) == pytest.approx(1 / 0.0184)


def test_a_replica_without_cores_carries_nothing() -> None:
    assert reckoned(sizing_of()).rate_rps(0.0) == 0.0


def test_parts_of_a_core_are_reckoned_by_batches_that_they_finish_in_time() -> None:
    # Half a core: 40 ms a row, 72 for two, 104 x 1.123 for three: over 100.
    sizing = reckoned(sizing_of(step=0.25), rows=5)
    assert sizing.rate_rps(0.5) == pytest.approx(2 / 0.072, rel=0.01)


def test_a_replica_is_given_cores_as_long_as_they_gain_something() -> None:
    # 10 / c + 10 ms: 20, 15, 13.3, 12.5 ms. Five cores gain 4 % over four (12 ms).
    sizing = reckoned(sizing_of(CoefficientTimes(10.0, 10.0, 0.0, 0.0), cores_max=8), rows=1)
    assert sizing.cores_most(1.0, 4.0) == 4.0
    fixed = reckoned(sizing_of(table((1, 20.0), (8, 160.0)), cores_max=8))
    assert fixed.cores_most(1.0, 8.0) == 1.0


# Cores for a need


def spread(sizing: StageSizing, need: float, replicas: int, *, most: float = 4.0) -> list[float]:
    return sizing.spread(need, replicas, least=sizing.step, base=1.0, most=most)


@pytest.fixture
def fifty() -> StageSizing:
    """Rows a second by cores: 50, 66.7, 75 and 80; single rows of 20, 15, 13.3 and 12.5 ms."""
    return reckoned(sizing_of(CoefficientTimes(10.0, 10.0, 0.0, 0.0), cores_max=4), rows=1)


def test_replicas_become_active_before_any_of_them_grows(fifty: StageSizing) -> None:
    assert spread(fifty, 0.0, 3) == [1.0, 0.0, 0.0]
    assert spread(fifty, 50.0, 3) == [1.0, 0.0, 0.0]
    assert spread(fifty, 51.0, 3) == [1.0, 1.0, 0.0]
    assert spread(fifty, 150.0, 3) == [1.0, 1.0, 1.0]


def test_then_they_grow_evenly(fifty: StageSizing) -> None:
    assert spread(fifty, 160.0, 3) == [2.0, 1.0, 1.0]  # 166.7
    assert spread(fifty, 190.0, 3) == [2.0, 2.0, 2.0]  # 2 x 66.7 + 50 = 183 is too little
    assert spread(fifty, 205.0, 3) == [3.0, 2.0, 2.0]
    assert spread(fifty, 999.0, 3) == [4.0, 4.0, 4.0]


def test_nobody_is_given_cores_that_is_not_there(fifty: StageSizing) -> None:
    assert spread(fifty, 100.0, 0) == []


@given(need=st.floats(0.0, 500.0), replicas=st.integers(1, 6), step=st.sampled_from([0.25, 0.5, 1.0]))
def test_the_need_is_carried_with_no_step_to_spare(need: float, replicas: int, step: float) -> None:
    sizing = reckoned(sizing_of(CoefficientTimes(10.0, 10.0, 0.0, 0.0), cores_max=4, step=step), rows=1)
    cores = spread(sizing, need, replicas)
    carried = sum(sizing.rate_rps(c) for c in cores)
    assert len(cores) == replicas
    assert cores == sorted(cores, reverse=True)
    assert carried >= need - 1e-6 or cores == [4.0] * replicas
    active = [c for c in cores if c]
    assert max(active) - min(active) <= step + 1e-9
    if len(active) > 1 or active[0] > step:  # a step less of the largest is too little
        largest = active[0]
        less = sizing.rate_rps(largest - step) if largest > step else 0.0
        assert carried - sizing.rate_rps(largest) + less < need


def test_more_stages_than_cores_get_parts_by_the_root_of_their_work() -> None:
    # 40, 10 and 10 ms of work on two cores in quarters: eight steps, of which each stage has one. The sum of
    # work over steps falls most by 40/1 - 40/2 = 20, then 40/6 = 6.7, then 5 (twice: 10/1 - 10/2), then 40/12
    # = 3.3: that is 4, 2 and 2 steps, in proportion to the roots.
    work = [CoefficientTimes(ms, 0.0, 0.0, 0.0) for ms in (40.0, 10.0, 10.0)]
    sizings = [
        sizing_of(times, name=f"s{i}", batch=1, step=0.25, after=(f"s{i - 1}",) if i else ())
        for i, times in enumerate(work)
    ]
    targets = targets_of(*sizings, slo_s=1.0, room=2.0)
    assert [target.cores for target in targets] == [1.0, 0.5, 0.5]
    assert [target.least for target in targets] == [0.25, 0.25, 0.25]
    # Half a core takes twice as long, and the tail a stall of half a period of 10 ms more.
    assert targets[1].service_s == pytest.approx(0.020 * TAIL + 0.005, rel=1e-3)
    # With fewer steps than stages, as in whole cores here, they stay what they are.
    for sizing in sizings:
        sizing.step = 1.0
    assert [target.cores for target in targets_of(*sizings, slo_s=1.0, room=2.0)] == [1.0, 1.0, 1.0]


def test_stages_that_want_more_whole_cores_than_there_are_share_those_there_are() -> None:
    # A row takes 20 ms on one core and 15 on two. Of 49 ms 65 % are 32, and two stages on two cores each take
    # 30 times `TAIL`, 34: so each takes the most, and what is there is shared.
    stages = (sizing_of(name="a"), sizing_of(name="b", after=("a",)))
    assert [t.cores for t in targets_of(*stages, slo_s=0.05, room=4.0)] == [2.0, 2.0]
    first, second = targets_of(*stages, slo_s=0.05, room=3.0)
    assert (first.cores, second.cores) == (2.0, 1.0)
    both = targets_of(*stages, slo_s=0.05, room=2.0)
    assert [(t.cores, t.least) for t in both] == [(1.0, 1.0), (1.0, 1.0)]
    assert both[0].service_s == pytest.approx(0.020 * TAIL, rel=1e-4)
