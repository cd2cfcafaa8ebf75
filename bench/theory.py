"""The simulator against queueing theory, with long runs: means and quantiles of waits of M/M/c and M/D/c.

    python bench/theory.py [--requests 400000] [--seed 1]

Every figure stands beside its formula (`steelyard.profile.queueing`) and its 99 % confidence interval; of a
hundred such intervals one is expected to miss, and the record says how many did. Little's law is asserted in
each run by the simulator itself.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import _record
import numpy as np
from numpy.typing import NDArray

from steelyard.profile.queueing import (
    md1_wait_mean_s,
    mdc_wait_quantile_s,
    mmc_wait_mean_s,
    mmc_wait_quantile_s,
)
from steelyard.testing.queue_theory import MEAN_S, Interval, Queue, mean_s, quantile_s, waits_s

QUEUES = [
    Queue(distribution, servers, rho)
    for distribution in ("exponential", "fixed")
    for servers in (1, 4, 16)
    for rho in (0.5, 0.7, 0.9)
]
QUANTILES = (0.5, 0.9, 0.99)


def figures(queue: Queue, waits: NDArray[np.float64]) -> Iterator[tuple[str, float, Interval]]:
    """(name, by the formula, as simulated) of all that has a formula; quantiles that are 0 are left out."""
    asked = (queue.arrival_rate_rps, MEAN_S[queue.distribution])
    if queue.distribution == "exponential":
        yield "mean", mmc_wait_mean_s(*asked, queue.servers), mean_s(waits)
    elif queue.servers == 1:
        yield "mean", md1_wait_mean_s(*asked), mean_s(waits)
    of_quantile = mmc_wait_quantile_s if queue.distribution == "exponential" else mdc_wait_quantile_s
    for quantile in QUANTILES:
        expected_s = of_quantile(*asked, queue.servers, quantile)
        if expected_s > 0:
            yield f"p{quantile * 100:g}", expected_s, quantile_s(waits, quantile)


def row(queue: Queue, name: str, expected_s: float, found: Interval) -> dict[str, Any]:
    """One line of the record."""
    letter = "M" if queue.distribution == "exponential" else "D"
    return {
        "queue": f"M/{letter}/{queue.servers}",
        "rho": queue.rho,
        "figure": name,
        "theory_ms": expected_s * 1e3,
        "simulated_ms": found.value * 1e3,
        "half_width_ms": found.half_width * 1e3,
        "holds": found.holds(expected_s),
    }


def line(of: dict[str, Any]) -> str:
    """The same for people."""
    found = f"{of['simulated_ms']:8.3f} +- {of['half_width_ms']:6.3f} ms"
    verdict = "" if of["holds"] else "  <- outside"
    name = f"{of['queue']:8} rho {of['rho']:.1f} {of['figure']:5}"
    return f"{name} theory {of['theory_ms']:8.3f} ms, simulated {found}{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for queue in QUEUES:
        waits, _ = waits_s(queue, requests=arguments.requests, seed=arguments.seed)
        for name, expected_s, found in figures(queue, waits):
            rows.append(row(queue, name, expected_s, found))
            print(line(rows[-1]), flush=True)
    outside = sum(not of["holds"] for of in rows)
    print(f"{outside} of {len(rows)} outside their 99 % intervals")
    payload = {"requests": arguments.requests, "confidence": 0.99, "figures": len(rows), "outside": outside}
    _record.write("theory", {**payload, "rows": rows}, seed=arguments.seed)


if __name__ == "__main__":
    main()
