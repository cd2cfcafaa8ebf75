"""The laws between the collections of a `ServiceMachine`, one function each; `check` asserts them all."""

from collections.abc import Mapping

from steelyard.core.stage import StageState
from steelyard.core.tally import Counts
from steelyard.core.types import RequestId
from steelyard.core.work import OpenRequest


def check(stage: StageState, requests: Mapping[RequestId, OpenRequest], counts: Counts) -> None:
    """Assert every law; the text of a failure names what broke it."""
    _accounts_balance(counts, len(requests))
    _queue_is_whole(stage)
    _replicas_run_one_batch(stage)
    _requests_are_covered(stage, requests)
    _outputs_are_held(stage, requests)


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
        assert 1 <= piece.rows <= stage.plan.batch_rows_max, f"a piece of {piece.rows} rows waits"


def _replicas_run_one_batch(stage: StageState) -> None:
    """Batches in flight and replicas that run them name each other; idle is exactly who could take one."""
    running = {replica.batch.batch_id: replica for replica in stage.pool if replica.batch is not None}
    assert running.keys() == stage.batches.keys(), f"{list(running)} run, {list(stage.batches)} are in flight"
    for batch_id, replica in running.items():
        assert stage.batches[batch_id].replica_id == replica.id, f"batch {batch_id} is elsewhere"
    idle = {replica.id for replica in stage.pool if replica.is_idle}
    assert idle == stage.pool.idle.keys(), f"idle are {idle}, not {set(stage.pool.idle)}"
    for replica in stage.pool:
        assert (replica.state == "ready") <= (replica.cores > 0), (
            f"replica {replica.id} is ready without cores"
        )


def _requests_are_covered(stage: StageState, requests: Mapping[RequestId, OpenRequest]) -> None:
    """The rows of an open request wait, run or are done, each exactly once; its readers are counted."""
    reading: dict[RequestId, int] = {}
    for batch in stage.batches.values():
        assert batch.rows == sum(piece.rows for piece in batch.pieces), f"rows of batch {batch.batch_id}"
        for piece in batch.pieces:
            assert not piece.is_queued, f"piece {piece.sequence} runs and waits"
            reading[piece.open.request.id] = reading.get(piece.open.request.id, 0) + 1
    for request_id, opened in requests.items():
        assert not opened.is_ended, f"{request_id} has ended and is open"
        assert opened.readers == reading.get(request_id, 0), f"{request_id} has {opened.readers} readers"
        waiting = sum(piece.is_queued for piece in opened.pieces)
        assert len(opened.pieces) == waiting + opened.readers, f"{request_id} has a piece that is nowhere"
        spans = [(piece.row_start, piece.rows) for piece in opened.pieces]
        spans += [(part.piece.row_start, part.piece.rows) for part in opened.done]
        spans.sort()
        end = 0
        for row_start, rows in spans:
            assert row_start == end, f"rows of {request_id} overlap or are missing: {spans}"
            end += rows
        assert end == opened.request.rows, f"rows of {request_id} do not add up: {spans}"


def _outputs_are_held(stage: StageState, requests: Mapping[RequestId, OpenRequest]) -> None:
    """Outputs are kept exactly as long as a finished part of an open request needs them."""
    holders: dict[int, int] = {}
    for opened in requests.values():
        for part in opened.done:
            holders[part.batch.batch_id] = holders.get(part.batch.batch_id, 0) + 1
    kept = {batch.batch_id: batch.holders for replica in stage.pool for batch in replica.kept.values()}
    assert kept == holders, f"kept {kept}, needed {holders}"
