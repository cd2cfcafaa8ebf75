"""One service's data plane as a state machine: facts in, commands out, no I/O.

Rules:
1. `handle` is the only mutator. Time is the largest `now_s` seen; late news are normal and change nothing
   that has already been decided.
2. Each request ends exactly once, in `Complete`, `Reject`, `Shed`, `Fail` or `Discard`, and is released
   exactly once: when it has ended and no batch in flight reads its tensors.
3. A batch's outputs are released once, when no request needs them. While they are needed their replica
   is not stopped; if it is lost all the same, what is still needed of them is made again (`pipeline`).
4. When a batch ends, the next one is dispatched before its answers are given: the worker need not
   wait for them.
5. A request whose batch was lost with its worker, or failed together with others, runs alone at that stage
   from then on. So a request that kills workers takes no others with it, and one that makes the model raise
   fails alone. Those of a batch that did not end run after everybody else, and one whose batch does not end
   again fails: each try of the one to blame costs a worker, and the time that it takes to find that out.
6. A request is admitted if each stage that it enters first admits it, and each other one has room for it. It
   is answered when all stages are done, with the outputs of those that the service is answered by.

The rules of a stage (who is admitted, what is shed, when a batch leaves) are in `dispatch` and below it; how
requests move from stage to stage is in `pipeline`, and by when they must have in `remaining`.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from steelyard.core import invariants
from steelyard.core.admission import IMPOSSIBLE, Refusal
from steelyard.core.bounds import Bounds, is_bounded
from steelyard.core.commands import (
    Command,
    Reject,
    ReportWindow,
    RunBatch,
    ServiceDrained,
    WakeAt,
)
from steelyard.core.crowding import CALM_S, Crowding
from steelyard.core.dispatch import Dispatcher
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    CapacityChanged,
    PlanPublished,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ReplicaStarted,
    RequestArrived,
    RequestCancelled,
    ServiceDraining,
    ServiceEvent,
    ServiceResumed,
    VariantLoaded,
    VariantUnloaded,
    WindowClosed,
    Woken,
)
from steelyard.core.inputs import slices_of
from steelyard.core.pipeline import make_stages, wait
from steelyard.core.plan import ServicePlan
from steelyard.core.requests import OpenRequests
from steelyard.core.stage import StageState
from steelyard.core.tally import Counts, Tally
from steelyard.core.types import Request, RequestId, Service, ServiceTimes
from steelyard.core.work import Batch, OpenRequest, Piece

NEVER = float("inf")


class ServiceMachine:
    """Admits, queues, batches, routes, retries and answers one service's requests.

    Args:
        service: what it promises and consists of.
        service_times: by stage name.
        plan: the first rules; without one, each stage works by `stage.default_plan`.

    Raises:
        SpecError: the stages are no pipeline (`pipeline.make_stages`), or one has no service times.

    Attributes:
        stages: their states by name, in order.
    """

    def __init__(
        self, service: Service, service_times: Mapping[str, ServiceTimes], plan: ServicePlan | None = None
    ) -> None:
        self.service = service
        self.tally = Tally()
        self.stages = make_stages(service, service_times, plan)
        self._crowding = Crowding(self.stages.values())
        self._bounds = Bounds(service, list(self.stages.values()))
        self._dispatchers = [Dispatcher(stage, self._bounds) for stage in self.stages.values()]
        self._stage_of: dict[int, StageState] = {}  # by replica
        self._largest: dict[str, dict[tuple[str, ...], float]] = {}  # ready replicas, by stage
        self._commands: list[Command] = []
        self._requests = OpenRequests(self.stages.values(), self._bounds, self.tally, self._commands)
        self._now_s = float("-inf")
        self._is_new = True
        self._wake_s = NEVER  # when the driver will wake this machine
        self._due_s = NEVER  # when it must look again
        self._is_settled = False
        self._batch_count = 0
        self._is_draining = False
        self._is_drained = False
        self._reactions: dict[type, Callable[[Any], None]] = {
            RequestArrived: self._on_arrived,
            RequestCancelled: self._on_cancelled,
            BatchCompleted: self._on_batch_completed,
            BatchFailed: self._on_batch_failed,
            ReplicaStarted: self._on_replica_started,
            ReplicaReady: self._on_replica_ready,
            ReplicaResized: self._on_replica_resized,
            ReplicaDraining: self._on_replica_draining,
            ReplicaGone: self._on_replica_gone,
            VariantLoaded: self._on_variant_loaded,
            VariantUnloaded: self._on_variant_unloaded,
            PlanPublished: self._on_plan_published,
            CapacityChanged: self._on_capacity_changed,
            WindowClosed: self._on_window_closed,
            Woken: self._on_woken,
            ServiceDraining: self._on_draining,
            ServiceResumed: self._on_resumed,
        }

    def handle(self, event: ServiceEvent, *, now_s: float) -> list[Command]:
        """Take in one fact; returns what is to be done, in order."""
        if now_s > self._now_s:
            self._now_s = now_s
            if self._is_new:
                self._is_new = False
                self.tally.begin(now_s=now_s)
        commands = self._commands
        self._is_settled = False
        self._reactions[type(event)](event)
        if not self._is_settled:
            self._dispatch()  # whatever happened may have made something possible
        if self._is_draining and not self._is_drained and not self._requests.by_id:
            self._is_drained = True
            commands.append(ServiceDrained())
        if self._due_s < self._wake_s:
            self._wake_s = self._due_s
            commands.append(WakeAt(self._wake_s))
        answer = commands[:]
        commands.clear()
        return answer

    @property
    def is_ready(self) -> bool:
        """Whether each stage has a ready replica."""
        return all(stage.pool.has_ready for stage in self.stages.values())

    @property
    def open_ids(self) -> Collection[RequestId]:
        """Requests that have arrived and not ended, as they come and go."""
        return self._requests.by_id

    @property
    def open_requests(self) -> int:
        """Requests that have arrived and not ended."""
        return len(self._requests.by_id)

    @property
    def counts(self) -> Counts:
        """The accounting of the whole run."""
        return self.tally.total

    def validate(self) -> None:
        """Assert the laws that hold between the collections; O(everything), for tests and debugging.

        Raises:
            AssertionError: one does not hold; its text names the law.
        """
        invariants.check(self.stages, self._requests.by_id, self.tally.total)

    # Requests.

    def _on_arrived(self, event: RequestArrived) -> None:
        request = event.request
        assert request.id not in self._requests.by_id, f"request {request.id} arrived twice"
        self.tally.add_arrival(request)
        due_s = request.deadline_s - self.service.reply_s
        if self._is_draining:
            self._requests.reject(Reject(request.id, "draining", None))
            return
        has_bounds = is_bounded(request)
        if has_bounds:
            reject = self._bounds.refusal(request, due_s, now_s=self._now_s)
            if reject is not None:
                self._requests.reject(reject)
                return
        for dispatcher in self._dispatchers:
            refusal = dispatcher.refusal(request, due_s, now_s=self._now_s)
            if refusal is not None:
                if self._crowding.refused(now_s=self._now_s) and refusal == IMPOSSIBLE:
                    refusal = Refusal("deadline", CALM_S)
                self._requests.reject(self._refused(request, refusal, due_s))
                return
        self._requests.admit(request, due_s, has_bounds=has_bounds, now_s=self._now_s)
        for dispatcher in self._dispatchers:
            if not dispatcher.is_waiting(now_s=self._now_s):
                return
        self._is_settled = True

    def _refused(self, request: Request, refusal: Refusal, due_s: float) -> Reject:
        """Say why; and by when it could be done, if its own deadline is what can never be met."""
        nearest = None
        if refusal == IMPOSSIBLE and self._bounds.has_own_deadline(request):
            nearest = self._bounds.nearest(request, due_s, now_s=self._now_s)
        return Reject(request.id, refusal.reason, refusal.retry_after_s, nearest)

    def _on_cancelled(self, event: RequestCancelled) -> None:
        opened = self._requests.by_id.get(event.request_id)
        if opened is not None:
            self._requests.cancel(opened)

    # Batches.

    def _dispatch(self) -> None:
        """Do all that the stages want done now; who is shed at one leaves the queues of the others."""
        is_over = False
        while not is_over:
            is_over = True
            self._due_s = NEVER
            for dispatcher in self._dispatchers:
                stage = dispatcher.stage
                while stage.queue.entries:
                    step = dispatcher.step(now_s=self._now_s)
                    if step is None:
                        if dispatcher.wake_s < self._due_s:
                            self._due_s = dispatcher.wake_s
                        break
                    if isinstance(step, Batch):
                        self._run(dispatcher, step)
                        continue
                    for piece in (lost := dispatcher.lost(step, now_s=self._now_s)):
                        self._requests.shed(piece.open, step.reason)
                        self._crowding.lost(stage, now_s=self._now_s)
                    if lost:
                        is_over = len(self._dispatchers) == 1

    def _run(self, dispatcher: Dispatcher, batch: Batch) -> None:
        self._batch_count += 1
        dispatcher.launch(batch, self._batch_count, now_s=self._now_s)
        self._crowding.ran(dispatcher.stage, len(batch.pieces))
        self._commands.append(
            RunBatch(
                batch.batch_id,
                batch.replica.id,
                dispatcher.stage.name,
                batch.variant,
                batch.rows,
                slices_of(batch.pieces),
                batch.service_s,
                self._given_s(dispatcher, batch.pieces[0]),
            )
        )

    def _given_s(self, dispatcher: Dispatcher, piece: Piece) -> float | None:
        """See `RunBatch`; those who wait have as much left, should it be lost again."""
        if not piece.is_suspect:
            return None
        left_s = max(0.0, piece.due_s - self._now_s)
        return left_s / 2 if dispatcher.stage.queue.entries else left_s

    def _on_batch_completed(self, event: BatchCompleted) -> None:
        stage = self._stage_of.get(event.replica_id)
        batch = stage.batches.pop(event.batch_id, None) if stage is not None else None
        if stage is None or batch is None:
            return  # its replica was lost before the news came
        service_s = event.finished_s - event.started_s
        self.tally.add_batch(stage.name, batch, service_s)
        if not batch.is_resized:
            batch.line.observe(batch.rows, service_s, now_s=self._now_s)
        stage.pool.free(batch.replica)
        self._requests.keep(batch, event)
        self._dispatch()
        self._requests.finish(batch, event, now_s=self._now_s)
        self._is_settled = not stage.followers  # only there could an answer have made something possible

    def _on_batch_failed(self, event: BatchFailed) -> None:
        stage = self._stage_of.get(event.replica_id)
        batch = stage.batches.pop(event.batch_id, None) if stage is not None else None
        if stage is None or batch is None:
            return
        is_shared = any(piece.open is not batch.pieces[0].open for piece in batch.pieces)
        for piece in batch.pieces:
            opened = piece.open
            self._requests.stop_reading(opened)
            if opened.is_ended:
                continue
            if is_shared:
                piece.isolate()
                wait(piece)
            else:
                self._requests.fail(opened, "bad_input" if event.is_input else "model_error", event.message)
        stage.pool.free(batch.replica)
        self._requests.stop_if_done(batch.replica)

    # Replicas.

    def _on_replica_started(self, event: ReplicaStarted) -> None:
        stage = self._stage_of.setdefault(event.replica_id, self.stages[event.stage])
        stage.pool.start(event)
        self._replicas_changed(stage)

    def _on_replica_ready(self, event: ReplicaReady) -> None:
        stage = self._stage_of.setdefault(event.replica_id, self.stages[event.stage])
        stage.pool.ready(event)
        self._replicas_changed(stage)

    def _on_replica_resized(self, event: ReplicaResized) -> None:
        stage = self._stage_of.get(event.replica_id)
        if stage is not None:
            stage.pool.resize(event)
            self._replicas_changed(stage)

    def _on_variant_loaded(self, event: VariantLoaded) -> None:
        stage = self._stage_of.get(event.replica_id)
        if stage is not None:
            stage.pool.load(event)
            self._replicas_changed(stage)

    def _on_variant_unloaded(self, event: VariantUnloaded) -> None:
        stage = self._stage_of.get(event.replica_id)
        if stage is not None:
            stage.pool.unload(event)
            self._replicas_changed(stage)

    def _on_replica_draining(self, event: ReplicaDraining) -> None:
        stage = self._stage_of.get(event.replica_id)
        replica = stage.pool.drain(event) if stage is not None else None
        if stage is not None and replica is not None:
            self._requests.stop_if_done(replica)
            self._replicas_changed(stage)

    def _on_replica_gone(self, event: ReplicaGone) -> None:
        stage = self._stage_of.pop(event.replica_id, None)
        replica = stage.pool.forget(event.replica_id) if stage is not None else None
        if stage is None or replica is None:
            return
        self._replicas_changed(stage)
        kept, replica.kept = replica.kept, {}  # nothing is there any more to be released
        lost: list[OpenRequest] = []
        if replica.batch is not None:
            del stage.batches[replica.batch.batch_id]
            lost += [piece.open for piece in replica.batch.pieces if self._requests.lose_piece(piece, event)]
        for batch in kept.values():
            lost.extend(self._requests.lose(batch))
        for opened in dict.fromkeys(lost):
            self._try_again(opened, event.reason)

    def _replicas_changed(self, stage: StageState) -> None:
        """What waits before a stage is due at another time if its largest replicas changed (`remaining`)."""
        if not stage.sources or stage.remaining.largest == self._largest.get(stage.name):
            return
        self._largest[stage.name] = stage.remaining.largest
        for other in self.stages.values():
            if other.queue.entries and stage.remaining in other.remaining.behind:
                other.requeue()

    def _try_again(self, opened: OpenRequest, reason: str) -> None:
        """Count a retry after a worker was lost, or fail the request if it has no retry or no time left."""
        has_time = all(
            self._now_s <= visit.stage.latest_start_s(piece)
            for visit in opened.visits.values()
            for piece in visit.pieces
            if piece.is_queued
        )
        if opened.retries < self.service.retries_max and has_time:
            opened.retries += 1
            return
        why = "no time for another try" if not has_time else f"tried {opened.retries + 1} times"
        self._requests.fail(opened, "worker_lost", f"worker lost ({reason or 'no reason known'}); {why}")

    # The rest.

    def _on_plan_published(self, event: PlanPublished) -> None:
        assert event.plan.service == self.service.name, (
            f"plan of {event.plan.service} for {self.service.name}"
        )
        for dispatcher in self._dispatchers:
            plan = event.plan.stages.get(dispatcher.stage.name)
            if plan is not None:
                dispatcher.publish(plan)

    def _on_capacity_changed(self, event: CapacityChanged) -> None:
        for dispatcher in self._dispatchers:
            dispatcher.grant(event.cores_grantable)

    def _on_window_closed(self, event: WindowClosed) -> None:
        del event
        self._crowding.look(now_s=self._now_s)
        window = self.tally.close(self.service.name, self.stages.values(), now_s=self._now_s)
        self._commands.append(ReportWindow(window))

    def _on_woken(self, event: Woken) -> None:
        del event
        self._wake_s = NEVER

    def _on_draining(self, event: ServiceDraining) -> None:
        del event
        self._is_draining = True
        for stage in self.stages.values():
            stage.drain()

    def _on_resumed(self, event: ServiceResumed) -> None:
        del event
        self._is_draining = self._is_drained = False
        for stage in self.stages.values():
            stage.resume()
