"""What a visit takes from the stages before it: their outputs by reference, its items, and who is like it.

Pieces may share a batch if what the stage takes (`Stage.inputs`) agrees in dtype and in every dimension but
the leading one, so that a worker can put the rows of all of them one behind the other. A stage that takes
nothing but the request's own goes by the request's key. Outputs that are not there, as in a simulation, are
all alike.

1. A follower that takes items by a condition finds them in an output of its own, `output@follower`.
2. Different batches of one source may have answered with different shapes (each padded to its own longest
   row, say). Where source and follower have the same rows, or the source made the follower's items, the visit
   is cut between them. Elsewhere (outputs repeated or gathered by row) it shares batches with visits of the
   same mixture only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steelyard.core.commands import OutputPart, Slice
from steelyard.core.types import Request, Tensor
from steelyard.core.work import Batch, OpenRequest, Part, Piece, Visit

if TYPE_CHECKING:
    from steelyard.core.stage import StageState

NO_SOURCES: dict[str, tuple[OutputPart, ...]] = {}
"""Of a slice that reads the request alone, or outputs that are not there; never written to."""


def rows_at(stage: StageState, opened: OpenRequest) -> int:
    """Rows of a request at a stage: its items, once their maker is done, or as many as the fan-out says."""
    maker = stage.maker
    if maker is None:
        return opened.request.rows * stage.rows_each
    return sum([sum(part.counts(stage.name)) for part in opened.visits[maker.name].done])


def made_from(stage: StageState, opened: OpenRequest) -> tuple[tuple[str, int], ...]:
    """Whose items a stage takes: the variant that made them and how many, by row of their maker."""
    if stage.maker is None:
        return ()
    parts = opened.visits[stage.maker.name].in_order()
    return tuple([(part.batch.variant, count) for part in parts for count in part.counts(stage.name)])


def slices_of(pieces: list[Piece]) -> tuple[Slice, ...]:
    """What the pieces of a batch, all of one stage, read."""
    slices = []
    has_sources = bool(pieces[0].visit.stage.sources)
    for piece in pieces:
        sources = sources_of(piece.visit) if has_sources else NO_SOURCES
        slices.append(Slice(piece.open.request.id, piece.row_start, piece.rows, sources))
    return tuple(slices)


def sources_of(visit: Visit) -> dict[str, tuple[OutputPart, ...]]:
    """All outputs of a request at the stages before one, by stage; none where none were answered."""
    sources: dict[str, tuple[OutputPart, ...]] | None = None
    for stage in visit.stage.sources:
        source = visit.open.visits[stage.name]
        if not source.rows or source.done[0].batch.outputs:
            sources = {} if sources is None else sources
            sources[stage.name] = source.outputs()
    return NO_SOURCES if sources is None else sources


def spans_of(visit: Visit) -> list[tuple[int, str]]:
    """The visit's runs of rows that are alike: where each ends, and its key; at least one row each."""
    stage, opened = visit.stage, visit.open
    keys = [_request_key(stage, opened.request)]
    cuts: list[list[tuple[int, str]]] = []
    for source in stage.read:
        parts = opened.visits[source.name].in_order()
        found = [_key(part.batch, stage, source.name) for part in parts]
        if len(set(found)) < 2:
            keys.extend(found[:1])
        elif (rows := _rows_of(parts, stage, source)) is not None:
            cuts.append(_ends(rows, found))
        else:
            keys.append("|".join(dict.fromkeys(found)))
    whole = "&".join(keys)
    if not cuts:
        return [(visit.rows, whole)]
    spans: list[tuple[int, str]] = []
    for end in sorted({end for cut in cuts for end, _ in cut}):
        key = "&".join([whole, *[next(key for until, key in cut if end <= until) for cut in cuts]])
        if spans and spans[-1][1] == key:
            spans.pop()
        spans.append((end, key))
    return spans


def _request_key(stage: StageState, request: Request) -> str:
    """What of the request's own tensors counts; those that are not there are as their batch key."""
    key = f"{request.bucket}:" if request.bucket else ""  # equal keys have equal buckets
    names = [given.tensor for given in stage.inputs if not given.stage]
    if not names:
        return key
    if not request.tensors:
        return key + request.batch_key
    return key + ",".join([_shape(tensor) for tensor in request.tensors if tensor.name in names])


def _key(batch: Batch, taker: StageState, source: str) -> str:
    """What of a batch's outputs counts for one that takes them; remembered, since all its requests ask."""
    if not batch.outputs:
        return ""
    if batch.keys is None:
        batch.keys = {}
    key = batch.keys.get(taker.name)
    if key is None:
        outputs = {tensor.name: tensor for tensor in batch.outputs}
        shapes = []
        for given in taker.inputs:
            if given.stage == source:
                tensor = outputs.get(f"{given.tensor}@{taker.name}", outputs.get(given.tensor))
                shapes.append("" if tensor is None else _shape(tensor))
        key = batch.keys[taker.name] = ",".join(shapes)
    return key


def _shape(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape[1:])}"


def _rows_of(parts: list[Part], taker: StageState, source: StageState) -> list[int] | None:
    """Rows of the taker that each part of a source is for; None if they have not the same rows."""
    if source is taker.maker:
        return [sum(part.counts(taker.name)) for part in parts]
    if source.maker is taker.maker and (source.maker is not None or source.fan_out == taker.fan_out):
        return [part.piece.rows for part in parts]
    return None


def _ends(rows: list[int], keys: list[str]) -> list[tuple[int, str]]:
    """Where each run of rows ends, and its key; runs without rows are left out."""
    ends: list[tuple[int, str]] = []
    end = 0
    for count, key in zip(rows, keys, strict=True):
        if count:
            end += count
            ends.append((end, key))
    return ends
