"""Who is told what of a control machine's commands, and of what becomes of replicas: for every driver.

Three rules are not obvious:
- *The service first.* It hears of a replica before the backend makes it, of a variant that goes before a
  batch of it could be on its way, and of a replica that is ready before the control machine gives away the
  cores that covered for it.
- *A drain is the service's.* It says `StopReplica` when the replica has nothing left to do.
- *Batches are no news* to the control machine: it looks at windows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from steelyard.core.commands import (
    Command,
    DrainReplica,
    LoadVariant,
    OfferCapacity,
    Publish,
    ResizeReplica,
    StartReplica,
    StopReplica,
    UnloadVariant,
)
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    CapacityChanged,
    NodeJoined,
    PlanPublished,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ReplicaStarted,
    ReplicaThrottled,
    ResizeRefused,
    ServiceEvent,
    VariantLoaded,
    VariantUnloaded,
)

_OF_REPLICAS = (ReplicaReady, ReplicaResized, ReplicaGone, VariantLoaded, VariantUnloaded)
TO_SERVICE = (BatchCompleted, BatchFailed, *_OF_REPLICAS)
"""What the service of a replica hears of it, before the control machine does."""
TO_CONTROL = (NodeJoined, ReplicaThrottled, ResizeRefused, *_OF_REPLICAS)
"""What the control machine hears."""


class Hands(Protocol):
    """What makes replicas exist: a backend, or a simulated cluster."""

    def start(self, command: StartReplica) -> None:
        """Start a replica."""
        ...

    def resize(self, command: ResizeReplica) -> None:
        """Give it other cores."""
        ...

    def stop(self, command: StopReplica) -> None:
        """End it."""
        ...

    def load(self, command: LoadVariant) -> None:
        """Let it load a variant."""
        ...

    def unload(self, command: UnloadVariant) -> None:
        """Let it forget one."""
        ...


class _Route(NamedTuple):
    """Of one kind of command: what its service is told first, if anything, and whose the rest is."""

    news: Callable[[Any], ServiceEvent] | None
    act: Callable[[Hands], Callable[[Any], None]] | None


def _started(command: StartReplica) -> ReplicaStarted:
    cores = sum((share.fraction for share in command.shares), 0.0)
    return ReplicaStarted(
        replica_id=command.replica_id,
        stage=command.stage,
        node=command.node,
        cores=cores,
        variants=command.variants,
        expected_ready_s=command.expected_ready_s,
        service=command.service,
    )


_ROUTES: dict[type[Command], _Route] = {
    StartReplica: _Route(_started, lambda hands: hands.start),
    ResizeReplica: _Route(None, lambda hands: hands.resize),
    DrainReplica: _Route(lambda command: ReplicaDraining(command.replica_id), None),
    StopReplica: _Route(None, lambda hands: hands.stop),
    LoadVariant: _Route(None, lambda hands: hands.load),
    UnloadVariant: _Route(
        lambda command: VariantUnloaded(command.replica_id, command.variant), lambda hands: hands.unload
    ),
    Publish: _Route(lambda command: PlanPublished(command.plan), None),
    OfferCapacity: _Route(lambda command: CapacityChanged(command.cores_grantable), None),
}


def actions(
    hands: Hands,
    tell: Callable[[str, ServiceEvent], None],
    service_of: Callable[[int], str | None],
) -> dict[type[Command], Callable[[Any], None]]:
    """How each kind of command about replicas and plans is carried out.

    Args:
        hands: make replicas exist.
        tell: tells a service, by its name, an event.
        service_of: whose a replica is; None if it is gone, and then no service is told.
    """

    def carried_out(route: _Route) -> Callable[[Any], None]:
        news, act = route.news, None if route.act is None else route.act(hands)
        if news is None:
            assert act is not None
            return act

        def carry_out(command: Any) -> None:
            service = _service(command, service_of)
            if service is not None:
                tell(service, news(command))
            if act is not None:
                act(command)

        return carry_out

    return {kind: carried_out(route) for kind, route in _ROUTES.items()}


def _service(command: Any, service_of: Callable[[int], str | None]) -> str | None:
    """Whose a command is."""
    if isinstance(command, Publish):
        return command.plan.service
    if isinstance(command, UnloadVariant):
        return service_of(command.replica_id)
    service: str = command.service
    return service
