"""A service machine on a test's desk: shortcuts for events, a clock moved by hand, laws checked."""

from collections.abc import Mapping, Sequence

from steelyard.core.commands import Command, Complete, Discard, Fail, Reject, RunBatch, Shed, WakeAt
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    ReplicaReady,
    ReplicaResized,
    ReplicaStarted,
    RequestArrived,
    RequestCancelled,
    ServiceEvent,
    Woken,
)
from steelyard.core.plan import ServicePlan
from steelyard.core.service import ServiceMachine
from steelyard.core.types import RequestId, Service, ServiceTimes
from steelyard.testing.builders import STAGE, VARIANT, make_plan, make_request, times_by_stage
from steelyard.testing.laws import ServiceLaws, named_outputs

End = Complete | Reject | Shed | Fail | Discard


class ServiceBench:
    """A machine, its clock, and what it did.

    Args:
        service: as made by `make_service` or `make_pipeline`.
        times: service times of its stages: of all, or by name.
        plan: its first plan; `make_plan(service)` if none is given.

    Attributes:
        now_s: the clock; tests set it.
        wake_s: the machine's last wish that was not fulfilled yet.
        last: commands of the last event.
    """

    def __init__(
        self,
        service: Service,
        times: ServiceTimes | Mapping[str, ServiceTimes],
        plan: ServicePlan | None = None,
    ) -> None:
        plan = plan or make_plan(service)
        self.service = service
        by_stage = times if isinstance(times, Mapping) else times_by_stage(service, times)
        self.machine = ServiceMachine(service, by_stage, plan)
        self.laws = ServiceLaws(service, plan)
        self.now_s = 0.0
        self.wake_s: float | None = None
        self.last: list[Command] = []
        self._count = 0

    def tell(self, event: ServiceEvent) -> list[Command]:
        """Hand over any event now; returns the commands."""
        if isinstance(event, Woken):
            self.wake_s = None
        self.last = self.machine.handle(event, now_s=self.now_s)
        for command in self.last:
            if isinstance(command, WakeAt):
                self.wake_s = command.at_s
        self.laws.check(event, self.last, now_s=self.now_s)
        self.machine.validate()
        return self.last

    def starting(
        self, replica_id: int, *, ready_s: float, cores: float = 1.0, stage: str = STAGE
    ) -> list[Command]:
        """A replica starts."""
        return self.tell(ReplicaStarted(replica_id, stage, "local", cores, (VARIANT,), ready_s))

    def ready(
        self,
        replica_id: int = 1,
        *,
        cores: float = 1.0,
        variants: tuple[str, ...] = (VARIANT,),
        stage: str = STAGE,
    ) -> list[Command]:
        """A replica becomes ready."""
        return self.tell(ReplicaReady(replica_id, stage, "local", cores, variants))

    def resize(self, replica_id: int, cores: float) -> list[Command]:
        """A replica's cores change."""
        return self.tell(ReplicaResized(replica_id, cores))

    def arrive(self, *, slo_s: float = 0.1, rows: int = 1, key: str = "x") -> list[Command]:
        """The next request arrives; they are numbered from 1 on."""
        self._count += 1
        request = make_request(self._count, self.now_s, slo_s=slo_s, rows=rows, batch_key=key)
        return self.tell(RequestArrived(request))

    def cancel(self, sequence: int) -> list[Command]:
        """The client of a request goes away."""
        return self.tell(RequestCancelled(RequestId(0, sequence)))

    def running(self, replica_id: int = 1) -> RunBatch:
        """The batch in flight on a replica."""
        return next(batch for batch in self.laws.running.values() if batch.replica_id == replica_id)

    def complete(
        self,
        replica_id: int = 1,
        *,
        service_s: float | None = None,
        items: Mapping[str, Sequence[int]] | None = None,
        dims: tuple[int, ...] = (),
    ) -> list[Command]:
        """The batch on a replica ends; the clock moves on by its expected time unless told.

        Args:
            replica_id: where.
            service_s: how long it took.
            items: of each of its rows, by stage; as many as the fan-out says for stages that are not named.
            dims: of its outputs, behind the leading dimension.
        """
        batch = self.running(replica_id)
        started_s = self.now_s
        self.now_s += batch.expected_s if service_s is None else service_s
        counts = {
            stage.name: tuple((items or {}).get(stage.name, [round(stage.fan_out)] * batch.rows))
            for stage in self.service.stages
            if stage.items_of == batch.stage
        }
        outputs = named_outputs(batch.batch_id, *dims)
        return self.tell(BatchCompleted(batch.batch_id, replica_id, started_s, self.now_s, outputs, counts))

    def fail(
        self, replica_id: int = 1, message: str = "the model raised", *, is_input: bool = False
    ) -> list[Command]:
        """The batch on a replica fails."""
        return self.tell(BatchFailed(self.running(replica_id).batch_id, replica_id, message, is_input))

    def wake(self) -> list[Command]:
        """Move the clock to the machine's wish and fulfil it."""
        assert self.wake_s is not None, "the machine did not ask to be woken"
        self.now_s = max(self.now_s, self.wake_s)
        return self.tell(Woken())


def sequences(batch: RunBatch) -> list[int]:
    """Numbers of the requests in a batch, in order."""
    return [part.request_id.sequence for part in batch.slices]


def batches(commands: Sequence[Command]) -> list[RunBatch]:
    """The batches that were started."""
    return [command for command in commands if isinstance(command, RunBatch)]


def ends(commands: Sequence[Command]) -> Mapping[int, End]:
    """The end of each request that ended, by its number."""
    return {command.request_id.sequence: command for command in commands if isinstance(command, End)}
