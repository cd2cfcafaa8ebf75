"""How fast the simulator is: requests a second of wall and CPU time, beside SimPy on the same queue.

    python bench/sim_speed.py [--seconds 30] [--rounds 3]
    python bench/sim_speed.py --day traces/twitter-2021-08-days01-14.txt.gz

The first form runs one stage with control on: batches of 1 and of 8, under `static` and `steelyard`; then the
same M/D/c in SimPy (first come first served, no control, no deadlines: less than ours does), rounds
interleaved, best of each. The second form simulates a day of Twitter traffic (divided as T24 does) through
T24's video pipeline, with progress. Both then say where the time goes, by module. With a compiled build
(docs/simulator.md) the same is recorded beside it, but for the profile, which cannot look into compiled code.
"""

import argparse
import cProfile
import os
import pstats
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import _record
import numpy as np
import simpy

from steelyard.cli.trace import open_trace
from steelyard.config.load import load_spec
from steelyard.config.planning import blueprint
from steelyard.core.types import Service, Stage, Variant
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.workload.trace import count_trace

SERVERS = 16
SERVICE_S = 0.010
VIDEO = Path(__file__).parent / "specs" / "video-t24.yaml"
DAY_DIVISOR, DAY_S = 4.384, 86_400
PROFILED_S = 1_000
"""Seconds of the day that are profiled."""


def one_stage(batch: int, rate_rps: float, seconds: int, policy: str, options: dict[str, Any]) -> Scenario:
    """10 ms for one row, 17 ms for eight, on one core, with a spread of 5 %."""
    variant = Variant("v", None, batch, 4, cold_start_s=1.0)
    slope_ms = 1.0 if batch > 1 else 0.0
    latency = DeclaredLatency((0.0, slope_ms, 0.0, SERVICE_S * 1e3 - slope_ms))
    return Scenario(
        {"s": Service("s", 0.2, (Stage("m", (variant,)),))},
        (StageTimes("s", "m", (), {"v": latency}),),
        {"s": count_trace([round(rate_rps)] * seconds)},
        policy,
        options,
        (SimulatedNode("local", 32),),
    )


def cases(seconds: int) -> dict[str, Scenario]:
    """16 replicas at 80 % of what they carry; `steelyard` chooses its own."""
    fixed = {"replicas": SERVERS}
    single, eight = 0.8 * SERVERS / SERVICE_S, 0.8 * SERVERS * 8 / 0.017
    return {
        "batch 1, static": one_stage(1, single, seconds, "static", fixed),
        "batch 1, steelyard": one_stage(1, single, seconds, "steelyard", {}),
        "batch 8, static": one_stage(8, eight, seconds // 4, "static", fixed),
        "batch 8, steelyard": one_stage(8, eight, seconds // 4, "steelyard", {}),
    }


def run_simpy(rate_rps: float, seconds: int) -> int:
    """M/D/c as SimPy's own documentation would write it; returns the requests served."""
    env = simpy.Environment()
    servers = simpy.Resource(env, capacity=SERVERS)
    rng = np.random.default_rng(1)
    latencies_s: list[float] = []

    def request() -> Any:
        arrived_s = env.now
        with servers.request() as turn:
            yield turn
            yield env.timeout(SERVICE_S)
        latencies_s.append(env.now - arrived_s)

    def clients() -> Any:
        while env.now < seconds:
            yield env.timeout(rng.exponential(1 / rate_rps))
            env.process(request())

    env.process(clients())
    env.run()
    return len(latencies_s)


def timed(run: Callable[[], int]) -> dict[str, float]:
    """Requests, and how many of them a second of wall and of this process's CPU time."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    requests = run()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return {"requests": requests, "wall_rps": requests / wall_s, "cpu_rps": requests / cpu_s}


def requests_of(scenario: Scenario) -> int:
    return simulate(scenario).summaries[0].requests


def measure(seconds: int, rounds: int) -> None:
    runs: dict[str, Callable[[], int]] = {
        name: partial(requests_of, scenario) for name, scenario in cases(seconds).items()
    }
    runs["SimPy M/D/c"] = partial(run_simpy, 0.8 * SERVERS / SERVICE_S, seconds)
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            found = timed(run)
            if name not in best or found["cpu_rps"] > best[name]["cpu_rps"]:
                best[name] = found
    for name, found in best.items():
        print(
            f"{name:20} {found['cpu_rps']:9.0f} requests/s of CPU time, {found['wall_rps']:9.0f} of wall time"
        )
    ratio = best["batch 1, static"]["cpu_rps"] / best["SimPy M/D/c"]["cpu_rps"]
    print(f"the same M/D/c: {ratio:.2f} x SimPy")
    payload = {"seconds": seconds, "rounds": rounds, "cases": best, "over_simpy": ratio}
    record("sim_speed", {**payload, "profile": profiled(cases(seconds)["batch 1, steelyard"])})


def record(name: str, payload: dict[str, Any]) -> None:
    _record.write(f"{name}_compiled" if _record.IS_COMPILED else name, payload, seed=0)


def profiled(scenario: Scenario) -> dict[str, float]:
    """Shares of the time by module, largest first; a profiler's, which favours what calls little."""
    if _record.IS_COMPILED:
        return {}
    profile = cProfile.Profile()
    profile.runcall(simulate, scenario)
    of_module: Counter[str] = Counter()
    for (file, _, _), (_, _, own_s, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        parts = Path(file).parts
        inside = parts[parts.index("steelyard") + 1 :] if "steelyard" in parts else ("other",)
        of_module["/".join(inside).removesuffix(".py")] += own_s
    total_s = sum(of_module.values())
    shares = {module: own_s / total_s for module, own_s in of_module.most_common(16)}
    for module, share in shares.items():
        print(f"  {share:6.1%} {module}")
    return shares


def of_day(path: Path, policy: str, seconds: int) -> Scenario:
    """The day's first seconds."""
    trace = open_trace(path, gaps="hold", cut=f"0:{seconds}", scale=1 / DAY_DIVISOR)
    video = blueprint(load_spec(VIDEO), cores_available=len(os.sched_getaffinity(0)))
    return Scenario(video.services, video.times, {"video": trace}, policy, {}, video.nodes)


def day(path: Path, policy: str, seconds: int) -> None:
    def on_progress(now_s: float, all_s: float) -> None:
        if now_s % 600 == 0:
            print(f"\r{now_s / all_s:6.1%}", end="", file=sys.stderr, flush=True)

    cpu_s = time.process_time()
    run = simulate(of_day(path, policy, seconds), on_progress=on_progress)
    cpu_s = time.process_time() - cpu_s
    (summary,) = run.summaries
    took = f"{summary.wall_s:.1f} s of wall time, {cpu_s:.1f} s of CPU time"
    print(f"\n{summary.requests} requests in {seconds} s: {took}")
    print(f"{summary.violation_ratio:.3%} violations, {summary.core_seconds:.0f} core-seconds")
    payload = {"policy": policy, "cpu_s": cpu_s, "summary": _plain(summary)}
    record("sim_day", {**payload, "profile": profiled(of_day(path, policy, min(seconds, PROFILED_S)))})


def _plain(summary: Any) -> dict[str, Any]:
    return {name: getattr(summary, name) for name in summary.__struct_fields__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=None, help="of each run; of the day")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--day", type=Path, help="a trace of one count a second a line")
    parser.add_argument("--policy", default="steelyard", help="of the day")
    arguments = parser.parse_args()
    if arguments.day is not None:
        day(arguments.day, arguments.policy, arguments.seconds or DAY_S)
    else:
        measure(arguments.seconds or 30, arguments.rounds)


if __name__ == "__main__":
    main()
