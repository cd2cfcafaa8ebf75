"""Proteus' setting: nine families on 40 devices of three kinds, at 1 to 3 times the published peak.

The profile is synthetic (`synthetic_families`), the demand too: a day compressed to 290 s in the shape of
the published one (two humps, a mean of a quarter of the peak), with noise, split among the families by Zipf's
law, gaps exponential. Everybody starts with the same planner's placement for the first rate seen:

    proteus                 variants, placement and shares anew every 10 s and when demand exceeds capacity
    clipper HA, HT          static: the most accurate, the fastest variants
    infaas, sommelier       variants switched, placement fixed (likenesses)
    infaas, own batches     with batches as its authors' rival simulates it: full ones only
    families at hand        proteus with `hosts: families`: variants by the batch, devices by the plan

Four measurements:
1. *As released*: the authors' simulator changes a device in no time, and counts an answer as late when it
   took a second, not when it missed its SLO. Every policy on Proteus' data plane, changes free, both counts.
2. *Switches*: what each difference from there is worth for `proteus`, one at a time.
3. *Policies*: changes take 1 s, our data plane (a queue a family, earliest deadline first, no waiting).
4. *Batches*: the ways to form them, with exponential and with bursty gaps, on a wave of 60 s up to the peak.

Accuracy drop is 1 less the least mean accuracy of all that was served in 10 s; violations are late or dropped
requests over all. Service times are exact, as in the authors' simulator, but where a spread is said.

    python bench/proteus.py [--quick] [--factors 1,2] [--seed 1]
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from _buckets import Buckets
from _record import write
from numpy.typing import NDArray
from synthetic_families import FAMILIES, LOAD_S, NODE, SLO_S, service, shares, times

from steelyard.core.commands import Complete
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario
from steelyard.workload.synth import diurnal
from steelyard.workload.trace import Arrival, ArrivalTrace, CountTrace, count_trace

PEAK_RPS = 1025.0
DAY_S, WAVE_S = 290, 60
LOW_SHARE = 0.3
NOISE = 0.1
BURSTY_SHAPE = 0.2
"""Of gamma-distributed gaps: their standard deviation is 2.2 times their mean."""
RELEASED_S = 1.0
"""When the authors' simulator takes an answer for late (github.com/UMass-LIDS/Proteus, `core/simulator.py`:
the event that ends a request is made without its deadline, so it has the default of 1000 ms)."""


class Case(NamedTuple):
    """A policy with its options in some circumstances, under one name."""

    name: str
    policy: str = "proteus"
    options: dict[str, Any] = {}
    load_s: float = LOAD_S
    slo_s: float = SLO_S
    spread: float = 0.0


FREE_S = 0.0
RELEASED = (
    Case("proteus", load_s=FREE_S),
    Case("infaas", "infaas", load_s=FREE_S),
    Case("infaas, own batches", "infaas", {"batching": "full"}, load_s=FREE_S),
    Case("sommelier", "sommelier", load_s=FREE_S),
    Case("clipper HA", "clipper", {"variants": "accurate"}, load_s=FREE_S),
    Case("clipper HT", "clipper", {"variants": "fast"}, load_s=FREE_S),
)
SWITCHES = (
    Case("changes take 0.3 s", load_s=0.3),
    Case("changes take 1 s"),
    Case("1.5 times the demand", options={"headroom": 1.5}, load_s=FREE_S),
    Case("SLO 150 ms", slo_s=0.15, load_s=FREE_S),
    Case("SLO 600 ms", slo_s=0.6, load_s=FREE_S),
    Case("spread 5%", spread=0.05, load_s=FREE_S),
    Case("Nexus' batches", options={"batching": "nexus"}, load_s=FREE_S),
    Case("our data plane", "proteus+ours", load_s=FREE_S),
    Case("ours, families at hand, 4 s", "proteus+ours", {"hosts": "families"}, load_s=4.0),
    Case("ours, families at hand, 1 s, spread 5%", "proteus+ours", {"hosts": "families"}, spread=0.05),
)
POLICIES = (
    Case("families at hand", "proteus+ours", {"hosts": "families"}),
    Case("proteus+ours", "proteus+ours"),
    Case("infaas+ours", "infaas+ours"),
    Case("sommelier+ours", "sommelier+ours"),
    Case("clipper HA+ours", "clipper+ours", {"variants": "accurate"}),
    Case("clipper HT+ours", "clipper+ours", {"variants": "fast"}),
)
BATCHING = tuple(Case(rule, options={"batching": rule}) for rule in ("adaptive", "aimd", "nexus"))


def day(factor: float, seed: int, *, seconds: int = DAY_S) -> NDArray[np.float64]:
    """A day in `seconds`: its large hump at 0.3 of it, a small one at 0.8."""
    at = np.arange(seconds) / seconds
    shape = 0.07 + 0.93 * np.exp(-(((at - 0.3) / 0.097) ** 2)) + 0.18 * np.exp(-(((at - 0.81) / 0.076) ** 2))
    return PEAK_RPS * factor * np.minimum(1.0, shape * _noise(seconds, seed))


def wave(factor: float, seed: int, *, seconds: int = WAVE_S) -> NDArray[np.float64]:
    """From 0.3 of the peak to the peak and back."""
    high = PEAK_RPS * factor
    rates = diurnal(seconds, low_rps=high * LOW_SHARE, high_rps=high / (1.0 + NOISE), period_s=float(seconds))
    return np.minimum(high, rates * _noise(seconds, seed))


def _noise(seconds: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng([seed, seconds])
    noise: NDArray[np.float64] = 1.0 + NOISE * rng.standard_normal(seconds).clip(-2.0, 2.0)
    return noise


def poisson(rates: NDArray[np.float64], seed: int) -> dict[str, CountTrace]:
    """Exponential gaps, by family."""
    rng = np.random.default_rng([seed, 1])
    return {name: count_trace(rng.poisson(rates * share)) for name, share in shares().items()}


def bursty(rates: NDArray[np.float64], seed: int) -> dict[str, ArrivalTrace]:
    """Gamma-distributed gaps at the same rates, by family."""
    rng = np.random.default_rng([seed, 2])
    passed = np.concatenate([[0.0], np.cumsum(rates)])
    traces = {}
    for name, share in shares().items():
        expected = passed[-1] * share
        gaps = rng.gamma(BURSTY_SHAPE, 1.0 / BURSTY_SHAPE, int(expected * 1.2) + 100)
        marks = np.cumsum(gaps)
        at_s = np.interp(marks[marks < expected] / share, passed, np.arange(len(rates) + 1))
        traces[name] = ArrivalTrace(tuple(Arrival(float(t)) for t in at_s if t < len(rates)), len(rates))
    return traces


def run(case: Case, traces: Mapping[str, CountTrace | ArrivalTrace], seed: int) -> dict[str, Any]:
    """One run, over all families."""
    services = {name: service(name, slo_s=case.slo_s, load_s=case.load_s) for name in FAMILIES}
    accuracy = {
        (name, variant.name): variant.accuracy or 0.0
        for name, family in services.items()
        for variant in family.stages[0].variants
    }

    def accuracy_of(name: str, answer: Complete) -> float:
        return accuracy[name, answer.variant]

    seconds = max(trace.seconds for trace in traces.values())
    buckets = Buckets(accuracy_of, seconds=seconds, patience_s=RELEASED_S)
    scenario = Scenario(
        services,
        tuple(times(name, spread=case.spread) for name in FAMILIES),
        dict(traces),
        case.policy,
        case.options,
        (NODE,),
        seed=seed,
    )
    found = simulate(scenario, journal=buckets.record)
    starts = sum(summary.cold_starts or 0 for summary in found.summaries)
    return {"case": case.name, **buckets.summary(), "starts": float(starts)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a day of 30 s, a wave of 20, factor 1")
    parser.add_argument("--factors", default="1,2")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seed = options.seed
    day_s, wave_s = (30, 20) if options.quick else (DAY_S, WAVE_S)
    factors = [1.0] if options.quick else [float(f) for f in options.factors.split(",")]
    payload: dict[str, Any] = {"seconds": day_s, "wave_seconds": wave_s, "peak_rps": PEAK_RPS}
    for part, those in groupby(jobs(day_s, wave_s, factors, seed), key=lambda job: job.part):
        rows = payload.setdefault(part, [])
        rows += [show(part, {**job.labels, **run(job.case, job.traces, seed)}) for job in those]
        write("proteus_quick" if options.quick else "proteus", payload, seed=seed)


class Job(NamedTuple):
    """One run of one part of the record."""

    part: str
    labels: dict[str, Any]
    case: Case
    traces: Mapping[str, CountTrace | ArrivalTrace]


def jobs(day_s: int, wave_s: int, factors: Sequence[float], seed: int) -> Iterator[Job]:
    """All runs, part by part."""
    once = poisson(day(1.0, seed, seconds=day_s), seed)
    for factor in factors[:1]:
        yield from _at(factor, day_s, seed)
    yield from (Job("released", {}, case, once) for case in RELEASED)
    yield from (Job("switches", {}, case, once) for case in SWITCHES)
    short = wave(1.0, seed, seconds=wave_s)
    yield Job("switches", {}, Case(f"a wave of {wave_s} s", load_s=FREE_S), poisson(short, seed))
    for factor in factors[1:]:
        yield from _at(factor, day_s, seed)
    for gaps, make in (("exponential", poisson), ("bursty", bursty)):
        traces = make(short, seed)
        yield from (Job("batching", {"gaps": gaps}, case, traces) for case in BATCHING)


def _at(factor: float, day_s: int, seed: int) -> Iterator[Job]:
    traces = poisson(day(factor, seed, seconds=day_s), seed)
    yield from (Job("policies", {"factor": factor}, case, traces) for case in POLICIES)


def show(what: str, row: dict[str, Any]) -> dict[str, Any]:
    print(
        f"{what:>12} {row['case']:30} {row['requests']:9,.0f} requests, accuracy {row['accuracy']:.4f}, "
        f"drop {row['accuracy_drop_max']:.4f}, violations {row['violations']:8.3%}, "
        f"as released {row['missed']:8.3%}, {row['starts']:.0f} starts",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
