"""The control plane's driver: what it tells services, the backend and the account of cores."""

from typing import Any

from steelyard.core.commands import Command, DrainReplica, RecordDecision, ResizeReplica, StartReplica
from steelyard.core.events import ReplicaDraining, ReplicaGone, ReplicaReady, ReplicaResized, Woken
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

    def on_replica(self, service: str, replica_id: int, state: str, cores: float) -> None:
        self.states.append((state, cores))

    def handle(self, event: object) -> None:
        self.events.append(event)

    def start(self, command: object) -> None:
        self.commands.append(command)

    resize = stop = load = unload = start


class Scripted:
    """A machine that answers with what the test has put into `commands`."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def handle(self, event: Any, *, now_s: float) -> list[Command]:
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
