"""What a simulation comes to: a summary and a series of each service, and what queueing laws need."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from steelyard.core.commands import RecordDecision
from steelyard.core.types import Frozen, Service
from steelyard.metrics.runs import RunSeries, RunSummary
from steelyard.sim.account import Account, Costs, Ends
from steelyard.sim.scenario import Scenario


class Flow(Frozen, frozen=True):
    """Little's law of one service: `number_mean = arrival_rate_rps * sojourn_mean_s`.

    `number_mean` is integrated from the machine's own count of open requests while the run goes on, the
    others come from the account; every run checks that they agree.

    Attributes:
        span_s: from time 0 to the last end.
        number_mean: time average of the requests in the system.
        arrival_rate_rps: requests over the span.
        sojourn_mean_s: mean time from arrival to end, of all requests however they ended.
    """

    service: str
    span_s: float
    number_mean: float
    arrival_rate_rps: float
    sojourn_mean_s: float


class SimulatedRun(Frozen, frozen=True):
    """One run; equal scenarios have equal runs but for wall times.

    Attributes:
        label: what the run is called.
        seed: of everything random.
        summaries: one for each service.
        series: the same over time.
        flows: the same, as queueing theory sees them.
        decisions: the latest that were recorded.
    """

    label: str
    seed: int
    summaries: tuple[RunSummary, ...]
    series: tuple[RunSeries, ...]
    flows: tuple[Flow, ...]
    decisions: tuple[RecordDecision, ...]


def flow_of(service: str, ends: Ends, request_seconds: float) -> Flow:
    """Little's law, checked.

    Raises:
        AssertionError: the machine's count of open requests does not integrate to the sum of sojourn times.
    """
    if not len(ends.codes):
        return Flow(service, 0.0, 0.0, 0.0, 0.0)
    sojourns_s = float(np.sum(ends.ended_s - ends.arrived_s))
    assert abs(sojourns_s - request_seconds) <= 1e-6 * max(1.0, sojourns_s), (
        f"service {service}: {request_seconds} request-seconds in the machine, {sojourns_s} in the account"
    )
    span_s = float(np.max(ends.ended_s))
    requests = len(ends.codes)
    mean_s = sojourns_s / requests
    if span_s == 0.0:
        return Flow(service, 0.0, 0.0, 0.0, mean_s)
    return Flow(service, span_s, request_seconds / span_s, requests / span_s, mean_s)


def summary_of(
    scenario: Scenario,
    service: Service,
    account: Account,
    ends: Ends,
    costs: Costs,
    decide_s: Sequence[float],
    *,
    seconds: int,
    wall_s: float,
) -> RunSummary:
    """One service's accounting, cost and latency; latencies include the reply."""
    counts = ends.counts(rows=0)
    violations = int(np.count_nonzero(ends.violated))
    counted = counts.requests - counts.cancelled
    return RunSummary(
        policy=scenario.label or scenario.policy,
        service=service.name,
        seed=scenario.seed,
        requests=counts.requests,
        completed=counts.completed,
        late=counts.late,
        shed=counts.shed,
        rejected=counts.rejected,
        failed=counts.failed,
        cancelled=counts.cancelled,
        violations=violations,
        violation_ratio=violations / counted if counted else 0.0,
        core_seconds=costs.core_seconds,
        accuracy_mean=account.accuracy.mean,
        latency_ms=_latency_ms(latencies_s(service, ends)),
        cold_starts=costs.cold_starts,
        resizes=costs.resizes,
        switches=costs.switches,
        plan_ms=_plan_ms(decide_s),
        simulated_s=float(seconds),
        wall_s=wall_s,
        requests_per_wall_s=counts.requests / wall_s,
    )


def series_of(
    service: Service, summary: RunSummary, account: Account, ends: Ends, costs: Costs, *, seconds: int
) -> RunSeries:
    """One service over time, by second of arrival."""
    bounds = _bounds(ends.arrived_s, seconds)
    violated = ends.violated
    latencies = latencies_s(service, ends)
    of_completed = _bounds(ends.arrived_s[ends.completed], seconds)
    by_second = [np.sort(latencies[start:end]) * 1e3 for start, end in pairwise(of_completed)]
    return RunSeries(
        label=summary.policy,
        slo_ms=service.slo_s * 1e3,
        summary=summary,
        rate_rps=np.diff(bounds).astype(float).tolist(),
        p50_ms=[_quantile(some, 0.5) for some in by_second],
        p99_ms=[_quantile(some, 0.99) for some in by_second],
        violations=[int(np.count_nonzero(violated[start:end])) for start, end in pairwise(bounds)],
        cores=costs.cores_by_second.tolist(),
        replicas=costs.replicas_by_second.tolist(),
        accuracy=_accuracies(account, seconds),
    )


def latencies_s(service: Service, ends: Ends) -> NDArray[np.float64]:
    """Seconds from arrival to the client's last byte, of completed requests in the order of arrival."""
    completed = ends.completed
    latencies: NDArray[np.float64] = ends.ended_s[completed] - ends.arrived_s[completed] + service.reply_s
    return latencies


def _accuracies(account: Account, seconds: int) -> list[float | None]:
    """Means by second of arrival; empty where nothing is known of any."""
    known = account.accuracy_by_second
    return [known[at].mean if at in known else None for at in range(seconds)] if known else []


def _latency_ms(latencies: NDArray[np.float64]) -> dict[str, float | None]:
    """Quantiles as the smallest latency that has at least that share up to it."""
    if not len(latencies):
        return dict.fromkeys(("p50", "p90", "p99", "max"))
    values = np.quantile(latencies, (0.5, 0.9, 0.99, 1.0), method="inverted_cdf") * 1e3
    return dict(zip(("p50", "p90", "p99", "max"), values.tolist(), strict=True))


def _bounds(arrived_s: NDArray[np.float64], seconds: int) -> list[int]:
    """Where each second begins among ascending times, and where the last one ends; length seconds + 1."""
    return [*np.searchsorted(arrived_s, np.arange(seconds)).tolist(), len(arrived_s)]


def _quantile(ordered: NDArray[np.float64], quantile: float) -> float | None:
    """The smallest value that has at least that share up to it; None without values."""
    return float(ordered[max(ceil(quantile * len(ordered)), 1) - 1]) if len(ordered) else None


def _plan_ms(decide_s: Sequence[float]) -> dict[str, float | None]:
    if not len(decide_s):
        return {"p50": None, "max": None}
    return {"p50": float(np.median(decide_s)) * 1e3, "max": max(decide_s) * 1e3}
