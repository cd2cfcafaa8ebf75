"""Resident variants of kept replicas: loads and unloads in place, make before break, within memory."""

from steelyard.control.fleet import Fleet, match
from steelyard.control.ledger import Ledger
from steelyard.control.machine import ControlMachine
from steelyard.control.memory import Memory
from steelyard.control.reconcile import Outcome, reconcile
from steelyard.control.replica import Replica, StageKey
from steelyard.control.variants import StageVariants
from steelyard.core.commands import (
    ControlCommand,
    DrainReplica,
    LoadVariant,
    RecordDecision,
    StartReplica,
    UnloadVariant,
    WakeAt,
)
from steelyard.core.events import (
    NodeJoined,
    ReplicaReady,
    Solved,
    VariantLoaded,
    VariantUnloaded,
    Woken,
)
from steelyard.core.plan import Decision, Grants, Plan, ReplicaPlan, ServicePlan, StagePlan, VariantShare
from steelyard.core.snapshot import ClusterSnapshot, ReplicaState
from steelyard.core.types import Service, Stage, Variant

KEY: StageKey = ("a", "s")
LARGE, SMALL, OTHER = "large", "small", "other"
VARIANTS = (
    Variant(LARGE, cold_start_s=1.0, memory_bytes=60),
    Variant(SMALL, cold_start_s=1.0, load_s=0.2, memory_bytes=20),
    Variant(OTHER, cold_start_s=1.0, load_s=2.0, memory_bytes=20),  # sooner by a cold start
)
STAGES = {KEY: StageVariants(VARIANTS)}


def replica(
    replica_id: int,
    *variants: str,
    state: ReplicaState = "ready",
    loading: tuple[str, ...] = (),
    unloading: tuple[str, ...] = (),
) -> Replica:
    return Replica(
        replica_id, "a", "s", "n", variants, state, 1.0, 1.0, 1.0, float(replica_id), loading=loading,
        unloading=unloading,
    )  # fmt: skip


def plan(*sets: tuple[str, ...]) -> ServicePlan:
    replicas = tuple(ReplicaPlan(1.0, variants, "n") for variants in sets)
    return ServicePlan("a", {"s": StagePlan(replicas, (VariantShare(sets[0][0], 1.0),))})


def run(
    wanted: ServicePlan,
    *replicas: Replica,
    memory_bytes: int = 0,
    unloadable: tuple[tuple[str, str, str], ...] = (),
) -> tuple[list[ControlCommand], Outcome]:
    ledger = Ledger()
    ledger.join("n", range(4), fractional=False)
    for one in replicas:
        assert ledger.allocate(one.replica_id, "n", one.cores_requested) is not None
    memory = Memory(STAGES)
    memory.join("n", memory_bytes)
    outcome = reconcile(
        {"a": wanted},
        Fleet(replicas, STAGES),
        ledger,
        now_s=10.0,
        next_id=100,
        cold_start_s={KEY: 1.0},
        memory=memory,
        unloadable=unloadable,
        cause="test",
    )
    return list(outcome.commands), outcome


def test_a_variant_that_is_lacking_is_loaded_in_place() -> None:
    commands, outcome = run(plan((LARGE, SMALL)), replica(1, LARGE))
    assert commands == [LoadVariant(1, SMALL, "test")]
    assert not outcome.holding  # nothing is given up, so the new rules may hold at once


def test_a_variant_is_unloaded_when_its_successor_is_loaded() -> None:
    first, outcome = run(plan((SMALL,)), replica(1, LARGE))
    assert first == [LoadVariant(1, SMALL, "test")]
    assert outcome.holding == {"a"}  # the old rules hold until the small one is there
    assert run(plan((SMALL,)), replica(1, LARGE, loading=(SMALL,)))[0] == []
    assert run(plan((SMALL,)), replica(1, LARGE, SMALL))[0] == [UnloadVariant(1, LARGE, "test")]
    assert run(plan((SMALL,)), replica(1, LARGE, SMALL, unloading=(LARGE,)))[0] == []


def test_nothing_is_unloaded_while_another_replica_of_the_stage_loads() -> None:
    """Two replicas swap their variants: at every moment both variants are resident somewhere."""
    swapped = plan((LARGE,), (LARGE,))
    assert run(swapped, replica(1, LARGE, SMALL), replica(2, SMALL))[0] == [LoadVariant(2, LARGE, "test")]
    done = run(swapped, replica(1, LARGE, SMALL), replica(2, SMALL, LARGE))[0]
    assert done == [UnloadVariant(1, SMALL, "test"), UnloadVariant(2, SMALL, "test")]


def test_a_replica_is_replaced_where_a_cold_start_is_sooner_than_a_load() -> None:
    # 2 s to load, 1 s to start anew; the other way round 0.2 s are less than 1 s
    assert [type(c) for c in run(plan((OTHER,)), replica(1, LARGE))[0]] == [StartReplica]
    assert run(plan((SMALL,)), replica(1, OTHER))[0] == [LoadVariant(1, SMALL, "test")]


def test_a_variant_that_is_on_its_way_out_is_not_loaded_before_it_is_gone() -> None:
    assert run(plan((LARGE, SMALL)), replica(1, LARGE, SMALL, unloading=(SMALL,)))[0] == []


def test_a_variant_that_failed_to_load_is_left_alone_for_a_while() -> None:
    commands, _ = run(plan((LARGE, SMALL)), replica(1, LARGE), unloadable=(("a", "s", SMALL),))
    assert commands == []


def test_replicas_with_the_variants_that_are_wanted_are_kept_as_they_are() -> None:
    wanted = (ReplicaPlan(1.0, (SMALL,), "n"), ReplicaPlan(1.0, (LARGE, SMALL), "n"))
    live = [replica(1, LARGE), replica(2, SMALL), replica(3, SMALL, LARGE)]
    matching = match(wanted, live, STAGES[KEY].changes_in_place)
    assert matching.kept == {2: 0, 3: 1}  # whatever the order of variants
    assert matching.surplus == (1,)


def test_most_variants_in_common_are_given_the_rest() -> None:
    wanted = (ReplicaPlan(1.0, (LARGE, SMALL), "n"),)
    live = [replica(1, OTHER), replica(2, SMALL)]
    matching = match(wanted, live, STAGES[KEY].changes_in_place)
    assert (matching.kept, matching.surplus) == ({2: 0}, (1,))


def test_a_starting_replica_is_kept_only_for_a_variant_it_will_have() -> None:
    live = [replica(1, LARGE, state="starting")]
    assert match((ReplicaPlan(1.0, (SMALL,), "n"),), live, STAGES[KEY].changes_in_place).surplus == (1,)
    both = match((ReplicaPlan(1.0, (LARGE, SMALL), "n"),), live, STAGES[KEY].changes_in_place)
    assert both.kept == {1: 0}
    assert run(plan((LARGE, SMALL)), live[0])[0] == []  # loaded when it has started


class TestMemory:
    def test_a_load_that_fits_comes_first(self) -> None:
        assert run(plan((SMALL,)), replica(1, LARGE), memory_bytes=80)[0] == [LoadVariant(1, SMALL, "test")]

    def test_another_unwanted_variant_is_unloaded_before(self) -> None:
        # large 60 + other 20 are there, small would make 100
        commands, _ = run(plan((SMALL,)), replica(1, LARGE, OTHER), memory_bytes=99)
        assert commands == [UnloadVariant(1, LARGE, "test")]  # not both: one must be able to answer

    def test_a_replica_is_replaced_where_both_do_not_fit(self) -> None:
        commands, _ = run(plan((SMALL,)), replica(1, LARGE), memory_bytes=79)
        assert commands == [DrainReplica(1, "a", "test")]

    def test_replicas_are_replaced_one_at_a_time(self) -> None:
        commands, _ = run(plan((SMALL,), (SMALL,)), replica(1, LARGE), replica(2, LARGE), memory_bytes=139)
        assert commands == [DrainReplica(1, "a", "test")]

    def test_a_start_waits_for_memory(self) -> None:
        assert run(plan((LARGE,), (LARGE,)), replica(1, LARGE), memory_bytes=119)[0] == []
        assert len(run(plan((LARGE,), (LARGE,)), replica(1, LARGE), memory_bytes=120)[0]) == 1

    def test_a_plan_that_does_not_fit_is_refused_with_the_figures(self) -> None:
        memory = Memory(STAGES)
        memory.join("n", 119)
        assert memory.objection([plan((LARGE,), (SMALL,))]) is None
        assert memory.objection([plan((LARGE,), (LARGE,))]) == "120 bytes wanted on node n, which has 119"


class Silent:
    """A policy that says nothing: the test answers for it."""

    name = "silent"
    solve_s = 0.0
    reacts = False

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        raise AssertionError("it does not react")

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        raise AssertionError("the machine never decides by itself")


def test_a_load_that_fails_is_tried_again_later_and_said_once() -> None:
    machine = ControlMachine({"a": Service("a", 0.1, (Stage("s", VARIANTS),))}, Silent())
    machine.handle(NodeJoined("n", (0, 1)), now_s=0.0)
    wanted = Plan({"a": plan((LARGE, SMALL))})
    machine.handle(Solved(1, Decision(Plan({"a": plan((LARGE,))}), 0.5, "first"), 0.0), now_s=0.0)
    machine.handle(ReplicaReady(1, "s", "n", 1.0, (LARGE,), "a", 1.0), now_s=1.0)
    commands = machine.handle(Solved(2, Decision(wanted, 1000.0, "second"), 0.0), now_s=1.0)
    assert LoadVariant(1, SMALL, "decision 2") in commands
    assert machine.snapshot().services[0].replicas[0].loading == (SMALL,)

    record, wake = machine.handle(VariantUnloaded(1, SMALL, "no such file"), now_s=1.5)
    assert isinstance(record, RecordDecision)
    assert record.reason == "replica 1 of a.s did not load small: no such file; next try in 0.5 s"
    assert wake == WakeAt(2.0)
    assert machine.handle(Woken(), now_s=2.0)[0] == LoadVariant(1, SMALL, "decision 2")
    machine.handle(VariantUnloaded(1, SMALL, "no such file"), now_s=2.0)
    assert machine.handle(Woken(), now_s=2.9) == [WakeAt(3.0)]  # 1 s after the second failure
    assert machine.handle(Woken(), now_s=3.0)[0] == LoadVariant(1, SMALL, "decision 2")

    assert machine.handle(VariantLoaded(1, SMALL), now_s=3.2) == []  # at rest
    assert machine.replicas[1].variants == (LARGE, SMALL)
    assert machine.replicas[1].loading == ()


def test_news_of_variants_of_replicas_that_are_gone_change_nothing() -> None:
    machine = ControlMachine({"a": Service("a", 0.1, (Stage("s", VARIANTS),))}, Silent())
    assert machine.handle(VariantLoaded(7, SMALL), now_s=0.0) == []
    assert machine.handle(VariantUnloaded(7, SMALL), now_s=0.0) == []
