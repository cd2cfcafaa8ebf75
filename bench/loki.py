"""Loki's setting: a tree of three stages on 20 servers, 50 to 425 requests a second, SLO 250 ms.

Everything counts end to end, per client request: late, dropped or refused is a violation. Policies:

    loki               two steps as published: the best variants on the fewest servers, else all variants
    loki, one price    ours: one objective, accuracy less 0.01 for all servers
    loki+ours          two steps on the shared data plane
    hardware           the best variants alone (the authors' stand-in for InferLine); +ours likewise
    tasks apart        each stage planned for itself (Proteus a stage); +ours likewise

Three measurements:
1. *Capacity*: the largest steady rate of a grid at which at most 1 % of the requests are violations, and the
   accuracy there; hardware alone against accuracy scaling, both on either data plane.
2. *A day*: a sine from 50 to 425 and back, compressed, and 30 s of night: violations, accuracy.
3. *Off-peak*: mean servers in the last 20 s of that night, against all 20; and, by the program alone, without
   headroom, the fewest servers for 50 requests a second with the best variants.

    python bench/loki.py [--quick] [--seconds 200] [--seed 1] [--profiles DIR]
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _buckets import Buckets
from _record import write
from loki_cases import LEAVES, NAME, PROFILES, SERVERS, SLO_S, accuracy_of, fan_outs, service, times

from steelyard.core.commands import Complete
from steelyard.plan.loki import LokiProblem, accurate, solve
from steelyard.policies.loki import tasks_of
from steelyard.profile.tables import service_times
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.synth import constant, diurnal
from steelyard.workload.trace import CountTrace, count_trace

LOW_RPS, HIGH_RPS = 50.0, 425.0
GRID_RPS = (50, 75, 100, 150, 200, 250, 300, 350, 425, 500, 600, 800)
VIOLATIONS_MAX = 0.01
STEADY_S = 10
NIGHT_S, OFF_PEAK_S = 30, 20
LEAF_WEIGHTS = dict.fromkeys(LEAVES, 0.5)


class Case(NamedTuple):
    """A policy with its options, under one name."""

    name: str
    policy: str
    options: dict[str, Any] = {}


LOKI = Case("loki", "loki")
LOKI_OURS = Case("loki+ours", "loki+ours")
HARDWARE = Case("hardware", "loki", {"variants": "accurate"})
HARDWARE_OURS = Case("hardware+ours", "loki+ours", {"variants": "accurate"})
CASES = (
    LOKI,
    Case("loki, one price", "loki", {"price": 0.01}),
    LOKI_OURS,
    HARDWARE,
    HARDWARE_OURS,
    Case("tasks apart", "loki", {"plans": "tasks"}),
    Case("tasks apart+ours", "loki+ours", {"plans": "tasks"}),
)
STEADY = (HARDWARE, LOKI, HARDWARE_OURS, LOKI_OURS)


def run(case: Case, trace: CountTrace, profiles: Path, seed: int) -> dict[str, float]:
    """One run: what it served, and servers over time."""

    def accuracy(_: str, answer: Complete) -> float:
        return accuracy_of(answer.variants, LEAF_WEIGHTS)

    buckets = Buckets(accuracy, seconds=trace.seconds)
    scenario = Scenario(
        {NAME: service(profiles)},
        times(profiles),
        {NAME: trace},
        case.policy,
        case.options,
        (SimulatedNode("cluster", SERVERS),),
        seed=seed,
    )
    found = simulate(scenario, journal=buckets.record)
    servers = np.array(found.series[0].replicas, dtype=float)
    off_peak = float(servers[-OFF_PEAK_S:].mean())
    return {**buckets.summary(), "servers": float(servers.mean()), "servers_off_peak": off_peak}


def capacity(case: Case, profiles: Path, seed: int, grid: tuple[int, ...]) -> list[dict[str, Any]]:
    """Steady rates, up to the second with too many violations."""
    rows: list[dict[str, Any]] = []
    for rate in grid:
        trace = count_trace(np.random.default_rng([seed, rate]).poisson(constant(STEADY_S, rate_rps=rate)))
        rows.append({"case": case.name, "rate_rps": rate, **run(case, trace, profiles, seed)})
        show(rows[-1])
        if sum(not good(row) for row in rows) > 1:
            break
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a day of 40 s, a coarser grid of rates")
    parser.add_argument("--seconds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profiles", type=Path, default=PROFILES)
    options = parser.parse_args()
    seconds = 40 if options.quick else options.seconds
    grid = GRID_RPS[1::3] if options.quick else GRID_RPS
    steady = [row for case in STEADY for row in capacity(case, options.profiles, options.seed, grid)]
    day = diurnal(seconds, low_rps=LOW_RPS, high_rps=HIGH_RPS, period_s=float(seconds))
    rates = np.concatenate([day, constant(NIGHT_S, rate_rps=LOW_RPS)])
    trace = count_trace(np.random.default_rng([options.seed, seconds]).poisson(rates))
    days: list[dict[str, Any]] = []
    for case in CASES:
        days.append({"case": case.name, **run(case, trace, options.profiles, options.seed)})
        show(days[-1])
    cars, faces = fan_outs(options.profiles)
    payload = {
        "seconds": seconds,
        "servers": SERVERS,
        "servers_best_off_peak": least_servers(options.profiles, LOW_RPS),
        "items": {name: cars[name] + faces[name] for name in cars},
        "steady": steady,
        "capacity_rps": {
            case.name: max((r["rate_rps"] for r in steady if r["case"] == case.name and good(r)), default=0)
            for case in STEADY
        },
        "days": days,
    }
    write("loki_quick" if options.quick else "loki", payload, seed=options.seed)


def least_servers(profiles: Path, rate_rps: float) -> int:
    """Servers that the best variants need at least, by the program alone."""
    known = {(NAME, stage.stage): service_times(stage) for stage in times(profiles)}
    tasks = tasks_of(service(profiles), known, 1)
    problem = LokiProblem(tasks, rate_rps, SLO_S, 10 * SERVERS)
    return solve(accurate(problem)).servers_used


def good(row: Mapping[str, Any]) -> bool:
    """Whether a steady rate is carried."""
    return bool(row["violations"] <= VIOLATIONS_MAX)


def show(row: Mapping[str, Any]) -> None:
    print(
        f"{row['case']:18}{row.get('rate_rps', ''):>6} {row['requests']:8,.0f} requests, "
        f"accuracy {row['accuracy']:.4f}, violations {row['violations']:8.3%}, "
        f"{row['servers']:5.1f} servers, {row['servers_off_peak']:5.1f} off-peak",
        flush=True,
    )


if __name__ == "__main__":
    main()
