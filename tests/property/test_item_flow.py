"""Requests with items, on workers that fail: dense in what `test_service_machine` only comes across.

Each stage always has replicas and requests have time, so that nearly every step moves somebody on. What is
drawn is the graph, who takes whose items, and the order in which batches end, fail, or are lost with what
their replicas kept; made again, items may be others.
"""

from typing import NamedTuple

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from steelyard.core.commands import Command, Complete, Fail, RunBatch, Shed, StopReplica, WakeAt
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RequestArrived,
    RequestCancelled,
    ServiceDraining,
    ServiceEvent,
)
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Input, RequestId, Service, Stage, Variant
from steelyard.testing.builders import TableTimes, make_plan, make_request, times_by_stage
from steelyard.testing.laws import ServiceLaws, named_outputs

VARIANTS = ("big", "small")
TIMES = TableTimes({1: 0.010, 6: 0.020}, factors={"small": 0.5})
PATIENT = StageRules(drop="none", admission="open")
STEPS_MAX = 4000


class Step(NamedTuple):
    """Something that happens to the `which`-th of those that it can happen to."""

    what: str
    which: int
    luck: int = 0
    width: int = 4


@st.composite
def item_pipelines(draw: st.DrawFn) -> tuple[Stage, ...]:
    """Three to five stages, the first of which makes items for the second and perhaps for others."""
    variants = tuple(Variant(variant, batch_rows_max=6, cores_max=4) for variant in VARIANTS)
    stages = [Stage("a", variants)]
    for name in ("b", "c", "d", "e")[: draw(st.integers(2, 4))]:
        before = [stage.name for stage in stages]
        after = draw(st.sets(st.sampled_from(before), min_size=1))
        makers = [stage.name for stage in stages if stage.name in after and not stage.items_of]
        items_of = draw(st.sampled_from(makers if name == "b" else ["", *makers]))
        inputs = tuple(Input(f"x{i}", source, "y") for i, source in enumerate(sorted(after)))
        stages.append(Stage(name, variants, tuple(sorted(after)), items_of=items_of, inputs=inputs))
    return tuple(stages)


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["end", "end", "end", "end", "end", "arrive", "lose", "fail", "drain", "cancel"]),
        st.integers(0, 5),
        st.sampled_from([0, 0, 0, 0, 1]),
        st.sampled_from([4, 4, 8]),
    ),
    min_size=10,
    max_size=60,
)


class Desk:
    """A machine, the laws, and workers that do as they are told."""

    def __init__(
        self,
        stages: tuple[Stage, ...],
        answers: tuple[str, ...],
        rows_max: int,
        *,
        resident: tuple[str, ...] = VARIANTS,
        retries_max: int = 3,
    ) -> None:
        self.service = Service(
            "ocr", 100.0, stages, queue_rows_max=400, reply_s=0.0, retries_max=retries_max, answers=answers
        )
        self.resident = resident
        plan = make_plan(
            self.service, batch_rows_max=rows_max, rules=PATIENT, shares={"big": 0.5, "small": 0.5}
        )
        self.machine = ServiceMachine(self.service, times_by_stage(self.service, TIMES), plan)
        self.laws = ServiceLaws(self.service, plan)
        self.now_s = 0.0
        self.wake_s: float | None = None
        self.requests = self.replicas = 0

    def tell(self, news: ServiceEvent) -> None:
        commands: list[Command] = self.machine.handle(news, now_s=self.now_s)
        self.laws.check(news, commands, now_s=self.now_s)
        self.machine.validate()
        for command in commands:
            if isinstance(command, WakeAt):
                self.wake_s = command.at_s
        for command in commands:
            if isinstance(command, StopReplica):
                self.tell(ReplicaGone(command.replica_id, expected=True))

    def staff(self, count: int = 2) -> None:
        """So many replicas a stage that are ready and stay."""
        for stage in self.service.stages:
            there = [r for r in self.laws.replicas.values() if r.stage == stage.name and not r.is_draining]
            for _ in range(count - len(there)):
                self.replicas += 1
                variants = self.resident if self.replicas % 3 else self.resident[:1]
                self.tell(ReplicaReady(self.replicas, stage.name, "local", 1.0, variants))

    def take(self, step: Step) -> None:
        match step.what:
            case "arrive":
                self.requests += 1
                self.tell(
                    RequestArrived(make_request(self.requests, self.now_s, slo_s=100.0, rows=step.which + 1))
                )
            case "end" | "fail" if self.laws.running:
                running = list(self.laws.running.values())
                batch = running[step.which % len(running)]
                if step.what == "fail":
                    self.tell(BatchFailed(batch.batch_id, batch.replica_id, "the model raised"))
                else:
                    self.end(batch, luck=step.luck, width=step.width)
            case "lose" | "drain":
                replica_id = list(self.laws.replicas)[step.which % len(self.laws.replicas)]
                if step.what == "lose":
                    self.tell(ReplicaGone(replica_id, expected=False))
                else:
                    self.tell(ReplicaDraining(replica_id))
                self.staff()
            case "cancel" if self.laws.open:
                self.tell(RequestCancelled(self.laws.open[step.which % len(self.laws.open)]))

    def end(self, batch: RunBatch, *, luck: int = 0, width: int = 4) -> None:
        """A batch is answered: up to three items a row, the same at every try unless `luck` changes."""
        rows = [
            part.request_id.sequence + row
            for part in batch.slices
            for row in range(part.row_start, part.row_start + part.rows)
        ]
        items = {
            stage.name: tuple((place * 7 + luck) % 4 for place in rows)
            for stage in self.service.stages
            if stage.items_of == batch.stage
        }
        started_s = self.now_s
        self.now_s += batch.expected_s
        outputs = named_outputs(batch.batch_id, width)
        self.tell(BatchCompleted(batch.batch_id, batch.replica_id, started_s, self.now_s, outputs, items))

    def drain(self) -> None:
        """Whatever came before, every request ends."""
        self.tell(ServiceDraining())
        for _ in range(STEPS_MAX):
            if not self.laws.open and not self.laws.running:
                return
            self.staff()
            assert self.laws.running, f"requests are open and nothing runs: {self.laws.open}"
            self.end(next(iter(self.laws.running.values())))
        raise AssertionError(f"never ended: {self.laws.open}")


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(stages=item_pipelines(), steps=steps, rows_max=st.integers(1, 6), data=st.data())
def test_the_laws_hold_whatever_is_lost_and_whatever_is_counted_then(
    stages: tuple[Stage, ...], steps: list[Step], rows_max: int, data: st.DataObject
) -> None:
    answers = tuple(sorted(data.draw(st.sets(st.sampled_from([stage.name for stage in stages])))))
    desk = Desk(stages, answers, rows_max)
    desk.staff()
    for rows in (1, 3):
        desk.take(Step("arrive", rows))
    for step in steps:
        desk.take(step)
    desk.drain()
    for end in desk.laws.ends.values():
        event(type(end).__name__ + (f" {end.reason}" if isinstance(end, Fail | Shed) else ""))
    assert desk.machine.open_requests == 0
    assert not any(replica.outputs for replica in desk.laws.replicas.values())


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(stages=item_pipelines(), steps=steps, rows_max=st.integers(1, 6), data=st.data())
def test_what_is_lost_costs_no_answer_while_the_same_items_are_found_again(
    stages: tuple[Stage, ...], steps: list[Step], rows_max: int, data: st.DataObject
) -> None:
    answers = tuple(sorted(data.draw(st.sets(st.sampled_from([stage.name for stage in stages])))))
    desk = Desk(stages, answers, rows_max, resident=("big",), retries_max=len(steps))
    desk.staff()
    for rows in (1, 3):
        desk.take(Step("arrive", rows))
    for step in steps:
        what = "lose" if step.what in ("fail", "cancel") else step.what
        desk.take(step._replace(what=what, luck=0))
    desk.drain()
    assert {type(end) for end in desk.laws.ends.values()} == {Complete}


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(stages=item_pipelines(), rows_max=st.integers(1, 6), luck=st.integers(0, 3))
def test_without_losses_everybody_is_answered_with_all_items(
    stages: tuple[Stage, ...], rows_max: int, luck: int
) -> None:
    desk = Desk(stages, (), rows_max)
    desk.staff(1)
    for rows in range(4):
        desk.take(Step("arrive", rows))
    while desk.laws.running:
        desk.end(next(iter(desk.laws.running.values())), luck=luck)
    assert [type(end) for end in desk.laws.ends.values()] == [Complete] * 4
    for sequence in range(1, 5):
        end = desk.laws.ends[RequestId(0, sequence)]
        assert isinstance(end, Complete)
        assert end.core_ms > 0
        # A row counts (its place * 7 + luck) mod 4 items of a stage that has the request's rows.
        rows = sum(((sequence + row) * 7 + luck) % 4 for row in range(sequence))
        assert desk.laws.rows_at(RequestId(0, sequence), "b") == rows
