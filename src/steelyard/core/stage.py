"""The state of one stage that its rules look at: the queue, the replicas, what they can do, and the plan."""

from __future__ import annotations

from steelyard.core.assignment import Assignment
from steelyard.core.capacity import Capacity
from steelyard.core.choice import Choice, make_choice
from steelyard.core.claims import Claims
from steelyard.core.estimate import Estimator
from steelyard.core.inputs import spans_of
from steelyard.core.item_mean import ItemMean
from steelyard.core.lifecycle import Replica, ReplicaPool
from steelyard.core.mix import VariantMix
from steelyard.core.plan import StagePlan, VariantShare
from steelyard.core.queue import Entry, StageQueue
from steelyard.core.remaining import Remaining
from steelyard.core.types import Request, ServiceTimes, Stage
from steelyard.core.work import Batch, Piece, Visit


def default_plan(stage: Stage) -> StagePlan:
    """What holds until a plan is published: the first variant, within its own limits, by the shared rules."""
    first = stage.variants[0]
    return StagePlan((), (VariantShare(first.name, 1.0),), batch_rows_max=first.batch_rows_max)


class StageState:
    """Mutable state of one stage.

    Attributes:
        sources: the stages whose outputs it takes; none: it takes the requests' inputs.
        followers: the stages that take its outputs.
        behind: these, and all behind them.
        claims: of requests on their way to it.
        maker: the stage whose items are its rows; None: the request's rows are.
        item_takers: the stages that take its items.
        inputs: where each input comes from; empty: all are the request's.
        read: the sources of any of them.
        is_answer: its outputs are part of the answer.
        fan_out: rows that it is given for each row of a request; where it takes items, as counted lately.
        rows_each: the same as a whole number, where it takes no items.
        remaining: how long what is behind it takes at least.
        plan: its rules and limits; replicas come and go by their own events.
        choice: which variant runs a batch.
        assignment: what may run a piece.
        place: among the stages of the service.
        slo_s: the service's objective.
        weights: of classes of requests, by name.
        weighs: they are not all the same.
        batches: in flight, by id.
        variants: those that can answer it.
        piece_rows_max: rows a piece may have: every variant of the mix can run it.
        piece_rows_least: the same for every variant there is: a request's own bounds may ask for any.
        is_draining: the service is stopping, until it is resumed: hold nothing back any more.
        rows_floor: rows that each batch has at least, where only full batches run; a deadline must allow so
            many. Pieces that run alone are exempt.
        prefers_best: batches stop at the size of most rows a second, if that is less than the plan's limit.
    """

    def __init__(
        self, stage: Stage, times: ServiceTimes, plan: StagePlan | None, *, queue_rows_max: int
    ) -> None:
        self.name = stage.name
        self.variants = stage.variants
        self.fan_out = stage.fan_out
        self.rows_each = round(stage.fan_out)
        self.sources: list[StageState] = []
        self.followers: list[StageState] = []
        self.behind: list[StageState] = []
        self.maker: StageState | None = None
        self.item_takers: list[StageState] = []
        self._items = ItemMean(stage.fan_out)  # of each row of the maker
        self.inputs = stage.inputs
        self.read: list[StageState] = []
        self.is_answer = False
        self.queue_rows_max = queue_rows_max
        self.estimator = Estimator(stage, times)
        self.pool = ReplicaPool()
        self.remaining = Remaining(stage, self.estimator, self.pool)
        self.capacity = Capacity(self.pool, self.estimator)
        self.queue = StageQueue()
        self.claims = Claims(self)
        self.batches: dict[int, Batch] = {}
        self.is_draining = False
        self.rows_floor = 0
        self.prefers_best = False
        self.mix = VariantMix(())
        self.choice = Choice(self)
        self.assignment = Assignment(self)
        self.place = 0
        self.slo_s = 1.0
        self.weights: dict[str, float] = {}
        self.weighs = False
        self._sequence = 0
        self.piece_rows_max = self.piece_rows_least = 1
        self.adopt(plan or default_plan(stage))

    def adopt(self, plan: StagePlan) -> None:
        """Work by another plan; what waits is queued again by its order and limits."""
        self.plan = plan
        self.choice = make_choice(self, self.choice)
        is_whole = plan.rules.choice == "fit"
        if plan.mix != self.mix.shares or is_whole != self.mix.is_whole:
            self.mix = VariantMix(plan.mix, is_whole=is_whole)
        self.estimator.adopt(plan.batch_rows_max, plan.rows_max)
        limits = [self.estimator.batch_rows_max(share.variant) for share in plan.mix]
        self.piece_rows_max = min(limits, default=plan.batch_rows_max)
        limits = [self.estimator.batch_rows_max(variant.name) for variant in self.variants]
        self.piece_rows_least = min(self.piece_rows_max, *limits)
        self.capacity.adopt(self.mix)
        self.assignment.adopt(plan)
        self.prefers_best = plan.rules.forming == "hold" and plan.rules.drop == "early"
        self.rows_floor = plan.batch_rows_max if plan.rules.forming == "full" and not self.is_draining else 0
        self.requeue()

    def weigh(self, weights: dict[str, float]) -> None:
        """Requests of these classes weigh so much; the others 1."""
        self.weights = weights
        self.weighs = any(weight != 1.0 for weight in weights.values())

    def weight_of(self, request: Request) -> float:
        """How much a row of a request weighs when not all can be served."""
        return self.weights.get(request.slo_class, 1.0)

    def requeue(self) -> None:
        """Queue again what waits: the order, the limits, or what is behind this stage have changed."""
        waiting = list(self.queue)
        self.queue = StageQueue(self.plan.rules.order)
        for piece in waiting:
            self.enqueue(piece)

    def drain(self) -> None:
        """The service is stopping."""
        self.is_draining = True
        self.rows_floor = 0

    def resume(self) -> None:
        """The service is served again."""
        self.is_draining = False
        self.adopt(self.plan)

    def take_items_of(self, maker: StageState) -> None:
        """Its rows are the items of another stage."""
        self.maker = maker
        maker.item_takers.append(self)
        self._items = ItemMean(self.fan_out / maker.fan_out)

    def count_items(self, counts: tuple[int, ...], pieces: list[Piece]) -> None:
        """The stage's maker has made so many items of each row of these pieces, which were a batch."""
        assert self.maker is not None, self.name
        if len(pieces) == 1:
            self._items.observe(counts, pieces[0].open.request.id)
        else:
            end = 0
            for piece in pieces:
                start, end = end, end + piece.rows
                self._items.observe(counts[start:end], piece.open.request.id)
        self.fan_out = self._items.mean * self.maker.fan_out
        self.remaining.expect(self.fan_out)

    def due_s(self, due_s: float, request: Request) -> float:
        """By when a request that is due at `due_s` must be done here."""
        remaining = self.remaining
        if not remaining.is_reserved:
            return due_s - remaining.after_s(request.bucket)
        own = (request.deadline_s - request.arrived_s) / self.slo_s
        return due_s - remaining.after_s(request.bucket, min(1.0, max(0.0, round(own, 2))))

    def whole(self, visit: Visit) -> Piece:
        """All of a visit as one piece, which does not wait yet."""
        self._sequence += 1
        return Piece(visit, 0, visit.rows, self._sequence)

    def begin(self, visit: Visit) -> None:
        """Let all of a visit wait."""
        piece = self.whole(visit)
        visit.pieces.append(piece)
        self.enqueue(piece)

    def enqueue(self, piece: Piece) -> None:
        """Let a piece wait, cut into several if its rows are not alike, or too many for one batch."""
        opened = piece.open
        if self.followers:
            piece.due_s = self.due_s(opened.due_s, opened.request)
        has_terms = opened.bounds is not None or piece.terms is not None or self.assignment.is_asked
        if piece.rows <= self.piece_rows_max and not (has_terms or self.read):
            self.queue.add(piece)
            return
        while piece.rows > (rows := self._rows_together(piece)):
            rest = self._cut(piece, rows)
            if has_terms:
                self.assignment.settle(piece)
            self.queue.add(piece)
            piece = rest
        if has_terms:
            self.assignment.settle(piece)
        self.queue.add(piece)

    def _cut(self, piece: Piece, rows: int) -> Piece:
        """Leave a piece so many rows; returns one of the rest."""
        self._sequence += 1
        rest = Piece(piece.visit, piece.row_start + rows, piece.rows - rows, self._sequence)
        rest.due_s = piece.due_s
        piece.rows = rows
        if piece.alone:
            rest.isolate()
            rest.is_suspect = piece.is_suspect
        piece.visit.pieces.append(rest)
        return rest

    def variants_for(self, bucket: list[Entry], replica: Replica, now_s: float) -> tuple[str, ...]:
        """Variants of a replica to try on pieces of one key, the preferred one first; none may be allowed."""
        terms = bucket[0][2].terms
        if terms is None and len(replica.variants) == 1:
            return replica.variants
        ranked = self.choice.ranked(bucket, replica, now_s)
        if terms is None or not (terms.variants or terms.is_bounded):
            return ranked
        allowed = terms.variants or replica.variants
        first = [variant for variant in ranked if variant in allowed]
        rest = [variant for variant in allowed if variant in replica.variants and variant not in first]
        return tuple(first + rest)

    def _rows_together(self, piece: Piece) -> int:
        """Rows from the piece's first one on that may share a batch; takes down what they are alike in."""
        rows_max = self.piece_rows_max if piece.open.bounds is None else self.piece_rows_least
        if not self.read:
            return rows_max
        visit = piece.visit
        if visit.spans is None:
            visit.spans = spans_of(visit)
        for end, key in visit.spans:
            if piece.row_start < end:
                if key != piece.alike:
                    piece.rekey(key)
                return min(rows_max, end - piece.row_start)
        raise AssertionError(f"no rows at {piece.row_start} of {visit.spans}")

    def latest_start_s(self, piece: Piece) -> float:
        """When a piece is lost unless it has started (`Capacity.latest_start_s`)."""
        if piece.open.bounds is not None:
            return self.capacity.latest_start_of_any_s(piece.rows, piece.bucket, due_s=piece.due_s)
        rows = piece.rows if piece.alone else max(piece.rows, self.rows_floor)
        return self.capacity.latest_start_s(rows, piece.open.request.bucket, due_s=piece.due_s)

    def slack_s(self, *, now_s: float) -> float | None:
        """Seconds that the most urgent piece can still wait, with the cores that replicas have now.

        None if nothing waits. Without a ready replica, the time until it is due.
        """
        if not self.queue.entries:
            return None
        head = self.queue.head()
        services_s = [
            self.estimator.service_s(variant, head.bucket, head.rows, replica.cores)
            for replica in self.pool
            if replica.state == "ready"
            for variant in self.mix.usable(replica.variants)
        ]
        return head.due_s - now_s - min(services_s, default=0.0)
