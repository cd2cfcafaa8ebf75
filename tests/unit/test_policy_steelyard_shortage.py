"""Who gets the cores where they are not enough; single rows of 20 ms on one core, 15 on two."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.snapshot import ReplicaView
from steelyard.core.types import Stage, Variant
from steelyard.policies.steelyard.knob import AS_IT_COMES
from steelyard.policies.steelyard.pace import StagePace
from steelyard.policies.steelyard.shortage import Claim, share_out
from steelyard.policies.steelyard.sizing import StageSizing
from steelyard.policies.steelyard.targets import StageTarget
from steelyard.profile.times import CoefficientTimes

FREELY = float("inf")


def claim(
    service: str,
    need: float,
    nodes: str,
    *,
    weight: float = 1.0,
    least: float = 1.0,
    at_most: float | None = None,
    flow: float = 0.0,
) -> Claim:
    """A stage with a replica on each of the nodes, each named by a letter."""
    stage = Stage("read", (Variant("m", None, 1, 4),))
    sizing = StageSizing(stage, CoefficientTimes(10.0, 10.0, 0.0, 0.0))
    sizing.reckon_by(1, 1.0, 0.02)
    sizing.step = min(1.0, least)
    pace = StagePace(sizing, knob=AS_IT_COMES, window_s=0.1)
    pace.aim(StageTarget(1, 1.0, 0.02, 0.1, 1, least), 4.0, 8)
    live = [
        ReplicaView(i, service, "read", node, "ready", 1.0, 1.0, 1.0, ("m",), 0.0)
        for i, node in enumerate(nodes)
    ]
    return Claim(service, weight, pace, live, flow, need, need if at_most is None else at_most)


def shares(
    *claims: Claim,
    free: Mapping[str, float],
    limits: Mapping[str, float] | None = None,
    least: Mapping[str, float] | None = None,
) -> list[list[float]]:
    names = [c.service for c in claims]
    return share_out(
        claims,
        free,
        dict.fromkeys(names, FREELY) | dict(limits or {}),
        dict.fromkeys(names, 0.0) | dict(least or {}),
    )


def test_every_stage_has_a_replica_before_any_has_two_cores() -> None:
    assert shares(claim("a", 900.0, "xx"), claim("b", 1.0, "x"), free={"x": 2.0}) == [[1.0, 0.0], [1.0]]


def test_where_not_even_that_is_there_the_heaviest_have_it() -> None:
    light, heavy = claim("a", 50.0, "x"), claim("b", 50.0, "x", weight=2.0)
    assert shares(light, heavy, free={"x": 1.0}) == [[0.0], [1.0]]


def test_equal_stages_are_served_alike() -> None:
    assert (
        shares(claim("a", 300.0, "xxx"), claim("b", 300.0, "xxx"), free={"x": 4.0}) == [[1.0, 1.0, 0.0]] * 2
    )


def test_capacity_over_need_is_evened_out() -> None:
    # A pipeline whose second stage needs twice as much: 2 cores for 100/s, 4 for 200/s of six
    first, second = claim("a", 200.0, "xxxxxx"), claim("a", 400.0, "xxxxxx")
    of_first, of_second = shares(first, second, free={"x": 6.0})
    assert (sum(of_first), sum(of_second)) == (2.0, 4.0)


def test_what_arrives_is_carried_alike_before_what_waits() -> None:
    # 150/s come through a pipeline whose first stage holds the queue. Of eight cores that carry 50/s
    # each, both have three, which is all that arrives, and the queue has the other two. Of four, both
    # have two: what the first stage answered beyond the second one's 100/s would be lost there.
    queued, next_ = (claim("a", need, "xxxxxxxx", flow=150.0) for need in (900.0, 150.0))
    assert list(map(sum, shares(queued, next_, free={"x": 8.0}))) == [5.0, 3.0]
    assert list(map(sum, shares(queued, next_, free={"x": 4.0}))) == [2.0, 2.0]


def test_a_heavier_service_is_served_better() -> None:
    heavy, light = claim("a", 300.0, "xxxxxx", weight=2.0), claim("b", 300.0, "xxxxxx")
    of_heavy, of_light = shares(heavy, light, free={"x": 6.0})
    assert (sum(of_heavy), sum(of_light)) == (4.0, 2.0)


def test_nobody_is_given_more_than_it_needs() -> None:
    small, large = claim("a", 40.0, "xx"), claim("b", 400.0, "xxxx")
    assert shares(small, large, free={"x": 4.0}) == [[1.0, 0.0], [1.0, 1.0, 1.0, 0.0]]


def test_what_the_smoothed_needs_leave_goes_to_those_of_the_window() -> None:
    calm, burst = claim("a", 40.0, "x"), claim("b", 40.0, "xxx", at_most=120.0)
    assert shares(calm, burst, free={"x": 4.0}) == [[1.0], [1.0, 1.0, 1.0]]


def test_limits_of_a_service_hold_for_all_its_stages() -> None:
    first, second, other = claim("a", 200.0, "xxx"), claim("a", 200.0, "xxx"), claim("b", 200.0, "xxxx")
    found = shares(first, second, other, free={"x": 8.0}, limits={"a": 3.0})
    assert sum(map(sum, found[:2])) == 3.0
    assert sum(found[2]) == 4.0


def test_a_service_has_its_least_cores_before_others_get_more() -> None:
    idle, busy = claim("a", 10.0, "xxx"), claim("b", 900.0, "xxxxx")
    assert list(map(sum, shares(idle, busy, free={"x": 5.0}))) == [1.0, 4.0]
    assert list(map(sum, shares(idle, busy, free={"x": 5.0}, least={"a": 3.0}))) == [3.0, 2.0]


def test_cores_are_those_of_the_replicas_own_nodes() -> None:
    found = shares(claim("a", 500.0, "xy"), claim("b", 500.0, "y"), free={"x": 1.0, "y": 3.0})
    assert found[0][0] == 1.0
    assert found[0][1] + found[1][0] == 3.0


def test_a_part_of_a_core_becomes_a_whole_one_before_another_replica_wakes() -> None:
    # quarters: 25/s are half a core, and 60/s one and a quarter
    assert shares(claim("a", 25.0, "xx", least=0.25), free={"x": 2.0}) == [[0.5, 0.0]]
    assert shares(claim("a", 60.0, "xx", least=0.25), free={"x": 2.0}) == [[1.0, 0.25]]


@given(
    needs=st.lists(st.floats(0.0, 400.0), min_size=1, max_size=4),
    cores=st.integers(1, 8),
    limit=st.integers(1, 8),
    least=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_no_more_is_shared_out_than_there_is(
    needs: list[float], cores: int, limit: int, least: float
) -> None:
    claims = [claim(f"s{i}", need, "xxyy", least=least) for i, need in enumerate(needs)]
    free = {"x": float(cores), "y": 1.0}
    found = shares(*claims, free=free, limits={"s0": float(limit)})
    for node, places in (("x", (0, 1)), ("y", (2, 3))):
        assert sum(shared[place] for shared in found for place in places) <= free[node] + 1e-9
    assert sum(found[0]) <= limit
    assert all(c == 0 or least <= c <= 4.0 for shared in found for c in shared)
