"""Open work: requests that have not ended, their visits to stages, and the batches that carry them.

A request visits each stage once. A visit runs as one piece, or as several when it has more rows than a batch
may have. Pieces wait and run independently; the request ends once, as a whole. These objects are the
machine's own and mutable: nothing outside `core` sees them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steelyard.core.commands import OutputPart
from steelyard.core.types import Request, Tensor

if TYPE_CHECKING:
    from steelyard.core.lifecycle import Replica
    from steelyard.core.stage import StageState


class OpenRequest:
    """A request between its arrival and its end.

    Attributes:
        request: as it arrived.
        due_s: when its last batch must have finished: its deadline less the time of the reply.
        visits: to the stages it has entered, by their names; emptied when nothing of it is held any more.
        stages_left: stages that it has not finished.
        readers: batches in flight that read its tensors or what came of them, counted by piece.
        retries: how often it was tried again because a worker was lost.
        is_ended: whether its end was announced; batches in flight may still read it.
    """

    __slots__ = ("due_s", "is_ended", "readers", "request", "retries", "stages_left", "visits")

    def __init__(self, request: Request, *, due_s: float, stages_left: int = 1) -> None:
        self.request = request
        self.due_s = due_s
        self.visits: dict[str, Visit] = {}
        self.stages_left = stages_left
        self.readers = 0
        self.retries = 0
        self.is_ended = False


class Visit:
    """One request at one stage.

    Attributes:
        open: the request.
        stage: where.
        arrived_s: when it could start there: the request's arrival, or when the last of its inputs was done.
        queue_s: seconds the request had waited before, on the path of what was done last.
        service_s: seconds it had been served before, on the same path.
        pieces: those that wait or run; a piece that is done has left the list.
        done: finished parts whose outputs are kept, in order of completion.
        lost: pieces whose outputs were lost while nobody waited for them.
        is_done: all its rows are done; their outputs may be gone all the same.
    """

    __slots__ = ("arrived_s", "done", "is_done", "lost", "open", "pieces", "queue_s", "service_s", "stage")

    def __init__(
        self,
        open_request: OpenRequest,
        stage: StageState,
        arrived_s: float,
        *,
        queue_s: float = 0.0,
        service_s: float = 0.0,
    ) -> None:
        self.open = open_request
        self.stage = stage
        self.arrived_s = arrived_s
        self.queue_s = queue_s
        self.service_s = service_s
        self.pieces: list[Piece] = []
        self.done: list[Part] = []
        self.lost: list[Piece] = []
        self.is_done = False

    @property
    def has_outputs(self) -> bool:
        """Whether all its outputs are kept; for a visit that is done."""
        return bool(self.done) and not self.lost

    def parts(self) -> tuple[OutputPart, ...]:
        """All outputs, in the order of the rows."""
        if len(self.done) > 1:
            self.done.sort(key=lambda part: part.piece.row_start)
        return tuple([OutputPart(part.batch.outputs, part.offset, part.piece.rows) for part in self.done])


class Piece:
    """Rows `[row_start, row_start + rows)` of a visit, which run in one batch.

    Attributes:
        visit: what it is a part of.
        open: the request of that visit.
        key: only pieces of equal keys share a batch. The request's batch key, made unique where `alone`.
        due_s: when its batch must have finished (`remaining` has the rule); set whenever it begins to wait.
        order_s: its place in the queue, set there.
        sequence: breaks ties in the queue; unique among the pieces of a stage.
        alone: it was in a batch that was lost or failed, and shares no further batch with anyone.
        is_queued: it waits for a replica; otherwise it runs, or is held up.
        is_held_up: it waits for outputs that were lost and are being made again.
    """

    __slots__ = (
        "alone", "due_s", "is_held_up", "is_queued", "key", "open", "order_s", "row_start", "rows",
        "sequence", "visit",
    )  # fmt: skip

    def __init__(self, visit: Visit, row_start: int, rows: int, *, sequence: int) -> None:
        self.visit = visit
        self.open = visit.open
        self.row_start = row_start
        self.rows = rows
        self.key = self.open.request.batch_key
        self.due_s = self.open.due_s
        self.order_s = 0.0
        self.sequence = sequence
        self.alone = False
        self.is_queued = False
        self.is_held_up = False

    @property
    def bucket(self) -> int:
        """Shape bucket; equal batch keys have equal ones, since both come from the same dimensions."""
        return self.open.request.bucket

    @property
    def is_running(self) -> bool:
        """Whether a batch in flight carries it; for a piece that is not done."""
        return not self.is_queued and not self.is_held_up

    def isolate(self) -> None:
        """Share no further batch with anyone."""
        self.alone = True
        self.key = f"{self.open.request.batch_key}\x00{self.sequence}"


class Batch:
    """A batch in flight, or one whose outputs somebody still needs.

    Attributes:
        batch_id: unique in the machine.
        replica: where it runs.
        variant: which answers.
        bucket: shape bucket of all its pieces.
        rows: of all pieces together.
        cores: of its replica when it started.
        pieces: in the order of their rows in the batch.
        expected_s: expected finish, absolute.
        is_resized: the replica's cores changed while it ran, so its time tells nothing of either number.
        outputs: what the worker answered.
        holders: finished parts in it that somebody still needs.
    """

    __slots__ = (
        "batch_id", "bucket", "cores", "expected_s", "holders", "is_resized", "outputs", "pieces",
        "replica", "rows", "variant",
    )  # fmt: skip

    def __init__(
        self, batch_id: int, replica: Replica, variant: str, pieces: list[Piece], rows: int, expected_s: float
    ) -> None:
        self.batch_id = batch_id
        self.replica = replica
        self.variant = variant
        self.bucket = pieces[0].open.request.bucket
        self.rows = rows
        self.cores = replica.cores
        self.pieces = pieces
        self.expected_s = expected_s
        self.is_resized = False
        self.outputs: tuple[Tensor, ...] = ()
        self.holders = 0


class Part:
    """A finished piece, whose rows begin at `offset` of its batch's outputs."""

    __slots__ = ("batch", "offset", "piece")

    def __init__(self, batch: Batch, piece: Piece, offset: int) -> None:
        self.batch = batch
        self.piece = piece
        self.offset = offset
