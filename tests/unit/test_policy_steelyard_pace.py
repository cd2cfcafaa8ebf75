"""What a stage of the default policy makes of its windows: cores held and given up, replicas started.

A row takes 10 / c + 10 ms: one replica carries 50 rows a second on one core, 66.7 on two, 75 on three and
80 on four. 100 ms of waiting are planned, so a queue of `arriving / 20` rows is the settled one (`demand`).
"""

from collections.abc import Iterable

import pytest

from steelyard.core.snapshot import ReplicaState, ReplicaView, StageWindow
from steelyard.core.types import Stage, Variant
from steelyard.policies.steelyard.knob import AS_IT_COMES
from steelyard.policies.steelyard.pace import CANCEL_S, YIELDS_RPM, YIELDS_SAVED_S, StagePace, Wish
from steelyard.policies.steelyard.reserve import Crew, crew, parting_price, start_price
from steelyard.policies.steelyard.sizing import StageSizing
from steelyard.policies.steelyard.targets import StageTarget
from steelyard.profile.times import CoefficientTimes

TARGET = StageTarget(1, 1.0, 0.02, 0.1, 1, 1.0)


def pace_of(
    *, cold_start_s: float = 6.0, resize_s: float = 0.001, limit: int = 8, without: Iterable[str] = ()
) -> StagePace:
    variant = Variant("m", None, 1, 4, cold_start_s, resize_s)
    sizing = StageSizing(Stage("read", (variant,)), CoefficientTimes(10.0, 10.0, 0.0, 0.0))
    sizing.reckon_by(1, 1.0, 0.02)
    pace = StagePace(sizing, knob=AS_IT_COMES, window_s=0.1, without=frozenset(without))
    pace.aim(TARGET, 4.0, limit)
    return pace


def replica(number: int, cores: float, state: ReplicaState = "ready", started_s: float = 0.0) -> ReplicaView:
    return ReplicaView(number, "ocr", "read", "local", state, cores, cores, cores, ("m",), started_s)


def look(
    pace: StagePace,
    arriving: float,
    *cores: float,
    queue: int | None = None,
    starting: int = 0,
    ratio: float = 1.0,
) -> Wish:
    """One window: `arriving` rows a second, the settled queue or another, live replicas of these cores."""
    rows = round(arriving / 20) if queue is None else queue
    seen = StageWindow("read", rows, rows, 0.1 if rows else None, 0, ratio)
    live = [replica(i, c, "ready" if c else "parked") for i, c in enumerate(cores, 1)]
    loading = [replica(90 + i, 1.0, "starting", 1.0 + i) for i in range(starting)]
    return pace.look(seen, arriving, arriving, live, loading)


def calm(pace: StagePace, seconds: float, arriving: float, *cores: float, queue: int | None = None) -> Wish:
    """The same window for so long; the last wish."""
    wish = look(pace, arriving, *cores, queue=queue)
    for _ in range(round(seconds * 10) - 1):
        wish = look(pace, arriving, *cores, queue=queue)
    return wish


# Cores


def test_cores_that_carry_the_need_are_left_alone() -> None:
    assert look(pace_of(), 40.0, 1.0).cores == []


def test_growth_follows_the_window() -> None:
    # 16 wait, 40/s arrive: all within 0.1 s are 160/s, more than 80: everything
    wish = look(pace_of(), 40.0, 1.0, queue=16)
    assert wish.cores == [4.0]
    assert wish.need == pytest.approx(160.0)


def test_a_parked_replica_comes_back_before_another_grows() -> None:
    wish = look(pace_of(), 80.0, 1.0, 0.0)
    assert wish.cores == [1.0, 1.0]


def test_slower_than_profiled_takes_more_cores() -> None:
    # 40/s at 1.5 times the profile's seconds are 60/s of its rows
    assert look(pace_of(), 40.0, 1.0, 1.0, ratio=1.5).cores == []
    assert look(pace_of(), 40.0, 1.0, ratio=1.5).cores == [2.0]


def test_cores_are_held_until_two_windows_agree() -> None:
    pace = pace_of()
    calm(pace, 1.0, 80.0, 1.0, 1.0)
    assert look(pace, 20.0, 1.0, 1.0).cores == []
    assert look(pace, 20.0, 1.0, 1.0).cores == [1.0, 0.0]


def test_they_are_held_for_longer_where_a_resize_takes_long() -> None:
    pace = pace_of(resize_s=0.25)  # four resizes are a second
    calm(pace, 1.0, 80.0, 1.0, 1.0)
    assert all(not look(pace, 20.0, 1.0, 1.0).cores for _ in range(9))
    assert look(pace, 20.0, 1.0, 1.0).cores == [1.0, 0.0]


def test_cores_are_given_up_at_most_so_often() -> None:
    # A load that calls a second replica and lets it go every second window: two cores may be given up 2 x 30
    # times a minute, and what ten seconds have saved besides.
    pace, cores, yields = pace_of(), [1.0, 0.0], 0
    for window in range(600):
        wish = look(pace, 40.0, *cores, queue=8 if window % 4 == 0 else 2)
        yields += bool(wish.cores) and sum(wish.cores) < sum(cores)
        cores = wish.cores or cores
    assert 20 <= yields <= 2 * YIELDS_RPM * (1 + YIELDS_SAVED_S / 60)


def test_without_parking_every_live_replica_keeps_a_core() -> None:
    pace = pace_of(without=["parking"])
    calm(pace, 1.0, 80.0, 2.0, 1.0)
    assert calm(pace, 1.0, 10.0, 2.0, 1.0).cores == [1.0, 1.0]


def test_what_it_can_pass_on_is_that_of_the_cores_it_is_to_have() -> None:
    pace = pace_of()
    look(pace, 40.0, 1.0, queue=16)
    assert pace.capacity_rps == pytest.approx(80.0)
    look(pace, 40.0, 4.0, ratio=2.0)
    assert pace.capacity_rps == pytest.approx(40.0)


# Replicas


def test_replicas_are_counted_for_the_need_and_for_growth() -> None:
    # 120/s take three replicas of 50; four times 50/s arriving take three of 80
    assert crew(120.0, 50.0, 50.0, 80.0, 8) == Crew(3, 3)
    assert crew(0.0, 0.0, 50.0, 80.0, 8) == Crew(1, 1)
    assert crew(900.0, 900.0, 50.0, 80.0, 8) == Crew(8, 8)
    assert crew(120.0, 10.0, 50.0, 80.0, 8).wanted == 3


def test_reserve_for_growth_is_started_at_once() -> None:
    # 4 x 40 = 160/s are two replicas of 80
    assert AS_IT_COMES.growth == 4.0
    assert look(pace_of(), 40.0, 1.0).starts == 1
    assert look(pace_of(), 40.0, 1.0, starting=1).starts == 0
    assert look(pace_of(), 40.0, 1.0, 0.0).starts == 0


def test_without_reserve_a_replica_that_grows_at_no_premium_is_joined_by_another_when_urgent() -> None:
    # 54/s want two replicas of 50. One on two cores carries it, as many as two replicas would have: no
    # premium, no start. 70/s are more than 0.7 of the 80 that one carries at most: urgent.
    pace = pace_of(without=["reserve"])
    assert calm(pace, 20.0, 54.0, 2.0).starts == 0
    assert look(pace_of(without=["reserve"]), 70.0, 3.0).starts == 1


def test_the_premium_is_what_is_paid_beyond_the_cores_of_calm_times() -> None:
    # 440/s want nine replicas of 50. Eight carry it with three of them on two cores, 450 on eleven cores: a
    # premium of two. A start costs 2 x 6 s x 1 core, so it is due after 6 s. Urgent is 0.7 x 8 x 80 = 448.
    assert start_price(1, 1.0, 6.0) == 12.0
    pace = pace_of(without=["reserve"], limit=16)
    cores = [2.0] * 3 + [1.0] * 5
    starts = [look(pace, 440.0, *cores).starts for _ in range(65)]
    assert starts.index(1) in (59, 60)


def test_replicas_beyond_what_the_cluster_takes_are_not_started() -> None:
    assert look(pace_of(limit=1), 40.0, 1.0).starts == 0


def test_a_start_is_given_up_when_no_window_of_the_last_seconds_wanted_it() -> None:
    pace = pace_of()
    calm(pace, 1.0, 40.0, 1.0)  # with what comes in reserve, two replicas
    cancelled = [bool(look(pace, 1.0, 1.0, starting=1).cancels) for _ in range(40)]
    assert CANCEL_S * 10 - 1 <= cancelled.index(True) <= CANCEL_S * 10
    wish = look(pace, 1.0, 1.0, starting=2)
    assert [r.replica_id for r in wish.cancels] == [91, 90]  # the youngest first


def test_the_only_replica_of_a_stage_is_never_given_up_while_it_starts() -> None:
    pace = pace_of()
    assert all(not look(pace, 0.0, starting=1).cancels for _ in range(50))


def test_a_replica_is_given_up_after_it_has_occupied_twice_its_cold_start() -> None:
    assert parting_price(1.0, 6.0) == 12.0
    assert parting_price(2.0, 0.1) == 4.0  # a cold start counts as one second at least
