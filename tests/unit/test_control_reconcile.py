from typing import NamedTuple

from steelyard.control.fleet import Fleet, match
from steelyard.control.ledger import Ledger
from steelyard.control.reconcile import Outcome, reconcile
from steelyard.control.replica import Replica, StageKey
from steelyard.control.variants import StageVariants
from steelyard.core.commands import ControlCommand, DrainReplica, ResizeReplica, StartReplica, StopReplica
from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan, VariantShare
from steelyard.core.snapshot import CoreShare, ReplicaState
from steelyard.core.types import Variant


def replica(
    replica_id: int,
    cores: float,
    state: ReplicaState = "ready",
    *,
    variants: tuple[str, ...] = ("v",),
    service: str = "a",
) -> Replica:
    return Replica(
        replica_id, service, "s", "n", variants, state, cores, cores, cores, started_s=float(replica_id)
    )


def plan(*cores: float, variant: str = "v", service: str = "a") -> ServicePlan:
    replicas = tuple(ReplicaPlan(c, (variant,), "n") for c in cores)
    return ServicePlan(service, {"s": StagePlan(replicas, (VariantShare(variant, 1.0),))})


class Ran(NamedTuple):
    """A pass, and the replicas after it."""

    commands: tuple[ControlCommand, ...]
    fleet: Fleet
    ledger: Ledger
    outcome: Outcome


def run(
    plans: list[ServicePlan],
    replicas: list[Replica],
    *,
    cores: int = 4,
    blocked: tuple[tuple[str, str], ...] = (),
    stages: dict[StageKey, StageVariants] | None = None,
) -> Ran:
    ledger = Ledger()
    ledger.join("n", range(cores), fractional=False)
    for one in replicas:
        assert ledger.allocate(one.replica_id, "n", one.cores_requested) is not None
    fleet = Fleet(replicas, stages)
    outcome = reconcile(
        {p.service: p for p in plans},
        fleet,
        ledger,
        now_s=10.0,
        next_id=100,
        cold_start_s={("a", "s"): 2.0},
        blocked=blocked,
        cause="test",
    )
    return Ran(outcome.commands, fleet, ledger, outcome)


def test_what_matches_is_left_alone() -> None:
    assert run([plan(1.0, 2.0)], [replica(1, 2.0), replica(2, 1.0)]).commands == ()


def test_cores_are_changed_in_place() -> None:
    outcome = run([plan(3.0)], [replica(1, 1.0)])
    assert outcome.commands == (ResizeReplica(1, tuple(CoreShare(i, 1.0) for i in range(3)), "test"),)
    assert outcome.fleet[1].cores_requested == 3.0
    assert outcome.fleet[1].cores == 1.0  # observed: not yet


def test_growth_that_does_not_fit_waits() -> None:
    outcome = run([plan(3.0), plan(1.0, service="b")], [replica(1, 1.0), replica(2, 2.0, service="b")])
    (shrink,) = outcome.commands
    assert isinstance(shrink, ResizeReplica)
    assert shrink.replica_id == 2  # the growth of 1 follows when this is confirmed


def test_shrinks_go_before_growth_and_growth_before_starts() -> None:
    outcome = run(
        [plan(2.0), plan(1.0, service="b"), plan(1.0, service="c")],
        [replica(1, 1.0), replica(2, 2.0, service="b")],
    )
    kinds = [(type(c).__name__, c.replica_id) for c in outcome.commands if not isinstance(c, StopReplica)]  # type: ignore[union-attr]
    assert kinds == [("ResizeReplica", 2), ("ResizeReplica", 1), ("StartReplica", 100)]


def test_starts_are_made_in_parallel() -> None:
    outcome = run([plan(1.0, 1.0, 1.0)], [replica(1, 1.0)])
    assert [c.replica_id for c in outcome.commands if isinstance(c, StartReplica)] == [100, 101]
    assert outcome.outcome.next_id == 102


def test_old_replicas_carry_the_load_until_the_new_ones_are_ready() -> None:
    # 4 cores in one replica are to become four of one: three start, each on one core that it overlaps.
    outcome = run([plan(1.0, 1.0, 1.0, 1.0)], [replica(1, 4.0)])
    assert [type(c) for c in outcome.commands] == [StartReplica] * 3
    assert outcome.outcome.holding == {"a"}
    assert sorted(c.shares[0].core_id for c in outcome.commands if isinstance(c, StartReplica)) == [1, 2, 3]


def test_a_replica_that_is_not_changed_in_place_is_drained_only_when_its_successor_is_ready() -> None:
    slow = {("a", "s"): StageVariants([Variant("v"), Variant("w", cold_start_s=1.0, load_s=3.0)])}
    first = run([plan(2.0, variant="w")], [replica(1, 2.0)], stages=slow)
    assert [type(c) for c in first.commands] == [StartReplica]
    second = run([plan(2.0, variant="w")], [replica(1, 2.0), replica(100, 2.0, variants=("w",))], stages=slow)
    assert second.commands == (DrainReplica(1, "a", "test"),)


def test_surplus_starts_are_stopped_and_surplus_replicas_drained() -> None:
    outcome = run([plan(1.0)], [replica(1, 1.0), replica(2, 1.0), replica(3, 1.0, "starting")])
    assert outcome.commands == (StopReplica(3), DrainReplica(2, "a", "test"))
    assert outcome.fleet[2].state == outcome.fleet[3].state == "draining"


def test_a_stage_whose_starts_fail_is_left_alone_for_a_while() -> None:
    outcome = run([plan(1.0), plan(1.0, service="b")], [], blocked=(("a", "s"),))
    assert [c.service for c in outcome.commands if isinstance(c, StartReplica)] == ["b"]


def test_a_resize_waits_for_the_one_before_it() -> None:
    pending = Replica(1, "a", "s", "n", ("v",), "ready", 1.0, 1.0, 1.0, 0.0, pending=(CoreShare(0, 1.0),))
    assert run([plan(2.0)], [pending]).commands == ()


def test_what_was_asked_for_is_not_asked_for_again() -> None:
    ran = run([plan(2.0, 1.0)], [replica(1, 1.0)])
    assert len(ran.commands) == 2
    assert ran.outcome.at_rest
    again = reconcile(
        {"a": plan(2.0, 1.0)}, ran.fleet, ran.ledger, now_s=10.0, next_id=ran.outcome.next_id, cold_start_s={}
    )
    assert again.commands == ()


def test_growth_that_waits_for_a_shrink_is_not_at_rest() -> None:
    ran = run([plan(2.0), plan(1.0, service="b")], [replica(1, 1.0), replica(2, 3.0, service="b")])
    assert [type(c) for c in ran.commands] == [ResizeReplica]
    assert not ran.outcome.at_rest


def test_a_start_that_waits_for_a_drain_is_not_at_rest() -> None:
    ran = run([plan(), plan(4.0, service="b")], [replica(1, 2.0)])
    assert ran.commands == (DrainReplica(1, "a", "test"),)
    assert not ran.outcome.at_rest


def test_ready_replicas_stand_for_the_largest_wanted_and_starts_for_the_small() -> None:
    # What grows in place grows at once; a start takes its time.
    wanted = plan(1.0, 4.0).stages["s"].replicas
    assert match(wanted, [replica(1, 1.0)]).kept == {1: 1}
    assert match(wanted, [replica(1, 4.0, "starting"), replica(2, 1.0)]).kept == {1: 0, 2: 1}


def test_given_up_first_is_what_starts_then_the_small_then_the_young() -> None:
    live = [replica(1, 1.0), replica(2, 1.0), replica(3, 2.0), replica(4, 4.0, "starting")]
    assert list(match((), live).surplus) == [4, 2, 1, 3]


def test_a_plan_does_not_depend_on_the_order_of_its_replicas() -> None:
    live = [replica(1, 1.0), replica(2, 2.0), replica(3, 3.0)]
    for order in [(3.0, 2.0, 1.0), (1.0, 3.0, 2.0)]:
        kept = match(plan(*order).stages["s"].replicas, live).kept
        assert {replica_id: order[place] for replica_id, place in kept.items()} == {1: 1.0, 2: 2.0, 3: 3.0}


def test_a_pair_holds_until_somebody_comes_goes_or_the_plan_changes() -> None:
    fleet = Fleet([replica(1, 1.0), replica(2, 1.0)])
    wanted = plan(1.0, 2.0).stages["s"].replicas
    assert fleet.matching(("a", "s"), wanted).kept == {1: 0, 2: 1}
    fleet.change(1, cores_requested=2.0)  # matched anew, 1 would stand for the larger
    assert fleet.matching(("a", "s"), wanted).kept == {1: 0, 2: 1}
    fleet.change(2, state="draining")
    assert fleet.matching(("a", "s"), wanted).kept == {1: 1}


def test_a_large_stage_is_matched_as_a_small_one() -> None:
    # 40 replicas of one core, the wanted ones of 1 and 2 in turn: 20 equal pairs, 20 growths, nothing else.
    fleet = [replica(i, 1.0) for i in range(1, 41)]
    outcome = run([plan(*[1.0, 2.0] * 20)], fleet, cores=60)
    assert [type(c) for c in outcome.commands] == [ResizeReplica] * 20


def test_spares_start_after_every_stages_first_replica() -> None:
    # Two cores: the spare of stage s would load on the core that stage t's only replica is to have.
    stages = {
        name: StagePlan(
            tuple(ReplicaPlan(c, ("v",), "n") for c in cores), (VariantShare("v", 1.0),), covers_starts=False
        )
        for name, cores in (("s", (1.0, 0.0)), ("t", (1.0,)))
    }
    outcome = run([ServicePlan("a", stages)], [], cores=2)
    assert [c.stage for c in outcome.commands if isinstance(c, StartReplica)] == ["s", "t"]
    assert not outcome.outcome.at_rest  # the spare is still to come
    outcome = run([ServicePlan("a", stages)], [], cores=3)
    assert [c.stage for c in outcome.commands if isinstance(c, StartReplica)] == ["s", "t", "s"]


def test_a_replica_that_is_to_be_parked_starts_on_a_core_and_waits_for_one() -> None:
    (start,) = run([plan(0.0)], []).commands
    assert isinstance(start, StartReplica)
    assert start.shares == (CoreShare(0, 1.0),)  # loading takes a core, which it gives back when it is ready
    full = run([plan(2.0, 0.0)], [replica(1, 2.0)], cores=2)
    assert full.commands == ()
    assert not full.outcome.at_rest
