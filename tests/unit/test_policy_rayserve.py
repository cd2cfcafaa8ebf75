"""100 ms a row on one core; 2 ongoing a replica, delays of 30 and 600 s, metrics every 10 s."""

import pytest

from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import PolicyContext
from steelyard.policies.rayserve import RayServeScaler, RayServeSettings, make_rayserve
from steelyard.profile.times import CoefficientTimes
from steelyard.testing.scaling import ShownMeter, group


def scaler(settings: RayServeSettings = RayServeSettings()) -> RayServeScaler:  # noqa: B008
    return RayServeScaler(group(0.1), settings)


def ticks(ray: RayServeScaler, meter: ShownMeter, replicas: int, from_s: int, to_s: int) -> list[int]:
    """What each tick wants while `replicas` stay as they are."""
    return [ray.tick(meter.seen(replicas), now_s=float(s)).replicas for s in range(from_s, to_s)]


def test_it_begins_with_the_fewest_that_are_stable_at_the_target() -> None:
    # 5/s x 0.1 s: one replica is half busy; M/D/1 waits 0.5 x 0.1 / (2 x 0.5) = 50 ms, 5 x 0.15 = 0.75
    # ongoing
    assert scaler().begin(5.0).replicas == 1
    # 8.8/s: waits 0.88 x 0.1 / 0.24 = 0.367 s, 8.8 x 0.467 = 4.1 ongoing on one, more than 2; on two much
    # less
    assert scaler().begin(8.8).replicas == 2
    # 40/s keep 4 busy and 4 are not stable; 5 have (4 + a short queue) / 5 < 2
    assert scaler().begin(40.0).replicas == 5
    assert scaler().begin(0.0).replicas == 1


def test_scaling_out_waits_for_30_s_of_the_same_opinion() -> None:
    # 7 ongoing: ceil(7 / 2) = 4 wanted from t = 0 on
    wanted = ticks(scaler(), ShownMeter(rows=7.0), 2, 0, 32)
    assert wanted == [2] * 30 + [4] + [2]  # and the count begins anew


def test_an_interruption_begins_the_delay_anew() -> None:
    ray, meter = scaler(), ShownMeter(rows=7.0)
    assert set(ticks(ray, meter, 2, 0, 20)) == {2}
    meter.rows = 4.0  # 2 wanted, as there are: seen by the push of t = 20
    assert set(ticks(ray, meter, 2, 20, 30)) == {2}
    meter.rows = 7.0
    wanted = ticks(ray, meter, 2, 30, 61)
    assert wanted == [2] * 30 + [4]


def test_the_latest_opinion_counts() -> None:
    ray, meter = scaler(), ShownMeter(rows=7.0)
    ticks(ray, meter, 2, 0, 20)
    meter.rows = 12.0  # 6
    assert ticks(ray, meter, 2, 20, 31)[-1] == 6


def test_scaling_in_waits_for_600_s() -> None:
    ray, meter = scaler(), ShownMeter(rows=3.0)  # ceil(1.5) = 2
    assert set(ticks(ray, meter, 5, 0, 600)) == {5}
    assert ticks(ray, meter, 5, 600, 601) == [2]


def test_metrics_are_renewed_every_10_s() -> None:
    ray, meter = scaler(RayServeSettings(upscale_delay_s=0.0)), ShownMeter(rows=4.0)
    assert ticks(ray, meter, 2, 0, 1) == [2]
    meter.rows = 8.0
    assert ticks(ray, meter, 2, 1, 11) == [2] * 9 + [4]


def test_factors_scale_the_difference() -> None:
    # out: 2 + 0.5 x (5 - 2) = 3.5, so 4; in: 5 + 0.5 x (2 - 5) = 3.5, so 4
    half = RayServeSettings(
        upscale_delay_s=0.0, downscale_delay_s=0.0, upscaling_factor=0.5, downscaling_factor=0.5
    )
    assert ticks(scaler(half), ShownMeter(rows=10.0), 2, 0, 1) == [4]
    assert ticks(scaler(half), ShownMeter(rows=4.0), 5, 0, 1) == [4]
    # in by a tenth: 5 + 0.1 x (4 - 5) = 4.9 would stay at 5 for ever: one less
    tenth = RayServeSettings(downscale_delay_s=0.0, downscaling_factor=0.1)
    assert ticks(scaler(tenth), ShownMeter(rows=8.0), 5, 0, 1) == [4]


def test_an_idle_deployment_keeps_one_replica() -> None:
    eager = RayServeSettings(downscale_delay_s=0.0)
    assert ticks(scaler(eager), ShownMeter(rows=0.0), 3, 0, 1) == [1]


def test_running_replicas_are_what_the_ratio_is_of() -> None:
    # with a factor of 1 they cancel out: 7 ongoing want 4, with 1 or 3 of 3 running
    eager = RayServeSettings(upscale_delay_s=0.0)
    for ready in (1, 3):
        assert scaler(eager).tick(ShownMeter(rows=7.0).seen(3, ready=ready), now_s=0.0).replicas == 4
    assert scaler(eager).tick(ShownMeter(rows=7.0).seen(3, ready=0), now_s=0.0).replicas == 3


def test_a_batch_is_no_larger_than_what_a_replica_is_given() -> None:
    # 10 ms + 1 ms a row pays for every further row; 8 could be run, 5 are given
    service = Service("ocr", 1.0, (Stage("read", (Variant("small", batch_rows_max=8),)),))
    times = {("ocr", "read"): CoefficientTimes(1.0, 0.0, 10.0, 0.0)}
    made = make_rayserve(PolicyContext({"ocr": service}, times))
    assert made._groups["read"].rows == 5
    fewer = make_rayserve(PolicyContext({"ocr": service}, times, {"max_ongoing_requests": 3}))
    assert fewer._groups["read"].rows == 3


@pytest.mark.parametrize("rate", [0.5, 9.9, 10.0, 123.0])
def test_what_it_begins_with_is_stable(rate: float) -> None:
    assert scaler().begin(rate).replicas > rate * 0.1
