"""The laws of a `ServiceMachine`'s commands, checked from outside: only events and commands are looked at.

They hold under any driver, so a test of the live server can check its journal by them as well:

- a request ends exactly once, and is released exactly once, after its end, when no batch reads it;
- a batch runs on a live, idle replica, keeps to the plan's limit of rows, mixes no keys, reads open requests;
- under the rules that shed what is lost, nothing starts that is not expected to finish in time;
- a stage runs rows of a request only when all of it is done at the stages before, and those outputs are kept;
- an answer covers its request's rows once, in order, from outputs of the last stage that were not released;
- outputs are released once, while no batch in flight is made of them, and a replica is stopped once, when it
  runs nothing and keeps no outputs;
- a wake-up is later than now.
"""

from steelyard.core.commands import (
    Command,
    Complete,
    Discard,
    Fail,
    Reject,
    Release,
    ReleaseOutputs,
    RunBatch,
    ServiceDrained,
    Shed,
    StopReplica,
    WakeAt,
)
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    PlanPublished,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ReplicaStarted,
    RequestArrived,
    ServiceDraining,
    ServiceEvent,
)
from steelyard.core.plan import ServicePlan, StagePlan
from steelyard.core.types import Request, RequestId, Service, Tensor, TensorRef

ROUNDING_S = 1e-9


def named_outputs(batch_id: int) -> tuple[Tensor, ...]:
    """Outputs that name their batch in the shape, so that `ServiceLaws` can tell whose they are."""
    return (Tensor("y", "FP32", (batch_id,), TensorRef("a", 0, 4, 1)),)


class SeenReplica:
    """What the events and commands so far say of a replica."""

    def __init__(self, stage: str, cores: float) -> None:
        self.stage = stage
        self.cores = cores
        self.is_ready = False
        self.is_draining = False
        self.is_stopping = False
        self.batch_id: int | None = None
        self.outputs: set[int] = set()


class ServiceLaws:
    """Follows one machine and asserts the laws; `check` is called after every event.

    Attributes:
        requests: all that arrived.
        ends: how each request ended.
        running: batches in flight, by id.
        replicas: those that are not gone.
    """

    def __init__(self, service: Service, plan: ServicePlan) -> None:
        self._service = service
        self._stages = {stage.name: stage for stage in service.stages}
        self._plans: dict[str, StagePlan] = dict(plan.stages)
        self._now_s = float("-inf")
        self._is_draining = False
        self._drained_count = 0
        self._kept_batches: dict[int, RunBatch] = {}
        self._read_by: dict[int, set[int]] = {}
        self._rows_done: dict[tuple[RequestId, str], set[int]] = {}
        self.requests: dict[RequestId, Request] = {}
        self.ends: dict[RequestId, Command] = {}
        self.released: set[RequestId] = set()
        self.running: dict[int, RunBatch] = {}
        self.replicas: dict[int, SeenReplica] = {}

    @property
    def open(self) -> list[RequestId]:
        """Requests that have not ended, in order of arrival."""
        return [request_id for request_id in self.requests if request_id not in self.ends]

    def check(self, event: ServiceEvent, commands: list[Command], *, now_s: float) -> None:
        """Take in one call of `handle`.

        Raises:
            AssertionError: a law is broken.
        """
        self._now_s = max(self._now_s, now_s)
        self._take_event(event)
        for command in commands:
            self._take_command(command)
        reading = {part.request_id for batch in self.running.values() for part in batch.slices}
        for request_id in self.ends:
            is_read = request_id in reading
            assert (request_id in self.released) != is_read, (
                f"{request_id}: read {is_read}, released otherwise"
            )
        assert self.released <= self.ends.keys(), "an open request was released"
        assert self._drained_count == (self._is_draining and not self.open), (
            "drained too early, late or twice"
        )

    def _take_event(self, event: ServiceEvent) -> None:
        match event:
            case RequestArrived():
                self.requests[event.request.id] = event.request
            case BatchCompleted() | BatchFailed():
                batch = self.running.pop(event.batch_id, None)
                if batch is not None:
                    replica = self.replicas[batch.replica_id]
                    replica.batch_id = None
                    if isinstance(event, BatchCompleted):
                        replica.outputs.add(event.batch_id)
                        self._kept_batches[event.batch_id] = batch
                        for part in batch.slices:
                            rows = self._rows_done.setdefault((part.request_id, batch.stage), set())
                            rows.update(range(part.row_start, part.row_start + part.rows))
            case ReplicaStarted():
                self.replicas.setdefault(event.replica_id, SeenReplica(event.stage, event.cores))
            case ReplicaReady():
                replica = self.replicas.setdefault(event.replica_id, SeenReplica(event.stage, event.cores))
                replica.cores = event.cores
                replica.is_ready = True
            case ReplicaResized() if event.replica_id in self.replicas:
                self.replicas[event.replica_id].cores = event.cores
            case ReplicaDraining() if event.replica_id in self.replicas:
                self.replicas[event.replica_id].is_draining = True
            case ReplicaGone():
                gone = self.replicas.pop(event.replica_id, None)
                if gone is not None:
                    self.running.pop(gone.batch_id or 0, None)
                    for batch_id in gone.outputs:
                        del self._kept_batches[batch_id]
            case PlanPublished():
                self._plans.update(event.plan.stages)
            case ServiceDraining():
                self._is_draining = True
            case _:
                pass

    def _take_command(self, command: Command) -> None:
        match command:
            case RunBatch():
                self._check_batch(command)
            case Complete() | Reject() | Shed() | Fail() | Discard():
                self._check_end(command)
            case Release():
                assert command.request_id not in self.released, f"{command.request_id} is released twice"
                self.released.add(command.request_id)
            case ReleaseOutputs():
                self.replicas[command.replica_id].outputs.remove(command.batch_id)
                del self._kept_batches[command.batch_id]
                for batch_id in self.running:
                    read = self._read_by.get(batch_id, ())
                    assert command.batch_id not in read, f"{batch_id} reads outputs that are released"
            case StopReplica():
                replica = self.replicas[command.replica_id]
                assert replica.is_draining, "a replica is stopped that was not drained"
                assert not replica.is_stopping, "a replica is stopped twice"
                assert replica.batch_id is None, "a replica is stopped while it runs a batch"
                assert not replica.outputs, "a replica is stopped while its outputs are needed"
                replica.is_stopping = True
            case WakeAt():
                assert command.at_s > self._now_s, f"wake at {command.at_s}, now is {self._now_s}"
            case ServiceDrained():
                self._drained_count += 1
            case _:
                pass

    def _check_batch(self, batch: RunBatch) -> None:
        replica, plan = self.replicas[batch.replica_id], self._plans[batch.stage]
        assert replica.stage == batch.stage, f"batch {batch.batch_id} runs on a replica of {replica.stage}"
        assert replica.is_ready, f"batch {batch.batch_id} runs on a replica that is not ready"
        assert replica.cores > 0, f"batch {batch.batch_id} runs on a parked replica"
        assert not replica.is_draining, f"batch {batch.batch_id} runs on a draining replica"
        assert replica.batch_id is None, f"batch {batch.batch_id} runs on a busy replica"
        assert batch.rows == sum(part.rows for part in batch.slices), "rows of a batch do not add up"
        rows_max = plan.rows_max.get(batch.variant, plan.batch_rows_max)
        assert 1 <= batch.rows <= rows_max, f"a batch of {batch.rows} rows"
        requests = [self.requests[part.request_id] for part in batch.slices]
        assert len({request.batch_key for request in requests}) == 1, "a batch mixes keys"
        for request in requests:
            assert request.id not in self.ends, f"{request.id} runs after its end"
            if plan.rules.drop in ("infeasible", "early"):
                due_s = request.deadline_s - self._service.reply_s
                assert self._now_s + batch.expected_s <= due_s + ROUNDING_S, f"{request.id} starts too late"
            self._check_inputs(batch, request)
        replica.batch_id = batch.batch_id
        self.running[batch.batch_id] = batch

    def _check_inputs(self, batch: RunBatch, request: Request) -> None:
        """All that the stages before have to do for a request is done, and its outputs are kept."""
        for source in self._stages[batch.stage].after:
            made_by = {
                row: kept.batch_id  # what was made again is newer
                for kept in self._kept_batches.values()
                if kept.stage == source
                for row in _rows_of(kept, request.id)
            }
            wanted = set(range(round(request.rows * self._stages[source].fan_out)))
            assert set(made_by) == wanted, f"{request.id} runs at {batch.stage} without all of {source}"
            self._read_by.setdefault(batch.batch_id, set()).update(made_by.values())

    def _check_end(self, command: Complete | Reject | Shed | Fail | Discard) -> None:
        request_id = command.request_id
        assert request_id in self.requests, f"{request_id} never arrived"
        assert request_id not in self.ends, f"{request_id} ends twice"
        self.ends[request_id] = command
        if isinstance(command, Reject) and command.retry_after_s is not None:
            assert command.retry_after_s > 0, "a client is told to try again at once"
        if isinstance(command, Complete):
            request_rows = self.requests[request_id].rows
            for stage in self._service.stages:
                done = self._rows_done.get((request_id, stage.name), set())
                assert done == set(range(round(request_rows * stage.fan_out))), (
                    f"{request_id} skipped {stage.name}"
                )
            rows = sum(part.rows for part in command.answers[self._service.stages[-1].name])
            wanted = request_rows * self._service.stages[-1].fan_out
            assert rows == wanted, f"{request_id} is answered with {rows} rows"
            self._check_parts(command)

    def _check_parts(self, command: Complete) -> None:
        """Each part names outputs that are kept, and the rows of the request that ran there."""
        row_start = 0
        for part in command.answers[self._service.stages[-1].name]:
            batch_id = part.outputs[0].shape[0] if part.outputs else None
            if batch_id is not None:  # outputs that name their batch, as those made by `named_outputs` do
                offset = 0
                batch = self._kept_batches[batch_id]
                assert batch.stage == self._service.stages[-1].name, "an answer from inside the pipeline"
                for piece in batch.slices:
                    if piece.request_id == command.request_id and offset == part.row_start:
                        assert piece.row_start == row_start, "parts of an answer are out of order"
                        assert piece.rows == part.rows, "a part of an answer has other rows than ran"
                        break
                    offset += piece.rows
                else:
                    raise AssertionError(f"{command.request_id} is answered with rows of somebody else")
            row_start += part.rows


def _rows_of(batch: RunBatch, request_id: RequestId) -> set[int]:
    return {
        row
        for part in batch.slices
        if part.request_id == request_id
        for row in range(part.row_start, part.row_start + part.rows)
    }
