"""Anything may happen to a service, in any order, and the laws hold after every step."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from steelyard.core.commands import Command, RunBatch, StopReplica, WakeAt
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
    VariantLoaded,
    VariantUnloaded,
    WindowClosed,
    Woken,
)
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.stage import StageState
from steelyard.core.types import Input, RequestId, Service, SloClass, Stage, Variant
from steelyard.testing.builders import (
    TableTimes,
    make_plan,
    make_request,
    make_service,
    times_by_stage,
)
from steelyard.testing.laws import ServiceLaws, named_outputs

VARIANTS = ("big", "small")
ACCURACIES = {"big": 0.9, "small": 0.6}

rules = st.builds(
    StageRules,
    order=st.sampled_from(["edf", "fifo"]),
    forming=st.sampled_from(["hold", "hold", "hold", "full", "timeout", "adaptive", "aimd", "nexus"]),
    timeout_s=st.sampled_from([0.0, 0.03]),
    drop=st.sampled_from(["none", "age", "infeasible", "budget", "early", "early"]),
    age_s_max=st.just(0.2),
    admission=st.sampled_from(["open", "feasible"]),
    routing=st.sampled_from(["least_finish", "least_finish", "round_robin", "assigned"]),
    choice=st.sampled_from(["mix", "fit", "table"]),
    reroutes=st.booleans(),
)


def with_accuracies(stage: Stage) -> Stage:
    """The same stage, whose variants are known to be so accurate."""
    known = [replace(variant, accuracy=ACCURACIES[variant.name]) for variant in stage.variants]
    return replace(stage, variants=tuple(known))


shares = st.sampled_from([{"big": 1.0}, {"big": 0.75, "small": 0.25}, {"small": 1.0}])
resident = st.sampled_from([("big",), ("small",), ("big", "small")])
durations_s = st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.3])
lucks = st.sampled_from([0, 0, 0, 1, 2])
widths = st.sampled_from([4, 4, 8])


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Stage, ...]:
    """Any graph of two to five stages in topological order.

    A stage has a fan-out of up to three, or takes items of one that has the request's rows; it takes the
    outputs of all stages before it, of some, or the request's tensors.
    """
    variants = tuple(Variant(variant, batch_rows_max=6, cores_max=4) for variant in VARIANTS)
    stages: list[Stage] = []
    for name in ("a", "b", "c", "d", "e")[: draw(st.integers(2, 5))]:
        before = [stage.name for stage in stages]
        after = tuple(sorted(draw(st.sets(st.sampled_from(before))))) if before else ()
        makers = ["", *[stage.name for stage in stages if stage.name in after and not stage.items_of]]
        items_of = draw(st.sampled_from(makers))
        fan_out = draw(st.sampled_from([0.5, 1.0, 2.0] if items_of else [1.0, 1.0, 1.0, 2.0, 3.0]))
        read = draw(st.sets(st.sampled_from(["", *after])))
        inputs = tuple(Input(f"x{index}", source, "y") for index, source in enumerate(sorted(read)))
        stages.append(Stage(name, variants, after, fan_out, items_of=items_of, inputs=inputs))
    return tuple(stages)


class ServiceLife(RuleBasedStateMachine):
    """A service under every event there is; workers are whatever Hypothesis says they are."""

    stages: st.SearchStrategy[tuple[Stage, ...]] = st.just(
        make_service(variants=VARIANTS, batch_rows_max=6).stages
    )

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.request_count = 0
        self.replica_count = 0
        self.is_draining = False
        self.wake_s: float | None = None

    @initialize(
        data=st.data(),
        rules=rules,
        shares=shares,
        rows_max=st.integers(1, 6),
        reply_s=st.sampled_from([0.0, 0.005]),
    )
    def build(
        self,
        data: st.DataObject,
        rules: StageRules,
        shares: dict[str, float],
        rows_max: int,
        reply_s: float,
    ) -> None:
        # One row takes 10 ms on a core, six take 20 ms; the small variant takes half of it.
        times = TableTimes({1: 0.01, 6: 0.02}, tail=1.5, factors={"small": 0.5})
        stages = tuple([with_accuracies(stage) for stage in data.draw(self.stages)])
        self.names = [stage.name for stage in stages]
        answers = tuple(sorted(data.draw(st.sets(st.sampled_from(self.names)))))
        self.service = Service(
            "ocr",
            0.1,
            stages,
            queue_rows_max=20,
            reply_s=reply_s,
            retries_max=1,
            answers=answers,
            classes={"gold": SloClass(0.1, 4.0)},
        )
        plan = make_plan(self.service, batch_rows_max=rows_max, rules=rules, shares=shares)
        self.machine = ServiceMachine(self.service, times_by_stage(self.service, times), plan)
        self.laws = ServiceLaws(self.service, plan)

    def tell(self, event: ServiceEvent, *, late_s: float = 0.0) -> list[Command]:
        commands = self.machine.handle(event, now_s=self.now_s - late_s)
        if isinstance(event, Woken):
            self.wake_s = None
        for command in commands:
            if isinstance(command, WakeAt):
                self.wake_s = command.at_s
        self.laws.check(event, commands, now_s=self.now_s - late_s)
        for command in commands:
            if isinstance(command, StopReplica):
                self.tell(ReplicaGone(command.replica_id, expected=True))
        return commands

    @rule(
        rows=st.sampled_from([1, 1, 1, 2, 3, 9, 25]),
        key=st.sampled_from(["x", "y"]),
        slo_s=durations_s,
        slo_class=st.sampled_from(["", "gold"]),
    )
    def arrive(self, rows: int, key: str, slo_s: float, slo_class: str) -> None:
        self.request_count += 1
        request = make_request(self.request_count, self.now_s, slo_s=slo_s, rows=rows, batch_key=key)
        self.tell(RequestArrived(replace(request, slo_class=slo_class)))

    @rule(
        rows=st.sampled_from([1, 1, 1, 2, 9, 25]),
        slo_s=durations_s,
        min_accuracy=st.sampled_from([None, 0.1, 0.5, 0.8, 0.99]),
        max_core_ms=st.sampled_from([None, 1.0, 10.0, 30.0, 1000.0]),
    )
    def arrive_with_bounds(
        self, rows: int, slo_s: float, min_accuracy: float | None, max_core_ms: float | None
    ) -> None:
        self.request_count += 1
        request = make_request(self.request_count, self.now_s, slo_s=slo_s, rows=rows, batch_key="x")
        self.tell(RequestArrived(replace(request, min_accuracy=min_accuracy, max_core_ms=max_core_ms)))

    @precondition(lambda self: self.laws.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.tell(RequestCancelled(data.draw(st.sampled_from(list(self.laws.requests)))))

    @rule()
    def cancel_a_stranger(self) -> None:
        assert self.tell(RequestCancelled(RequestId(7, 7))) == []

    @precondition(lambda self: self.laws.running)
    @rule(
        data=st.data(),
        slower=st.sampled_from([0.5, 1.0, 1.0, 3.0]),
        late_s=durations_s,
        luck=lucks,
        width=widths,
    )
    def complete(self, data: st.DataObject, slower: float, late_s: float, luck: int, width: int) -> None:
        batch = self.laws.running[data.draw(st.sampled_from(list(self.laws.running)))]
        started_s = self.now_s
        self.now_s += slower * batch.expected_s
        self.tell(self.completed(batch, started_s, luck=luck, width=width), late_s=late_s)

    def completed(
        self, batch: RunBatch, started_s: float, *, luck: int = 0, width: int = 4
    ) -> BatchCompleted:
        """A batch's answer: up to three items a row, the same ones at every try unless `luck` changes."""
        rows = [
            part.request_id.sequence + row
            for part in batch.slices
            for row in range(part.row_start, part.row_start + part.rows)
        ]
        items = {
            stage.name: tuple((row * 7 + luck) % 4 for row in rows)
            for stage in self.service.stages
            if stage.items_of == batch.stage
        }
        outputs = named_outputs(batch.batch_id, width)
        return BatchCompleted(batch.batch_id, batch.replica_id, started_s, self.now_s, outputs, items)

    @rule(batches=st.integers(1, 9), luck=lucks, width=widths)
    def work(self, batches: int, luck: int, width: int) -> None:
        """Every stage has somebody, and several batches in a row end: requests get on."""
        staffed = {replica.stage for replica in self.laws.replicas.values() if replica.is_ready}
        for name in self.names:
            if name not in staffed:
                self.replica_count += 1
                self.tell(ReplicaReady(self.replica_count, name, "local", 1.0, VARIANTS))
        for _ in range(batches):
            if self.laws.running:
                batch = next(iter(self.laws.running.values()))
                self.now_s += batch.expected_s
                self.tell(self.completed(batch, self.now_s, luck=luck, width=width))

    @precondition(lambda self: self.laws.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        batch = self.laws.running[data.draw(st.sampled_from(list(self.laws.running)))]
        self.tell(BatchFailed(batch.batch_id, batch.replica_id, "the model raised"))

    @rule()
    def complete_what_nobody_knows(self) -> None:
        assert self.tell(BatchCompleted(10**6, 10**6, self.now_s, self.now_s)) == []

    @precondition(lambda self: len(self.laws.replicas) < 3 + len(self.names))
    @rule(data=st.data(), cores=st.sampled_from([0.5, 1.0, 2.0]), variants=resident, delay_s=durations_s)
    def start(self, data: st.DataObject, cores: float, variants: tuple[str, ...], delay_s: float) -> None:
        self.replica_count += 1
        stage = data.draw(st.sampled_from(self.names))
        self.tell(ReplicaStarted(self.replica_count, stage, "local", cores, variants, self.now_s + delay_s))

    @precondition(lambda self: self.laws.replicas)
    @rule(data=st.data(), cores=st.sampled_from([0.0, 1.0, 1.0, 2.0]), variants=resident)
    def become_ready(self, data: st.DataObject, cores: float, variants: tuple[str, ...]) -> None:
        replica_id = data.draw(st.sampled_from(list(self.laws.replicas)))
        if self.laws.replicas[replica_id].batch_id is None:
            stage = self.laws.replicas[replica_id].stage
            self.tell(ReplicaReady(replica_id, stage, "local", cores, variants))

    @precondition(lambda self: self.laws.replicas)
    @rule(data=st.data(), cores=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    def resize(self, data: st.DataObject, cores: float) -> None:
        self.tell(ReplicaResized(data.draw(st.sampled_from(list(self.laws.replicas))), cores))

    @precondition(lambda self: self.laws.replicas)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        self.tell(ReplicaDraining(data.draw(st.sampled_from(list(self.laws.replicas)))))

    @precondition(lambda self: self.laws.replicas)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.tell(ReplicaGone(data.draw(st.sampled_from(list(self.laws.replicas))), expected=False))

    @precondition(lambda self: self.laws.replicas)
    @rule(data=st.data(), variant=st.sampled_from(VARIANTS), is_loaded=st.booleans())
    def load(self, data: st.DataObject, variant: str, is_loaded: bool) -> None:
        replica_id = data.draw(st.sampled_from(list(self.laws.replicas)))
        self.tell(VariantLoaded(replica_id, variant) if is_loaded else VariantUnloaded(replica_id, variant))

    @rule(
        rules=rules, shares=shares, rows_max=st.integers(1, 6), hold_s_max=st.sampled_from([0.0, 0.0, 0.02])
    )
    def publish(self, rules: StageRules, shares: dict[str, float], rows_max: int, hold_s_max: float) -> None:
        plan = make_plan(
            self.service, batch_rows_max=rows_max, rules=rules, shares=shares, hold_s_max=hold_s_max
        )
        self.tell(PlanPublished(plan))

    @rule(cores=st.sampled_from([0.0, 1.0, 3.0]))
    def grant(self, cores: float) -> None:
        self.tell(CapacityChanged(cores))

    @rule(duration_s=durations_s)
    def let_time_pass(self, duration_s: float) -> None:
        self.now_s += duration_s
        self.wake_if_due()

    @precondition(lambda self: self.wake_s is not None)
    @rule()
    def wake(self) -> None:
        assert self.wake_s is not None
        self.now_s = max(self.now_s, self.wake_s)
        self.wake_if_due()

    def wake_if_due(self) -> None:
        while self.wake_s is not None and self.wake_s <= self.now_s:
            self.tell(Woken())

    @rule()
    def wake_for_nothing(self) -> None:
        self.tell(Woken())

    @rule()
    def close_window(self) -> None:
        self.tell(WindowClosed())

    @precondition(lambda self: self.laws.open)
    @rule(chance=st.integers(0, 9))
    def stop_serving(self, chance: int) -> None:
        if chance == 0:
            self.tell(ServiceDraining())

    @invariant()
    def collections_agree(self) -> None:
        if hasattr(self, "machine"):
            self.machine.validate()
            assert self.machine.open_requests == len(self.laws.open)

    @invariant()
    def nobody_waits_beside_an_idle_replica(self) -> None:
        """Without holding, only what no idle replica could finish in time waits beside one."""
        if not hasattr(self, "machine"):
            return
        for stage in self.machine.stages.values():
            self.check_nobody_waits(stage)

    def check_nobody_waits(self, stage: StageState) -> None:
        if stage.plan.rules.forming != "hold" or stage.plan.hold_s_max > 0 or not stage.pool.idle:
            return
        if stage.assignment.is_asked:
            return  # it may wait for another replica, or for another variant
        sheds_lost = stage.plan.rules.drop in ("infeasible", "early")
        for piece in stage.queue:
            if piece.open.bounds is not None:
                continue  # it may not take what is idle
            for replica in stage.pool.idle.values():
                for variant in stage.mix.usable(replica.variants):
                    service_s = stage.estimator.service_s(variant, piece.bucket, piece.rows, replica.cores)
                    assert sheds_lost, "somebody waits beside an idle replica"
                    assert self.now_s + service_s > piece.due_s, "an idle replica could still serve somebody"

    def teardown(self) -> None:
        """Whatever came before, a service that drains ends every request."""
        if not hasattr(self, "machine"):
            return
        self.tell(ServiceDraining())
        for replica_id in list(self.laws.replicas):
            self.tell(ReplicaGone(replica_id, expected=False))
        for name in self.names:
            self.replica_count += 1
            self.tell(ReplicaReady(self.replica_count, name, "local", 1.0, VARIANTS))
        for _ in range(10_000):
            if not self.laws.open:
                break
            if self.laws.running:
                batch = next(iter(self.laws.running.values()))
                self.now_s += batch.expected_s
                self.tell(self.completed(batch, self.now_s))
            else:
                assert self.wake_s is not None, "requests are open, nothing runs, and nobody will wake"
                self.now_s = max(self.now_s, self.wake_s)
                self.tell(Woken())
        assert not self.laws.open, f"never ended: {self.laws.open}"
        assert self.machine.open_requests == 0


class PipelineLife(ServiceLife):
    """The same for services of several stages."""

    stages = pipelines()


TestServiceLife = pytest.mark.long(ServiceLife.TestCase)
TestServiceLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPipelineLife = pytest.mark.long(PipelineLife.TestCase)
TestPipelineLife.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
