"""100 ms a row on one core, half of it on two; samples every minute.

Buckets: n = floor(ln(v x 0.05 / 0.01 + 1) / ln 1.05), and bucket n ends at 0.01 x (1.05^(n + 1) - 1) / 0.05.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.policies.vpa import DecayingHistogram, VpaScaler
from steelyard.testing.scaling import ShownMeter, group

DAY_S = 86_400.0


def scaler(*, replicas: int | None = None, cores_max: int = 8) -> VpaScaler:
    return VpaScaler(group(0.1, cores_max=cores_max), replicas=replicas, half_life_s=DAY_S)


def minutes(vpa: VpaScaler, busy: float, cores: int, count: int, from_minute: int = 0) -> list[int]:
    """Cores wanted at each of `count` ticks while `busy` cores are used of `cores`."""
    meter = ShownMeter(busy=busy)
    return [vpa.tick(meter.seen(1, cores=cores), now_s=60.0 * (from_minute + i)).cores for i in range(count)]


def test_it_begins_with_cores_that_exceed_their_usage_by_the_margin() -> None:
    # 8/s x 0.1 s = 0.8 of one core, x 1.15 = 0.92 <= 1; 9/s: 1.035 > 1, but on two 0.45 x 1.15 <= 1
    assert scaler().begin(8.0).cores == 1
    assert scaler().begin(9.0).cores == 2
    assert scaler(replicas=2).begin(9.0)[:2] == (2, 1)
    assert scaler(replicas=1, cores_max=4).begin(1000.0)[:2] == (1, 4)


def test_it_begins_with_the_fewest_replicas_that_carry_the_rate() -> None:
    # 4 cores take 25 ms: 1000/s are 25 busy, x 1.15 = 28.75 of one replica each: 29, at 4 cores
    assert scaler(cores_max=4).begin(1000.0)[:2] == (29, 4)
    # 50/s are 1.25 busy x 1.15 = 1.44: 2 replicas of 25/s, which on 3 cores are 0.83 busy, x 1.15 = 0.96
    assert scaler(cores_max=4).begin(50.0)[:2] == (2, 3)
    assert scaler().begin(0.0)[:2] == (1, 1)


def test_a_quantile_is_the_end_of_its_bucket() -> None:
    # 1 core: ln(6) / ln(1.05) = 36.72, bucket 36 ends at 0.2 x (1.05^37 - 1) = 1.0163
    usage = DecayingHistogram(DAY_S)
    assert usage.quantile(0.9) == 0.0
    usage.add(1.0, 1.0, at_s=0.0)
    assert usage.quantile(0.9) == pytest.approx(0.2 * (1.05**37 - 1))
    # 0.004 is in the first bucket, which ends at 0.01
    usage.add(0.004, 9.0, at_s=0.0)
    assert usage.quantile(0.9) == pytest.approx(0.01)
    assert usage.quantile(0.91) == pytest.approx(1.0163, abs=1e-4)


def test_weights_halve_with_each_half_life() -> None:
    # after one half life the old sample weighs 0.5 against 0.4 of the new one: 5/9 and 4/9 of the whole
    usage = DecayingHistogram(DAY_S)
    usage.add(2.0, 1.0, at_s=0.0)
    usage.add(1.0, 0.4, at_s=DAY_S)
    assert usage.quantile(4 / 9 - 0.01) == pytest.approx(1.0163, abs=1e-4)
    assert usage.quantile(4 / 9 + 0.01) > 2.0


@given(st.floats(0.0, 1000.0))
def test_a_bucket_ends_within_five_percent_above_its_samples(cores: float) -> None:
    usage = DecayingHistogram(DAY_S)
    usage.add(cores, 1.0, at_s=0.0)
    assert cores <= usage.quantile(0.5) * (1 + 1e-9)
    assert usage.quantile(0.5) <= cores * 1.05 + 0.01 + 1e-9


def test_one_sample_moves_nothing() -> None:
    # no history: the bounds are 0 and infinite
    assert minutes(scaler(), 4.0, 4, 1) == [4]


def test_a_busy_core_is_doubled_when_the_lower_bound_is_trusted() -> None:
    # usage 1 of 1: the median's bucket ends at 1.0163, x 1.15 = 1.1687; the lower bound exceeds one core when
    # (1 + 0.001 / days)^-2 > 1 / 1.1687, that is days > 0.001 / (1.0811 - 1) = 0.01234 = 17.8 minutes. The
    # age is 18 minutes at the 19th sample. Then the target: ceil(1.1687) = 2.
    assert minutes(scaler(), 1.0, 1, 20) == [1] * 18 + [2, 2]


def test_many_idle_cores_are_given_back_when_the_upper_bound_is_trusted() -> None:
    # usage 0.5 of 8: ln(3.5) / ln(1.05) = 25.68, bucket 25 ends at 0.2 x (1.05^26 - 1) = 0.5111; x 1.15 =
    # 0.5878. ceil(0.5878 x (1 + 1 / days)) < 8 from 0.5878 x (1 + 1 / days) <= 7 on: days >= 0.0917 = 132
    # minutes. The target is 1.
    wanted = minutes(scaler(), 0.5, 8, 140)
    assert wanted.index(1) == 133
    assert set(wanted[:133]) == {8}


def test_after_twelve_hours_a_tenth_is_enough() -> None:
    # usage 2.2 of 4: bucket end 0.2 x (1.05^51 - 1) = 2.208; x 1.15 = 2.54, target 3. The upper bound after
    # half a day is 2.54 x 3 = 7.6: 4 is within it, but 3 differs by a quarter.
    vpa = scaler()
    wanted = minutes(vpa, 2.2, 4, 722)
    assert wanted.index(3) == 720


def test_what_was_requested_is_the_weight_of_a_sample() -> None:
    # 10 minutes at 1 core busy of 1 weigh 10; then each minute at 4 of 4 weighs 4: after one of those the 0.9
    # quantile is within it (4 / 14 > 0.1)
    vpa = scaler()
    minutes(vpa, 1.0, 1, 10)
    why = vpa.tick(ShownMeter(busy=4.0).seen(1, cores=4), now_s=600.0).why
    assert why.startswith("target 5")  # ceil(1.15 x 4.06)


def test_it_never_asks_for_more_than_a_replica_can_use() -> None:
    assert minutes(scaler(cores_max=2), 2.0, 2, 60)[-1] == 2


def test_replicas_share_the_usage() -> None:
    # 2 busy on two replicas is 1 each
    vpa = scaler(replicas=2)
    meter = ShownMeter(busy=2.0)
    wanted = [vpa.tick(meter.seen(2, cores=1), now_s=60.0 * i) for i in range(30)]
    assert wanted[-1][:2] == (2, 2)


def test_without_metrics_nothing_changes() -> None:
    meter = ShownMeter(busy=4.0)
    meter.blind = True
    assert scaler().tick(meter.seen(1, cores=3), now_s=60.0).cores == 3
