"""What one stage does next: the rules its plan chose, applied to what waits and who is idle.

It decides, the service acts: `step` names a batch to run or pieces to shed, or neither until `wake_s`, and is
asked again until it says neither.
"""

from steelyard.core.admission import ADMISSION_RULES, Refusal
from steelyard.core.assembly import DROP_RULES, Shedding
from steelyard.core.bounds import Bounds, Ledger
from steelyard.core.forming import FORMING_RULES, NEVER, NOW, SHED_LAG_S
from steelyard.core.lanes import Lanes
from steelyard.core.lifecycle import Replica
from steelyard.core.plan import StagePlan
from steelyard.core.residuals import FORGET_S
from steelyard.core.routing import make_router
from steelyard.core.stage import StageState
from steelyard.core.types import Request
from steelyard.core.work import Batch, Piece


class Dispatcher:
    """Decides for one stage.

    Attributes:
        stage: that one.
        bounds: what requests may bound.
        wake_s: when to look again if nothing happens; set by `step`, later than its `now_s`.
    """

    def __init__(self, stage: StageState, bounds: Bounds) -> None:
        self.stage = stage
        self.bounds = bounds
        self.wake_s = NEVER
        self._lanes: Lanes | None = None
        self._watched: Piece | None = None
        self._watched_due_s = NEVER
        self._watched_version = -1
        self._watched_until_s = NEVER
        self._choose_rules()

    def publish(self, plan: StagePlan) -> None:
        """Work by another plan from now on, also for what waits."""
        self.stage.adopt(plan)
        self._choose_rules()

    def grant(self, cores_grantable: float) -> None:
        """So many cores could be had now."""
        self.stage.capacity.grant(cores_grantable)
        self._watched = None

    def refusal(self, request: Request, due_s: float, *, now_s: float) -> Refusal | None:
        """Why a new request is not admitted, or None; `due_s` is when it must be done with all stages.

        A stage inside the pipeline has no say but by the limit of its queue.
        """
        stage = self.stage
        residuals = stage.estimator.residuals
        if now_s - residuals.faded_s >= FORGET_S:
            residuals.fade(now_s=now_s)
        if stage.followers:
            due_s = stage.due_s(due_s, request)
        return self._admit(stage, request, due_s, now_s)

    def is_waiting(self, *, now_s: float) -> bool:
        """Whether there is nothing to do before `wake_s`, even if more has come to wait behind the head.

        False may mean that it takes a `step` to find out.
        """
        stage = self.stage
        entries = stage.queue.entries
        if not entries:
            return True
        if stage.pool.idle or self._lanes is not None or stage.assignment.is_used:
            return False
        return not self._sheds_lost or (now_s <= self._watched_until_s and self._is_watched(entries[0][2]))

    def lost(self, shedding: Shedding, *, now_s: float) -> list[Piece]:
        """What is to be shed: all but those that faster variants save, where requests may reroute."""
        if not self._reroutes:
            return shedding.pieces
        return [piece for piece in shedding.pieces if not self._reroute(piece, now_s)]

    def step(self, *, now_s: float) -> Batch | Shedding | None:
        """What to do next; None if there is nothing to do before `wake_s`."""
        self.wake_s = NEVER
        stage = self.stage
        queue = stage.queue
        if not queue.entries:
            return None
        if self._lanes is not None:
            step = self._lanes.step(now_s=now_s)
            self.wake_s = self._lanes.wake_s
            return step
        if stage.assignment.is_used:
            stage.assignment.refresh()
        idle = stage.pool.idle
        if idle:
            claims = stage.claims if stage.claims.by_id and stage.prefers_best else None
            if self._is_plain and len(queue.entries) == 1 and claims is None:
                batch = self._alone(queue.head(), idle, now_s)
                if batch is not None:
                    return batch
            replicas = self._router.order(idle, queue.head()) if len(idle) > 1 else list(idle.values())
            for replica in replicas:
                for bucket in queue.buckets():
                    choice = self._drop(stage, bucket, replica, now_s)
                    if not isinstance(choice, Batch):
                        if choice is not None:
                            return choice
                        continue
                    if claims is not None:
                        until_s = claims.hold_until_s(choice, now_s=now_s)
                        if until_s is not None:
                            self.wake_s = min(self.wake_s, until_s + SHED_LAG_S)
                            continue
                    if choice.is_full or not self._holds:
                        return choice
                    leaves_s = self._departure_s(choice)
                    if leaves_s <= now_s:
                        return choice
                    if leaves_s < self.wake_s:
                        self.wake_s = leaves_s
        if self._sheds_lost:
            return self._watch_head(now_s)
        return self._watch_bounded(now_s) if stage.assignment.is_used else None

    def _alone(self, head: Piece, idle: dict[int, Replica], now_s: float) -> Batch | None:
        """The batch of a piece that waits alone, if the first replica in line can finish it in time.

        What `plain` rules all come to, without their comparisons with others that wait.
        """
        replica = self._router.first(idle, head)
        if head.terms is not None or len(replica.variants) > 1:
            return None
        rows = head.rows
        line = self.stage.estimator.line(replica.variants[0], head.open.request.bucket, replica.cores)
        service_s = line.service_s(rows)
        if rows > line.rows_max or now_s + service_s > head.due_s:
            return None
        return Batch(replica, line, [head], rows, service_s, True)

    def launch(self, batch: Batch, batch_id: int, *, now_s: float) -> None:
        """Move the pieces of a batch from the queue onto its replica."""
        stage, replica, pieces = self.stage, batch.replica, batch.pieces
        batch.batch_id = batch_id
        batch.expected_s = now_s + batch.service_s
        stage.queue.take(pieces)
        for piece in pieces:
            opened = piece.open
            opened.readers += 1
            if opened.bounds is not None:
                self._take_down(opened.bounds, piece, batch)
        for later in stage.behind:
            if later.claims.by_id:
                self._foresee(later, batch)
        stage.pool.assign(replica, batch)
        stage.batches[batch_id] = batch
        if self._has_choice:
            stage.mix.serve(batch.variant, batch.rows)
            stage.choice.took(replica, batch.variant)
            self._router.took(replica)
            if self._lanes is not None:
                self._lanes.launched(batch)

    def _foresee(self, later: StageState, batch: Batch) -> None:
        """Let claims at a stage behind know how soon those who are about to run can be there."""
        for piece in batch.pieces:
            between_s = self.stage.remaining.after_s(piece.bucket) - later.remaining.after_s(piece.bucket)
            between_s -= later.remaining.least_s(piece.bucket)
            later.claims.foresee(piece.open, batch.expected_s + max(0.0, between_s))

    def _take_down(self, ledger: Ledger, piece: Piece, batch: Batch) -> None:
        """What a batch leaves open to a request with bounds; its other pieces wait by that from now on."""
        core_ms = 1000.0 * batch.service_s * batch.replica.cores * piece.rows / batch.rows
        ledger.took(piece, batch.variant, batch.expected_s, core_ms)
        if ledger.is_accurate:
            for visit in list(piece.open.visits.values()):
                for other in [other for other in visit.pieces if other.is_queued]:
                    if other.terms is not None and other.terms.variants != ledger.variants_at(visit):
                        visit.stage.queue.remove(other)
                        visit.stage.enqueue(other)

    def _choose_rules(self) -> None:
        rules = self.stage.plan.rules
        self._router = make_router(rules.routing, self.stage.pool, self.stage.estimator, self.stage.mix)
        self._admit = ADMISSION_RULES["open" if self.stage.sources else rules.admission]
        self._drop = DROP_RULES[rules.drop]
        self._leaves_s = FORMING_RULES.get(rules.forming, FORMING_RULES["hold"])
        if not self.stage.assignment.by_replica:
            self._lanes = None
        elif self._lanes is None or self._lanes.forming != rules.forming:
            self._lanes = Lanes(self.stage)
        self._reroutes = rules.reroutes
        self._sheds_lost = rules.drop in ("infeasible", "early")
        has_one = rules.choice != "fit" and rules.routing == "least_finish" and len(self.stage.mix.shares) < 2
        self._has_choice = not has_one or self._lanes is not None
        self._holds = rules.forming != "hold" or self.stage.plan.hold_s_max > 0
        self._is_plain = self._sheds_lost and not self._holds
        self._watched = None

    def _departure_s(self, batch: Batch) -> float:
        """When a batch that is not full leaves; those that have nobody to wait for leave at once."""
        if self.stage.is_draining or batch.pieces[0].alone:
            return NOW
        return self._leaves_s(self.stage, batch)

    def _reroute(self, piece: Piece, now_s: float) -> bool:
        """Give a request that would be dropped faster variants from here on, if that saves it."""
        opened = piece.open
        if opened.bounds is None:
            opened.bounds = Ledger(self.bounds, opened)
        if not opened.bounds.reroute(piece, now_s=now_s):
            return False
        for visit in opened.visits.values():
            for waiting in [waiting for waiting in visit.pieces if waiting.is_queued]:
                visit.stage.queue.remove(waiting)
                visit.stage.enqueue(waiting)
        return True

    def _watch_bounded(self, now_s: float) -> Shedding | None:
        """Where nothing else is shed: a head whose own bounds let nobody take it, once it is due."""
        head = self.stage.queue.entries[0][2]
        if head.open.bounds is None:
            return None
        if now_s > head.due_s:
            return Shedding([head], "deadline")
        if head.due_s + SHED_LAG_S < self.wake_s:
            self.wake_s = head.due_s + SHED_LAG_S
        return None

    def _watch_head(self, now_s: float) -> Shedding | None:
        """Shed a head that is lost, or wake when it will be; its latest start is kept meanwhile."""
        head = self.stage.queue.entries[0][2]
        if now_s > self._watched_until_s or not self._is_watched(head):
            self._watched = head
            self._watched_due_s = head.due_s
            self._watched_version = self.stage.pool.version
            self._watched_until_s = self.stage.latest_start_s(head)
            if now_s > self._watched_until_s:
                return Shedding([head], "deadline")
        shed_s = self._watched_until_s + SHED_LAG_S
        if shed_s < self.wake_s:
            self.wake_s = shed_s
        return None

    def _is_watched(self, head: Piece) -> bool:
        """Whether a head's latest start is known, as the replicas are now."""
        return (
            head is self._watched
            and head.due_s == self._watched_due_s
            and self.stage.pool.version == self._watched_version
        )
