"""Beyond what the cores can carry, for long: how much is still answered in time?

Constant Poisson arrivals at a multiple of what 64 cores could answer if every stage ran its cheapest batches
all the time (`bound`), for `--seconds`, after a warm start: no policy can answer more than `bound`, and who
answers less has spent cores on requests that were lost later, on smaller batches, or on the wrong stage. All
policies have the same queues, batching and shedding (`+ours`).

    python bench/overload.py [--seconds 40] [--seeds 2] [--policies A,B] [--processes N] [--dry]
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from _record import write
from headlines_cases import DIVISORS, ORACLE, OURSELVES, least_core_s, resolved
from headlines_judge import OURS

from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario
from steelyard.workload.trace import count_trace

CORES = 64
LOADS = (1.25, 2.0)
POLICIES = (OURSELVES, ORACLE, *(f"{name}{OURS}" for name in ("fa2", "themis", "inferline", "hpa")))
COLD_START_S = 6.0


class Job(NamedTuple):
    """One run; `load` is a multiple of the bound."""

    pipeline: str
    load: float
    policy: str
    seed: int
    seconds: int

    @property
    def bound_rps(self) -> float:
        """Requests a second that the cores could answer at best."""
        return CORES / least_core_s(self.pipeline)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dry", action="store_true", help="record nothing")
    options = parser.parse_args()
    policies: list[str] = options.policies.split(",")
    cases = list(product(DIVISORS, LOADS, policies))
    jobs = [
        Job(pipeline, load, policy, seed, options.seconds)
        for (pipeline, load, policy), seed in product(cases, range(1, options.seeds + 1))
    ]
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        answered = dict(zip(jobs, pool.map(answered_rps, jobs), strict=True))
    rows = []
    for case in cases:
        found = [rps / job.bound_rps for job, rps in answered.items() if job[:3] == case]
        pipeline, load, policy = case
        rows.append(
            {
                "pipeline": pipeline,
                "load": load,
                "policy": policy,
                "share_of_bound": fmean(found),
                "lowest": min(found),
                "highest": max(found),
            }
        )
        print(f"{pipeline:22} {load:4g} {policy:16} {fmean(found):6.1%}", flush=True)
    payload: dict[str, Any] = {"seconds": options.seconds, "cores": CORES, "rows": rows}
    if not options.dry:
        write("overload", payload, seed=options.seeds)


def answered_rps(job: Job) -> float:
    """Requests a second that were answered in time."""
    known = resolved(job.pipeline, COLD_START_S)
    (name,) = known.services
    counts = np.random.default_rng(job.seed).poisson(job.load * job.bound_rps, job.seconds)
    simulated = simulate(
        Scenario(
            services=known.services,
            times=known.times,
            traces={name: count_trace(counts)},
            policy=job.policy,
            options={},
            nodes=known.nodes,
            seed=job.seed,
            physics=known.physics,
            label=job.policy,
        )
    )
    (summary,) = simulated.summaries
    return (summary.requests - summary.violations) / job.seconds


if __name__ == "__main__":
    main()
