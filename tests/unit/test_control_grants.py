from collections.abc import Iterable

from steelyard.control.desired import Desired, quantised
from steelyard.control.fleet import Fleet
from steelyard.control.grants import Granting
from steelyard.control.ledger import Ledger
from steelyard.control.memory import Memory
from steelyard.control.replica import Replica
from steelyard.core.plan import (
    Grant,
    GrantCancel,
    GrantCores,
    GrantStart,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    VariantShare,
)
from steelyard.core.snapshot import ReplicaState
from steelyard.core.types import Service, Stage, Variant


def stage_plan(*replicas: ReplicaPlan) -> StagePlan:
    return StagePlan(replicas, (VariantShare("v", 1.0),))


def one(cores: float, node: str = "n") -> ReplicaPlan:
    return ReplicaPlan(cores, ("v",), node)


def replica(replica_id: int, cores: float, state: ReplicaState = "ready", *, stage: str = "s") -> Replica:
    return Replica(replica_id, "a", stage, "n", ("v",), state, cores, cores, cores, started_s=0.0)


class Desk:
    """A service of two stages `s` and `t` on 4 cores of node `n` and 2 of node `m`."""

    def __init__(
        self, plans: Iterable[ServicePlan], replicas: Iterable[Replica], *, cores_max: float | None = None
    ) -> None:
        stages = (Stage("s", (Variant("v"),)), Stage("t", (Variant("v"), Variant("w"))))
        services = {"a": Service("a", 0.1, stages, cores_max=cores_max)}
        ledger = Ledger()
        ledger.join("n", range(4), fractional=True)
        ledger.join("m", range(2), fractional=False)
        self.desired = Desired(plans)
        self.working = Granting(self.desired, Fleet(replicas), services, ledger, Memory({}))

    def take(self, *grants: Grant) -> list[str | None]:
        return [self.working.take(grant) for grant in grants]

    def cores(self, stage: str = "s") -> list[float]:
        (plan,) = self.working.plans()
        return [replica.cores for replica in plan.stages[stage].replicas]


def two_stages(*cores: float) -> ServicePlan:
    return ServicePlan("a", {"s": stage_plan(*map(one, cores)), "t": stage_plan(one(1.0))})


def test_two_grants_to_replicas_that_are_alike_are_two() -> None:
    desk = Desk([two_stages(1.0, 1.0)], [replica(1, 1.0), replica(2, 1.0)])
    assert desk.take(GrantCores(1, 1.5), GrantCores(2, 1.5)) == [None, None]
    assert desk.cores() == [1.5, 1.5]


def test_each_grant_stands_on_those_before_it() -> None:
    # 3 of 4 cores are wanted: a third replica's core fits; a fourth's does not until one is cancelled.
    desk = Desk([two_stages(1.0, 1.0)], [replica(1, 1.0), replica(2, 1.0, "starting")])
    start = GrantStart("a", "s", one(1.0))
    assert desk.take(start, start) == [None, "5 cores wanted on node n, which has 4"]
    assert desk.take(GrantCancel(2), start) == [None, None]
    assert desk.cores() == [1.0, 1.0, 1.0]


def test_what_a_shrink_gives_up_can_be_granted() -> None:
    desk = Desk([two_stages(2.0, 1.0)], [replica(1, 2.0), replica(2, 1.0)])
    assert desk.take(GrantCores(2, 2.0)) == ["5 cores wanted on node n, which has 4"]
    assert desk.take(GrantCores(1, 1.0), GrantCores(2, 2.0)) == [None, None]


def test_nodes_are_counted_apart() -> None:
    desk = Desk([two_stages(2.0, 1.0)], [replica(1, 2.0)])
    assert desk.take(GrantStart("a", "t", one(2.0, "m"))) == [None]
    assert desk.take(GrantStart("a", "t", one(1.0, "m"))) == ["3 cores wanted on node m, which has 2"]
    assert desk.take(GrantStart("a", "t", one(0.5, "m"))) == [
        "a.t: 0.5 cores, but node m does not enforce parts of a core"
    ]
    assert desk.take(GrantStart("a", "t", one(1.0, "x"))) == ["a.t: unknown node x"]


def test_a_service_keeps_to_its_limit_over_all_stages() -> None:
    desk = Desk([two_stages(1.0)], [replica(1, 1.0)], cores_max=3.0)
    assert desk.take(GrantCores(1, 2.5)) == ["a wants 3.5 cores, its limit is 3"]
    assert desk.take(GrantCores(1, 2.0)) == [None]


def test_a_start_names_variants_of_its_stage() -> None:
    desk = Desk([two_stages(1.0)], [replica(1, 1.0)])
    wrong = GrantStart("a", "s", ReplicaPlan(1.0, ("w",), "n"))
    assert desk.take(wrong) == ["a.s: unknown variant w; there are v"]


def test_a_cancelled_replica_takes_no_grant_and_a_ready_one_is_not_cancelled() -> None:
    desk = Desk([two_stages(1.0, 1.0)], [replica(1, 1.0), replica(2, 1.0, "starting")])
    assert desk.take(GrantCancel(2), GrantCores(2, 2.0), GrantCancel(1)) == [
        None,
        "replica 2 is not wanted any more",
        "replica 1 has started already",
    ]


def test_grants_that_take_each_other_back_change_nothing() -> None:
    desk = Desk([two_stages(1.0)], [replica(1, 1.0)])
    assert desk.take(GrantCores(1, 2.0), GrantCores(1, 1.0)) == [None, None]
    assert desk.working.plans() == []


def test_cores_are_granted_as_the_ledger_counts_them() -> None:
    desk = Desk([two_stages(1.0)], [replica(1, 1.0)])
    assert desk.take(GrantCores(1, 1.333)) == [None]
    assert desk.cores() == [1.33]


def test_what_is_desired_is_counted_by_node() -> None:
    desired = Desired([quantised(ServicePlan("a", {"s": stage_plan(one(0.254), one(2.0, "m"))}))])
    assert (desired.units("a"), desired.units_on("n"), desired.units_on("m")) == (225, 25, 200)
    assert desired.cores("a") == 2.25
    assert desired.may_grow_on("a", "n")
    assert not desired.may_grow_on("a", "elsewhere")
    assert desired.may_grow_on("b", "elsewhere")
    desired.put(ServicePlan("a", {"s": stage_plan(one(1.0))}))
    assert (desired.units("a"), desired.units_on("m"), desired.version) == (100, 0, 2)
