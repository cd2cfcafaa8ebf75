"""A machine that becomes 1.5 times slower in mid-run: how long the server takes to make up for it.

The recogniser of bench/parity_ocr.py under a steady load of 0.6 of what one core answers. From the second
quarter of the run to its third, a process a core takes a third of its time, before all others where that is
allowed. The same arrivals are simulated with batches that take 1.5 times as long in the same seconds. Shown:
what the batches took over the table in those seconds, and violations before, in the first 10 s, and after.

Where it runs: as bench/parity_ocr.py.

    python bench/slow_down.py [--seeds 3] [--seconds 60] [--policies steelyard,fixed-1] [--dry]
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _parity import live_run
from _record import write
from numpy.typing import NDArray
from parity_ocr import Prepared, prepare

from steelyard.demo.spec import SERVICE
from steelyard.sim.run import simulate
from steelyard.sim.scenario import SlowDown
from steelyard.workload.synth import constant, counts_of

POLICIES = ("steelyard", "fixed-1")
LOAD_SHARE = 0.6
SLOWER = 1.5
ABSORBED_S = 10.0
PERIOD_S = 0.003
CALIBRATION_S = 20


@contextlib.contextmanager
def neighbours(from_s: float, to_s: float) -> Iterator[list[float]]:
    """Have a process a core take a third of its time in `[from_s, to_s)` from now.

    The list that is yielded holds the monotonic times at which that began and ended, once it has.
    """
    stop = threading.Event()
    times_s: list[float] = []
    crowd = [
        subprocess.Popen([sys.executable, __file__, "--neighbour", str(core)], stdin=subprocess.PIPE)
        for core in os.sched_getaffinity(0)
    ]

    def release() -> None:
        if not stop.wait(from_s):
            tell(crowd, b"go\n")
            times_s.append(time.monotonic())
            stop.wait(to_s - from_s)
            times_s.append(time.monotonic())
        for process in crowd:
            process.kill()
            process.wait()

    thread = threading.Thread(target=release)
    thread.start()
    try:
        yield times_s
    finally:
        stop.set()
        thread.join()


def tell(crowd: Sequence["subprocess.Popen[bytes]"], word: bytes) -> None:
    """Write a word to each process."""
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write(word)
        process.stdin.flush()


def take_a_third(core: int) -> None:
    """Once told to: spin a third of every 3 ms on one core, before all others if that is allowed."""
    os.sched_setaffinity(0, {core})
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    busy_s = PERIOD_S * (1.0 - 1.0 / SLOWER)
    bench = os.getppid()
    if not sys.stdin.readline():
        return
    while os.getppid() == bench:  # if it is killed, nobody stays behind
        until_s = time.monotonic() + busy_s
        while time.monotonic() < until_s:
            pass
        time.sleep(PERIOD_S - busy_s)


def run(ready: Prepared, policy: str, seconds: int, seed: int) -> dict[str, Any]:
    """One live run and its simulation."""
    one_core_rps = max(1e3 * rows / p50_ms for rows, cores, p50_ms, _ in ready.times if cores == 1)
    rates = constant(seconds, rate_rps=LOAD_SHARE * one_core_rps)
    counts = counts_of(rates, np.random.default_rng(seed)).counts.tolist()
    with tempfile.TemporaryDirectory() as made, neighbours(seconds * 0.35, seconds * 0.75) as times_s:
        seen, client = live_run(ready.spec, SERVICE, policy, counts, ready.payload, Path(made), seed=seed)
    from_s, to_s = (at_s - seen.start_s for at_s in times_s)
    slow = SlowDown(from_s, to_s, SLOWER)
    scenario = seen.scenario(seed=seed, corun_ratio=ready.corun_ratio, slow_downs=(slow,))
    (series,) = simulate(scenario).series
    arrived_s = np.array([arrival.at_s for arrival in seen.trace.requests])
    violated_s = np.repeat(np.arange(len(series.violations)) + 0.5, series.violations)
    return {
        "policy": policy,
        "seed": seed,
        "slow_from_s": from_s,
        "slow_to_s": to_s,
        "service_ratio": seen.constants.service_ratio,
        "void": bool(client["void"]),
        "live": shares(arrived_s, seen.violated_s, from_s, to_s),
        "simulated": shares(arrived_s, violated_s, from_s, to_s),
    }


def shares(
    arrived_s: NDArray[np.float64], violated_s: NDArray[np.float64], from_s: float, to_s: float
) -> dict[str, float]:
    """Violations over requests by time of arrival: before, in the first seconds of slowness, later in it."""
    spans = {
        "before": (0.0, from_s),
        "first": (from_s, from_s + ABSORBED_S),
        "absorbed": (from_s + ABSORBED_S, to_s),
    }
    return {
        name: count_in(violated_s, *span) / max(1, count_in(arrived_s, *span)) for name, span in spans.items()
    }


def count_in(times_s: NDArray[np.float64], from_s: float, to_s: float) -> int:
    return int(np.count_nonzero((times_s >= from_s) & (times_s < to_s)))


def show(row: dict[str, Any]) -> str:
    words = [f"{row['policy']:10} seed {row['seed']}  batches x {row['service_ratio']:.2f} over the run"]
    for side in ("live", "simulated"):
        parts = ", ".join(f"{name} {100 * share:.1f} %" for name, share in row[side].items())
        words.append(f"{side}: {parts}")
    return "   ".join(words)


def table(rows: Sequence[dict[str, Any]], policies: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the seeds."""
    return [
        {
            "policy": policy,
            **{
                side: {
                    name: float(np.mean([row[side][name] for row in rows if row["policy"] == policy]))
                    for name in ("before", "first", "absorbed")
                }
                for side in ("live", "simulated")
            },
        }
        for policy in policies
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=60, help="length of each run; at least 40")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    parser.add_argument("--neighbour", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.neighbour is not None:
        take_a_third(options.neighbour)
        return
    if options.seconds < 40:
        parser.error("--seconds: want at least 40, so that something is left after the first 10 slow ones")
    policies = options.policies.split(",")
    with tempfile.TemporaryDirectory() as made:
        ready = prepare(Path(made), CALIBRATION_S)
        rows = []
        for seed in range(1, options.seeds + 1):
            for policy in policies:
                rows.append(run(ready, policy, options.seconds, seed))
                print(show(rows[-1]), flush=True)
    if not options.dry:
        write(
            "slow_down",
            {
                "slower": SLOWER,
                "load_share": LOAD_SHARE,
                "absorbed_s": ABSORBED_S,
                "slo_ms": ready.slo_ms,
                "placement": "generator, front end: nice 0, unpinned; workers: nice 5; one machine",
                "policies": table(rows, policies),
                "runs": rows,
            },
            seed=options.seeds,
        )


if __name__ == "__main__":
    main()
