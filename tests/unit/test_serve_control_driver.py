"""The control plane's driver: what it tells services, the backend and the account of cores."""

from typing import Any

import pytest

from steelyard.core.commands import (
    Command,
    DrainReplica,
    LoadVariant,
    RecordDecision,
    ResizeReplica,
    StartReplica,
    UnloadVariant,
)
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    VariantLoaded,
    VariantUnloaded,
    Woken,
)
from steelyard.core.snapshot import CoreShare
from steelyard.serve.control_driver import ControlDriver
from steelyard.serve.service_driver import MachinePump

ONE = (CoreShare(0, 1.0),)
TWO = (CoreShare(0, 1.0), CoreShare(1, 1.0))


class Told:
    """Stands for everything the driver talks to, and keeps what it was told."""

    def __init__(self) -> None:
        self.states: list[tuple[str, float]] = []
        self.events: list[object] = []
        self.commands: list[object] = []
        self.running: set[int] = set()

    def on_replica(self, service: str, replica_id: int, state: str, cores: float) -> None:
        self.states.append((state, cores))

    def handle(self, event: object) -> None:
        self.events.append(event)

    def is_running(self, replica_id: int) -> bool:
        return replica_id in self.running

    def start(self, command: object) -> None:
        self.commands.append(command)

    resize = stop = load = unload = start


class Scripted:
    """A machine that answers with what the test has put into `commands`."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.heard: list[object] = []

    def handle(self, event: Any, *, now_s: float) -> list[Command]:
        self.heard.append(event)
        commands, self.commands = self.commands, []
        return commands


def _nothing(*_: object, **__: object) -> Any:
    """Stands for clocks and journals."""
    return 0.0


def made() -> tuple[ControlDriver, Scripted, Told]:
    told, machine = Told(), Scripted()
    pump = MachinePump("control", machine, clock=_nothing, call_at=_nothing, record=_nothing)
    decisions: list[RecordDecision] = []
    driver = ControlDriver(
        pump,
        told,  # type: ignore[arg-type]
        {"ocr": told},  # type: ignore[dict-item]
        planner=told,  # type: ignore[arg-type]
        watch=told,
        on_decision=decisions.append,
    )
    return driver, machine, told


def test_a_replica_that_drains_is_not_called_ready_again_by_a_resize_that_was_on_its_way() -> None:
    driver, machine, told = made()
    machine.commands = [StartReplica(1, "ocr", "read", "local", ONE, ("small",), 0.1)]
    driver.handle(Woken())
    driver.on_backend(ReplicaReady(1, "read", "local", 1.0, ("small",), "ocr"))
    machine.commands = [ResizeReplica(1, TWO), DrainReplica(1, "ocr")]
    driver.handle(Woken())
    driver.on_backend(ReplicaResized(1, 2.0))
    driver.on_backend(ReplicaGone(1, expected=True))
    assert told.states == [
        ("starting", 1.0),
        ("ready", 1.0),
        ("draining", 1.0),
        ("draining", 2.0),
        ("gone", 0.0),
    ]
    assert [type(event) for event in told.events][2:] == [ReplicaDraining, ReplicaResized, ReplicaGone]


def test_last_words_of_a_replica_that_is_gone_concern_nobody() -> None:
    driver, machine, told = made()
    machine.commands = [StartReplica(1, "ocr", "read", "local", ONE, ("small",), 0.1)]
    driver.handle(Woken())
    driver.on_backend(ReplicaGone(1, expected=False, reason="killed"))
    heard = len(told.events)
    driver.on_backend(ReplicaResized(1, 2.0))
    assert len(told.events) == heard
    assert told.states[-1] == ("gone", 0.0)


PARKED = ReplicaResized(1, 0.0)
DONE = BatchCompleted(7, 1, 0.0, 0.1)
FAILED = BatchFailed(7, 1, "not a number")


def ready() -> tuple[ControlDriver, Scripted, Told]:
    """A ready replica of one core."""
    driver, machine, told = made()
    machine.commands = [StartReplica(1, "ocr", "read", "local", ONE, ("small",), 0.1)]
    driver.handle(Woken())
    driver.on_backend(ReplicaReady(1, "read", "local", 1.0, ("small",), "ocr"))
    return driver, machine, told


def parked_while_busy() -> tuple[ControlDriver, Scripted, Told]:
    """The same with a batch in flight, when it has just been parked."""
    driver, machine, told = ready()
    told.running.add(1)
    driver.on_backend(PARKED)
    return driver, machine, told


def test_a_replica_parked_while_it_runs_takes_no_further_batch_and_keeps_its_core() -> None:
    _, machine, told = parked_while_busy()
    assert told.events[-1] == PARKED  # the service knows at once
    assert PARKED not in machine.heard  # the core is nobody else's yet
    assert told.states[-1] == ("ready", 1.0)


@pytest.mark.parametrize("end", [DONE, FAILED])
def test_its_core_is_free_when_the_batch_has_ended(end: BatchCompleted | BatchFailed) -> None:
    driver, machine, told = parked_while_busy()
    told.running.clear()  # as a service does when a batch ends
    driver.on_backend(end)
    assert machine.heard[-1] == PARKED
    assert told.events[-2:] == [end, PARKED]
    assert told.states[-1] == ("parked", 0.0)
    heard = len(machine.heard)
    driver.on_backend(DONE)
    assert len(machine.heard) == heard  # told once


def test_a_replica_that_is_lost_while_it_lets_go_is_gone_and_nothing_else() -> None:
    driver, machine, told = parked_while_busy()
    told.running.clear()
    gone = ReplicaGone(1, expected=False, reason="killed")
    driver.on_backend(gone)
    assert machine.heard[-1] == gone
    assert PARKED not in machine.heard
    assert told.states[-1] == ("gone", 0.0)


def test_an_idle_replica_is_parked_at_once() -> None:
    driver, machine, told = ready()
    driver.on_backend(PARKED)
    assert machine.heard[-1] == PARKED
    assert told.states[-1] == ("parked", 0.0)


def test_a_busy_replica_that_only_shrinks_does_not_wait() -> None:
    driver, machine, told = ready()
    told.running.add(1)
    smaller = ReplicaResized(1, 0.5)
    driver.on_backend(smaller)
    assert machine.heard[-1] == smaller
    assert told.states[-1] == ("ready", 0.5)


def test_a_variant_is_taken_from_the_service_before_the_worker_unloads_it() -> None:
    """A batch of it that were on its way would fail."""
    driver, machine, told = made()
    machine.commands = [StartReplica(1, "ocr", "read", "local", ONE, ("small",), 0.1)]
    driver.handle(Woken())
    driver.on_backend(ReplicaReady(1, "read", "local", 1.0, ("small",), "ocr"))
    machine.commands = [LoadVariant(1, "tiny")]
    driver.handle(Woken())
    assert told.commands[-1] == LoadVariant(1, "tiny")
    driver.on_backend(VariantLoaded(1, "tiny"))
    machine.commands = [UnloadVariant(1, "small")]
    before = len(told.commands)
    driver.handle(Woken())
    assert told.commands[before:] == [UnloadVariant(1, "small")]
    driver.on_backend(VariantUnloaded(1, "small"))
    gone = VariantUnloaded(1, "small")
    assert told.events[-3:] == [VariantLoaded(1, "tiny"), gone, gone]  # when asked for, and when it is done
    assert [event for event in machine.heard if not isinstance(event, Woken)][-2:] == [
        VariantLoaded(1, "tiny"),
        gone,
    ]
