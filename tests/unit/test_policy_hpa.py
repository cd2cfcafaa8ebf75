"""100 ms a row on one core; target utilisation 0.7, tolerance 0.1, stabilisation 300 s."""

import pytest

from steelyard.core.errors import SpecError
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import PolicyContext
from steelyard.policies.hpa import HpaScaler, make_hpa
from steelyard.profile.times import CoefficientTimes
from steelyard.testing.scaling import ShownMeter, group


def scaler(stabilisation_s: float = 300.0) -> HpaScaler:
    return HpaScaler(group(0.1), target=0.7, stabilisation_s=stabilisation_s)


def test_it_begins_with_what_carries_the_rate_at_the_target() -> None:
    # 40/s x 0.1 s = 4 busy cores; 4 / 0.7 = 5.71
    assert scaler().begin(40.0).replicas == 6
    assert scaler().begin(0.0).replicas == 1


@pytest.mark.parametrize(
    ("busy", "expected"),
    [
        (9.5, 14),  # utilisation 0.95, ratio 1.357: ceil(13.57)
        (7.7, 10),  # ratio 1.1 is within the tolerance
        (7.8, 12),  # ratio 1.114: ceil(11.14)
        (6.3, 10),  # ratio 0.9 is within the tolerance
    ],
)
def test_it_scales_by_the_ratio_beyond_the_tolerance(busy: float, expected: int) -> None:
    assert scaler().tick(ShownMeter(busy=busy).seen(10), now_s=15.0).replicas == expected


def test_larger_replicas_count_by_their_cores() -> None:
    # 2 replicas of 2 cores, 3.8 busy: 0.95 again, ceil(2 x 1.357) = 3
    assert scaler().tick(ShownMeter(busy=3.8).seen(2, cores=2), now_s=15.0).replicas == 3


def test_replicas_that_are_not_ready_count_as_idle_when_it_would_scale_out() -> None:
    meter = ShownMeter(busy=4.0)
    # 4 of 5 ready: ratio 1 / 0.7 = 1.43; with the fifth idle 0.8 / 0.7 = 1.143, ceil(5 x 1.143) = 6
    assert scaler().tick(meter.seen(5, ready=4), now_s=15.0).replicas == 6
    # 4 of 6: with all, 0.667 / 0.7 < 1 would turn the direction: nothing changes
    assert scaler().tick(meter.seen(6, ready=4), now_s=15.0).replicas == 6
    # 10 of 13 ready, 10 busy: 10 / 13 / 0.7 = 1.0989 is within the tolerance
    assert scaler().tick(ShownMeter(busy=10.0).seen(13, ready=10), now_s=15.0).replicas == 13


def test_replicas_that_are_not_ready_are_left_out_when_it_would_scale_in() -> None:
    # 4 of 6 ready, 1 busy: ratio 0.25 / 0.7 = 0.357, ceil(4 x 0.357) = 2; the window holds only this and the
    # 6 that there were at its start, which hold it for 300 s
    hpa, meter = scaler(), ShownMeter(busy=1.0)
    assert hpa.tick(meter.seen(6, ready=4), now_s=15.0).replicas == 6
    assert hpa.tick(meter.seen(6, ready=4), now_s=314.9).replicas == 6
    assert hpa.tick(meter.seen(6, ready=4), now_s=315.0).replicas == 2


def test_scaling_in_takes_the_largest_recommendation_of_the_window() -> None:
    hpa, meter = scaler(), ShownMeter(busy=7.0)
    assert hpa.tick(meter.seen(10), now_s=0.0).replicas == 10  # on target
    meter.busy = 2.8  # ratio 0.4: 4 replicas
    assert hpa.tick(meter.seen(10), now_s=15.0).replicas == 10
    meter.busy = 4.2  # ratio 0.6: 6 replicas
    assert hpa.tick(meter.seen(10), now_s=30.0).replicas == 10
    meter.busy = 2.8
    assert hpa.tick(meter.seen(10), now_s=310.0).replicas == 6  # the 10 of t = 0 is forgotten, the 6 is not
    assert hpa.tick(meter.seen(6), now_s=331.0).replicas == 4  # 2.8 / 6 / 0.7 = 0.667: ceil(4.0) = 4


def test_scaling_out_does_not_wait() -> None:
    hpa, meter = scaler(), ShownMeter(busy=2.8)
    hpa.tick(meter.seen(10), now_s=0.0)
    meter.busy = 9.8  # ratio 1.4
    assert hpa.tick(meter.seen(10), now_s=15.0).replicas == 14


@pytest.mark.parametrize(("present", "most"), [(1, 5), (3, 7), (4, 8), (10, 20)])
def test_scaling_out_is_limited_to_four_more_or_twice_as_many(present: int, most: int) -> None:
    # with one core busy a core, a target of 1 % asks for a hundred times as many
    hpa = HpaScaler(group(), target=0.01, stabilisation_s=0.0)
    assert hpa.tick(ShownMeter(busy=float(present)).seen(present), now_s=15.0).replicas == most


def test_the_limit_counts_from_what_there_was_15_s_ago() -> None:
    # ticks every 5 s: 2 -> 6 (4 more) at t = 5; at 10 and 15 the 15 s began with 2, so 6 is all there is; at
    # 20 the change of t = 5 is 15 s ago: 6 -> 12
    hpa = HpaScaler(group(), target=0.01, stabilisation_s=0.0)
    present, replicas = 2, []
    for now_s in (5.0, 10.0, 15.0, 20.0):
        present = hpa.tick(ShownMeter(busy=float(present)).seen(present), now_s=now_s).replicas
        replicas.append(present)
    assert replicas == [6, 6, 6, 12]


def test_without_metrics_nothing_changes() -> None:
    meter = ShownMeter(busy=9.0)
    assert scaler().tick(meter.seen(3, ready=0), now_s=15.0).replicas == 3
    meter.blind = True
    assert scaler().tick(meter.seen(3), now_s=15.0).replicas == 3


def test_an_idle_stage_keeps_one_replica() -> None:
    assert scaler(0.0).tick(ShownMeter(busy=0.0).seen(4), now_s=15.0).replicas == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_utilization": 0.7}, "unknown option 'target_utilization'; it has: target_utilisation"),
        ({"target_utilisation": 1.5}, "option target_utilisation: want 0.01 to 1, got 1.5"),
        ({"period": 15}, "option period: want a duration such as 15s or 2m, got 15"),
        ({"period": "0s"}, "option period: want 0.1s to"),
        ({"cores": 0.5}, "option cores: want 1 to"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    service = Service("ocr", 0.4, (Stage("read", (Variant("small"),)),))
    context = PolicyContext({"ocr": service}, {("ocr", "read"): CoefficientTimes(100.0, 0, 0, 0)}, options)
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        make_hpa(context)
