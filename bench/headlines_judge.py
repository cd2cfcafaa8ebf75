"""What the runs of the matrix say: sums by policy, the cost-violations curve, and whether the line holds.

The rules of this file. Everything is summed over all cases (slice, cold start, seed) of a pipeline that the
policies share: violations over requests, never a mean of ratios. A policy with less than half of the cases
is incomplete and not compared. The curve is the lower left envelope of the measured points of one knob,
cheapest first; between neighbours ln(violations) is linear in cost, beyond the ends nothing is
extrapolated: a budget larger than the dearest point buys that point, one smaller than the cheapest buys
nothing, and likewise for violations. Where a point has no violation at all it stands for half a one.

The line, against a published policy P: at cost(P) the curve's violations are at most a third of P's or
0.05 %, the larger of the two, and at violations(P) its cost is at most P's. P comes in two forms, as
published and `+ours` (on the shared data plane); the better one is that which leaves the curve the smaller
margin, so that the line holds for it only if it holds for both. Forms with more than 20 % violations are
listed and do not count.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import exp, log
from typing import NamedTuple

VIOLATIONS_MAX = 0.20
SHARE, FLOOR = 1 / 3, 0.0005
OURS = "+ours"


class Case(NamedTuple):
    """What a policy is run on."""

    slice: str
    cold_start_s: float
    seed: int


class Run(NamedTuple):
    """One run; `requests` without those cancelled, `bound` the fluid lower bound in core-seconds."""

    label: str
    case: Case
    requests: int
    violations: int
    core_seconds: float
    bound: float


class Total(NamedTuple):
    """All compared runs of one policy with one setting."""

    label: str
    runs: int
    requests: int
    violations: int
    core_seconds: float
    bound: float

    @property
    def ratio(self) -> float:
        """Violations over requests."""
        return self.violations / self.requests if self.requests else 0.0

    @property
    def ratio_counted(self) -> float:
        """The same, with half a violation where there is none: a logarithm needs one."""
        return max(self.violations, 0.5) / max(self.requests, 1)


def totals(runs: Iterable[Run]) -> dict[str, Total]:
    """Sums by label, over the cases that all complete policies share."""
    by_label: dict[str, dict[Case, Run]] = {}
    for run in runs:
        by_label.setdefault(run.label, {})[run.case] = run
    most = max(map(len, by_label.values()), default=0)
    complete = {label: cases for label, cases in by_label.items() if len(cases) > most / 2}
    shared = set.intersection(*map(set, complete.values())) if complete else set()
    return {
        label: Total(
            label,
            len(shared),
            sum(cases[case].requests for case in shared),
            sum(cases[case].violations for case in shared),
            sum(cases[case].core_seconds for case in sorted(shared)),
            sum(cases[case].bound for case in sorted(shared)),
        )
        for label, cases in complete.items()
    }


class Curve:
    """Violations against cost of one knob.

    Args:
        points: measured; those that another one beats in both are left out.
    """

    def __init__(self, points: Iterable[Total]) -> None:
        envelope: list[tuple[float, float]] = []
        for point in sorted(points, key=lambda total: (total.core_seconds, total.ratio_counted)):
            if not envelope or point.ratio_counted < envelope[-1][1]:
                envelope.append((point.core_seconds, point.ratio_counted))
        self.points: Sequence[tuple[float, float]] = tuple(envelope)

    def violations_at(self, cost: float) -> float | None:
        """Share of violations that a cost buys; None if it is less than the cheapest point's."""
        if not self.points or cost < self.points[0][0]:
            return None
        for (low_cost, more), (high_cost, less) in pairwise(self.points):
            if cost < high_cost:
                share = (cost - low_cost) / (high_cost - low_cost)
                return exp(log(more) + share * (log(less) - log(more)))
        return self.points[-1][1]

    def cost_at(self, violations: float) -> float | None:
        """Core-seconds for a share of violations; None if it is less than the least point's."""
        if not self.points or violations < self.points[-1][1]:
            return None
        for (low_cost, more), (high_cost, less) in pairwise(self.points):
            if more <= violations:
                return low_cost
            if less <= violations:
                share = (log(violations) - log(more)) / (log(less) - log(more))
                return low_cost + share * (high_cost - low_cost)
        return self.points[-1][0]


class Verdict(NamedTuple):
    """The line against one published policy.

    Attributes:
        policy: its name.
        form: the better of its two forms, as it is labelled; None if none counts.
        why: of the choice of the form, or why nothing is compared.
        cost: core-seconds of the form.
        violations: share of the form.
        at_cost: the curve's share of violations at that cost; None outside the curve.
        at_violations: the curve's core-seconds at those violations; None outside the curve.
        holds: whether both parts of the line do; None if nothing is compared.
    """

    policy: str
    form: str | None
    why: str
    cost: float = 0.0
    violations: float = 0.0
    at_cost: float | None = None
    at_violations: float | None = None
    holds: bool | None = None

    @property
    def margin(self) -> float:
        """How much better than asked for, in the worse of the two parts; 1 is just enough, 0 is outside."""
        if self.at_cost is None or self.at_violations is None:
            return 0.0
        return min(allowed(self.violations) / self.at_cost, self.cost / self.at_violations)


def allowed(violations: float) -> float:
    """Share of violations that the line allows at the cost of a policy with this share."""
    return max(violations * SHARE, FLOOR)


def judge(policy: str, found: Mapping[str, Total], curve: Curve) -> Verdict:
    """The line against the better form of one published policy."""
    forms = [found[label] for label in (policy, policy + OURS) if label in found]
    if not forms:
        return Verdict(policy, None, "not run, or not on every case")
    counted = [form for form in forms if form.ratio <= VIOLATIONS_MAX]
    if not counted:
        return Verdict(policy, None, f"more than {VIOLATIONS_MAX:.0%} violations")
    verdicts = [_against(policy, form, curve) for form in counted]
    worst = min(verdicts, key=lambda verdict: (verdict.margin, verdict.violations))
    if len(forms) == 1:
        return worst
    other = next(form for form in forms if form.label != worst.form)
    if other not in counted:
        return worst._replace(why=f"the other has more than {VIOLATIONS_MAX:.0%} violations")
    cheaper, fewer = worst.cost <= other.core_seconds, worst.violations <= other.ratio
    return worst._replace(why="better in both" if cheaper and fewer else "nearer to the curve")


def _against(policy: str, form: Total, curve: Curve) -> Verdict:
    at_cost = curve.violations_at(form.core_seconds)
    at_violations = curve.cost_at(form.ratio_counted)
    holds = (
        at_cost is not None
        and at_violations is not None
        and at_cost <= allowed(form.ratio)
        and at_violations <= form.core_seconds
    )
    return Verdict(policy, form.label, "", form.core_seconds, form.ratio, at_cost, at_violations, holds)
