"""Cores where the nodes have fewer than all services like to keep: shared out, and kept for newcomers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.plan import Grant, GrantCores, ReplicaPlan, ServicePlan, StagePlan, VariantShare
from steelyard.core.snapshot import (
    ClusterSnapshot,
    NodeView,
    ReplicaView,
    ServiceView,
    ServiceWindow,
    StageWindow,
)
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.policies.steelyard.rooms import Guest, rooms
from steelyard.profile.times import CoefficientTimes

STEP = 0.25
CORES = 2.0
NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("guests", "cores", "expected"),
    [
        # 1 + 1 fit into 2; of 4, the rest goes to both, by weight, and to nobody more than it may have.
        ([Guest(1, 0.25, 1), Guest(1, 0.25, 1)], 2, [1, 1]),
        ([Guest(1, 0.25, 1), Guest(1, 0.25, 1)], 4, [2, 2]),
        ([Guest(3, 0.25, 1), Guest(1, 0.25, 1)], 4, [3, 1]),
        ([Guest(1, 0.25, 1, 1.5), Guest(1, 0.25, 1)], 4, [1.5, 2.5]),
        # Four that like one core each share two evenly.
        ([Guest(1, 0.25, 1)] * 4, 2, [0.5] * 4),
        # What the first does not want goes to the others: (2 - 0.5) / 2 each.
        ([Guest(1, 0.25, 0.5), Guest(1, 0.25, 1), Guest(1, 0.25, 1)], 2, [0.5, 0.75, 0.75]),
        # By weight, 3 : 1 of two cores.
        ([Guest(3, 0.25, 2), Guest(1, 0.25, 2)], 2, [1.5, 0.5]),
        # A pipeline of four stages has a step for each before anybody has more: 1 + 0.25, and 0.75 to whoever
        # has least.
        ([Guest(1, 1.0, 4), Guest(1, 0.25, 1)], 2, [1.0, 1.0]),
        # Five stages of a quarter do not fit on one core: as they like, since nothing can be done.
        ([Guest(1, 0.75, 3), Guest(1, 0.5, 2)], 1, [3, 2]),
    ],
)
def test_by_hand(guests: list[Guest], cores: float, expected: list[float]) -> None:
    assert rooms(guests, cores, STEP) == expected


@st.composite
def some_guests(draw: st.DrawFn) -> list[Guest]:
    stages = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    more = st.integers(0, 8)
    return [
        Guest(draw(st.sampled_from([0.5, 1.0, 2.0])), STEP * count, STEP * (count + draw(more)))
        for count in stages
    ]


@given(some_guests(), st.integers(1, 8))
def test_nobody_is_left_out_and_nothing_is_left_over(guests: list[Guest], cores: int) -> None:
    given_ = rooms(guests, cores, STEP)
    if sum(guest.fewest for guest in guests) > cores:
        assert given_ == [guest.likes for guest in guests]
        return
    assert all(guest.fewest <= room for guest, room in zip(guests, given_, strict=True))
    assert sum(given_) == cores
    if sum(guest.likes for guest in guests) <= cores:
        assert all(guest.likes <= room for guest, room in zip(guests, given_, strict=True))


@given(some_guests(), st.integers(1, 8))
def test_whoever_gets_less_than_it_likes_has_no_less_for_its_weight_than_others(
    guests: list[Guest], cores: int
) -> None:
    given_ = rooms(guests, cores, STEP)
    for guest, room in zip(guests, given_, strict=True):
        for other, theirs in zip(guests, given_, strict=True):
            if room < guest.likes and theirs > other.fewest:
                assert room / guest.weight >= (theirs - STEP) / other.weight


VARIANT = Variant("m", batch_rows_max=8, cores_max=2, cold_start_s=0.2)


def policy_of(*names: str, slo_s: float = 0.2, row_ms: float = 10.0) -> Policy:
    """Batches gain nothing: on less than a core a row takes longer than planned."""
    return policy_for(
        *(Service(name, slo_s, (Stage("only", (VARIANT,)),), cores_min=STEP) for name in names), row_ms=row_ms
    )


def policy_for(*services: Service, row_ms: float = 10.0) -> Policy:
    times = {
        (s.name, stage.name): CoefficientTimes(row_ms, 0.0, 0.0, 0.0) for s in services for stage in s.stages
    }
    return make_policy("steelyard", PolicyContext({service.name: service for service in services}, times))


def cluster(*views: ServiceView, fractional: bool = True) -> ClusterSnapshot:
    held = sum(replica.cores_desired for view in views for replica in view.replicas)
    return ClusterSnapshot(4.0, 0.1, (NodeView("local", CORES, CORES - held, fractional),), views)


def newcomer(name: str) -> ServiceView:
    return ServiceView(name, (), (), None, ())


def busy(name: str, *cores: float, queue: int = 50, ratio: float = 1.0, node: str = "local") -> ServiceView:
    """A service whose replicas have so many cores, and a queue that all of them work on."""
    replicas = tuple(
        ReplicaView(10 * NAMES.index(name) + i, name, "only", node, "ready", c, c, c, ("m",), 0.0)
        for i, c in enumerate(cores)
    )
    stage = StageWindow("only", queue, queue, 0.1, 0, service_ratio=ratio)
    seen = tuple(
        ServiceWindow(name, i / 10, (i + 1) / 10, 20, 20, 0, 0, 0, 0, 0, 0, (stage,)) for i in range(40)
    )
    planned = tuple(ReplicaPlan(c, ("m",), node) for c in cores)
    plan = ServicePlan(name, {"only": StagePlan(planned, (VariantShare("m", 1.0),))})
    return ServiceView(name, seen, (200,) * 3, plan, replicas)


def begun(*names: str, fractional: bool = True) -> dict[str, float]:
    """Active cores of each service's first plan."""
    plan = policy_of(*names).decide(cluster(*map(newcomer, names), fractional=fractional)).plan
    assert plan is not None
    return {
        name: sum(r.cores for r in planned.stages["only"].replicas) for name, planned in plan.services.items()
    }


def test_two_services_have_a_core_each_and_four_half_of_one() -> None:
    assert begun("a", "b") == {"a": 1.0, "b": 1.0}
    assert begun(*NAMES) == dict.fromkeys(NAMES, 0.5)


def test_eight_quarters_are_the_most_that_two_cores_have() -> None:
    names = [f"s{number}" for number in range(9)]
    assert begun(*names[:8]) == dict.fromkeys(names[:8], 0.25)
    assert len(begun(*names)) == 2  # as they like: the spec is refused before it comes to this


def test_whole_cores_cannot_be_shared() -> None:
    assert begun(*NAMES, fractional=False) == {"a": 1.0, "b": 1.0}


def test_a_newcomer_is_owed_a_place_however_busy_the_others_are() -> None:
    # Three like a core each of two, and the first have all: one gives the step that it takes to begin.
    full = (busy("a", 1.0), busy("b", 1.0))
    assert policy_of("a", "b").react(cluster(*full)) is None
    answer = policy_of("a", "b", "c").react(cluster(*full, newcomer("c")))
    assert answer is not None
    assert answer.grants == (GrantCores(10, 0.75),)
    left = (busy("a", 1.0), busy("b", 0.75))
    policy = policy_of("a", "b", "c")
    assert policy.react(cluster(*left, newcomer("c"))) is None  # nobody takes it back
    plan = policy.decide(cluster(*left, newcomer("c"))).plan
    assert plan is not None
    assert [r.cores for r in plan.services["c"].stages["only"].replicas if r.cores] == [0.25]


def test_nothing_is_kept_for_whom_there_is_no_place() -> None:
    names = [f"s{number}" for number in range(9)]
    full = (busy("a", 1.0), busy("b", 1.0))
    assert policy_of("a", "b", *names).react(cluster(*full, *map(newcomer, names))) is None


def test_what_was_unloaded_does_not_keep_a_newcomer_from_its_place() -> None:
    policy = policy_of("a", "b", *[f"s{number}" for number in range(9)])
    everybody = [newcomer(f"s{number}") for number in range(9)]
    full = (busy("a", 1.0), busy("b", 1.0))
    assert policy.react(cluster(*full, *everybody)) is None
    answer = policy.react(cluster(*full, everybody[0]))  # the others have gone
    assert answer is not None
    assert answer.grants == (GrantCores(10, 0.75),)


def test_who_stays_behind_has_all_the_room_again_and_gives_it_back() -> None:
    # Two on one core have half of it each, and keep a quarter; alone, one keeps what it likes, a whole one.
    policy = policy_of("a", "b")
    one = (NodeView("local", 1.0, 0.0, True),)

    def told(*views: ServiceView) -> tuple[Grant, ...]:
        answer = policy.react(ClusterSnapshot(4.0, 0.1, one, views))
        return answer.grants if answer is not None else ()

    assert told(busy("a", 0.5), busy("b", 0.5)) == ()
    assert told(busy("a", 0.5, queue=0)) == (GrantCores(0, 1.0),)
    assert told(busy("a", 1.0, queue=0, ratio=1.3)) == ()
    assert told(busy("a", 1.0, ratio=1.3), newcomer("b")) == (GrantCores(0, 0.75),)


@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.0, 3.0])
def test_slow_times_do_not_take_the_room_of_a_newcomer(ratio: float) -> None:
    # At 40 ms on a core for an objective of 100 ms, one who is 1.5 times slower would like to keep two cores.
    policy = policy_of("a", "b", slo_s=0.1, row_ms=40.0)
    answer = policy.react(cluster(busy("a", 2.0, ratio=ratio), newcomer("b")))
    assert answer is not None
    assert answer.grants == (GrantCores(0, 1.0),)


class Times:
    """10 ms a row on a core, the accurate variant 150."""

    def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        del bucket
        return rows * (0.15 if variant == "big" else 0.01) / cores

    service_time_s_p99 = service_time_s


def test_a_newcomer_begins_on_what_is_kept_for_it_whatever_level_it_aims_at() -> None:
    # The reaction keeps what the first variant likes, a core; the level of the plan would like two.
    tiny, big = (
        Variant(name, accuracy, 8, 4, cold_start_s=0.2) for name, accuracy in (("tiny", 0.8), ("big", 0.95))
    )
    services = {
        "a": Service("a", 0.2, (Stage("only", (VARIANT,)),), cores_min=STEP),
        "b": Service("b", 0.2, (Stage("only", (tiny, big)),), cores_min=STEP),
    }
    policy = make_policy(
        "steelyard", PolicyContext(services, {("a", "only"): Times(), ("b", "only"): Times()})
    )
    answer = policy.react(cluster(busy("a", 2.0), newcomer("b")))
    assert answer is not None
    assert answer.grants == (GrantCores(0, 1.0),)
    plan = policy.decide(cluster(busy("a", 1.0), newcomer("b"))).plan
    assert plan is not None
    stage = plan.services["b"].stages["only"]
    assert ([r.cores for r in stage.replicas if r.cores], stage.mix[0].variant) == ([1.0], "big")


def test_nothing_is_kept_for_whom_its_own_limit_leaves_no_place() -> None:
    # Two stages on whole cores want two; it may have one.
    two = (Stage("first", (VARIANT,)), Stage("second", (VARIANT,), after=("first",)))
    policy = policy_for(
        Service("a", 0.2, (Stage("only", (VARIANT,)),), cores_min=STEP),
        Service("b", 0.2, two, cores_min=STEP, cores_max=1.0),
    )
    assert policy.react(cluster(busy("a", 1.0, 1.0), newcomer("b"), fractional=False)) is None


def test_on_several_nodes_a_newcomer_takes_nobody_below_its_least() -> None:
    # Whole cores, two a node. A pipeline of two stages comes where one core is free beside "a", and "c" has
    # two: it is owed the free one, and one of the two that "c" has, which keeps one.
    nodes = (NodeView("n1", 2.0, 1.0, False), NodeView("n2", 2.0, 0.0, False))
    two = (Stage("first", (VARIANT,)), Stage("second", (VARIANT,), after=("first",)))
    policy = policy_for(
        *(Service(name, 0.2, (Stage("only", (VARIANT,)),), cores_min=STEP) for name in ("a", "c")),
        Service("b", 0.2, two, cores_min=STEP),
    )
    views = (busy("a", 1.0, node="n1"), newcomer("b"), busy("c", 1.0, 1.0, node="n2"))
    answer = policy.react(ClusterSnapshot(4.0, 0.1, nodes, views))
    assert answer is not None
    assert answer.grants == (GrantCores(21, 0.0),)
