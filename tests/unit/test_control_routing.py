"""Who is told what, whichever driver carries it out."""

from typing import Any, get_args

import pytest

from steelyard.backend.base import BackendEvent
from steelyard.control.routing import TO_CONTROL, TO_SERVICE, actions
from steelyard.core.commands import (
    Command,
    ControlCommand,
    DrainReplica,
    LoadVariant,
    OfferCapacity,
    Publish,
    RecordDecision,
    ResizeReplica,
    Solve,
    StartReplica,
    StopReplica,
    UnloadVariant,
    WakeAt,
)
from steelyard.core.events import (
    CapacityChanged,
    PlanPublished,
    ReplicaDraining,
    ReplicaStarted,
    ServiceEvent,
    VariantUnloaded,
)
from steelyard.core.plan import ServicePlan
from steelyard.core.snapshot import CoreShare


class Told:
    """The backend and the services: what they were told, in order."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.gone = False

    def act(self, command: object) -> None:
        self.seen.append(command)

    start = resize = stop = load = unload = act

    def tell(self, service: str, event: ServiceEvent) -> None:
        self.seen.append((service, event))

    def service_of(self, replica_id: int) -> str | None:
        return None if self.gone else f"of {replica_id}"


SHARES = (CoreShare(0, 1.0), CoreShare(1, 0.5))
START = StartReplica(7, "s", "a", "n", SHARES, ("v",), 3.0)
STARTED = ReplicaStarted(7, "a", "n", 1.5, ("v",), 3.0, "s")


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        (START, [("s", STARTED), START]),
        (ResizeReplica(7, SHARES), [ResizeReplica(7, SHARES)]),
        (DrainReplica(7, "s"), [("s", ReplicaDraining(7))]),
        (StopReplica(7), [StopReplica(7)]),
        (LoadVariant(7, "w"), [LoadVariant(7, "w")]),
        (UnloadVariant(7, "v"), [("of 7", VariantUnloaded(7, "v")), UnloadVariant(7, "v")]),
        (Publish(ServicePlan("s", {})), [("s", PlanPublished(ServicePlan("s", {})))]),
        (OfferCapacity("s", 2.0), [("s", CapacityChanged(2.0))]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_command_has_its_way(command: Command, seen: list[object]) -> None:
    told = Told()
    actions(told, told.tell, told.service_of)[type(command)](command)
    assert told.seen == seen


def test_nobody_is_told_of_a_replica_that_has_gone() -> None:
    told = Told()
    told.gone = True
    actions(told, told.tell, told.service_of)[UnloadVariant](UnloadVariant(7, "v"))
    assert told.seen == [UnloadVariant(7, "v")]


def kinds(union: Any) -> set[type]:
    """The types of a union of unions."""
    return (
        {kind for part in get_args(union) for kind in (kinds(part) or {part})} if get_args(union) else set()
    )


def test_no_command_and_no_event_is_forgotten() -> None:
    told = Told()
    drivers = {Solve, RecordDecision, WakeAt}  # of each its own
    assert set(actions(told, told.tell, told.service_of)) | drivers == kinds(ControlCommand)
    said_by_actions = {ReplicaStarted, ReplicaDraining}
    assert {*TO_SERVICE, *TO_CONTROL} == kinds(BackendEvent) - said_by_actions
