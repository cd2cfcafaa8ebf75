"""What a control tick costs: the machine alone, fed with windows, without clients, workers or a clock.

A fluid plant plays services and backend: rows arrive, wait and leave by the capacity of the replicas that are
ready; resizes are confirmed at once, starts after their cold start. Every 20 s of windows a surge of three
times the rate lasts 5 s. Timed is every call of `ControlMachine.handle` that belongs to a window (its report
and the confirmations that follow); what the policy's own `react` takes is measured apart and taken off.

Windows are of three kinds: *quiet* (no command), *solve* (a decision was asked for or taken in, nothing
moved), *moved* (cores or replicas changed). The policy `toggle` exists only here: many one-core replicas,
and one of them is grown or shrunk in every fifth window.

    python bench/control_speed.py [--windows 1000] [--profile steelyard:64:1] [--dry]

One process on one core; nothing else should run.
"""

import argparse
import cProfile
import pstats
import statistics
from time import perf_counter_ns
from typing import Any

import _record
import numpy as np

from steelyard.control.machine import ControlMachine
from steelyard.core.commands import (
    Command,
    DrainReplica,
    RecordDecision,
    ResizeReplica,
    Solve,
    StartReplica,
    StopReplica,
    WakeAt,
)
from steelyard.core.events import (
    ControlEvent,
    NodeJoined,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    Solved,
    WindowReported,
)
from steelyard.core.plan import (
    Decision,
    GrantCores,
    Grants,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, ServiceWindow, StageWindow
from steelyard.core.types import Service, ServiceTimes, Stage, Variant
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.times import CoefficientTimes

WINDOW_S = 0.1
COLD_START_S = 3.0
CASES = [
    (name, cores, stages)
    for name in ("static", "themis", "steelyard", "toggle")
    for cores in (2, 32, 64)
    for stages in (1, 3)
    if cores >= stages
]
TIMES = CoefficientTimes(alpha_ms=90.0, beta_ms=10.0, gamma_ms=5.0, zeta_ms=5.0)
RATE_A_CORE_RPS = 5.0
"""Of a pipeline of one stage, beside the surges: half of what a core carries."""


class Timed:
    """A policy whose `react` is timed; `decide` goes to an instance of its own, as in the server."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.name = policy.name
        self.solve_s = policy.solve_s
        self.reacts = policy.reacts
        self.spent_ns = 0

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        start_ns = perf_counter_ns()
        grants = self.policy.react(snapshot)
        self.spent_ns += perf_counter_ns() - start_ns
        return grants

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        return self.policy.decide(snapshot)


class Toggle:
    """Replicas of one core on half of the cores; every fifth window one of them is grown, or shrunk again."""

    name = "toggle"
    solve_s = 0.0
    reacts = True

    def __init__(self, context: PolicyContext) -> None:
        self._stages = [(name, stage.name) for name, s in context.services.items() for stage in s.stages]
        self._windows = 0

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:
        self._windows += 1
        if self._windows % 5:
            return None
        replicas = snapshot.services[0].replicas
        chosen = next((r for r in replicas if r.cores_desired > 1.0), replicas[0])
        return Grants((GrantCores(chosen.replica_id, 3.0 - chosen.cores_desired),), "in turn")

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        count = max(1, int(snapshot.nodes[0].cores) // (2 * len(self._stages)))
        stages: dict[str, dict[str, StagePlan]] = {}
        for service, stage in self._stages:
            replicas = (ReplicaPlan(1.0, ("only",)),) * count
            stages.setdefault(service, {})[stage] = StagePlan(replicas, (VariantShare("only", 1.0),))
        plans = {name: ServicePlan(name, by_stage) for name, by_stage in stages.items()}
        return Decision(Plan(plans), snapshot.now_s + 1e9, "half of the cores")


class Plant:
    """Services and a backend as rows that flow."""

    def __init__(self, policy: str, cores: int, stages: int) -> None:
        variant = Variant("only", batch_rows_max=4, cores_max=16, cold_start_s=COLD_START_S)
        self.service = Service("s", 1.5, tuple(Stage(f"stage{i}", (variant,)) for i in range(stages)))
        services = {"s": self.service}
        times: dict[tuple[str, str], ServiceTimes] = {("s", s.name): TIMES for s in self.service.stages}
        options = {"replicas": max(1, cores // (2 * stages)), "batch": 4} if policy == "static" else {}
        context = PolicyContext(services, times, options)

        def make() -> Policy:
            return Toggle(context) if policy == "toggle" else make_policy(policy, context)

        self.timed = Timed(make())
        self.planner = make()
        self.machine = ControlMachine(services, self.timed, window_s=WINDOW_S)
        self.rate_rps = RATE_A_CORE_RPS * cores / (3 * stages)
        self.rng = np.random.default_rng(7)
        self.queue = {stage.name: 0.0 for stage in self.service.stages}
        self.cores: dict[int, tuple[str, float]] = {}
        self.starting: dict[int, tuple[float, StartReplica]] = {}
        self.answers: list[Solved] = []
        self.now_s = 0.0
        self.spent_ns = 0
        self.seen: list[Command] = []
        self.tell(NodeJoined("local", tuple(range(cores))))

    def tell(self, event: ControlEvent) -> None:
        start_ns = perf_counter_ns()
        commands = self.machine.handle(event, now_s=self.now_s)
        self.spent_ns += perf_counter_ns() - start_ns
        self.seen += commands
        for command in commands:
            match command:
                case StartReplica():
                    self.starting[command.replica_id] = (self.now_s + COLD_START_S, command)
                case ResizeReplica():
                    cores = sum(share.fraction for share in command.shares)
                    self.cores[command.replica_id] = (self.cores[command.replica_id][0], cores)
                    self.tell(ReplicaResized(command.replica_id, cores))
                case StopReplica() | DrainReplica():
                    self.starting.pop(command.replica_id, None)
                    self.cores.pop(command.replica_id, None)
                    self.tell(ReplicaGone(command.replica_id, expected=True))
                case Solve():
                    decision = self.planner.decide(command.snapshot)
                    self.answers.append(Solved(command.solve_id, decision, self.planner.solve_s))

    def window(self, index: int) -> tuple[str, float, float]:
        """One window: its kind, and microseconds of the machine and of `react`."""
        self.now_s = (index + 1) * WINDOW_S
        self.spent_ns = self.timed.spent_ns = 0
        self.seen = []
        while self.answers:
            self.tell(self.answers.pop())
        for replica_id, (ready_s, start) in sorted(self.starting.items()):
            if ready_s <= self.now_s:
                del self.starting[replica_id]
                cores = sum(share.fraction for share in start.shares)
                self.cores[replica_id] = (start.stage, cores)
                self.tell(ReplicaReady(replica_id, start.stage, "local", cores, start.variants, "s"))
        surge = 3.0 if self.now_s % 20.0 >= 15.0 else 1.0
        rows = int(self.rng.poisson(self.rate_rps * surge * WINDOW_S))
        windows = []
        for name in self.queue:
            there = [cores for stage, cores in self.cores.values() if stage == name and cores > 0]
            rate = sum(1.0 / TIMES.service_time_s("only", 0, 1, cores) for cores in there)
            self.queue[name] = max(0.0, self.queue[name] + rows - rate * WINDOW_S)
            waiting = int(self.queue[name])
            windows.append(StageWindow(name, waiting, waiting, 1.0 if waiting else None, rows))
        now = ServiceWindow(
            "s", self.now_s - WINDOW_S, self.now_s, rows, rows, rows, 0, 0, 0, 0, 0, tuple(windows)
        )
        self.tell(WindowReported(now))
        kinds = {type(command) for command in self.seen}
        moved = kinds & {StartReplica, ResizeReplica, DrainReplica, StopReplica}
        kind = "moved" if moved else "solve" if kinds - {WakeAt, RecordDecision} else "quiet"
        react_us = self.timed.spent_ns / 1000
        return kind, self.spent_ns / 1000 - react_us, react_us


def measure(policy: str, cores: int, stages: int, windows: int) -> dict[str, Any]:
    """Medians by kind of window."""
    plant = Plant(policy, cores, stages)
    found: dict[str, list[float]] = {}
    reacts: list[float] = []
    for index in range(windows):
        kind, machine_us, react_us = plant.window(index)
        found.setdefault(kind, []).append(machine_us)
        reacts.append(react_us)
    plant.machine.validate()
    total_us = sum(sum(values) for values in found.values())
    return {
        "policy": policy,
        "cores": cores,
        "stages": stages,
        "replicas": len(plant.machine.replicas),
        "us": {kind: round(statistics.median(values), 1) for kind, values in sorted(found.items())},
        "windows": {kind: len(values) for kind, values in sorted(found.items())},
        "mean_us": round(total_us / windows, 1),
        "react_mean_us": round(statistics.mean(reacts), 1),
    }


def profile(case: str, windows: int) -> None:
    """Print where the time of one case goes."""
    policy, cores, stages = case.split(":")
    plant = Plant(policy, int(cores), int(stages))
    profiler = cProfile.Profile()
    profiler.enable()
    for index in range(windows):
        plant.window(index)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--profile", metavar="POLICY:CORES:STAGES")
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    options = parser.parse_args()
    if options.profile:
        profile(options.profile, options.windows)
        return
    rows = []
    print(f"{'policy':10} {'cores':>5} {'stages':>6} {'replicas':>8}  {'quiet':>8} {'solve':>8} {'moved':>8}"
          f" {'mean':>8} {'react':>8}   microseconds a window")  # fmt: skip
    for policy, cores, stages in CASES:
        row = measure(policy, cores, stages, options.windows)
        rows.append(row)
        kinds = [f"{row['us'].get(kind, float('nan')):8.1f}" for kind in ("quiet", "solve", "moved")]
        print(f"{policy:10} {cores:5} {stages:6} {row['replicas']:8}  {' '.join(kinds)}"
              f" {row['mean_us']:8.1f} {row['react_mean_us']:8.1f}")  # fmt: skip
    if not options.dry:
        _record.write("control_speed", {"windows": options.windows, "cases": rows}, seed=7)


if __name__ == "__main__":
    main()
