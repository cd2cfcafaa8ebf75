"""The open requests of a service and their ends: announced once, released once, with what they held.

A request is *released* when it has ended and no batch in flight reads its tensors, nor what other stages
made of them. A batch's outputs are released when no finished part in them is needed (`pipeline`, rule 1); a
replica that is to go is stopped when it runs nothing and keeps no outputs.
"""

from collections.abc import Iterable
from typing import NamedTuple

from steelyard.core.accuracy import CACHE_MAX
from steelyard.core.bounds import Bounds, Ledger
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
from steelyard.core.events import BatchCompleted, ReplicaGone
from steelyard.core.lifecycle import Replica
from steelyard.core.pipeline import (
    advance,
    contradicted,
    enter,
    is_needed,
    is_used_up,
    make_again,
    overflows,
    wait,
)
from steelyard.core.stage import StageState
from steelyard.core.tally import Tally
from steelyard.core.types import Request, RequestId
from steelyard.core.work import Batch, OpenRequest, Part, Piece, Visit

NO_ROWS: dict[str, dict[str, int]] = {}
"""Of an answer that one variant gave at each stage; never written to."""


class Answerers(NamedTuple):
    """Variants that answered, by stage, and what is known of their accuracy (`accuracy`)."""

    variants: dict[str, str]
    accuracy: float | None
    is_measured: bool


class OpenRequests:
    """Requests between arrival and end, by id in order of arrival.

    Args:
        stages: where they wait and run, in order.
        bounds: what requests may bound.
        tally: counts their ends.
        commands: where commands go, in the order of the calls.
    """

    def __init__(
        self, stages: Iterable[StageState], bounds: Bounds, tally: Tally, commands: list[Command]
    ) -> None:
        self._bounds = bounds
        self._stages = tuple(stages)
        self._names = tuple([stage.name for stage in self._stages])
        self._has_several = len(self._stages) > 1
        self._answerers: dict[tuple[str, ...], Answerers] = {}
        self._answers = tuple([stage.name for stage in self._stages if stage.is_answer])
        self._entries = [stage for stage in self._stages if not stage.sources]
        self._tally = tally
        self._commands = commands
        self.by_id: dict[RequestId, OpenRequest] = {}

    def admit(self, request: Request, due_s: float, *, has_bounds: bool, now_s: float) -> None:
        """Let a request wait; `due_s` is when its last batch must have finished."""
        opened = OpenRequest(request, due_s, len(self._stages))
        self.by_id[request.id] = opened
        if has_bounds:
            opened.bounds = Ledger(self._bounds, opened)
        if self._has_several and self._bounds.has_own_deadline(request):
            for stage in self._stages:
                if stage.sources:
                    stage.claims.add(opened, now_s=now_s)
        enter(opened, self._entries)

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
            self._end(opened, Shed(opened.request.id, reason, opened.retries))

    def fail(self, opened: OpenRequest, reason: FailReason, message: str) -> None:
        """Answer it with an error."""
        self._tally.failed += 1
        self._end(opened, Fail(opened.request.id, reason, message))

    def keep(self, batch: Batch, event: BatchCompleted) -> None:
        """A batch is done; its outputs stay at least until `finish` has given its answers.

        Args:
            batch: that one.
            event: says so, and counts items for all stages that take them.
        """
        batch.outputs = event.outputs
        batch.holders = 1
        batch.replica.kept[batch.batch_id] = batch
        if event.items:
            batch.items = event.items
        for taker in batch.pieces[0].visit.stage.item_takers:
            counted = event.items.get(taker.name, ())
            assert len(counted) == batch.rows, f"items for {taker.name} of {batch.rows} rows: {counted}"
            assert min(counted) >= 0, f"items for {taker.name}: {counted}"
            taker.count_items(counted, batch.pieces)
            self._tally.add_items(taker.name, batch.variant, batch.rows, sum(counted))

    def finish(self, batch: Batch, event: BatchCompleted, *, now_s: float) -> None:
        """Move on those whose last piece at the stage it was; release it unless others need its outputs."""
        offset = 0
        row_core_ms = 1000.0 * (event.finished_s - event.started_s) * batch.cores / batch.rows
        has_takers = bool(batch.pieces[0].visit.stage.item_takers)
        for piece in batch.pieces:
            opened, visit, rows = piece.open, piece.visit, piece.rows
            opened.readers -= 1
            if not opened.is_ended:
                opened.core_ms += row_core_ms * rows
                visit.variant = batch.variant
                pieces = visit.pieces
                pieces.remove(piece)
                # The last piece of a request that nothing follows needs no part; items are counted by parts.
                if pieces or visit.done or opened.stages_left > 1 or has_takers:
                    visit.done.append(Part(batch, piece, offset))
                    batch.holders += 1
                if not pieces:
                    self._finish_visit(visit, batch, offset, event, now_s)
            elif not opened.readers:
                self._release(opened)
            offset += rows
        batch.holders -= 1
        if not batch.holders:
            self._release_outputs(batch)

    def _finish_visit(
        self, visit: Visit, batch: Batch, offset: int, event: BatchCompleted, now_s: float
    ) -> None:
        """A request is done at one stage, last in `batch` from `offset` on: it goes on, or is answered."""
        opened = visit.open
        visit.is_done = True
        visit.rows_by = None
        if len(visit.done) > 1:
            visit.settle_variant()
        opened.stages_left -= 1
        started_s, finished_s = event.started_s, event.finished_s
        queued_s = started_s - visit.arrived_s
        queue_s = visit.queue_s + (queued_s if queued_s > 0 else 0.0)
        service_s = visit.service_s + (finished_s - started_s)
        if self._has_several:
            if visit.stage.item_takers:
                self._judge_items(visit)
            if opened.stages_left and not opened.is_ended:
                self._go_on(visit, finished_s, queue_s, service_s)
            if opened.stages_left or opened.is_ended:
                return
        self._complete(visit, batch, offset, queue_s, service_s, now_s)

    def _judge_items(self, visit: Visit) -> None:
        """End a request whose items do not fit what was done before, or into the queues behind."""
        other = contradicted(visit)
        if other:
            why = f"{visit.stage.name} made other items again than {other} has worked on"
            self.fail(visit.open, "worker_lost", f"worker lost; {why}")
        elif overflows(visit):
            self.shed(visit.open, "queue_full")

    def _go_on(self, visit: Visit, finished_s: float, queue_s: float, service_s: float) -> None:
        """Let a request wait in the stages that follow; outputs that nobody needs any more go."""
        visits = visit.open.visits
        for ended in advance(visit, finished_s, queue_s=queue_s, service_s=service_s):
            for source in ended.stage.sources:
                before = visits[source.name]
                if is_used_up(before):
                    self._let_go(before)
            if not ended.stage.followers and not ended.stage.is_answer:
                self._let_go(ended)

    def _complete(
        self, last: Visit, batch: Batch, offset: int, queue_s: float, service_s: float, now_s: float
    ) -> None:
        """Answer a request; the outputs of its `last` visit, if one piece, are in `batch` alone."""
        opened = last.open
        tally = self._tally
        tally.completed += 1
        variants: tuple[str, ...] = (last.variant,)
        if last.done or self._has_several:
            answers = self._answers_of(last, batch, offset)
            variants = tuple([opened.visits[name].variant for name in self._names])
        else:
            answers = {self._names[0]: (batch.output(offset, last.rows),)}
            opened.visits.clear()
        by = self._answerers.get(variants)
        if by is None:
            by = self._answered_by(variants)
        variants_of, accuracy, is_measured = by
        rows_by = NO_ROWS
        if opened.is_mixed:  # then its last visit was done in several parts, or was not the only one
            visits = opened.visits
            rows_by = {name: rows for name in self._names if (rows := visits[name].rows_by) is not None}
            accuracy, is_measured = self._bounds.accuracies.mean(variants_of, rows_by)
        missed: tuple[str, ...] = ()
        is_late = now_s > opened.due_s
        if is_late:
            tally.late += 1
        if is_late or opened.bounds is not None:
            missed = self._bounds.missed(opened, accuracy, is_late=is_late)
        complete = Complete(
            opened.request.id,
            variants[-1],
            queue_s,
            service_s,
            is_late,
            answers,
            variants_of,
            accuracy,
            is_measured,
            opened.core_ms,
            missed,
            rows_by,
        )
        self._end(opened, complete)

    def _answers_of(self, last: Visit, batch: Batch, offset: int) -> dict[str, tuple[OutputPart, ...]]:
        """What the service is answered by, by stage."""
        answers: dict[str, tuple[OutputPart, ...]] = {}
        for name in self._answers:
            visit = last.open.visits[name]
            is_whole = visit is last and not visit.done
            answers[name] = (batch.output(offset, visit.rows),) if is_whole else visit.outputs()
        return answers

    def _answered_by(self, variants: tuple[str, ...]) -> Answerers:
        """What is said of variants that answered, in the order of the stages, to everybody."""
        if len(self._answerers) >= CACHE_MAX:
            self._answerers.clear()
        by_stage = {name: variant for name, variant in zip(self._names, variants, strict=True) if variant}
        by = self._answerers[variants] = Answerers(by_stage, *self._bounds.accuracies.of(by_stage))
        return by

    def _end(self, opened: OpenRequest, command: Complete | Shed | Fail | Discard) -> None:
        """Announce a request's end, give up what is left of it, and free what nobody needs any more.

        Batches in flight may still read outputs of the stages before theirs; those stay until they are done.
        """
        opened.is_ended = True
        del self.by_id[opened.request.id]
        self._commands.append(command)
        for stage in self._stages:
            if stage.claims.by_id:
                stage.claims.drop(opened.request.id)
        for visit in opened.visits.values():
            if visit.pieces:
                for piece in visit.pieces:
                    if piece.is_queued:
                        visit.stage.queue.remove(piece)
                visit.pieces.clear()
            if visit.done and not visit.stage.followers:
                self._let_go(visit)
        if not opened.readers:
            self._release(opened)

    def stop_reading(self, opened: OpenRequest) -> None:
        """A batch in flight reads a request no more."""
        opened.readers -= 1
        if opened.is_ended and opened.readers == 0:
            self._release(opened)

    def _release(self, opened: OpenRequest) -> None:
        """Nothing reads a request that has ended any more."""
        for visit in opened.visits.values():
            if visit.done or visit.lost:
                self._let_go(visit)
        opened.visits.clear()
        self._commands.append(Release(opened.request.id))

    def lose_piece(self, piece: Piece, event: ReplicaGone) -> bool:
        """A piece's batch is lost with its replica: it waits again, alone. False if its request has ended."""
        opened = piece.open
        self.stop_reading(opened)
        if not opened.is_ended and event.is_stuck and piece.is_suspect:
            why = f"worker lost ({event.reason}); its batch did not end twice"
            self.fail(opened, "worker_lost", why)
        if opened.is_ended:
            return False
        piece.isolate()
        piece.is_suspect = piece.is_suspect or event.is_stuck
        wait(piece)
        return True

    def lose(self, batch: Batch) -> list[OpenRequest]:
        """A batch's outputs are lost with its replica; returns the requests that must run again there."""
        lost = []
        for piece in batch.pieces:
            visit = piece.visit
            kept = [part for part in visit.done if part.piece is not piece]
            if piece.open.is_ended or len(kept) == len(visit.done):
                continue
            visit.done = kept
            visit.lost.append(piece)
            if not visit.is_done or is_needed(visit):
                make_again(visit)
                lost.append(piece.open)
        return lost

    def _let_go(self, visit: Visit) -> None:
        """A request does not need a stage's outputs any more."""
        done, visit.done = visit.done, []
        visit.lost.clear()
        for part in done:
            part.batch.holders -= 1
            self._release_outputs(part.batch)

    def _release_outputs(self, batch: Batch) -> None:
        """Free outputs that were kept and that nobody needs any more."""
        replica = batch.replica
        if batch.holders == 0 and replica.kept.pop(batch.batch_id, None) is not None:
            self._commands.append(ReleaseOutputs(replica.id, batch.batch_id))
            if replica.state == "draining":
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
