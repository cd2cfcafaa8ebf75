"""What a service machine answers to troubled times, byte for byte: one stage, and a pipeline that forks."""

from collections.abc import Callable
from random import Random

import pytest

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
    WindowClosed,
    Woken,
)
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.types import RequestId, Service
from steelyard.journal.codec import encode
from steelyard.journal.records import Record, machine_name
from steelyard.testing.builders import (
    VARIANT,
    TableTimes,
    make_pipeline,
    make_plan,
    make_request,
    times_by_stage,
)
from steelyard.testing.laws import named_outputs

Golden = Callable[[str, str], None]
TIMES = TableTimes({1: 0.010, 8: 0.024}, tail=1.3)
ARRIVALS = 60
PIPELINES = {
    "single": make_pipeline({"main": ()}, queue_rows_max=40, reply_s=0.001),
    "fork": make_pipeline(
        {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")},
        fan_out={"b": 2},
        slo_s=0.3,
        queue_rows_max=40,
        reply_s=0.001,
    ),
}


class Story:
    """Tells a machine what becomes of its commands, and now and then what it did not ask for."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.machine = ServiceMachine(service, times_by_stage(service, TIMES), make_plan(service))
        self.rng = Random(7)
        self.now_s = 0.0
        self.wake_s = float("inf")
        self.running: dict[int, RunBatch] = {}
        self.records: list[Record] = []

    def tell(self, event: ServiceEvent) -> None:
        commands: list[Command] = self.machine.handle(event, now_s=self.now_s)
        name = machine_name(self.service.name)
        self.records.append(Record(name, len(self.records), self.now_s, event, tuple(commands)))
        for command in commands:
            if isinstance(command, RunBatch):
                self.running[command.batch_id] = command
            elif isinstance(command, WakeAt):
                self.wake_s = command.at_s
        for command in commands:
            if isinstance(command, StopReplica):
                self.tell(ReplicaGone(command.replica_id, expected=True))

    def lose(self, replica_id: int) -> None:
        for batch in [batch for batch in self.running.values() if batch.replica_id == replica_id]:
            del self.running[batch.batch_id]
        self.tell(ReplicaGone(replica_id, expected=False, reason="killed"))

    def run_until(self, until_s: float) -> None:
        """Batches end in the order of their ids, each after its time; wakes come when due."""
        while self.running:
            batch = self.running[min(self.running)]
            if self.now_s + batch.expected_s > until_s:
                break
            started_s = self.now_s
            self.now_s += batch.expected_s * (0.6 + 0.8 * self.rng.random())
            del self.running[batch.batch_id]
            outputs = named_outputs(batch.batch_id)
            if self.rng.random() < 0.03:
                self.tell(BatchFailed(batch.batch_id, batch.replica_id, "the model raised"))
            else:
                self.tell(BatchCompleted(batch.batch_id, batch.replica_id, started_s, self.now_s, outputs))
            if self.wake_s <= self.now_s:
                self.wake_s = float("inf")
                self.tell(Woken())
        self.now_s = max(self.now_s, until_s)

    def trouble(self, sequence: int) -> None:
        """What happens beside the arrivals, by the number of the last one."""
        stages = [stage.name for stage in self.service.stages]
        happens: dict[int, list[ServiceEvent]] = {
            8: [ReplicaResized(1, 2.0), CapacityChanged(1.0)],
            14: [ReplicaStarted(20, stages[0], "local", 1.0, (VARIANT,), self.now_s + 0.05)],
            18: [ReplicaReady(20, stages[0], "local", 1.0, (VARIANT,)), RequestCancelled(RequestId(0, 17))],
            24: [WindowClosed(), PlanPublished(make_plan(self.service, batch_rows_max=4, hold_s_max=0.004))],
            40: [ReplicaDraining(20)],
            44: [PlanPublished(make_plan(self.service, rules=StageRules(order="fifo", drop="none")))],
            50: [WindowClosed()],
        }
        for event in happens.get(sequence, []):
            self.tell(event)
        if sequence in (30, 36):
            replica_id = 1 if sequence == 30 else len(stages)
            self.lose(replica_id)
            stage = stages[replica_id - 1]
            self.tell(ReplicaReady(replica_id + 30, stage, "local", 1.0, (VARIANT,)))

    def tell_all(self) -> str:
        for replica_id, stage in enumerate(self.service.stages, start=1):
            self.tell(ReplicaReady(replica_id, stage.name, "local", 1.0, (VARIANT,)))
        for sequence in range(1, ARRIVALS + 1):
            gap_s = 0.006 if 20 < sequence < 45 else 0.012
            self.run_until(self.now_s + gap_s * (0.5 + self.rng.random()))
            rows = 1 if self.rng.random() < 0.8 else 11
            slo_s = self.service.slo_s * (0.5 + self.rng.random())
            key = "x" if self.rng.random() < 0.8 else "y"
            request = make_request(sequence, self.now_s, slo_s=slo_s, rows=rows, batch_key=key)
            self.tell(RequestArrived(request))
            self.trouble(sequence)
        self.tell(ServiceDraining())
        while self.running:
            self.run_until(self.now_s + 1.0)
        self.machine.validate()
        assert self.machine.open_requests == 0
        return "".join(f"{encode(record).decode()}\n" for record in self.records)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_service_machine_answers_as_it_did(name: str, golden: Golden) -> None:
    golden(f"core_{name}.jsonl", Story(PIPELINES[name]).tell_all())
