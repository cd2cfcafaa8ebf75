"""100 ms a row on one core; target 1 x 0.7 rows a replica, windows of 60 and 6 s, panic at twice."""

import pytest

from steelyard.policies.kpa import KpaScaler
from steelyard.testing.scaling import ShownMeter, group


def scaler(target: float = 0.7) -> KpaScaler:
    return KpaScaler(group(0.1), target=target, stable_s=60.0, panic_s=6.0, threshold=2.0)


def shown(stable: float, panic: float) -> ShownMeter:
    meter = ShownMeter()
    meter.by_window = {60.0: stable, 6.0: panic}
    return meter


def calm(kpa: KpaScaler) -> KpaScaler:
    """One that began with a single replica, so that it does not begin in panic."""
    kpa.tick(shown(0.5, 0.5).seen(1), now_s=0.0)
    return kpa


def test_it_begins_with_what_carries_the_rate_by_littles_law() -> None:
    # 40/s x 0.1 s = 4 rows; 4 / 0.7 = 5.71
    assert scaler().begin(40.0).replicas == 6
    assert scaler().begin(0.0).replicas == 1


def test_in_calm_it_follows_the_stable_window() -> None:
    # 4.5 rows / 0.7 = 6.43; the 8 rows of the last 6 s (11.4, 12 replicas) are less than twice the 7 ready
    assert calm(scaler()).tick(shown(4.5, 8.0).seen(7), now_s=2.0).replicas == 7
    # 3.5 / 0.7 = 5 exactly
    assert calm(scaler()).tick(shown(3.5, 3.5).seen(7), now_s=2.0).replicas == 5


def test_scaling_in_halves_at_most() -> None:
    # 0.5 / 0.7 asks for 1; floor(9 / 2) = 4
    assert calm(scaler()).tick(shown(0.5, 0.5).seen(9), now_s=2.0).replicas == 4
    assert calm(scaler()).tick(shown(0.0, 0.0).seen(1), now_s=2.0).replicas == 1


def test_it_panics_from_twice_the_ready_replicas_on() -> None:
    # 2 ready: 2.7 rows over 6 s are 3.86, 4 replicas = 2 x 2; the stable window asks for ceil(1.4 / 0.7) = 2
    assert calm(scaler()).tick(shown(1.4, 2.7).seen(2), now_s=2.0).replicas == 4
    # 2.1 rows are 3 replicas: less than twice
    assert calm(scaler()).tick(shown(1.4, 2.1).seen(2), now_s=2.0).replicas == 2


def test_ready_replicas_decide_what_a_panic_is() -> None:
    # 4 wanted but only 1 ready: 1.4 rows, 2 replicas, are twice the one
    kpa = calm(scaler())
    assert "panic" in kpa.tick(shown(1.4, 1.4).seen(4, ready=1), now_s=2.0).why


def test_in_panic_it_never_scales_in_until_60_s_after_its_cause() -> None:
    kpa = calm(scaler())
    assert kpa.tick(shown(1.4, 5.6).seen(2), now_s=10.0).replicas == 8  # 5.6 / 0.7
    assert kpa.tick(shown(2.1, 0.7).seen(8), now_s=12.0).replicas == 8
    assert kpa.tick(shown(6.3, 0.7).seen(8), now_s=40.0).replicas == 9  # the larger of the two windows
    assert kpa.tick(shown(2.1, 0.7).seen(9), now_s=70.0).replicas == 9  # 60 s after the cause: not yet
    assert kpa.tick(shown(2.1, 0.7).seen(9), now_s=72.0).replicas == 4  # 2.1 / 0.7 = 3, floor(9 / 2) = 4


def test_a_cause_that_lasts_prolongs_the_panic() -> None:
    kpa = calm(scaler())
    kpa.tick(shown(1.4, 5.6).seen(2), now_s=10.0)
    kpa.tick(shown(1.4, 5.6).seen(8, ready=4), now_s=60.0)  # 8 / 4: still twice
    assert kpa.tick(shown(0.7, 0.7).seen(8), now_s=120.0).replicas == 8
    assert kpa.tick(shown(0.7, 0.7).seen(8), now_s=122.0).replicas == 4


def test_beginning_with_several_replicas_is_a_panic() -> None:
    # A minute's quiet start would take them away: the stable window is only two seconds old.
    kpa = scaler()
    assert kpa.tick(shown(0.7, 0.7).seen(6), now_s=2.0).replicas == 6
    assert kpa.tick(shown(0.7, 0.7).seen(6), now_s=62.0).replicas == 6
    assert kpa.tick(shown(0.7, 0.7).seen(6), now_s=64.0).replicas == 3


def test_it_scales_out_a_thousandfold_at_most() -> None:
    # 1 ready, 2100 rows: 3000 replicas
    assert calm(scaler()).tick(shown(0.7, 2100.0).seen(1), now_s=2.0).replicas == 1000


def test_without_metrics_nothing_changes() -> None:
    meter = ShownMeter(rows=9.0)
    meter.blind = True
    assert scaler().tick(meter.seen(3), now_s=2.0).replicas == 3


@pytest.mark.parametrize("target", [0.7, 7.0])
def test_the_target_is_rows_a_replica(target: float) -> None:
    assert calm(scaler(target)).tick(shown(3 * target, 3 * target).seen(3), now_s=2.0).replicas == 3
