"""A queue a replica: when batches leave where each piece waits for one replica (`routing: assigned`).

A *lane* is what waits for one replica under one key; q is its rows, D when its head is due, l(b) the
service time of b rows, b_max the plan's rows, b(q) = min(q, b_max) in whole pieces. The rules, each asked
when something began to wait, when the replica's batch has ended, and at the time it named:

`adaptive`  Proteus' five steps, with t_w = D - l(b(q)) of the present head and q:
            1. Something began to wait, replica idle: while now + l(b(q)) > D drop the head. Then wait until
               t_w; if that is not later than now, run the batch without the newest.
            2. Replica busy: wait; t_w is that of the head with the new q.
            3. t_w comes: idle, run b(q); busy, as soon as the batch has ended (its "flag").
            4. A batch has ended: if t_w has passed run b(q); else, if q > b_max, run b_max; else wait.
            5. Before a batch leaves, drop what is older than twice its own latency objective.
`aimd`      Clipper's: batches of s rows, s from 1 on: one more after a batch that was in time, one fewer
            after one in which anything was late. Waits for s rows, and not longer than until D.
`nexus`     b_max rows, or what there is at D - l(b_max); before, drops heads that the batch from them on
            would make late.
others      `hold`, `full` and `timeout` with their drop rules, as in a common queue.

What must run alone waits for nobody, and a draining service waits for nobody either. The first three drop by
their own rule; `StageRules.drop` is not asked. Where the published simulators wait forever for a head that
nobody can serve (no replica of the stage is ready), it is dropped when it is due.
"""

from __future__ import annotations

from collections.abc import Callable

from steelyard.core.assembly import DROP_RULES, Shedding, assemble
from steelyard.core.forming import FORMING_RULES, NEVER, SHED_LAG_S
from steelyard.core.lifecycle import Replica
from steelyard.core.queue import Entry
from steelyard.core.stage import StageState
from steelyard.core.work import Batch, Piece

AGE_MAX_SLOS = 2.0
"""Proteus drops what has waited this many times its latency objective."""


class Lane:
    """What a rule remembers of one lane.

    Attributes:
        replica_id: whose it is, or `NOBODY`'s.
        wake_s: when its rule wants to be asked again; inf: at the next news.
        has_news: something began to wait.
        is_freed: the replica's batch has ended.
    """

    __slots__ = ("has_news", "is_freed", "replica_id", "wake_s")

    def __init__(self, replica_id: int) -> None:
        self.replica_id = replica_id
        self.wake_s = NEVER
        self.has_news = True
        self.is_freed = False


Step = Batch | Shedding | None
LaneRule = Callable[["Lanes", Lane, list[Entry], Replica, float], Step]
"""(lanes, lane, what waits in it, its idle replica, now) -> what to do; else it sets `lane.wake_s`."""


class Lanes:
    """All lanes of one stage.

    Args:
        stage: whose plan assigns pieces to replicas.

    Attributes:
        stage: that one.
        sizes: `aimd`: rows of the next batch, by replica.
        wake_s: when to ask again if nothing happens; set by `step`.
    """

    def __init__(self, stage: StageState) -> None:
        self.stage = stage
        self.sizes: dict[int, int] = {}
        self.wake_s = NEVER
        self._lanes: dict[str, Lane] = {}
        self._running: dict[int, list[Piece]] = {}
        rules = stage.plan.rules
        self.forming = rules.forming
        self._sheds_lost = rules.drop in ("infeasible", "early")
        self._rule = LANE_RULES.get(rules.forming)

    def step(self, *, now_s: float) -> Step:
        """What to do next; None if there is nothing to do before `wake_s`."""
        stage = self.stage
        self.wake_s = NEVER
        stage.assignment.refresh()
        self._look(now_s)
        for key in list(self._lanes):
            bucket = stage.queue.bucket(key)
            if bucket is None:
                del self._lanes[key]
                continue
            lane = self._lanes[key]
            step = self._ask(lane, bucket, now_s)
            if step is not None:
                return step
            if lane.wake_s < self.wake_s:
                self.wake_s = lane.wake_s
        return None

    def launched(self, batch: Batch) -> None:
        """A batch has left."""
        self._running[batch.replica.id] = batch.pieces

    def _look(self, now_s: float) -> None:
        """Which lanes have news, and whose replica has become idle."""
        pool, news = self.stage.pool, self.stage.assignment.news
        for key in news:
            lane = self._lanes.get(key)
            if lane is not None:
                lane.has_news = True
                continue
            bucket = self.stage.queue.bucket(key)
            if bucket is not None and (terms := bucket[0][2].terms) is not None:
                self._lanes[key] = Lane(terms.replica_id)
        news.clear()
        for replica_id in list(self._running):
            replica = pool.get(replica_id)
            if replica is not None and replica.batch is not None:
                continue
            self._learn(replica_id, self._running.pop(replica_id), now_s)
            if replica is None:
                self.sizes.pop(replica_id, None)
            for lane in self._lanes.values():
                if lane.replica_id == replica_id:
                    lane.is_freed = True

    def _learn(self, replica_id: int, pieces: list[Piece], now_s: float) -> None:
        """`aimd`: one row more after a batch that was in time, one fewer after one that was not."""
        size = self.sizes.get(replica_id, 1)
        is_late = any(now_s > piece.due_s for piece in pieces)
        self.sizes[replica_id] = max(size - 1, 1) if is_late else size + 1

    def _ask(self, lane: Lane, bucket: list[Entry], now_s: float) -> Step:
        """Ask the rule of a lane, if there is reason to."""
        replica = self.stage.pool.get(lane.replica_id)
        if replica is None:
            lane.wake_s = NEVER
            return self._watch(lane, bucket, bucket[0][2].due_s, now_s)
        if self._rule is None:
            return self._ask_common(lane, bucket, replica, now_s)
        if not replica.is_idle:
            lane.wake_s = NEVER
            return None
        if self.stage.is_draining or bucket[0][2].alone:
            return take(self.stage, bucket, replica, now_s)
        if not (lane.has_news or lane.is_freed or now_s >= lane.wake_s):
            return None
        step = self._rule(self, lane, bucket, replica, now_s)
        if not isinstance(step, Shedding):  # after which the same news is looked at again
            lane.has_news = lane.is_freed = False
        return step

    def _ask_common(self, lane: Lane, bucket: list[Entry], replica: Replica, now_s: float) -> Step:
        """The rules of a common queue, for this replica alone."""
        stage = self.stage
        lane.wake_s = NEVER
        if replica.is_idle:
            step = DROP_RULES[stage.plan.rules.drop](stage, bucket, replica, now_s)
            if not isinstance(step, Batch):
                if step is not None:
                    return step
            elif step.is_full or stage.is_draining or step.pieces[0].alone:
                return step
            else:
                lane.wake_s = FORMING_RULES[self.forming](stage, step)
                if lane.wake_s <= now_s:
                    return step
        if not self._sheds_lost:
            return None
        return self._watch(lane, bucket, stage.latest_start_s(bucket[0][2]), now_s)

    def _watch(self, lane: Lane, bucket: list[Entry], until_s: float, now_s: float) -> Step:
        """Shed a head that is lost, or wake when it will be."""
        if now_s > until_s:
            return Shedding([bucket[0][2]], "deadline")
        lane.wake_s = min(lane.wake_s, until_s + SHED_LAG_S)
        return None


def take(
    stage: StageState, bucket: list[Entry], replica: Replica, now_s: float, rows_max: int | None = None
) -> Batch:
    """A batch of the first pieces, at least one, of at most `rows_max` rows and the plan's."""
    variant = stage.variants_for(bucket, replica, now_s)[0]
    limit = stage.estimator.batch_rows_max(variant)
    return assemble(stage, bucket, replica, variant, limit if rows_max is None else min(rows_max, limit))


def _adaptive(lanes: Lanes, lane: Lane, bucket: list[Entry], replica: Replica, now_s: float) -> Step:
    """Proteus' five steps, the replica being idle."""
    stage = lanes.stage
    head = bucket[0][2]
    request = head.open.request
    if now_s - request.arrived_s > AGE_MAX_SLOS * (request.deadline_s - request.arrived_s):
        return Shedding([head], "age")
    batch = take(stage, bucket, replica, now_s)
    waits_until_s = head.due_s - batch.service_s
    lane.wake_s = waits_until_s
    if lane.is_freed:
        if waits_until_s <= now_s or len(batch.pieces) < len(bucket):
            return batch
        return None
    if not lane.has_news:
        return batch  # its time has come
    if waits_until_s < now_s:
        return Shedding([head], "deadline")
    if waits_until_s > now_s:
        return None
    return take(stage, bucket[:-1] or bucket, replica, now_s)


def _aimd(lanes: Lanes, lane: Lane, bucket: list[Entry], replica: Replica, now_s: float) -> Step:
    """Wait for as many rows as went well; not longer than until the head is due."""
    batch = take(lanes.stage, bucket, replica, now_s)
    size = lanes.sizes.get(replica.id, 1)
    limit = lanes.stage.estimator.batch_rows_max(batch.variant)
    if size > limit:
        size = lanes.sizes[replica.id] = limit
    if batch.rows > size:
        batch = take(lanes.stage, bucket, replica, now_s, size)
    lane.wake_s = bucket[0][2].due_s
    is_full = batch.rows >= size or len(batch.pieces) < len(bucket)
    return batch if is_full or now_s >= lane.wake_s else None


def _nexus(lanes: Lanes, lane: Lane, bucket: list[Entry], replica: Replica, now_s: float) -> Step:
    """A full batch, or what there is when the head could not wait longer for one."""
    stage = lanes.stage
    head = bucket[0][2]
    batch = take(stage, bucket, replica, now_s)
    if now_s + batch.service_s > head.due_s:
        return Shedding([head], "early")
    rows_max = stage.estimator.batch_rows_max(batch.variant)
    full_s = stage.estimator.service_s(batch.variant, head.bucket, rows_max, replica.cores)
    lane.wake_s = head.due_s - full_s
    return batch if batch.is_full or now_s >= lane.wake_s else None


LANE_RULES: dict[str, LaneRule] = {"adaptive": _adaptive, "aimd": _aimd, "nexus": _nexus}
