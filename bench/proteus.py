"""Proteus' setting: nine families on 40 devices of three kinds, at 1 to 3 times the published peak.

The profile is synthetic (`synthetic_families`), the demand too: a day's wave compressed, from 0.3 of the
peak (1,025 requests a second times the factor) to the peak and back, with noise, split among the families by
Zipf's law, gaps exponential. Everybody starts with the same planner's placement for the first rate seen, and
all run on the same data plane, once on Proteus' (a queue a device, adaptive batching) and once on ours (a
queue a family, earliest deadline first, no waiting), so what differs is what is decided:

    proteus                 variants, placement and shares anew every 10 s and when demand exceeds capacity
    proteus, 1.5            the same for 1.5 times the demand, which is what sommelier plans for
    clipper HA, HT          static: the most accurate, the fastest variants
    infaas, sommelier       variants switched, placement fixed (likenesses)

and on `proteus` the three ways to form batches, with exponential and with bursty gaps. Service times are
exact, as in the authors' simulator, but for one row with a spread of 5 %: a rule that starts at the last
moment is late with every second batch then. Accuracy drop is 1 less the least mean accuracy of all that was
served in 10 s; violations are late or dropped requests over all.

    python bench/proteus.py [--quick] [--seconds 60] [--factors 1,1.5,2,3] [--seed 1]
"""

import argparse
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from _buckets import Buckets
from _record import write
from numpy.typing import NDArray
from synthetic_families import FAMILIES, NODE, service, shares, times

from steelyard.core.commands import Complete
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario
from steelyard.workload.synth import diurnal
from steelyard.workload.trace import Arrival, ArrivalTrace, CountTrace, count_trace

PEAK_RPS = 1025.0
LOW_SHARE = 0.3
NOISE = 0.1
SPREAD = 0.05
BURSTY_SHAPE = 0.2
"""Of gamma-distributed gaps: their standard deviation is 2.2 times their mean."""


class Case(NamedTuple):
    """A policy with its options, under one name."""

    name: str
    policy: str
    options: dict[str, Any] = {}


DECIDERS = (
    Case("proteus", "proteus"),
    Case("proteus, 1.5", "proteus", {"headroom": 1.5}),
    Case("clipper HA", "clipper", {"variants": "accurate"}),
    Case("clipper HT", "clipper", {"variants": "fast"}),
    Case("infaas", "infaas"),
    Case("sommelier", "sommelier"),
)
CASES = tuple(
    Case(case.name + plane, case.policy + plane, case.options) for plane in ("", "+ours") for case in DECIDERS
)
PROTEUS_OURS = CASES[len(DECIDERS)]
BATCHING = tuple(Case(rule, "proteus", {"batching": rule}) for rule in ("adaptive", "aimd", "nexus"))


def rates(factor: float, seconds: int, seed: int) -> NDArray[np.float64]:
    """Requests a second of all families, shape (seconds,)."""
    rng = np.random.default_rng([seed, seconds])
    high = PEAK_RPS * factor
    wave = diurnal(seconds, low_rps=high * LOW_SHARE, high_rps=high / (1.0 + NOISE), period_s=float(seconds))
    return np.minimum(high, wave * (1.0 + NOISE * rng.standard_normal(seconds).clip(-2.0, 2.0)))


def poisson(factor: float, seconds: int, seed: int) -> dict[str, CountTrace]:
    """Exponential gaps, by family."""
    rng = np.random.default_rng([seed, 1])
    every = rates(factor, seconds, seed)
    return {name: count_trace(rng.poisson(every * share)) for name, share in shares().items()}


def bursty(factor: float, seconds: int, seed: int) -> dict[str, ArrivalTrace]:
    """Gamma-distributed gaps at the same rates, by family."""
    rng = np.random.default_rng([seed, 2])
    passed = np.concatenate([[0.0], np.cumsum(rates(factor, seconds, seed))])
    traces = {}
    for name, share in shares().items():
        expected = passed[-1] * share
        gaps = rng.gamma(BURSTY_SHAPE, 1.0 / BURSTY_SHAPE, int(expected * 1.2) + 100)
        marks = np.cumsum(gaps)
        at_s = np.interp(marks[marks < expected] / share, passed, np.arange(seconds + 1))
        traces[name] = ArrivalTrace(tuple(Arrival(float(t)) for t in at_s if t < seconds), seconds)
    return traces


def run(
    case: Case,
    traces: Mapping[str, CountTrace | ArrivalTrace],
    seconds: int,
    seed: int,
    *,
    spread: float = 0.0,
) -> dict[str, float]:
    """One run, over all families."""
    accuracy = {
        (name, variant.name): variant.accuracy or 0.0
        for name in FAMILIES
        for variant in service(name).stages[0].variants
    }

    def accuracy_of(name: str, answer: Complete) -> float:
        return accuracy[name, answer.variant]

    buckets = Buckets(accuracy_of, seconds=seconds)
    scenario = Scenario(
        {name: service(name) for name in FAMILIES},
        tuple(times(name, spread=spread) for name in FAMILIES),
        dict(traces),
        case.policy,
        case.options,
        (NODE,),
        seed=seed,
    )
    found = simulate(scenario, journal=buckets.record)
    starts = sum(summary.cold_starts or 0 for summary in found.summaries)
    return {**buckets.summary(), "starts": float(starts)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20 s, factors 1 and 2")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--factors", default="1,1.5,2,3")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seconds = 20 if options.quick else options.seconds
    factors = [1.0, 2.0] if options.quick else [float(f) for f in options.factors.split(",")]
    rows: list[dict[str, Any]] = []
    for factor, case in product(factors, CASES):
        found = run(case, poisson(factor, seconds, options.seed), seconds, options.seed)
        rows.append({"factor": factor, "case": case.name, **found})
        show(rows[-1])
    batching: list[dict[str, Any]] = []
    for (gaps, make), case in product((("exponential", poisson), ("bursty", bursty)), BATCHING):
        found = run(case, make(1.0, seconds, options.seed), seconds, options.seed)
        batching.append({"gaps": gaps, "case": case.name, **found})
        show(batching[-1])
    for case in (BATCHING[0], PROTEUS_OURS):
        found = run(case, poisson(1.0, seconds, options.seed), seconds, options.seed, spread=SPREAD)
        batching.append({"gaps": f"exponential, spread {SPREAD:.0%}", "case": case.name, **found})
        show(batching[-1])
    payload = {"seconds": seconds, "peak_rps": PEAK_RPS, "policies": rows, "batching": batching}
    write("proteus_quick" if options.quick else "proteus", payload, seed=options.seed)


def show(row: Mapping[str, Any]) -> None:
    print(
        f"{row.get('factor', row.get('gaps'))!s:>12} {row['case']:14} {row['requests']:9,.0f} requests, "
        f"accuracy {row['accuracy']:.4f}, drop {row['accuracy_drop_max']:.4f}, "
        f"violations {row['violations']:8.3%}, {row['starts']:.0f} starts",
        flush=True,
    )


if __name__ == "__main__":
    main()
