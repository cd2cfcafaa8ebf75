"""What a forecast is worth to the default policy: cost and violations where it reckons with one.

The rule: `steelyard` works by the rate of the last 4 s, looked at every 100 ms. Here that rate is raised to
what a predictor says of the next 6 s (the cold start), wherever that is more: scaling ahead can only add
cores, and the policy reacts as fast as ever. `clairvoyant` says what will come; no forecast can be worth more
than it is. Each predictor has the true counts from before the slice, as far back as it looks (`seasonal`: a
day), and whole seconds only. Slices and nodes are those of `headlines.py --quick`, pipelines those of 2024.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import floor
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import _record
from headlines import QUICK_FROM_S, QUICK_SECONDS
from headlines_cases import DIVISORS, OURSELVES, Candidate, Job, replayed, scenario
from headlines_judge import Case
from surges import Slice, counts_of, filled, surges

from steelyard.core.snapshot import ServiceView
from steelyard.forecast.memory import Memory
from steelyard.forecast.predictors import Counts, Predictor
from steelyard.policies.steelyard import policy, reaction
from steelyard.policies.steelyard.demand import ArrivalRate
from steelyard.sim.run import simulate

COLD_START_S = 6
PIPELINES = tuple(name for name in DIVISORS if name.endswith("t24"))
AS_IT_COMES, CLAIRVOYANT = "none", "clairvoyant"


class Forecaster(NamedTuple):
    """A predictor by name, and the seconds of history that it is given."""

    name: str
    predictor: Predictor
    history_s: int


class Foreknown:
    """The largest of the next counts: it is told all of them, from second 0 on."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def at(self, second: int) -> float:
        """The maximum of the seconds from `second` on; 0 after the end."""
        return float(max(self._counts[max(0, second) : max(0, second) + COLD_START_S], default=0.0))


class Raised:
    """In the place of `ArrivalRate`: the same rate, raised to what is foreseen; reckoned once a second.

    Args:
        foresee: rows a second from the counts known, and the second that begins.
        past: counts before second 0, as many as are to be remembered.
    """

    def __init__(self, foresee: Callable[[Counts, int], float], past: Counts) -> None:
        self._rate = ArrivalRate()
        self._foresee = foresee
        self._memory = Memory(len(past))
        self._memory.add(past, end_s=0)
        self._second: int | None = None
        self._foreseen_rps = 0.0

    def update(self, view: ServiceView) -> float:
        """Rows a second to reckon with."""
        second = floor(view.windows[-1].to_s + 1e-6) if view.windows else 0
        if second != self._second:
            self._second = second
            self._memory.add(view.arrival_rows_by_second, end_s=second)
            self._foreseen_rps = self._foresee(self._memory.counts, second)
        return max(self._rate.update(view), self._foreseen_rps)


def costs(trace: Path, forecasters: Sequence[Forecaster], *, surge_count: int) -> list[dict[str, Any]]:
    """One line a forecaster, the policy as it comes first; sums over surges and pipelines.

    Raises:
        SystemExit: a compiled build, whose rate cannot be replaced.
    """
    if _record.IS_COMPILED:
        raise SystemExit("forecast.py replaces a class of the policy, which a compiled build does not allow")
    found = surges(trace, surge_count)
    names = (AS_IT_COMES, *(each.name for each in forecasters), CLAIRVOYANT)
    sums = {name: {"requests": 0, "violations": 0, "core_seconds": 0.0, "cold_starts": 0} for name in names}
    for job in _jobs(trace, found):
        for name, rate in _rates(job, forecasters):
            with _reckoning_with(rate):
                (summary,) = simulate(scenario(job)).summaries
            sums[name]["requests"] += summary.requests - summary.cancelled
            sums[name]["violations"] += summary.violations
            sums[name]["core_seconds"] += summary.core_seconds
            sums[name]["cold_starts"] += summary.cold_starts or 0
        print(f"{job.pipeline} {job.case.slice}: done", flush=True)
    bar = sums[AS_IT_COMES]["core_seconds"]
    return [
        {
            "forecast": name,
            **of_one,
            "violation_ratio": of_one["violations"] / of_one["requests"],
            "cost_ratio": of_one["core_seconds"] / bar,
        }
        for name, of_one in sums.items()
    ]


def _jobs(trace: Path, found: Sequence[Slice]) -> Iterator[Job]:
    for slice_ in found:
        for pipeline in PIPELINES:
            case = Case(slice_.name, float(COLD_START_S), 1)
            from_s = slice_.from_s + QUICK_FROM_S
            yield Job(pipeline, Candidate(OURSELVES), case, from_s, trace, QUICK_SECONDS)


def _rates(
    job: Job, forecasters: Sequence[Forecaster]
) -> Iterator[tuple[str, Callable[[], ArrivalRate | Raised]]]:
    """By forecaster, what the policy reckons with."""
    series = filled(counts_of(job.trace)) / DIVISORS[job.pipeline]
    yield AS_IT_COMES, ArrivalRate
    for each in forecasters:
        past = series[max(0, job.from_s - each.history_s) : job.from_s].tolist()
        yield each.name, _raised(each.predictor, past)
    known = Foreknown(replayed(job).counts.tolist())
    yield CLAIRVOYANT, lambda: Raised(lambda _, second: known.at(second), [0.0])


def _raised(predictor: Predictor, past: Counts) -> Callable[[], Raised]:
    return lambda: Raised(lambda counts, _: predictor.predict(counts), past)


@contextmanager
def _reckoning_with(rate: Callable[[], ArrivalRate | Raised]) -> Iterator[None]:
    """The policy makes its rates by `rate`, on both of its sides."""
    with patch.object(policy, "ArrivalRate", rate), patch.object(reaction, "ArrivalRate", rate):
        yield


def show(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'forecast':<22} {'violations':>10} {'core-s':>9} {'to none':>8} {'cold starts':>11}")
    for row in rows:
        print(
            f"{row['forecast']:<22} {row['violation_ratio']:>10.4%} {row['core_seconds']:>9,.0f} "
            f"{row['cost_ratio']:>8.2f} {row['cold_starts']:>11}"
        )
