"""Of which pieces one batch would be made on one replica now: the `drop` rules of a plan.

`none`        the most urgent pieces, up to the limit of rows.
`age`         as `none`, after shedding what is too old.
`infeasible`  the most urgent pieces that can be finished in time, as many as the tightest of them allows.
              What no replica can finish any more is shed; what only this replica cannot finish is left to
              the others.
`early`       as `infeasible`, and no larger than the size of most rows a second: where batches gain nothing,
              one after the other answers sooner at the same cost (`full` and `timeout` keep the plan's size).
              If the stage is overloaded, the batch that finishes most rows a second goes first, and what is
              before it is shed: under backlog a head that is nearly late would otherwise shrink every batch,
              and each shrunken batch makes the next head late too (the sliding window of Nexus, SOSP 2019).
              Nothing is shed early while another replica is idle. Where classes of requests differ in weight,
              a row counts by its weight; and what cannot all be served loses its lightest first: of those due
              no later than one that would be late, the lightest that is lighter than that one, the latest due
              of equals.
`budget`      Loki's early drop: a head is shed if its batch would end after `StagePlan.budget_s` from when it
              began to wait here (without one, twice the service time of a planned batch of the variant).

Pieces keep their order and are not packed around ones that do not fit: a batch is a run of neighbours.
"""

from bisect import bisect_left
from collections.abc import Callable

from steelyard.core.commands import ShedReason
from steelyard.core.kinds import NEVER
from steelyard.core.lifecycle import Replica
from steelyard.core.plan import Drop
from steelyard.core.queue import Entry
from steelyard.core.routes import ROUNDING
from steelyard.core.stage import StageState
from steelyard.core.work import Batch, Piece

PASSED_MAX = 8
"""Pieces that are passed over when their own bounds forbid this replica; the rest is left to the others."""

BETTER = 1.0 + 1e-9
"""Factor by which a later window must be better than the head's batch: equal ones shed nobody."""


class Shedding:
    """Pieces to shed before a batch can be made."""

    __slots__ = ("pieces", "reason")

    def __init__(self, pieces: list[Piece], reason: ShedReason) -> None:
        self.pieces = pieces
        self.reason: ShedReason = reason


Choice = Shedding | Batch | None
DropRule = Callable[[StageState, list[Entry], Replica, float], Choice]


def _take_any(stage: StageState, bucket: list[Entry], replica: Replica, now_s: float) -> Choice:
    """`none`: as many of the first pieces as fit by rows."""
    for variant in stage.variants_for(bucket, replica, now_s):
        rows_max = stage.estimator.batch_rows_max(variant)
        if bucket[0][2].rows <= rows_max:
            batch = assemble(stage, bucket, replica, variant, rows_max)
            if not _is_bounded(bucket):
                return batch
            if (kept := _within_bounds(batch, now_s)) is not None:
                return kept
    return _take_any(stage, bucket, replica, now_s) if _reconsider(bucket, now_s) else None


def _take_young(stage: StageState, bucket: list[Entry], replica: Replica, now_s: float) -> Choice:
    """`age`: shed what has reached the limit among the pieces that would be taken."""
    choice = _take_any(stage, bucket, replica, now_s)
    age_s_max = stage.plan.rules.age_s_max
    if isinstance(choice, Batch) and age_s_max is not None:
        old = [piece for piece in choice.pieces if now_s - piece.open.request.arrived_s >= age_s_max]
        if old:
            return Shedding(old, "age")
    return choice


def _take_feasible(stage: StageState, bucket: list[Entry], replica: Replica, now_s: float) -> Choice:
    """`infeasible`: the variant most in arrears that can finish the most urgent piece, or any of them."""
    fallback: Batch | None = None
    head = bucket[0][2]
    for variant in stage.variants_for(bucket, replica, now_s):
        batch = _fill(stage, bucket, replica, variant, now_s)
        if batch is not None and head.terms is not None and head.terms.is_bounded:
            batch = _fill_within_bounds(stage, bucket, batch, now_s)
        if batch is not None and batch.pieces[0] is head:
            return batch
        fallback = fallback or batch
    if fallback is None and _reconsider(bucket, now_s):
        return _take_feasible(stage, bucket, replica, now_s)
    lost = _lost(stage, bucket, fallback, now_s)
    return Shedding(lost, "deadline") if lost else fallback


def _take_best(stage: StageState, bucket: list[Entry], replica: Replica, now_s: float) -> Choice:
    """`early`: as `infeasible`, unless the stage is overloaded and a later window finishes more."""
    choice = _take_feasible(stage, bucket, replica, now_s)
    if not isinstance(choice, Batch) or len(stage.pool.idle) > 1:
        return choice
    if stage.weighs and (lightest := _outweighed(stage, choice, now_s)) is not None:
        return Shedding([lightest], "early")
    if choice.is_full or len(choice.pieces) == len(bucket):
        return choice  # nobody would be left behind
    skipped = _skipped_for_window(stage, bucket, choice, now_s)
    if not skipped:
        return choice
    is_overloaded = stage.capacity.is_overloaded(
        stage.queue.entries,
        stage.queue.rows,
        served=len(choice.pieces),
        replica=replica,
        busy_s=choice.service_s,
        now_s=now_s,
    )
    return Shedding(skipped, "early") if is_overloaded else choice


def _outweighed(stage: StageState, choice: Batch, now_s: float) -> Piece | None:
    """Who goes, so that somebody heavier who would be late may not be; None if there is no such pair."""
    entries = stage.queue.entries
    late = stage.capacity.late(
        entries,
        stage.queue.rows,
        served=len(choice.pieces),
        replica=choice.replica,
        busy_s=choice.service_s,
        now_s=now_s,
    )
    index = 0
    lightest: Piece | None = None
    least = NEVER
    for place in late:
        while index <= place:
            piece = entries[index][2]
            weight = stage.weight_of(piece.open.request)
            if weight <= least:
                lightest, least = piece, weight
            index += 1
        if least < stage.weight_of(entries[place][2].open.request):
            return lightest
    return None


def _take_within(stage: StageState, bucket: list[Entry], replica: Replica, now_s: float) -> Choice:
    """`budget`: the first pieces, after shedding heads that would overrun the stage's part of the time."""
    choice = _take_any(stage, bucket, replica, now_s)
    if not isinstance(choice, Batch):
        return choice
    head, variant = choice.pieces[0], choice.variant
    budget_s = stage.plan.budget_s
    if budget_s is None:
        rows = stage.estimator.batch_rows_max(variant)
        budget_s = 2 * stage.estimator.service_s(variant, head.bucket, rows, replica.cores)
    due_s = head.visit.arrived_s + budget_s
    if head.open.bounds is not None and head.open.bounds.route:
        due_s = head.due_s  # rerouted: it is in time if the whole of it is
    if now_s + choice.service_s > due_s:
        return Shedding([head], "deadline")
    return choice


DROP_RULES: dict[Drop, DropRule] = {
    "none": _take_any,
    "age": _take_young,
    "infeasible": _take_feasible,
    "early": _take_best,
    "budget": _take_within,
}


def assemble(stage: StageState, bucket: list[Entry], replica: Replica, variant: str, rows_max: int) -> Batch:
    """The first pieces of a bucket, at least one, as many as fit into `rows_max` rows."""
    pieces: list[Piece] = []
    rows = 0
    is_full = False
    for _, _, piece in bucket:
        if pieces and rows + piece.rows > rows_max:
            is_full = True
            break
        pieces.append(piece)
        rows += piece.rows
    line = stage.estimator.line(variant, pieces[0].bucket, replica.cores)
    return Batch(replica, line, pieces, rows, line.service_s(rows), is_full or rows >= rows_max)


def _fill(
    stage: StageState, bucket: list[Entry], replica: Replica, variant: str, now_s: float
) -> Batch | None:
    """The longest run of pieces from the first one that can be finished in time, all of it in time."""
    floor = stage.rows_floor
    line = stage.estimator.line(variant, bucket[0][2].open.request.bucket, replica.cores)
    rows_max = line.rows_max
    rows_best = line.rows_best if stage.prefers_best else rows_max
    pieces: list[Piece] = []
    rows = 0
    service_s = 0.0
    due_s = NEVER
    is_full = False
    for _, _, piece in bucket:
        wanted = rows + piece.rows
        if wanted > rows_best:
            if pieces:
                is_full = True
                break
            if wanted > rows_max:
                continue
        counted = floor if wanted < floor and not piece.alone else wanted
        wanted_s = line.service_s(counted)
        tightest_s = piece.due_s
        if tightest_s > due_s:
            tightest_s = due_s
        if now_s + wanted_s > tightest_s:
            if pieces:
                break
            if piece is bucket[0][2] and _is_hopeless(stage, bucket, replica, variant, now_s):
                return None  # do not look at all of them
            continue
        pieces.append(piece)
        rows = wanted
        service_s = wanted_s
        due_s = tightest_s
        if rows >= rows_best:
            break
    if not pieces:
        return None
    return Batch(replica, line, pieces, rows, service_s, is_full or rows >= rows_best)


def _is_bounded(bucket: list[Entry]) -> bool:
    """Whether the requests of a bucket have bounds of their own; those of one key all have, or none."""
    terms = bucket[0][2].terms
    return terms is not None and terms.is_bounded


def _within_bounds(batch: Batch, now_s: float) -> Batch | None:
    """As many of a batch's first pieces as keep to the bounds of each of them; None if there are none."""
    line, pieces, cores = batch.line, batch.pieces, batch.cores
    finish_s = now_s + batch.service_s
    rows = 0
    rows_to: list[int] = []
    row_ms_to: list[float] = []  # core-milliseconds a row that all pieces up to one allow
    row_ms_left = NEVER
    for piece in pieces:
        ledger = piece.open.bounds
        if ledger is not None:
            left_ms = ledger.core_ms_left(piece, line.variant, cores, finish_s, now_s=now_s)
            row_ms_left = min(row_ms_left, left_ms / piece.rows)
        rows += piece.rows
        rows_to.append(rows)
        row_ms_to.append(row_ms_left)
    for count in range(len(pieces), 0, -1):
        rows = rows_to[count - 1]
        service_s = line.service_s(rows)
        if 1000.0 * cores * service_s / rows <= row_ms_to[count - 1] + ROUNDING:
            if count == len(pieces):
                return batch
            return Batch(batch.replica, line, pieces[:count], rows, service_s, True)
    return None


def _fill_within_bounds(stage: StageState, bucket: list[Entry], batch: Batch, now_s: float) -> Batch | None:
    """The same, passing over pieces that could not run even alone, up to `PASSED_MAX` of them."""
    left, wanted = bucket, batch
    for _ in range(PASSED_MAX):
        kept = _within_bounds(wanted, now_s)
        if kept is not None:
            return kept
        head = wanted.pieces[0]
        left = left[bisect_left(left, (head.order_s, head.sequence)) + 1 :]
        filled = _fill(stage, left, batch.replica, batch.variant, now_s) if left else None
        if filled is None:
            return None
        wanted = filled
    return None


def _reconsider(bucket: list[Entry], now_s: float) -> bool:
    """Nothing here may run the head: has it given up a bound that nothing could keep to any more?"""
    ledger = bucket[0][2].open.bounds
    return ledger is not None and ledger.reconsider(now_s=now_s)


def _is_hopeless(
    stage: StageState, bucket: list[Entry], replica: Replica, variant: str, now_s: float
) -> bool:
    """Whether not even the last to be due could be finished in time."""
    last = bucket[-1][2]
    least_s = stage.estimator.service_s(variant, last.bucket, 1, replica.cores)
    return stage.queue.order == "edf" and now_s + least_s > last.due_s


def _lost(stage: StageState, bucket: list[Entry], batch: Batch | None, now_s: float) -> list[Piece]:
    """The first pieces that no replica can finish in time, up to the batch or the first that one could."""
    stop = batch.pieces[0] if batch is not None else None
    lost = []
    for _, _, piece in bucket:
        if piece is stop or now_s <= stage.latest_start_s(piece):
            break
        lost.append(piece)
    return lost


def _skipped_for_window(stage: StageState, bucket: list[Entry], head: Batch, now_s: float) -> list[Piece]:
    """Pieces before the window with most rows in time a second, from the head's batch on; [] if that is best.

    For each size b worth choosing, the window starts at the first piece whose deadline allows a batch of b;
    since larger batches take longer, the starts move one way and the walk is linear in the pieces passed
    over.
    """
    start = bisect_left(bucket, (head.pieces[0].order_s, head.pieces[0].sequence))
    if start + len(head.pieces) == len(bucket):
        return []  # nobody behind the head's batch: nothing to gain
    line = head.line
    worth = float(head.rows)
    if stage.weighs:
        worth = sum([piece.rows * stage.weight_of(piece.open.request) for piece in head.pieces], 0.0)
    best_rate = worth / head.service_s * BETTER
    best_index = index = start
    for size in line.sizes(line.rows_max):
        finish_s = now_s + line.service_s(size)
        while index < len(bucket) and bucket[index][2].due_s < finish_s:
            index += 1
        rows, worth = _rows_in_window(stage, bucket, index, size, finish_s)
        if rows == 0:
            continue
        rate = worth / line.service_s(rows)
        if rate > best_rate:
            best_rate = rate
            best_index = index
    return [entry[2] for entry in bucket[start:best_index]]


def _rows_in_window(
    stage: StageState, bucket: list[Entry], start: int, rows_max: int, finish_s: float
) -> tuple[int, float]:
    """Rows of the run of at most `rows_max` from `start` on whose pieces are due at `finish_s` or later.

    And what they are worth: as many, or by their classes' weights.
    """
    rows = 0
    worth = 0.0
    for index in range(start, len(bucket)):
        piece = bucket[index][2]
        if rows + piece.rows > rows_max or piece.due_s < finish_s:
            break
        rows += piece.rows
        worth += piece.rows * stage.weight_of(piece.open.request) if stage.weighs else piece.rows
    return rows, worth
