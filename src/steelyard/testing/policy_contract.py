"""What every policy must keep, whatever it decides: the suite that a plugin's tests subclass.

    class TestMine(PolicyContract):
        name = "mine"

Every law is checked along a scripted day: quiet, a surge, overload, quiet again, with the control machine
applying what the policy decides, on small and large nodes, with and without parts of a core, one service
and two, several nodes, and a pipeline where the policy takes one.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import ClassVar, NamedTuple

import msgspec
import pytest

from steelyard.control.machine import ControlMachine
from steelyard.control.validate import plan_objection
from steelyard.core.commands import (
    Command,
    DrainReplica,
    RecordDecision,
    ResizeReplica,
    Solve,
    StartReplica,
    StopReplica,
)
from steelyard.core.events import (
    ControlEvent,
    NodeJoined,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    Solved,
    WindowReported,
)
from steelyard.core.plan import Decision, GrantCancel, GrantCores, Grants, GrantStart
from steelyard.core.snapshot import ClusterSnapshot, ServiceWindow, StageWindow
from steelyard.core.types import Service, ServiceTimes, Stage, Variant
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import OURS, known_policies, make_policy
from steelyard.profile.times import CoefficientTimes

RATES = (4, 4, 4, 40, 120, 400, 40, 4, 0, 0)
"""Rows in each second of the scripted day, of the first service; the second has them in reverse."""


class Cluster(NamedTuple):
    """One of the clusters on which the laws are checked: `cores` of each node, `stages` of each service."""

    cores: int
    fractional: bool
    services: int
    nodes: int = 1
    stages: int = 1


CLUSTERS = (
    Cluster(1, False, 1),
    Cluster(2, False, 1),
    Cluster(2, True, 2),
    Cluster(16, False, 2),
    Cluster(3, False, 1, nodes=3),
    Cluster(4, False, 1, nodes=2, stages=2),
)
STAGES = ("read", "rank")


def contract_context(count: int, *, stages: int = 1, published: bool = True) -> PolicyContext:
    """`count` services of so many stages with two variants each; 20 ms a row on one core, 13 on two.

    Clairvoyants are told the scripted day.
    """
    variants = (Variant("small", 0.9, 8, 8, 0.4), Variant("tiny", 0.8, 8, 8, 0.4))
    chain = tuple(Stage(name, variants, after=STAGES[:place]) for place, name in enumerate(STAGES[:stages]))
    services = {
        name: Service(name, 0.16, chain, cores_min=0.5 if count > 1 else 1.0) for name in ("a", "b")[:count]
    }
    times: Mapping[tuple[str, str], ServiceTimes] = {
        (name, stage.name): CoefficientTimes(10.0, 6.0, 0.0, 4.0) for name in services for stage in chain
    }
    return PolicyContext(services, times, published=published, future={"a": RATES, "b": RATES[::-1]})


class Step(NamedTuple):
    """A snapshot that a policy saw, and what it answered."""

    snapshot: ClusterSnapshot
    answer: Decision | Grants | None


class _Recorded:
    """A policy that keeps what passes through it."""

    def __init__(self, policy: Policy, steps: list[Step], changed: list[str]) -> None:
        self._policy = policy
        self._steps = steps
        self._changed = changed
        self.name, self.solve_s, self.reacts = policy.name, policy.solve_s, policy.reacts

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        before = msgspec.json.encode(snapshot)
        grants = self._policy.react(snapshot)
        if msgspec.json.encode(snapshot) != before:
            self._changed.append("react")
        self._steps.append(Step(snapshot, grants))
        return grants

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        before = msgspec.json.encode(snapshot)
        decision = self._policy.decide(snapshot)
        if msgspec.json.encode(snapshot) != before:
            self._changed.append("decide")
        self._steps.append(Step(snapshot, decision))
        return decision


class Day:
    """Runs a policy through the scripted day; `steps` and `records` are what came of it.

    `changed` names the methods that changed a snapshot.
    """

    def __init__(self, name: str, cluster: Cluster) -> None:
        one_stage = known_policies()[name.removesuffix(OURS)].one_stage
        context = contract_context(cluster.services, stages=1 if one_stage else cluster.stages)
        self.steps: list[Step] = []
        self.records: list[RecordDecision] = []
        self.changed: list[str] = []
        self.services = context.services
        self._planner = _Recorded(make_policy(name, context), self.steps, self.changed)
        self.machine = ControlMachine(
            context.services,
            _Recorded(make_policy(name, context), self.steps, self.changed),
            policy_name=name,
        )
        self._queue = {(name, s.name): 0.0 for name, of in context.services.items() for s in of.stages}
        for node in ("local", "second", "third")[: cluster.nodes]:
            self._tell(NodeJoined(node, tuple(range(cluster.cores)), cluster.fractional), 0.0)
        for index in range(10 * len(RATES)):
            self._window(index)

    def _window(self, index: int) -> None:
        """One window of fluid: what the cores do not carry waits, up to two seconds of it."""
        from_s, to_s = index / 10, (index + 1) / 10
        for place, name in enumerate(self.services):
            rates = RATES if place == 0 else RATES[::-1]
            rate = rates[index // 10]
            rows = rate // 10 + (index % 10 < rate % 10)
            seen = tuple([self._stage(name, s.name, rate, rows) for s in self.services[name].stages])
            window = ServiceWindow(name, from_s, to_s, rows, rows, 0, 0, 0, 0, 0, 0, seen)
            self._tell(WindowReported(window), to_s)

    def _stage(self, service: str, stage: str, rate: int, rows: int) -> StageWindow:
        """A stage at the end of a window in which it was given `rows`: as if no other held any back."""
        of_stage = [r for r in self.machine.replicas.values() if (r.service, r.stage) == (service, stage)]
        carried = sum(5.0 * r.cores for r in of_stage if r.state == "ready")
        waiting = min(2.0 * rate, max(0.0, self._queue[service, stage] + rows - carried))
        self._queue[service, stage] = waiting
        queue = int(waiting)
        return StageWindow(stage, queue, queue, 0.1 if queue else None, 0)

    def _tell(self, event: ControlEvent, now_s: float) -> None:
        pending: list[ControlEvent] = [event]
        while pending:
            for command in self.machine.handle(pending.pop(0), now_s=now_s):
                pending += self._answers(command)
            self.machine.validate()

    def _answers(self, command: Command) -> Iterator[ControlEvent]:
        match command:
            case RecordDecision():
                self.records.append(command)
            case Solve():
                yield Solved(command.solve_id, self._planner.decide(command.snapshot), 0.0)
            case StartReplica():
                cores = sum(share.fraction for share in command.shares)
                yield ReplicaReady(
                    command.replica_id,
                    command.stage,
                    command.node,
                    cores,
                    command.variants,
                    command.service,
                    0.4,
                )
            case ResizeReplica():
                yield ReplicaResized(command.replica_id, sum(share.fraction for share in command.shares))
            case DrainReplica() | StopReplica():
                yield ReplicaGone(command.replica_id, expected=True)
            case _:
                pass


@cache
def day_of(name: str, cluster: Cluster) -> Day:
    """The day, run once: the laws only look at it."""
    return Day(name, cluster)


def transcript(name: str, day: Callable[[str, Cluster], Day] = Day) -> bytes:
    """All answers of a policy on all clusters, for comparison; of days run for it, or those of `day_of`."""
    return b"\n".join(
        msgspec.json.encode([step.answer for step in day(name, cluster).steps]) for cluster in CLUSTERS
    )


class PolicyContract:
    """Subclass and set `name` to a registered policy's."""

    name: ClassVar[str]

    @pytest.fixture(params=CLUSTERS, ids=lambda c: f"{c.nodes}x{c.cores}cores-{c.services}services")
    def day(self, request: pytest.FixtureRequest) -> Day:
        """The scripted day on each cluster."""
        return day_of(self.name, request.param)

    def test_every_service_is_served(self, day: Day) -> None:
        """From the first decision on, each service has a plan with a replica for every stage."""
        for name in day.services:
            plan = day.machine.desired[name]
            assert all(stage.replicas for stage in plan.stages.values())

    def test_the_next_decision_is_later(self, day: Day) -> None:
        """A policy asks to be asked again, in the future."""
        for snapshot, answer in day.steps:
            if isinstance(answer, Decision):
                assert answer.next_at_s > snapshot.now_s

    def test_plans_fit_the_nodes(self, day: Day) -> None:
        """A plan can be carried out on the cluster that it was decided on."""
        for snapshot, answer in day.steps:
            if isinstance(answer, Decision) and answer.plan is not None:
                desired = {v.service: v.desired for v in snapshot.services if v.desired is not None}
                ledger = day.machine.ledger_copy()
                assert plan_objection(answer.plan.services, desired, day.services, ledger) is None

    def test_snapshots_are_left_alone_and_nothing_fails(self, day: Day) -> None:
        """Neither method changes what it looks at; `react` raises nothing."""
        assert day.changed == []
        assert not [record.reason for record in day.records if record.reason.startswith("react failed")]

    def test_reasons_are_given(self, day: Day) -> None:
        """Every answer says why."""
        assert all(step.answer.reason for step in day.steps if step.answer is not None)
        assert all(record.reason for record in day.records)

    def test_reactions_stay_within_what_is_free(self, day: Day) -> None:
        """Grants give no more than is free and what the same grants take."""
        for snapshot, answer in day.steps:
            if not isinstance(answer, Grants):
                continue
            now = {r.replica_id: r for view in snapshot.services for r in view.replicas}
            balance = sum(node.cores_free for node in snapshot.nodes)
            for grant in answer.grants:
                match grant:
                    case GrantCores():
                        balance -= grant.cores - now[grant.replica_id].cores_desired
                    case GrantStart():
                        balance -= grant.replica.cores
                    case GrantCancel():
                        assert now[grant.replica_id].state == "starting"
            assert balance >= -1e-6

    def test_only_a_policy_that_says_so_reacts(self, day: Day) -> None:
        """Free cores are offered to admission only for policies with `reacts`."""
        if not make_policy(self.name, contract_context(1)).reacts:
            assert not any(isinstance(step.answer, Grants) for step in day.steps)

    def test_the_same_day_is_the_same_twice(self) -> None:
        """Equal snapshots in equal order have equal answers."""
        assert transcript(self.name) == transcript(self.name, day_of)

    def test_renamed_variants_change_nothing(self) -> None:
        """A policy knows a variant by its place and figures, not by its name's place in the alphabet."""
        context = contract_context(1)
        swapped = {"small": "zz", "tiny": "aa"}
        service = context.services["a"]
        stage = service.stages[0]
        variants = tuple(msgspec.structs.replace(v, name=swapped[v.name]) for v in stage.variants)
        renamed = msgspec.structs.replace(service, stages=(Stage(stage.name, variants),))
        snapshot = day_of(self.name, CLUSTERS[1]).steps[0].snapshot
        plans = [
            make_policy(self.name, made).decide(snapshot).plan
            for made in (context, PolicyContext({"a": renamed}, context.service_times, future=context.future))
        ]
        text = [msgspec.json.encode(plan).decode() for plan in plans]
        assert text[0].replace("small", "zz").replace("tiny", "aa") == text[1]

    def test_services_may_be_missing(self) -> None:
        """An unloaded service is in no snapshot: a policy decides for the others, and reacts to them."""
        seen = day_of(self.name, CLUSTERS[3]).steps[-1].snapshot
        left = msgspec.structs.replace(seen, services=seen.services[:1])
        policy = make_policy(self.name, contract_context(2))
        plan = policy.decide(left).plan
        policy.react(left)
        assert plan is None or "a" in plan.services

    def test_it_is_registered_with_a_summary(self) -> None:
        """The listing has a line for it."""
        assert known_policies()[self.name.removesuffix("+ours")].summary
