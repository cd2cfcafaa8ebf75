"""What every machine decides, as one hash a case: for changes that are to change nothing but the time.

    python bench/decisions.py --save before.json        (in the tree as it was)
    python bench/decisions.py --compare before.json     (in the changed one; status 1 if a case differs)

A hash is that of the journal: each event with its time and the commands that answered it, in their order. Two
kinds of cases: *simulations* of one stage and of pipelines, by policy, batch size and seed; and *lives* of a
service under events drawn at random (requests with bounds, classes and several rows, lost and failed batches,
resizes, other plans), by shape and seed, for what a trace cannot say. Takes about two minutes on one core.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from msgspec.structs import replace

from steelyard.config.load import load_spec
from steelyard.config.planning import blueprint
from steelyard.core.commands import Command, RunBatch, StopReplica, WakeAt
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    CapacityChanged,
    Event,
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
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Items, RequestId, Service, SloClass, Stage, Tensor, TensorRef, Variant
from steelyard.journal.codec import encode
from steelyard.journal.records import Record
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Failure, Physics, Scenario, SimulatedNode, SlowDown
from steelyard.testing.builders import TableTimes, make_plan, make_request, times_by_stage
from steelyard.workload.trace import Trace, count_trace

SPECS = Path(__file__).parent / "specs"
SECONDS = 40
STEPS = 1_200
TROUBLES = Physics(
    dispatch_s=0.002,
    sensing_lag_s=0.03,
    corun_ratio=1.3,
    starting_ratio=1.1,
    slow_downs=(SlowDown(9.0, 12.0, 1.7),),
)


class Digest:
    """Hash of a journal."""

    def __init__(self) -> None:
        self._hash = sha256()
        self._count = 0

    def add(self, machine: str, now_s: float, event: Event, commands: list[Command]) -> None:
        """One call of a machine."""
        self._hash.update(encode(Record(machine, self._count, now_s, event, tuple(commands))))
        self._count += 1

    def __str__(self) -> str:
        return f"{self._count} {self._hash.hexdigest()[:24]}"


# Simulations.


def rates(seed: int, mean_rps: float) -> list[int]:
    """Calm, a surge, calm, and silence at last."""
    rng = np.random.default_rng(seed)
    shape = np.concatenate([np.full(12, 1.0), np.full(8, 2.5), np.full(16, 0.7), np.zeros(4)])
    return [int(count) for count in rng.poisson(mean_rps * shape)]


def stages_of(shape: str, batch: int) -> tuple[Stage, ...]:
    """One stage, one with two variants, two stages, or three of which the second takes items."""
    big = Variant("big", 0.9, batch, 4, cold_start_s=1.0, load_s=0.3)
    small = replace(big, name="small", accuracy=0.6)
    if shape == "single":
        return (Stage("a", (big,)),)
    if shape == "variants":
        return (Stage("a", (big, small)),)
    if shape == "chain":
        return (Stage("a", (big,)), Stage("b", (big,), ("a",), 2))
    items = Items({"": 1.7}, "poisson")
    taken = Stage("b", (big, small), ("a",), 1.7, items_of="a", each="lines", items=items)
    return (Stage("a", (big, small)), taken, Stage("c", (big,), ("a", "b")))


def simulations() -> Iterator[tuple[str, Scenario]]:
    big, small = DeclaredLatency((30.0, 4.0, 2.0, 3.0)), DeclaredLatency((10.0, 2.0, 1.0, 2.0))
    node = (SimulatedNode("local", 24),)
    for shape in ("single", "variants", "chain", "items"):
        policies = ["steelyard", "static", "themis", "fa2", "ipa", "hpa", "themis2025", "static+ours"]
        if shape in ("single", "variants"):
            policies += ["proteus", "infadapter", "clipper"]
        if shape == "chain":
            policies += ["loki"]
        for policy in policies:
            for batch, seed in ((1, 1), (8, 2)):
                stages = stages_of(shape, batch)
                service = Service("s", 0.4, stages, classes={"gold": SloClass(0.3, 4.0)})
                times = tuple(
                    StageTimes("s", stage.name, (), {"big": big, "small": small}) for stage in stages
                )
                options = {"replicas": 4} if policy.startswith("static") else {}
                trace = count_trace(rates(seed, 40.0))
                troubles = replace(TROUBLES, failures=(Failure(5.0, "s", "a"),)) if seed == 2 else Physics()
                yield (
                    f"{shape} b{batch} {policy}",
                    Scenario(
                        {"s": service},
                        times,
                        {"s": trace},
                        policy,
                        options,
                        node,
                        seed=seed,
                        physics=troubles,
                    ),
                )
    for spec in ("video-t24", "audio-sentiment-t25"):
        for policy in ("steelyard", "fa2", "themis+ours"):
            plan = blueprint(load_spec(SPECS / f"{spec}.yaml"), cores_available=2)
            traces: dict[str, Trace] = {name: count_trace(rates(3, 25.0)) for name in plan.services}
            yield (
                f"{spec} {policy}",
                Scenario(plan.services, plan.times, traces, policy, {}, plan.nodes, seed=3),
            )


def simulated(scenario: Scenario) -> str:
    digest = Digest()
    simulate(scenario, journal=digest.add)
    return str(digest)


# Lives.

VARIANTS = ("big", "small")
RULES: dict[str, list[Any]] = {
    "order": ["edf", "edf", "fifo"],
    "forming": ["hold", "hold", "hold", "hold", "full", "timeout", "adaptive", "aimd", "nexus"],
    "timeout_s": [0.0, 0.03],
    "drop": ["none", "age", "infeasible", "budget", "early", "early", "early"],
    "age_s_max": [0.2],
    "admission": ["open", "feasible", "feasible"],
    "routing": ["least_finish", "least_finish", "round_robin", "assigned"],
    "choice": ["mix", "fit", "table"],
    "reroutes": [False, False, True],
}


class Life:
    """A service, and a world that does anything."""

    def __init__(self, shape: str, seed: int) -> None:
        self.random = Random(f"{shape} {seed}")
        self.digest = Digest()
        times = TableTimes({1: 0.01, 6: 0.02}, tail=1.5, factors={"small": 0.5})
        stages = stages_of(shape, 6)
        classes = {"gold": SloClass(0.1, 4.0)} if seed % 2 else {}
        self.service = Service("ocr", 0.1, stages, queue_rows_max=40, reply_s=0.001, classes=classes)
        self.machine = ServiceMachine(self.service, times_by_stage(self.service, times), None)
        self.now_s = 0.0
        self.wake_s = float("inf")
        self.requests = 0
        self.replicas: dict[int, str] = {}
        self.replica_count = 0
        self.running: dict[int, RunBatch] = {}
        for stage in stages:
            for _ in range(2):
                self.start(stage.name)

    def tell(self, event: ServiceEvent) -> None:
        commands = self.machine.handle(event, now_s=self.now_s)
        self.digest.add("ocr", self.now_s, event, commands)
        for command in commands:
            if isinstance(command, RunBatch):
                self.running[command.batch_id] = command
            elif isinstance(command, WakeAt):
                self.wake_s = command.at_s
            elif isinstance(command, StopReplica):
                self.lose(command.replica_id, expected=True)

    def start(self, stage: str) -> None:
        self.replica_count += 1
        replica_id, cores = self.replica_count, self.random.choice([0.5, 1.0, 2.0])
        variants = self.random.choice([("big",), ("big", "small"), ("small",)])
        if stage == "c":
            variants = ("big",)
        self.replicas[replica_id] = stage
        if self.random.random() < 0.5:
            self.tell(ReplicaStarted(replica_id, stage, "local", cores, variants, self.now_s + 0.05))
        self.tell(ReplicaReady(replica_id, stage, "local", cores, variants))

    def lose(self, replica_id: int, *, expected: bool) -> None:
        self.replicas.pop(replica_id, None)
        for batch in [batch for batch in self.running.values() if batch.replica_id == replica_id]:
            del self.running[batch.batch_id]
        self.tell(ReplicaGone(replica_id, expected))

    def arrive(self) -> None:
        choose, self.requests = self.random.choice, self.requests + 1
        request = make_request(
            self.requests,
            self.now_s,
            slo_s=choose([0.01, 0.03, 0.05, 0.1, 0.1, 0.3]),
            rows=choose([1, 1, 1, 1, 2, 3, 9]),
            batch_key=choose(["x", "x", "x", "y"]),
        )
        if self.random.random() < 0.1:
            bounds = choose([0.1, 0.7, 0.95, None]), choose([None, 8.0, 30.0, 1000.0])
            request = replace(request, min_accuracy=bounds[0], max_core_ms=bounds[1])
        self.tell(RequestArrived(replace(request, slo_class=choose(["", "", "gold"]))))

    def finish(self) -> None:
        """Of the running batches the one that is expected to take least, soon or late."""
        batch = min(self.running.values(), key=lambda batch: (batch.expected_s, batch.batch_id))
        del self.running[batch.batch_id]
        started_s, slower = self.now_s, self.random.choice([0.1, 0.3, 0.5, 1.0, 1.0, 2.0])
        self.now_s += slower * batch.expected_s / max(1, len(self.running))
        if self.random.random() < 0.02:
            self.tell(BatchFailed(batch.batch_id, batch.replica_id, "the model raised"))
            return
        rows = [
            part.request_id.sequence + row
            for part in batch.slices
            for row in range(part.row_start, part.row_start + part.rows)
        ]
        takers = [stage.name for stage in self.service.stages if stage.items_of == batch.stage]
        items = {name: tuple([(row * 7) % 4 for row in rows]) for name in takers}
        outputs = (Tensor("y", "FP32", (batch.rows, 4), TensorRef("w", 0, 16, batch.batch_id)),)
        self.tell(BatchCompleted(batch.batch_id, batch.replica_id, started_s, self.now_s, outputs, items))

    def wake(self) -> None:
        while self.wake_s <= self.now_s:
            self.wake_s = float("inf")
            self.tell(Woken())

    def disturb(self) -> None:
        """Something rare."""
        choose = self.random.choice
        replica_id = choose([*self.replicas, 999])
        match choose(
            ["resize", "resize", "plan", "grant", "lose", "start", "drain", "load", "cancel", "stop"]
        ):
            case "resize":
                self.tell(ReplicaResized(replica_id, choose([0.0, 0.5, 1.0, 1.0, 2.0])))
            case "plan":
                rules = StageRules(**{name: choose(values) for name, values in RULES.items()})
                shares = choose([{"big": 1.0}, {"big": 0.75, "small": 0.25}])
                hold_s = choose([0.0, 0.0, 0.02])
                rows = choose([1, 2, 6])
                plan = make_plan(
                    self.service, batch_rows_max=rows, rules=rules, shares=shares, hold_s_max=hold_s
                )
                self.tell(PlanPublished(plan))
            case "grant":
                self.tell(CapacityChanged(choose([0.0, 1.0, 3.0])))
            case "lose":
                self.lose(replica_id, expected=False)
            case "start":
                self.start(choose(self.service.stages).name)
            case "drain":
                self.tell(ReplicaDraining(replica_id))
            case "load":
                event = choose([VariantLoaded, VariantUnloaded])
                self.tell(event(replica_id, choose(VARIANTS)))
            case "cancel":
                self.tell(RequestCancelled(RequestId(0, max(1, self.requests - choose(range(9))))))
            case "stop":
                self.tell(ServiceDraining())
                self.tell(ServiceResumed())

    def live(self) -> str:
        for step in range(STEPS):
            chance = self.random.random()
            if chance < 0.45:
                self.arrive()
            elif chance < 0.80:
                if self.running:
                    self.finish()
            elif chance < 0.97:
                self.now_s += self.random.choice([0.0, 0.001, 0.005, 0.02])
            else:
                self.disturb()
            self.wake()
            if step % 25 == 0:
                self.tell(WindowClosed())
                for stage in self.service.stages:
                    if stage.name not in self.replicas.values():
                        self.start(stage.name)
        self.machine.validate()
        return str(self.digest)


def run(only: str) -> dict[str, str]:
    """Hashes by case."""
    found: dict[str, str] = {}
    for shape in ("single", "variants", "chain", "items"):
        for seed in range(20):
            name = f"life {shape} {seed}"
            if only in name:
                found[name] = Life(shape, seed).live()
    for name, scenario in simulations():
        if only in name:
            found[name] = simulated(scenario)
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--compare", type=Path)
    options = parser.parse_args()
    found = run(options.only)
    if options.save is not None:
        options.save.write_text(json.dumps(found, indent=1) + "\n")
    before = json.loads(options.compare.read_text()) if options.compare is not None else {}
    others = [name for name, digest in found.items() if name in before and before[name] != digest]
    print(f"{len(found)} cases, {len(others)} differ: {', '.join(others) or 'none'}")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
