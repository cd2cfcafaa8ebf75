"""What one request costs in the core: a `ServiceMachine` alone, fed with events from a list.

Poisson arrivals of one row meet four replicas of one core whose batches take exactly what the profile says
(M/D/4). The events, made once by playing the world around a machine, are told to fresh machines; timed is
nothing but `handle`, in processor time. The best of some rounds counts: the others were disturbed.

    python bench/core_speed.py [--requests 20000] [--rounds 5] [--profile NAME] [--dry]

Cases: `ours` are the shared rules (deadline order, feasible admission, early drop), `published` those of most
papers (first come first served, all admitted, nothing shed); one row a batch or up to eight; loads as parts
of what the replicas could answer at best. `chain` are three stages, one after the other. One core is used.
"""

import argparse
import cProfile
import gc
import heapq
import pstats
from collections.abc import Iterator
from time import process_time
from typing import Any, NamedTuple

import _record
import numpy as np

from steelyard.core.commands import RunBatch, WakeAt
from steelyard.core.events import BatchCompleted, ReplicaReady, RequestArrived, ServiceEvent, Woken
from steelyard.core.plan import StageRules
from steelyard.core.service import ServiceMachine
from steelyard.core.types import Service
from steelyard.testing.builders import (
    VARIANT,
    TableTimes,
    make_pipeline,
    make_plan,
    make_request,
    times_by_stage,
)

SEED = 3
REPLICAS = 4
SLO_S = 0.1
RULES = {
    "ours": StageRules(),
    "published": StageRules(order="fifo", drop="none", admission="open"),
}
TIMES = TableTimes({1: 0.010, 8: 0.024})
"""Seconds by rows: eight take 2.4 times as long as one."""


class Case(NamedTuple):
    """What is measured; `load` is a part of the best throughput."""

    rules: str
    rows_max: int
    load: float
    stages: int = 1

    @property
    def name(self) -> str:
        """As printed and asked for."""
        chain = "" if self.stages == 1 else f" chain {self.stages}"
        return f"{self.rules} b{self.rows_max} {self.load:g}{chain}"

    @property
    def rate_rps(self) -> float:
        """Arrivals a second."""
        return self.load * REPLICAS * self.rows_max / TIMES.service_time_s(VARIANT, 0, self.rows_max, 1.0)


CASES = [
    *(Case("ours", rows_max, load) for rows_max in (1, 8) for load in (0.3, 0.9, 1.5)),
    *(Case("published", rows_max, load) for rows_max in (1, 8) for load in (0.3, 0.9)),
    Case("ours", 8, 0.6, stages=3),
]

Story = list[tuple[ServiceEvent, float]]


def service_of(case: Case) -> Service:
    """Stages one after the other."""
    names = [f"s{index}" for index in range(case.stages)]
    after = {name: names[max(index - 1, 0) : index] for index, name in enumerate(names)}
    return make_pipeline(after, slo_s=SLO_S * case.stages, batch_rows_max=8)


def machine_of(case: Case) -> ServiceMachine:
    """A fresh one."""
    service = service_of(case)
    plan = make_plan(service, batch_rows_max=case.rows_max, rules=RULES[case.rules])
    return ServiceMachine(service, times_by_stage(service, TIMES), plan)


def arrivals(case: Case, requests: int) -> Iterator[tuple[ServiceEvent, float]]:
    """Poisson."""
    rng = np.random.default_rng(SEED)
    slo_s = SLO_S * case.stages
    for sequence, at_s in enumerate(np.cumsum(rng.exponential(1 / case.rate_rps, requests)).tolist()):
        yield RequestArrived(make_request(sequence, at_s, slo_s=slo_s)), at_s


def story_of(case: Case, requests: int) -> Story:
    """All that a machine is told: its commands come true at once, and batches take what they should."""
    machine = machine_of(case)
    story: Story = []
    wake_s = float("inf")
    running: list[tuple[float, int, BatchCompleted]] = []
    stages = [stage.name for stage in machine.service.stages]

    def tell(event: ServiceEvent, now_s: float) -> None:
        nonlocal wake_s
        story.append((event, now_s))
        for command in machine.handle(event, now_s=now_s):
            if isinstance(command, RunBatch):
                end_s = now_s + TIMES.service_time_s(command.variant, 0, command.rows, 1.0)
                completed = BatchCompleted(command.batch_id, command.replica_id, now_s, end_s)
                heapq.heappush(running, (end_s, command.batch_id, completed))
            elif isinstance(command, WakeAt):
                wake_s = command.at_s

    for replica_id in range(REPLICAS * len(stages)):
        stage = stages[replica_id % len(stages)]
        tell(ReplicaReady(replica_id, stage, "local", 1.0, (VARIANT,)), 0.0)
    for event, at_s in arrivals(case, requests):
        while min(wake_s, running[0][0] if running else float("inf")) <= at_s:
            if running and running[0][0] <= wake_s:
                end_s, _, completed = heapq.heappop(running)
                tell(completed, end_s)
            else:
                now_s, wake_s = wake_s, float("inf")
                tell(Woken(), now_s)
        tell(event, at_s)
    return story


def tell_all(machine: ServiceMachine, story: Story) -> None:
    """What is timed."""
    handle = machine.handle
    for event, now_s in story:
        handle(event, now_s=now_s)


def measure(case: Case, requests: int, rounds: int) -> dict[str, Any]:
    """Microseconds a request and an event, and what the case was like."""
    story = story_of(case, requests)
    best_s = float("inf")
    for _ in range(rounds):
        machine = machine_of(case)
        gc.collect()
        begin_s = process_time()
        tell_all(machine, story)
        best_s = min(best_s, process_time() - begin_s)
    counts = machine.counts
    return {
        "case": case.name,
        "requests": requests,
        "us_per_request": round(1e6 * best_s / requests, 2),
        "us_per_event": round(1e6 * best_s / len(story), 2),
        "events_per_request": round(len(story) / requests, 2),
        "completed": counts.completed,
        "late": counts.late,
        "shed": counts.shed,
        "rejected": counts.rejected,
    }


def profile(case: Case, requests: int) -> None:
    """Where the time goes, by function."""
    story = story_of(case, requests)
    machine = machine_of(case)
    profiler = cProfile.Profile()
    profiler.runcall(tell_all, machine, story)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", metavar="NAME", help='a case, such as "ours b8 0.9"')
    parser.add_argument("--dry", action="store_true", help="write no record")
    options = parser.parse_args()
    if options.profile:
        known = {case.name: case for case in CASES}
        if options.profile not in known:
            parser.error(f"no case {options.profile!r}; there are: {', '.join(known)}")
        profile(known[options.profile], options.requests)
        return
    cases = []
    print("case                    us/request  us/event  events  completed  late  shed  rejected")
    for case in CASES:
        found = measure(case, options.requests, options.rounds)
        cases.append(found)
        print(
            f"{found['case']:<22} {found['us_per_request']:>10.2f} {found['us_per_event']:>9.2f}"
            f" {found['events_per_request']:>7.2f} {found['completed']:>10} {found['late']:>5}"
            f" {found['shed']:>5} {found['rejected']:>9}"
        )
    if not options.dry:
        _record.write("core_speed", {"cases": cases}, seed=SEED)


if __name__ == "__main__":
    main()
