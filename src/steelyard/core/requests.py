"""The open requests of a service and their ends: announced once, released once, with what they held.

A request is *released* when it has ended and no batch in flight reads its tensors. A batch's outputs are
released when no finished part in them belongs to an open request; a replica that is to go is stopped when it
runs nothing and keeps no outputs.
"""

from steelyard.core.commands import (
    Command,
    Complete,
    Discard,
    Fail,
    FailReason,
    OutputPart,
    Reject,
    Release,
    ReleaseOutputs,
    Shed,
    ShedReason,
    StopReplica,
)
from steelyard.core.events import BatchCompleted
from steelyard.core.lifecycle import Replica
from steelyard.core.stage import StageState
from steelyard.core.tally import Tally
from steelyard.core.types import Request, RequestId, Tensor
from steelyard.core.work import Batch, OpenRequest, Part, Piece


class OpenRequests:
    """Requests between arrival and end, by id in order of arrival.

    Args:
        stage: where they wait and run.
        tally: counts their ends.
        commands: where commands go, in the order of the calls.
    """

    def __init__(self, stage: StageState, tally: Tally, commands: list[Command]) -> None:
        self._stage = stage
        self._tally = tally
        self._commands = commands
        self.by_id: dict[RequestId, OpenRequest] = {}

    def admit(self, request: Request, due_s: float) -> None:
        """Let a request wait."""
        opened = self.by_id[request.id] = OpenRequest(request, due_s=due_s)
        self._stage.open(opened)

    def reject(self, command: Reject) -> None:
        """Refuse a request that was not admitted."""
        self._tally.rejected += 1
        self._commands.append(command)
        self._commands.append(Release(command.request_id))

    def cancel(self, opened: OpenRequest) -> None:
        """Its client has gone."""
        self._tally.cancelled += 1
        self._end(opened, Discard(opened.request.id))

    def shed(self, opened: OpenRequest, reason: ShedReason) -> None:
        """Drop it, unless it has ended by now: several pieces of one request may be shed together."""
        if not opened.is_ended:
            self._tally.shed += 1
            self._end(opened, Shed(opened.request.id, reason))

    def fail(self, opened: OpenRequest, reason: FailReason, message: str) -> None:
        """Answer it with an error."""
        self._tally.failed += 1
        self._end(opened, Fail(opened.request.id, reason, message))

    def keep(self, batch: Batch, outputs: tuple[Tensor, ...], replica: Replica) -> None:
        """A batch is done; its outputs stay at least until `finish` has given its answers."""
        batch.outputs = outputs
        batch.holders = 1
        replica.kept[batch.batch_id] = batch

    def finish(self, batch: Batch, event: BatchCompleted, *, now_s: float) -> None:
        """Answer those whose last piece a batch was; release it unless others need its outputs."""
        offset = 0
        for piece in batch.pieces:
            opened = piece.open
            if opened.is_ended:
                self.stop_reading(opened)
            else:
                opened.readers -= 1
                opened.pieces.remove(piece)
                if opened.pieces or opened.done:
                    opened.done.append(Part(batch, piece, offset))
                    batch.holders += 1
                if not opened.pieces:
                    self._complete(opened, piece, offset, batch, event, now_s)
            offset += piece.rows
        batch.holders -= 1
        self._release_outputs(batch)

    def _complete(
        self, opened: OpenRequest, last: Piece, offset: int, batch: Batch, event: BatchCompleted, now_s: float
    ) -> None:
        """Answer a request, of which `last` was the last piece."""
        request = opened.request
        tally = self._tally
        tally.completed += 1
        is_late = now_s > opened.due_s
        if is_late:
            tally.late += 1
        queue_s = event.started_s - request.arrived_s
        parts = opened.parts() if opened.done else (OutputPart(batch.outputs, offset, last.rows),)
        service_s = event.finished_s - event.started_s
        command = Complete(
            request.id, batch.variant, queue_s if queue_s > 0 else 0.0, service_s, is_late, parts
        )
        self._end(opened, command)

    def _end(self, opened: OpenRequest, command: Complete | Shed | Fail | Discard) -> None:
        """Announce a request's end, give up what is left of it, and free what nobody needs any more."""
        request_id = opened.request.id
        opened.is_ended = True
        del self.by_id[request_id]
        self._commands.append(command)
        if opened.pieces:
            for piece in opened.pieces:
                if piece.is_queued:
                    self._stage.queue.remove(piece)
            opened.pieces.clear()
        if opened.done:
            done, opened.done = opened.done, []
            for part in done:
                part.batch.holders -= 1
                self._release_outputs(part.batch)
        if opened.readers == 0:
            self._commands.append(Release(request_id))

    def stop_reading(self, opened: OpenRequest) -> None:
        """A batch in flight reads a request no more."""
        opened.readers -= 1
        if opened.is_ended and opened.readers == 0:
            self._commands.append(Release(opened.request.id))

    def _release_outputs(self, batch: Batch) -> None:
        """Free outputs that were kept and that nobody needs any more."""
        replica = self._stage.pool.get(batch.replica_id)
        if batch.holders == 0 and replica is not None and replica.kept.pop(batch.batch_id, None) is not None:
            self._commands.append(ReleaseOutputs(batch.replica_id, batch.batch_id))
            self.stop_if_done(replica)

    def stop_if_done(self, replica: Replica) -> None:
        """Let a replica go that is to go, once nothing depends on it."""
        if (
            replica.state == "draining"
            and replica.batch is None
            and not replica.kept
            and not replica.is_stopping
        ):
            replica.is_stopping = True
            self._commands.append(StopReplica(replica.id))
