"""Open work: requests that have not ended, their visits to stages, and the batches that carry them.

A request visits each stage once. A visit runs as one piece, or as several when it has more rows than a batch
may have. Pieces wait and run independently; the request ends once, as a whole. These objects are the
machine's own and mutable: nothing outside `core` sees them. At a stage that takes items, the request's rows
are its items, which may be none: such a visit has no pieces and is done when it begins.

They are made for every request, and Python makes a dictionary of arguments by name when it makes an object:
these classes are called by place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steelyard.core.commands import ItemRows, OutputPart
from steelyard.core.types import Request, Tensor

if TYPE_CHECKING:
    from steelyard.core.assignment import Terms
    from steelyard.core.bounds import Ledger
    from steelyard.core.estimate import Line
    from steelyard.core.lifecycle import Replica
    from steelyard.core.stage import StageState

NO_ITEMS: dict[str, tuple[int, ...]] = {}
"""Of a batch whose rows nobody takes apart; never written to."""

NO_PLACES: dict[str, ItemRows] = {}
"""Of a part of such a batch; never written to."""


class OpenRequest:
    """A request between its arrival and its end.

    Attributes:
        request: as it arrived.
        due_s: when its last batch must have finished: its deadline less the time of the reply.
        visits: to the stages it has entered, by their names; emptied when nothing of it is held any more.
        stages_left: stages that it has not finished.
        readers: batches in flight that read its tensors or what came of them, counted by piece.
        bounds: its own ones, and what they leave; None: it has none but its deadline.
        core_ms: core-milliseconds spent on it: its rows' share of every batch that was done.
        retries: how often it was tried again because a worker was lost.
        is_ended: whether its end was announced; batches in flight may still read it.
        is_mixed: several variants have answered it at one stage (`Visit.rows_by`).
    """

    __slots__ = (
        "bounds", "core_ms", "due_s", "is_ended", "is_mixed", "readers", "request", "retries", "stages_left",
        "visits",
    )  # fmt: skip

    def __init__(self, request: Request, due_s: float, stages_left: int = 1) -> None:
        self.request = request
        self.due_s = due_s
        self.visits: dict[str, Visit] = {}
        self.stages_left = stages_left
        self.readers = 0
        self.bounds: Ledger | None = None
        self.core_ms = 0.0
        self.retries = 0
        self.is_ended = self.is_mixed = False


class Visit:
    """One request at one stage.

    Attributes:
        open: the request.
        stage: where.
        rows: of the request there: its own ones times the stage's fan-out, or its items.
        arrived_s: when it could start there: the request's arrival, or when the last of its inputs was done.
        queue_s: seconds the request had waited before, on the path of what was done last.
        service_s: seconds it had been served before, on the same path.
        pieces: those that wait or run; a piece that is done has left the list.
        done: finished parts whose outputs are kept, in order of completion.
        lost: pieces whose outputs were lost while nobody waited for them.
        is_done: all its rows are done; their outputs may be gone all the same.
        variant: that answered most of its rows, or its latest while it is not done; empty before.
        rows_by: how many rows each variant has answered, if it was done by several; None: by one.
        made_from: where the stage takes items: how many each row of their maker has, and by which variant.
        wanted: variant that is to answer it, where a table says so; empty: not decided.
        spans: (end, key) of its runs of rows that are alike (`inputs`); None: to be found out.
    """

    __slots__ = (
        "arrived_s", "done", "is_done", "lost", "made_from", "open", "pieces", "queue_s", "rows", "rows_by",
        "service_s", "spans", "stage", "variant", "wanted",
    )  # fmt: skip

    def __init__(
        self,
        open_request: OpenRequest,
        stage: StageState,
        rows: int,
        arrived_s: float,
        queue_s: float = 0.0,
        service_s: float = 0.0,
    ) -> None:
        self.open = open_request
        self.stage = stage
        self.rows = rows
        self.arrived_s = arrived_s
        self.queue_s = queue_s
        self.service_s = service_s
        self.pieces: list[Piece] = []
        self.done: list[Part] = []
        self.lost: list[Piece] = []
        self.is_done = False
        self.variant = self.wanted = ""
        self.rows_by: dict[str, int] | None = None
        self.made_from: tuple[tuple[str, int], ...] = ()
        self.spans: list[tuple[int, str]] | None = None

    @property
    def has_outputs(self) -> bool:
        """Whether all its outputs are kept, or there are none; for a visit that is done."""
        return not self.rows or (bool(self.done) and not self.lost)

    @property
    def has_run(self) -> bool:
        """Whether any of it has been done or is running."""
        return bool(self.variant) or any(piece.is_running for piece in self.pieces)

    def in_order(self) -> list[Part]:
        """The finished parts, in the order of the rows."""
        if len(self.done) > 1:
            self.done.sort(key=lambda part: part.piece.row_start)
        return self.done

    def outputs(self) -> tuple[OutputPart, ...]:
        """All outputs, in the order of the rows."""
        return tuple([part.output() for part in self.in_order()])

    def settle_variant(self) -> None:
        """It is done in several parts: which variant has answered most rows? Ties go to the first."""
        rows: dict[str, int] = {}
        for part in self.in_order():
            rows[part.batch.variant] = rows.get(part.batch.variant, 0) + part.piece.rows
        self.variant = max(rows, key=lambda variant: rows[variant])
        self.rows_by = rows if len(rows) > 1 else None
        if len(rows) > 1:
            self.open.is_mixed = True


class Piece:
    """Rows `[row_start, row_start + rows)` of a visit, which run in one batch.

    Attributes:
        visit: what it is a part of.
        open: the request of that visit.
        alike: only pieces that are alike could be gathered: the request's batch key, or that of its tensors.
        key: only pieces of equal keys share a batch; that of what is alike, made unique where `alone`.
        due_s: when its batch must have finished (`remaining` has the rule); set whenever it begins to wait.
        order_s: its place in the queue, set there.
        sequence: breaks ties in the queue; unique among the pieces of a stage.
        alone: it was in a batch that was lost or failed, and shares no further batch with anyone.
        is_suspect: it was in a batch that did not end; it runs when nobody else waits, and once more at most.
        is_queued: it waits for a replica; otherwise it runs, or is held up.
        terms: what it may run on, as part of its key; None: anything.
        is_held_up: it waits for outputs that were lost and are being made again.
    """

    __slots__ = (
        "alike", "alone", "due_s", "is_held_up", "is_queued", "is_suspect", "key", "open", "order_s",
        "row_start", "rows", "sequence", "terms", "visit",
    )  # fmt: skip

    def __init__(self, visit: Visit, row_start: int, rows: int, sequence: int) -> None:
        opened = visit.open
        self.visit = visit
        self.open = opened
        self.row_start = row_start
        self.rows = rows
        self.alike = self.key = opened.request.batch_key
        self.due_s = self.order_s = opened.due_s
        self.sequence = sequence
        self.terms: Terms | None = None
        self.alone = self.is_suspect = self.is_queued = self.is_held_up = False

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
        self.rekey(self.alike)

    def rekey(self, alike: str) -> None:
        """Share batches with pieces that are `alike`; not while it is queued."""
        self.alike = alike
        self.key = f"{alike}\x00{self.sequence}" if self.alone else alike
        if self.terms is not None:
            self.key += self.terms.key


class Batch:
    """A batch that could run, one in flight, or one whose outputs somebody still needs.

    Attributes:
        replica: where it runs, or would.
        line: its times by rows.
        variant: which answers.
        rows: of all pieces together.
        cores: of its replica when it started.
        pieces: in the order of their rows in the batch.
        service_s: seconds it is expected to take.
        is_full: no further piece fits by its rows.
        batch_id: unique in the machine; 0 before it starts.
        expected_s: expected finish, absolute; set when it starts.
        is_resized: the replica's cores changed while it ran, so its time tells nothing of either number.
        outputs: what the worker answered.
        items: of each of its rows, by the stage that takes them, or by whatever else is counted.
        keys: what of its outputs decides who could share a batch, by the stage that takes them (`inputs`).
        holders: finished parts in it that somebody still needs.
    """

    __slots__ = (
        "batch_id", "cores", "expected_s", "holders", "is_full", "is_resized", "items", "keys", "line",
        "outputs", "pieces", "replica", "rows", "service_s", "variant",
    )  # fmt: skip

    def __init__(
        self,
        replica: Replica,
        line: Line,
        pieces: list[Piece],
        rows: int,
        service_s: float,
        is_full: bool,
    ) -> None:
        self.replica = replica
        self.line = line
        self.variant = line.variant
        self.rows = rows
        self.cores = replica.cores
        self.pieces = pieces
        self.service_s = service_s
        self.is_full = is_full
        self.batch_id = 0
        self.expected_s = 0.0
        self.is_resized = False
        self.outputs: tuple[Tensor, ...] = ()
        self.items: dict[str, tuple[int, ...]] = NO_ITEMS
        self.keys: dict[str, str] | None = None
        self.holders = 0

    def output(self, offset: int, rows: int) -> OutputPart:
        """Some of its rows' outputs by reference, with the places of all that is counted of them."""
        if not self.items:
            return OutputPart(self.outputs, offset, rows, NO_PLACES)
        items = {
            key: ItemRows(sum(counts[:offset]), counts[offset : offset + rows])
            for key, counts in self.items.items()
        }
        return OutputPart(self.outputs, offset, rows, items)


class Part:
    """A finished piece, whose rows begin at `offset` of its batch's outputs."""

    __slots__ = ("batch", "offset", "piece")

    def __init__(self, batch: Batch, piece: Piece, offset: int) -> None:
        self.batch = batch
        self.piece = piece
        self.offset = offset

    def counts(self, taker: str) -> tuple[int, ...]:
        """Items of each of its rows that a stage takes."""
        return self.batch.items[taker][self.offset : self.offset + self.piece.rows]

    def output(self) -> OutputPart:
        """Its outputs by reference, with the places of its items among those of the batch."""
        return self.batch.output(self.offset, self.piece.rows)
