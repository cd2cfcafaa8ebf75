"""The highest rate with p99 within the SLO, by bisection with a bounded number of runs.

The rule of this file: one run at one rate says p99, which answers for every SLO at once; so the SLOs of a
server share their runs. A run fails an SLO if its p99 over *all* requests exceeds it: what was not answered
counts as infinitely late, whoever refused it. Latency counts from when a request was due, so what disturbs a
run from outside (another process, the host) can lengthen it, never shorten it: one run that passes is enough,
a failure must repeat itself. p99 is taken to rise with the rate: of what contradicts that, the failure
counts.
"""

import math
from collections.abc import Mapping, Sequence

STEP_DOWN, STEP_UP = 0.6, 1.25
FIRST = 0.75
"""Of the throughput at saturation: where the search begins. A server that refuses may have more to give than
it shows there, so steps up grow."""
LEAST = 0.02
"""Of the same: below it, an SLO is out of reach."""
FAILURES = 2
"""Runs at one rate that must all fail."""


class Search:
    """Rates to try, until every SLO's highest passing rate is known within `tolerance`.

    Args:
        saturation_rps: throughput of a closed loop; where the search starts, no bound of it.
        slos_s: seconds.
        runs_max: the search ends after so many rates, however wide its brackets are.
        tolerance: a bracket whose ends are closer than this ratio less one is done.
        first_rps: by SLO, the rate to begin with where one is known.
    """

    def __init__(
        self,
        saturation_rps: float,
        slos_s: Sequence[float],
        *,
        runs_max: int,
        tolerance: float = 0.04,
        first_rps: Mapping[float, float] | None = None,
    ) -> None:
        self._saturation_rps = saturation_rps
        self._slos_s = tuple(slos_s)
        self._runs_max = runs_max
        self._tolerance = tolerance
        self._first_rps = first_rps or {}
        self._runs: dict[float, list[float]] = {}

    def record(self, rate_rps: float, p99_s: float) -> None:
        """What a run at a rate has shown; an infinite p99 for one that failed altogether."""
        self._runs.setdefault(rate_rps, []).append(p99_s)

    def bracket(self, slo_s: float) -> tuple[float | None, float | None]:
        """The highest rate known to pass, below the lowest known to fail."""
        fails = min((rate for rate, p99s_s in self._runs.items() if _fails(p99s_s, slo_s)), default=None)
        passing = [rate for rate, p99s_s in self._runs.items() if min(p99s_s) <= slo_s]
        return max((rate for rate in passing if fails is None or rate < fails), default=None), fails

    def next_rate(self) -> float | None:
        """The next rate to try: for the SLO whose bracket is widest; None when the search is over."""
        for rate_rps in self._runs:
            if any(self._is_doubtful(rate_rps, slo_s) for slo_s in self._slos_s):
                return rate_rps
        if len(self._runs) >= self._runs_max:
            return None
        width, rate = max(map(self._wanted, self._slos_s))
        return rate if width > 1 + self._tolerance else None

    def _is_doubtful(self, rate_rps: float, slo_s: float) -> bool:
        """Whether it has failed, too rarely to count, where that would narrow the bracket."""
        p99s_s = self._runs[rate_rps]
        if min(p99s_s) <= slo_s or _fails(p99s_s, slo_s):
            return False
        passes, fails = self.bracket(slo_s)
        return (passes is None or rate_rps > passes) and (fails is None or rate_rps < fails)

    def _wanted(self, slo_s: float) -> tuple[float, float]:
        """How wide an SLO's bracket is, as a ratio, and the rate that would narrow it."""
        passes, fails = self.bracket(slo_s)
        if passes is None and fails is None:
            return math.inf, self._first_rps.get(slo_s, FIRST * self._saturation_rps)
        if passes is None:
            assert fails is not None
            within_reach = STEP_DOWN * fails >= LEAST * self._saturation_rps
            return (math.inf if within_reach else 1.0), STEP_DOWN * fails
        if fails is None:
            return math.inf, STEP_UP ** len(self._runs) * passes
        return fails / passes, math.sqrt(fails * passes)


def _fails(p99s_s: Sequence[float], slo_s: float) -> bool:
    return len(p99s_s) >= FAILURES and min(p99s_s) > slo_s
