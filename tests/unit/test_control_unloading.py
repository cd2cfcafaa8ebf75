"""A service is unloaded and loaded again: what the service machine, the control machine and the server do."""

import asyncio
from collections.abc import Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

import pytest

from steelyard.control.machine import ControlMachine
from steelyard.core.commands import (
    Command,
    DrainReplica,
    Reject,
    RunBatch,
    ServiceDrained,
    Solve,
    StartReplica,
)
from steelyard.core.events import (
    ControlEvent,
    NodeJoined,
    ReplicaGone,
    ReplicaReady,
    ServiceDraining,
    ServiceLoaded,
    ServiceResumed,
    ServiceUnloaded,
    Solved,
)
from steelyard.core.plan import Decision, Grants, Plan, ReplicaPlan, ServicePlan, StagePlan, VariantShare
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.core.types import Service, Stage, Variant
from steelyard.serve.loading import LiveRepository, Switch
from steelyard.serve.repository import RepositoryError
from steelyard.testing.bench import ServiceBench, ends
from steelyard.testing.builders import TableTimes, make_service

C = TypeVar("C")


def of(kind: type[C], commands: Iterable[object]) -> list[C]:
    return [command for command in commands if isinstance(command, kind)]


# The service


def test_a_drained_service_that_is_resumed_admits_again_and_drains_again() -> None:
    bench = ServiceBench(make_service(), TableTimes({1: 0.010, 8: 0.020}))
    bench.ready()
    assert bench.tell(ServiceDraining()) == [ServiceDrained()]
    (refusal,) = of(Reject, bench.arrive())
    assert refusal.reason == "draining"
    assert bench.tell(ServiceResumed()) == []
    assert of(RunBatch, bench.arrive())
    assert bench.tell(ServiceDraining()) == []  # one is still to be answered
    done = bench.complete(service_s=0.01)
    assert list(ends(done))
    assert done[-1] == ServiceDrained()


# The control machine


class Silent:
    """A policy that only ever decides as the test tells the machine."""

    name, solve_s, reacts = "silent", 0.0, False

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        raise AssertionError("it does not react")

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        raise AssertionError("the machine never decides by itself")


class Rig:
    """A machine with services `a` and `b` on four cores, and a backend that obeys at once."""

    def __init__(self) -> None:
        stage = Stage("read", (Variant("small", batch_rows_max=4, cores_max=4, cold_start_s=1.0),))
        self.machine = ControlMachine({name: Service(name, 0.1, (stage,)) for name in "ab"}, Silent())
        self.solves: list[Solve] = []
        self.tell(NodeJoined("local", (0, 1, 2, 3)))

    def tell(self, event: ControlEvent, now_s: float = 0.0) -> list[Command]:
        commands = self.machine.handle(event, now_s=now_s)
        self.machine.validate()
        self.solves += of(Solve, commands)
        for start in of(StartReplica, commands):
            commands += self.tell(
                ReplicaReady(start.replica_id, "read", "local", 1.0, start.variants, start.service, 1.0),
                now_s,
            )
        for drain in of(DrainReplica, commands):
            commands += self.tell(ReplicaGone(drain.replica_id, expected=True), now_s)
        return commands

    def decide(self, *names: str, now_s: float) -> list[Command]:
        stage = StagePlan((ReplicaPlan(1.0, ("small",)),), (VariantShare("small", 1.0),), 1)
        plan = Plan({name: ServicePlan(name, {"read": stage}) for name in names})
        return self.tell(Solved(self.solves[-1].solve_id, Decision(plan, 1000.0, "because"), 0.0), now_s)

    def replicas(self) -> list[str]:
        return sorted(replica.service for replica in self.machine.replicas.values())

    def seen(self) -> list[str]:
        """The services in the snapshot that the policy was last asked about."""
        return [view.service for view in self.solves[-1].snapshot.services]


def test_an_unloaded_service_gives_up_its_replicas_and_is_planned_for_no_more() -> None:
    rig = Rig()
    rig.decide("a", "b", now_s=0.1)
    assert rig.replicas() == ["a", "b"]
    commands = rig.tell(ServiceUnloaded("a"), 1.0)
    assert [drain.service for drain in of(DrainReplica, commands)] == ["a"]
    assert rig.replicas() == ["b"]
    assert rig.seen() == ["b"]  # the policy is asked at once what to do with the cores
    rig.decide("a", "b", now_s=1.1)  # a plan for it is not carried out
    assert rig.replicas() == ["b"]


def test_a_loaded_service_is_planned_for_as_at_the_start() -> None:
    rig = Rig()
    rig.decide("a", "b", now_s=0.1)
    rig.tell(ServiceUnloaded("a"), 1.0)
    rig.decide("b", now_s=1.1)
    rig.tell(ServiceLoaded("a"), 2.0)
    assert rig.seen() == ["a", "b"]
    (view,) = (v for v in rig.solves[-1].snapshot.services if v.service == "a")
    assert (view.desired, view.replicas) == (None, ())
    rig.decide("a", "b", now_s=2.1)
    assert rig.replicas() == ["a", "b"]


def test_what_the_policy_was_asked_before_the_change_is_not_carried_out() -> None:
    rig = Rig()
    rig.decide("a", "b", now_s=0.1)
    rig.tell(ServiceUnloaded("a"), 1.0)
    asked = rig.solves[-1].solve_id
    rig.tell(ServiceLoaded("a"), 1.2)  # the answer is still to come
    assert rig.solves[-1].solve_id == asked + 1
    rig.tell(Solved(asked, Decision(Plan({}), 1000.0, "too late"), 0.0), 1.3)
    rig.decide("a", "b", now_s=1.4)
    assert rig.replicas() == ["a", "b"]


def test_with_every_service_unloaded_there_is_nothing_to_ask() -> None:
    rig = Rig()
    rig.decide("a", "b", now_s=0.1)
    rig.tell(ServiceUnloaded("a"), 1.0)
    rig.decide("b", now_s=1.1)
    assert not of(Solve, rig.tell(ServiceUnloaded("b"), 2.0))
    assert rig.replicas() == []
    assert of(Solve, rig.tell(ServiceLoaded("b"), 3.0))


# The server's repository


class Told:
    """What a repository switches; `steps` is what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.ready = True
        self.drained = asyncio.Event()
        self.plan = partial(self.steps.append, "plan")

    def switch(self) -> Switch:
        return Switch(
            drain=lambda: self.steps.append("drain"),
            resume=lambda: self.steps.append("resume"),
            drained=self.drained,
            give_up=lambda: self.steps.append("give up"),
            plan=lambda: self.plan(),
            is_ready=lambda: self.ready,
        )


def run(steps: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await steps

    asyncio.run(bounded())


def test_unloading_waits_for_the_last_answer() -> None:
    async def steps() -> None:
        one = Told()
        repository = LiveRepository([("a", one.switch())], wait_s_max=9)
        unloading = asyncio.create_task(repository.unload("a"))
        while not one.steps:
            await asyncio.sleep(0)
        assert (one.steps, repository.is_open("a")) == (["drain"], False)
        assert [entry.state for entry in repository.index()] == ["UNLOADING"]
        one.drained.set()
        await unloading
        assert one.steps == ["drain", "give up"]
        assert [entry.state for entry in repository.index()] == ["UNAVAILABLE"]
        await repository.unload("a")
        assert one.steps == ["drain", "give up"]  # there is nothing to do

    run(steps())


def test_loading_waits_until_it_is_ready_and_for_the_unloading_before() -> None:
    async def steps() -> None:
        one = Told()
        repository = LiveRepository([("a", one.switch())], wait_s_max=9)
        unloading = asyncio.create_task(repository.unload("a"))
        loading = [asyncio.create_task(repository.load("a")) for _ in range(2)]
        while not one.steps:
            await asyncio.sleep(0)
        one.ready = False
        one.drained.set()
        await unloading
        while one.steps[-1] != "plan":
            await asyncio.sleep(0)
        assert not repository.is_open("a")
        assert [entry.state for entry in repository.index()] == ["LOADING"]
        one.ready = True
        await asyncio.gather(*loading)
        assert one.steps == ["drain", "give up", "plan", "resume"]
        assert (repository.is_open("a"), one.drained.is_set()) == (True, False)
        assert [entry.state for entry in repository.index()] == ["READY"]

    run(steps())


def test_of_those_who_wait_for_a_change_to_end_one_begins_the_next() -> None:
    """Were both to begin, the unloading would drain what the loading then resumes, and never end."""

    async def steps() -> None:
        one = Told()
        repository = LiveRepository([("a", one.switch())], wait_s_max=9)
        one.ready = False
        one.drained.set()
        calls = [
            asyncio.create_task(change("a"))
            for change in (repository.unload, repository.load, repository.unload)
        ]
        unloaded, loaded, again = await asyncio.gather(*calls, return_exceptions=True)
        assert (unloaded, str(loaded), again) == (None, "service 'a' was unloaded before it was ready", None)
        assert one.steps == [
            "drain",
            "give up",
            "drain",
            "give up",
        ]  # the loading ended before its first step
        assert [entry.state for entry in repository.index()] == ["UNAVAILABLE"]

    run(steps())


def test_a_loading_that_never_ends_is_ended_by_unloading() -> None:
    async def steps() -> None:
        one = Told()
        repository = LiveRepository([("a", one.switch())], wait_s_max=0.01)
        one.drained.set()
        await repository.unload("a")
        one.ready = False
        with pytest.raises(RepositoryError, match=r"is still loading after 0\.01 s"):
            await repository.load("a")
        await repository.unload("a")
        assert one.steps == ["drain", "give up", "plan", "drain", "give up"]
        one.ready = True
        await repository.load("a")
        assert one.steps[5:] == ["plan", "resume"]
        assert [entry.state for entry in repository.index()] == ["READY"]

    run(steps())


def test_unloading_ends_a_loading_for_all_who_wait_for_it() -> None:
    async def steps() -> None:
        one = Told()
        repository = LiveRepository([("a", one.switch())], wait_s_max=9)
        one.drained.set()
        await repository.unload("a")
        one.ready = False
        loading = [asyncio.create_task(repository.load("a")) for _ in range(2)]
        while one.steps[-1] != "plan":
            await asyncio.sleep(0)
        await repository.unload("a")
        told = await asyncio.gather(*loading, return_exceptions=True)
        assert list(map(str, told)) == ["service 'a' was unloaded before it was ready"] * 2
        assert one.steps == ["drain", "give up", "plan", "drain", "give up"]  # and nobody began anew
        assert [entry.state for entry in repository.index()] == ["UNAVAILABLE"]

    run(steps())


def test_a_loading_that_fails_is_told_and_may_be_tried_again() -> None:
    async def steps() -> None:
        one = Told()
        repository = LiveRepository([("a", one.switch())], wait_s_max=9)
        one.drained.set()
        await repository.unload("a")
        plan, one.plan = one.plan, partial(one.steps.remove, "no such step")
        with pytest.raises(RepositoryError, match="service 'a' could not be loaded: ValueError"):
            await repository.load("a")
        assert [entry.state for entry in repository.index()] == ["UNAVAILABLE"]
        one.plan = plan
        await repository.load("a")
        assert [entry.state for entry in repository.index()] == ["READY"]

    run(steps())


def test_who_waits_no_longer_is_told_and_the_change_goes_on() -> None:
    async def steps() -> None:
        one = Told()
        repository = LiveRepository([("a", one.switch())], wait_s_max=0.01)
        with pytest.raises(RepositoryError, match=r"still has requests to answer after 0\.01 s"):
            await repository.unload("a")
        with pytest.raises(RepositoryError, match=r"is changing after 0\.01 s"):
            await repository.load("a")
        one.drained.set()
        while repository.index()[0].state != "UNAVAILABLE":
            await asyncio.sleep(0)
        await repository.unload("a")
        assert one.steps == ["drain", "give up"]

    run(steps())
