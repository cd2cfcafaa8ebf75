"""InfAdapter: which variants of one model to run, on how many cores each, and what load each of them takes.

    maximise    AA - alpha RC / B - beta LC / max_m tl_m
    subject to  sum of th_m(n_m) >= rate,   RC = sum of n_m <= B,   n_m = 0 or least <= n_m

AA is the accuracy averaged over requests, where the load fills the most accurate variant first; th_m(n) is
what variant m carries on n cores within the SLO; LC is the longest loading time tl_m of those that run on
other cores than now (they load side by side). Defaults as released: alpha 0.05, beta 0.001, least 2 cores.

    solve(problem)       the optimum, exact                      (policy `infadapter`)
    front(problem)       the most accurate mix at every number of cores: no weights to tune
    best_single(problem) one variant on the fewest cores that carry the load: the baseline MS+
    fitted(rps)          capacities as the release reckons them: a line, less a fifth

Why it is exact and fast. With A_1 >= A_2 >= ... and S_k the capacity of the k most accurate together,

    rate AA = sum over k of (A_k - A_(k+1)) min(S_k, rate),      A_(K+1) = 0,

so a variant is worth what the capacity *up to it* is worth, and of two ways to spend the same cores on the
first k variants, one with no more S and no more value is never better. A dynamic program over variants and
cores that keeps the undominated (S, value) loses nothing. LC is a threshold: for each of its values in turn,
from the largest, only variants that load within it may change, until not even free loading would help.

Source: Salmani et al., "Reconciling High Accuracy, Cost-Efficiency, and Low Latency of Inference Serving
Systems" (InfAdapter), EuroMLSys 2023 (arXiv 2304.10892); there a commercial solver, and capacities on a line.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.errors import SpecError
from steelyard.core.plan import Infeasible
from steelyard.core.types import Frozen

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FITTED_ON = (1, 2, 4, 8, 16)
"""Cores on which the release measures."""
SAFETY = 0.8
RATE_MIN_RPS = 1e-6
"""A smaller rate counts as this: with nothing to serve, the mix is that of the first request to come."""
_ROUNDING = 1e-9


class Candidate(Frozen, frozen=True):
    """A variant that may be run.

    Attributes:
        name: unique in the problem.
        accuracy: in [0, 1].
        rps: requests a second that it carries within the SLO on 1, 2, ... cores; 0 where it cannot hold it.
        load_s: until it is ready, seconds.
        cores_now: what it runs on; 0: it does not run.
    """

    name: str
    accuracy: float
    rps: tuple[float, ...]
    load_s: float = 0.0
    cores_now: int = 0


class MixProblem(Frozen, frozen=True):
    """One decision.

    Attributes:
        candidates: in any order; of equal accuracies the earlier one is filled first.
        rate_rps: what is to be carried.
        cores_max: B.
        cores_min: least cores of a variant that is used.
        cost_weight: alpha.
        load_weight: beta.
    """

    candidates: tuple[Candidate, ...]
    rate_rps: float
    cores_max: int
    cores_min: int = 2
    cost_weight: float = 0.05
    load_weight: float = 0.001


class Portion(NamedTuple):
    """A variant of a mix: its cores, and the share of the requests that it answers."""

    variant: str
    cores: int
    share: float


class Mix(Frozen, frozen=True):
    """What is to run.

    Attributes:
        portions: variants that run, most accurate first.
        cores: of all of them.
        accuracy: mean over requests.
        load_s: until all of it is ready.
        value: of the objective.
        switches: variants that run but do not run now.
    """

    portions: tuple[Portion, ...]
    cores: int
    accuracy: float
    load_s: float
    value: float
    switches: int = 0


class _Ways(NamedTuple):
    """Undominated ways to spend cores on the most accurate variants, arrays of shape (ways,).

    Attributes:
        used: cores.
        rps: what they carry, up to the rate.
        worth: what that is worth so far.
        of: the way that each continues, among those before the last variant.
        given: cores of the last variant.
    """

    used: Ints
    rps: Floats
    worth: Floats
    of: Ints
    given: Ints


def solve(problem: MixProblem) -> Mix | Infeasible:
    """The optimum; of equal values the one with fewer cores.

    Raises:
        SpecError: no candidate, or a value that is out of range.
    """
    ordered = _ordered(problem)
    best: Mix | None = None
    for load_s in sorted({0.0, *(each.load_s for each in ordered)}, reverse=True):
        mixes = _mixes(problem, ordered, load_s)
        for mix in mixes:
            if best is None or mix.value > best.value + _ROUNDING:
                best = mix
        bound = max((_unloaded(problem, mix) for mix in mixes), default=-inf)
        if best is None or bound <= best.value:
            break  # with less to choose from, no mix is worth more
    return best or _too_little(problem)


def front(problem: MixProblem) -> tuple[Mix, ...]:
    """For every number of cores that buys accuracy the most accurate mix: cores and accuracy both rise.

    Raises:
        SpecError: no candidate, or a value that is out of range.
    """
    ordered = _ordered(problem)
    kept: list[Mix] = []
    for mix in _mixes(problem, ordered, inf):
        if not kept or mix.accuracy > kept[-1].accuracy + _ROUNDING:
            kept.append(mix)
    return tuple(kept)


def best_single(problem: MixProblem) -> Mix | Infeasible:
    """MS+: one variant, by the same objective.

    Raises:
        SpecError: no candidate, or a value that is out of range.
    """
    alone = [solve(_only(problem, each)) for each in _ordered(problem)]
    mixes = [mix for mix in alone if isinstance(mix, Mix)]
    return max(mixes, key=lambda mix: mix.value) if mixes else _too_little(problem)


def evaluated(problem: MixProblem, cores: Sequence[int]) -> Mix:
    """What given cores come to, a number a candidate in the problem's order, whether or not they suffice.

    What they cannot carry counts as answered with accuracy 0.
    """
    ordered = _ordered(problem)
    by_name = dict(zip((each.name for each in problem.candidates), cores, strict=True))
    return _mix_of(problem, ordered, tuple(by_name[each.name] for each in ordered))


def fitted(rps: Sequence[float]) -> tuple[float, ...]:
    """Capacities as released: 0.8 of a least-squares line through 1, 2, 4, 8 and 16 cores, whole requests.

    The line's intercept is cut to a whole number and is never above 0, so capacity begins with cores. Of
    fewer cores than 16 those that there are; with a single one, a line through the origin.

    Args:
        rps: measured, on 1, 2, ... cores.
    """
    cores = [n for n in FITTED_ON if n <= len(rps)]
    known = [rps[n - 1] for n in cores]
    slope, intercept = np.polyfit(cores, known, 1) if len(cores) > 1 else (known[0], 0.0)
    offset = min(int(intercept), 0)
    return tuple(
        float(max(0, int(SAFETY * (float(slope) * n + offset) + _ROUNDING))) for n in range(1, len(rps) + 1)
    )


def _ordered(problem: MixProblem) -> list[Candidate]:
    """Candidates, most accurate first, checked."""
    names = [each.name for each in problem.candidates]
    if not names or len(set(names)) < len(names):
        raise SpecError(f"want candidates with names of their own, not {names}")
    for each in problem.candidates:
        rising = [0.0, *each.rps]
        if not 0 <= each.accuracy <= 1 or not all(0 <= value < float("inf") for value in rising):
            raise SpecError(f"candidate {each.name}: accuracy {each.accuracy:g}, capacities {each.rps}")
    if not 0 <= problem.rate_rps < float("inf") or problem.cores_max < 1:
        raise SpecError(f"{problem.rate_rps:g} requests a second on {problem.cores_max} cores")
    return sorted(problem.candidates, key=lambda each: -each.accuracy)


def _mixes(problem: MixProblem, ordered: Sequence[Candidate], load_s: float) -> list[Mix]:
    """The most valuable sufficient mix of every number of cores, among those ready within `load_s`."""
    rate_rps = max(problem.rate_rps, RATE_MIN_RPS)
    none = np.zeros(1, np.int64)
    steps = [_Ways(none, np.zeros(1), np.zeros(1), none, none)]
    accuracies = [each.accuracy for each in ordered] + [0.0]
    for each, (accuracy, following) in zip(ordered, pairwise(accuracies), strict=True):
        before = steps[-1]
        given = np.array(_choices(problem, each, load_s), np.int64)
        used = np.add.outer(before.used, given)
        of, choice = np.nonzero(used <= problem.cores_max)
        added = np.array([0.0, *each.rps])[given]
        rps = np.minimum(before.rps[of] + added[choice], rate_rps)
        worth = before.worth[of] + (accuracy - following) * rps
        steps.append(_undominated(_Ways(used[of, choice], rps, worth, of, given[choice])))
    last = steps[-1]
    enough = np.flatnonzero(last.rps >= rate_rps * (1 - _ROUNDING))
    enough = enough[np.lexsort((-last.worth[enough], last.used[enough]))]
    _, first = np.unique(last.used[enough], return_index=True)
    return [_mix_of(problem, ordered, _read_back(steps, way)) for way in enough[first].tolist()]


def _read_back(steps: Sequence[_Ways], way: int) -> tuple[int, ...]:
    """Cores of every variant in the way `way` of the last step."""
    cores: list[int] = []
    for step in reversed(steps[1:]):
        cores.append(int(step.given[way]))
        way = int(step.of[way])
    return tuple(reversed(cores))


def _choices(problem: MixProblem, each: Candidate, load_s: float) -> list[int]:
    """Cores that a variant may be given: none, what it has, and others if it loads in time."""
    most = min(problem.cores_max, len(each.rps))
    chosen = [0]
    if each.load_s <= load_s:
        chosen += [n for n in range(problem.cores_min, most + 1) if each.rps[n - 1] > 0]
    elif problem.cores_min <= each.cores_now <= most and each.rps[each.cores_now - 1] > 0:
        chosen.append(each.cores_now)
    return chosen


def _undominated(ways: _Ways) -> _Ways:
    """Those that no other of the same cores beats in both; of equal ones the first."""
    order = np.lexsort((-ways.worth, -ways.rps, ways.used))
    used, worth = ways.used[order], ways.worth[order]
    floor = used * (2.0 * float(worth.max()) + 1.0)  # lifts every number of cores above the one before it
    highest = np.maximum.accumulate(worth + floor)
    kept = np.empty(len(order), dtype=np.bool_)
    kept[0] = True
    kept[1:] = worth[1:] + floor[1:] > highest[:-1]
    order = order[kept]
    return _Ways(used[kept], ways.rps[order], worth[kept], ways.of[order], ways.given[order])


def _unloaded(problem: MixProblem, mix: Mix) -> float:
    """The objective without the cost of loading."""
    return mix.accuracy - problem.cost_weight * mix.cores / problem.cores_max


def _mix_of(problem: MixProblem, ordered: Sequence[Candidate], cores_of: Sequence[int]) -> Mix:
    """Fill the load in, and reckon the objective."""
    rate_rps = left = max(problem.rate_rps, RATE_MIN_RPS)
    portions: list[Portion] = []
    accuracy = load_s = 0.0
    switches = 0
    for each, cores in zip(ordered, cores_of, strict=True):
        if not cores:
            continue
        taken = min(each.rps[cores - 1], left)
        left -= taken
        portions.append(Portion(each.name, cores, taken / rate_rps))
        accuracy += each.accuracy * taken / rate_rps
        switches += not each.cores_now
        if cores != each.cores_now:
            load_s = max(load_s, each.load_s)
    total = sum(cores_of)
    slowest_s = max(each.load_s for each in ordered)
    loading = problem.load_weight * load_s / slowest_s if slowest_s > 0 else 0.0
    value = accuracy - problem.cost_weight * total / problem.cores_max - loading
    return Mix(tuple(portions), total, accuracy, load_s, value, switches)


def _only(problem: MixProblem, each: Candidate) -> MixProblem:
    return MixProblem(
        (each,),
        problem.rate_rps,
        problem.cores_max,
        problem.cores_min,
        problem.cost_weight,
        problem.load_weight,
    )


def _too_little(problem: MixProblem) -> Infeasible:
    least, most = problem.cores_min, problem.cores_max
    per_core = max(
        (each.rps[n - 1] / n for each in problem.candidates for n in range(least, len(each.rps) + 1)),
        default=0.0,
    )
    cores = problem.rate_rps / per_core if per_core > 0 else None
    return Infeasible(
        "", f"{problem.rate_rps:g} requests a second on at most {most} cores", nearest_cores=cores
    )
