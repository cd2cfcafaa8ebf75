"""The laws between the collections of a `ServiceMachine`, one function each; `check` asserts them all."""

from collections.abc import Mapping

from steelyard.core.inputs import made_from
from steelyard.core.stage import StageState
from steelyard.core.tally import Counts
from steelyard.core.types import RequestId
from steelyard.core.work import OpenRequest, Visit


def check(
    stages: Mapping[str, StageState], requests: Mapping[RequestId, OpenRequest], counts: Counts
) -> None:
    """Assert every law; the text of a failure names what broke it."""
    _accounts_balance(counts, len(requests))
    for stage in stages.values():
        _queue_is_whole(stage)
        _replicas_run_one_batch(stage)
        _claims_are_of_who_is_on_the_way(stage, requests)
    _readers_are_counted(stages, requests)
    for opened in requests.values():
        _stages_come_in_order(stages, opened)
        for visit in opened.visits.values():
            _rows_are_covered(visit)
            _items_are_counted(visit)
    _outputs_are_held(stages, requests)


def _accounts_balance(counts: Counts, open_count: int) -> None:
    """Each request that arrived is open or ended exactly once; late ones are completed ones."""
    ended = counts.completed + counts.shed + counts.rejected + counts.failed + counts.cancelled
    assert counts.requests == ended + open_count, f"{counts} with {open_count} open"
    assert counts.late <= counts.completed, f"more late than completed: {counts}"


def _queue_is_whole(stage: StageState) -> None:
    """The queue is ordered, its buckets hold the same pieces, and its rows add up."""
    entries = stage.queue.entries
    places = [entry[:2] for entry in entries]
    assert places == sorted(places), f"queue out of order: {places}"
    buckets = stage.queue.buckets()
    in_buckets = sorted(entry[:2] for bucket in buckets for entry in bucket)
    assert in_buckets == places, "buckets and queue differ"
    assert stage.queue.rows == sum(piece.rows for piece in stage.queue), "rows of the queue do not add up"
    for bucket in buckets:
        assert bucket, "an empty bucket is kept"
        assert len({piece.key for _, _, piece in bucket}) == 1, "a bucket mixes keys"
    for piece in stage.queue:
        assert piece.is_queued, f"piece {piece.sequence} is in the queue and does not know"
        assert not piece.open.is_ended, f"{piece.open.request.id} has ended and waits"
        assert 1 <= piece.rows <= stage.piece_rows_max, f"a piece of {piece.rows} rows waits"


def _claims_are_of_who_is_on_the_way(stage: StageState, requests: Mapping[RequestId, OpenRequest]) -> None:
    """Who claims a stage is open, and has not come to it."""
    for request_id in stage.claims.by_id:
        assert request_id in requests, f"{request_id} has ended and claims {stage.name}"
        assert stage.name not in requests[request_id].visits, f"{request_id} is at {stage.name} and claims it"


def _replicas_run_one_batch(stage: StageState) -> None:
    """Batches in flight and replicas that run them name each other; idle is exactly who could take one."""
    running = {replica.batch.batch_id: replica for replica in stage.pool if replica.batch is not None}
    assert running.keys() == stage.batches.keys(), f"{list(running)} run, {list(stage.batches)} are in flight"
    for batch_id, replica in running.items():
        assert stage.batches[batch_id].replica is replica, f"batch {batch_id} is elsewhere"
    idle = {replica.id for replica in stage.pool if replica.is_idle}
    assert idle == stage.pool.idle.keys(), f"idle are {idle}, not {set(stage.pool.idle)}"
    for replica in stage.pool:
        assert (replica.state == "ready") <= (replica.cores > 0), (
            f"replica {replica.id} is ready without cores"
        )


def _readers_are_counted(stages: Mapping[str, StageState], requests: Mapping[RequestId, OpenRequest]) -> None:
    """A request counts the pieces of it that run; those wait nowhere."""
    reading: dict[RequestId, int] = {}
    for stage in stages.values():
        for batch in stage.batches.values():
            assert batch.rows == sum(piece.rows for piece in batch.pieces), f"rows of batch {batch.batch_id}"
            for piece in batch.pieces:
                assert not piece.is_queued, f"piece {piece.sequence} runs and waits"
                assert not piece.is_held_up, f"piece {piece.sequence} runs and is held up"
                assert piece.visit.stage is stage, f"piece {piece.sequence} runs at another stage"
                reading[piece.open.request.id] = reading.get(piece.open.request.id, 0) + 1
    for request_id, opened in requests.items():
        assert not opened.is_ended, f"{request_id} has ended and is open"
        assert opened.readers == reading.get(request_id, 0), f"{request_id} has {opened.readers} readers"
        pieces = [piece for visit in opened.visits.values() for piece in visit.pieces]
        running = sum(piece.is_running for piece in pieces)
        assert running == opened.readers, f"{request_id} has a piece that is nowhere"


def _stages_come_in_order(stages: Mapping[str, StageState], opened: OpenRequest) -> None:
    """A request is at a stage if all before it were done, and waits there only while their outputs exist."""
    request_id, visits = opened.request.id, opened.visits
    left = sum(name not in visits or not visits[name].is_done for name in stages)
    assert opened.stages_left == left, f"{request_id} counts {opened.stages_left} stages to go, not {left}"
    for name, stage in stages.items():
        sources = [visits[source.name] for source in stage.sources if source.name in visits]
        has_inputs = len(sources) == len(stage.sources) and all(source.is_done for source in sources)
        if name not in visits:
            assert not has_inputs, f"{request_id} could enter {name} and did not"
            continue
        assert len(sources) == len(stage.sources), f"{request_id} entered {name} too early"
        for piece in visits[name].pieces:
            if piece.is_queued:
                assert all(source.is_done and source.has_outputs for source in sources), (
                    f"{request_id} waits at {name} without its inputs"
                )
            if piece.is_held_up:
                assert not has_inputs, f"{request_id} is held up at {name} for nothing"


def _rows_are_covered(visit: Visit) -> None:
    """The rows of a visit wait, run or are done, each exactly once."""
    request_id, name = visit.open.request.id, visit.stage.name
    assert visit.is_done == (not visit.pieces), f"{request_id} is done at {name}, or not"
    if visit.is_done and not visit.done and not visit.lost:
        return  # its outputs are not needed any more
    spans = [(piece.row_start, piece.rows) for piece in visit.pieces]
    spans += [(piece.row_start, piece.rows) for piece in visit.lost]
    spans += [(part.piece.row_start, part.piece.rows) for part in visit.done]
    spans.sort()
    end = 0
    for row_start, rows in spans:
        assert row_start == end, f"rows of {request_id} overlap or are missing at {name}: {spans}"
        end += rows
    assert end == visit.rows, f"rows of {request_id} do not add up at {name}: {spans}"


def _items_are_counted(visit: Visit) -> None:
    """A visit has the items that its maker has counted, as long as those are kept; no items, no work."""
    maker, opened = visit.stage.maker, visit.open
    if maker is None:
        assert visit.rows > 0, f"{opened.request.id} has no rows at {visit.stage.name}"
        return
    made = opened.visits[maker.name]
    if made.is_done and made.done and not made.lost:
        counted = made_from(visit.stage, opened)
        assert visit.made_from == counted, f"{opened.request.id} has other items at {visit.stage.name}"
        assert visit.rows == sum(count for _, count in counted), f"{visit.rows} rows of {counted}"


def _outputs_are_held(stages: Mapping[str, StageState], requests: Mapping[RequestId, OpenRequest]) -> None:
    """Outputs are kept exactly as long as a finished part in them is needed.

    An open request needs them, or one that has ended while a batch reads what came of it.
    """
    needing = dict(requests)
    for stage in stages.values():
        for batch in stage.batches.values():
            needing.update((piece.open.request.id, piece.open) for piece in batch.pieces)
    kept: dict[int, int] = {}
    live: set[int] = set()
    for stage in stages.values():
        live |= {replica.id for replica in stage.pool}
        for replica in stage.pool:
            kept.update((batch.batch_id, batch.holders) for batch in replica.kept.values())
    holders: dict[int, int] = {}
    for opened in needing.values():
        for visit in opened.visits.values():
            for part in visit.done:
                assert part.batch.replica.id in live or opened.is_ended, f"{opened.request.id} lost outputs"
                if part.batch.replica.id in live:
                    holders[part.batch.batch_id] = holders.get(part.batch.batch_id, 0) + 1
    assert kept == holders, f"kept {kept}, needed {holders}"
