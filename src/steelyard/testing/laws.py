"""The laws of a `ServiceMachine`'s commands, checked from outside: only events and commands are looked at.

They hold under any driver, so a test of the live server can check its journal by them as well:

- a request ends exactly once, and is released exactly once, after its end, when no batch reads it;
- a batch runs on a live, idle replica, keeps to the plan's limit of rows, mixes no keys nor shapes, reads
  open requests;
- under the rules that shed what is lost, nothing starts that is not expected to finish in time;
- a stage runs rows of a request only when all of it is done at the stages before, and those outputs are kept;
  each slice names all of them, in order, with the items in them;
- a stage that takes items runs as many rows of a request as their maker has counted, whatever was lost;
- an answer covers its request's rows at each stage that it comes from once, in order, from outputs that were
  not released; no stage with rows was left out;
- outputs are released once, while no batch in flight is made of them, and none is kept when all requests have
  ended and nothing runs; a replica is stopped once, when it runs nothing and keeps no outputs;
- a wake-up is later than now.
"""

from typing import NamedTuple

from steelyard.core.commands import (
    Command,
    Complete,
    Discard,
    Fail,
    ItemRows,
    OutputPart,
    Reject,
    Release,
    ReleaseOutputs,
    RunBatch,
    ServiceDrained,
    Shed,
    Slice,
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
    ServiceResumed,
)
from steelyard.core.plan import ASSIGNED_FORMING, ServicePlan, StagePlan
from steelyard.core.types import Request, RequestId, Service, Stage, Tensor, TensorRef

ROUNDING_S = 1e-9


def named_outputs(batch_id: int, *dims: int) -> tuple[Tensor, ...]:
    """Outputs that name their batch as leading dimension, so that `ServiceLaws` can tell whose they are."""
    return (Tensor("y", "FP32", (batch_id, *dims), TensorRef("a", 0, 4, 1)),)


class KeptBatch(NamedTuple):
    """A batch whose outputs a replica keeps: as it was asked for, and as it was answered."""

    batch: RunBatch
    event: BatchCompleted

    @property
    def rows(self) -> list[tuple[RequestId, int]]:
        """Whose each of its rows is, and which of that request's."""
        return [
            (part.request_id, row)
            for part in self.batch.slices
            for row in range(part.row_start, part.row_start + part.rows)
        ]


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
        self._answers = service.answers or (service.stages[-1].name,)
        self._kept: dict[int, KeptBatch] = {}
        self._counts: dict[tuple[RequestId, str], dict[int, int]] = {}
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
        if not self.open and not self.running:
            assert not self._kept, f"outputs that nobody can need are kept: {list(self._kept)}"
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
                        self._take_answer(KeptBatch(batch, event))
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
                        del self._kept[batch_id]
            case PlanPublished():
                self._plans.update(event.plan.stages)
            case ServiceDraining():
                self._is_draining = True
            case ServiceResumed():
                self._is_draining = False
                self._drained_count = 0
            case _:
                pass

    def _take_answer(self, kept: KeptBatch) -> None:
        self._kept[kept.batch.batch_id] = kept
        for index, (request_id, row) in enumerate(kept.rows):
            self._rows_done.setdefault((request_id, kept.batch.stage), set()).add(row)
            for taker, counts in kept.event.items.items():
                self._counts.setdefault((request_id, taker), {})[row] = counts[index]

    def rows_at(self, request_id: RequestId, name: str) -> int | None:
        """Rows of a request at a stage; None while the stage that makes them has not counted all of them."""
        stage, rows = self._stages[name], self.requests[request_id].rows
        if not stage.items_of:
            return round(rows * stage.fan_out)
        counts = self._counts.get((request_id, name), {})
        return sum(counts.values()) if len(counts) == self.rows_at(request_id, stage.items_of) else None

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
                del self._kept[command.batch_id]
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
        if self._stages[batch.stage].inputs:
            self._check_shapes(batch)
        else:
            assert len({request.batch_key for request in requests}) == 1, "a batch mixes keys"
        for request in requests:
            assert request.id not in self.ends, f"{request.id} runs after its end"
            if plan.rules.drop in ("infeasible", "early") and plan.rules.forming not in ASSIGNED_FORMING:
                due_s = request.deadline_s - self._service.reply_s
                assert self._now_s + batch.expected_s <= due_s + ROUNDING_S, f"{request.id} starts too late"
        for part in batch.slices:
            self._check_inputs(batch, part)
        replica.batch_id = batch.batch_id
        self.running[batch.batch_id] = batch

    def _check_inputs(self, batch: RunBatch, part: Slice) -> None:
        """All that the stages before have to do for a request is done, kept, and named by its slice."""
        request_id = part.request_id
        rows = self.rows_at(request_id, batch.stage)
        assert rows is not None, f"{request_id} runs at {batch.stage} before its items are counted"
        assert part.row_start + part.rows <= rows, f"{request_id} has {rows} rows at {batch.stage}: {part}"
        for source in self._stages[batch.stage].after:
            made_by = {
                row: kept  # what was made again is newer
                for kept in self._kept.values()
                if kept.batch.stage == source
                for owner, row in kept.rows
                if owner == request_id
            }
            wanted = self.rows_at(request_id, source)
            assert wanted is not None, f"{request_id} runs at {batch.stage} before {source}"
            assert set(made_by) == set(range(wanted)), (
                f"{request_id} runs at {batch.stage} without all of {source}"
            )
            read = {kept.batch.batch_id for kept in made_by.values()}
            self._read_by.setdefault(batch.batch_id, set()).update(read)
            if any(kept.event.outputs for kept in made_by.values()):
                named = self._check_parts(request_id, source, part.sources[source])
                assert named == read, f"{request_id} is given other outputs of {source} than it has"

    @staticmethod
    def _have_same_rows(one: Stage, other: Stage) -> bool:
        return one.items_of == other.items_of and (bool(one.items_of) or one.fan_out == other.fan_out)

    def _check_shapes(self, batch: RunBatch) -> None:
        """What is put one behind the other for a batch agrees in dtype and all dimensions but the first."""
        stage = self._stages[batch.stage]
        for given in stage.inputs:
            source = self._stages.get(given.stage)
            if source is None or (source.name != stage.items_of and not self._have_same_rows(source, stage)):
                continue  # the request's, or repeated, or gathered by row
            seen = set()
            for part in batch.slices:
                shapes: list[object] = []
                for output in part.sources.get(given.stage, ()):
                    named = {tensor.name: tensor for tensor in output.outputs}
                    tensor = named.get(f"{given.tensor}@{stage.name}", named.get(given.tensor))
                    rows = (
                        sum(output.items[stage.name].counts) if source.name == stage.items_of else output.rows
                    )
                    shapes += [tensor and (tensor.dtype, tensor.shape[1:])] * rows
                seen.update(shapes[part.row_start : part.row_start + part.rows])
            assert len(seen) <= 1, f"batch {batch.batch_id} mixes {given.tensor} of {seen}"

    def _check_end(self, command: Complete | Reject | Shed | Fail | Discard) -> None:
        request_id = command.request_id
        assert request_id in self.requests, f"{request_id} never arrived"
        assert request_id not in self.ends, f"{request_id} ends twice"
        self.ends[request_id] = command
        if isinstance(command, Reject) and command.retry_after_s is not None:
            assert command.retry_after_s > 0, "a client is told to try again at once"
        if isinstance(command, Complete):
            for stage in self._service.stages:
                rows = self.rows_at(request_id, stage.name)
                assert rows is not None, f"{request_id} is answered before {stage.name} has its items"
                done = self._rows_done.get((request_id, stage.name), set())
                assert done == set(range(rows)), f"{request_id} skipped {stage.name}"
                assert (rows > 0) == (stage.name in command.variants), f"{command.variants} of {rows} rows"
            assert tuple(command.answers) == tuple(s for s in self._stages if s in self._answers)
            for name, parts in command.answers.items():
                rows = sum(part.rows for part in parts)
                assert rows == self.rows_at(request_id, name), f"{request_id}: {rows} rows of {name}"
                self._check_parts(request_id, name, parts)

    def _check_parts(self, request_id: RequestId, stage: str, parts: tuple[OutputPart, ...]) -> set[int]:
        """Each part names outputs that are kept, the rows of the request in them, in order, and their items.

        Returns:
            The batches that they are in, as far as outputs name their batch (`named_outputs`).
        """
        row = 0
        batches: set[int] = set()
        for part in parts:
            if part.outputs:
                kept = self._kept[part.outputs[0].shape[0]]
                assert kept.batch.stage == stage, f"outputs of {kept.batch.stage} are called those of {stage}"
                span = slice(part.row_start, part.row_start + part.rows)
                rows = [(request_id, row + index) for index in range(part.rows)]
                assert kept.rows[span] == rows, (
                    f"{request_id} is given rows of somebody else, or out of order"
                )
                items = {
                    taker: ItemRows(sum(counts[: part.row_start]), counts[span])
                    for taker, counts in kept.event.items.items()
                }
                assert part.items == items, f"items of {request_id} are {part.items}, not {items}"
                batches.add(kept.batch.batch_id)
            row += part.rows
        return batches
