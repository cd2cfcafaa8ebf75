"""What a live run amounts to: the client's view of the requests joined with the server's view of the cores.

Requests, latencies and lateness are the client's: nobody is better placed. Why a request was not completed,
and what was reserved for it, is the server's.
"""

from collections.abc import Sequence
from typing import NamedTuple

from steelyard.demo.client import Reading
from steelyard.demo.processes import ServiceStatus
from steelyard.metrics.runs import RunSeries, RunSummary


class Sample(NamedTuple):
    """The server's status `at_s` seconds after the trace began."""

    at_s: float
    status: ServiceStatus


def violations_between(first: ServiceStatus, last: ServiceStatus) -> int:
    """Late, shed, rejected and failed requests by the server's count."""
    return sum(_delta(first, last, word) for word in ("late", "shed", "rejected", "failed"))


def record(
    policy: str,
    service: str,
    seed: int,
    reading: Reading,
    samples: Sequence[Sample],
    after: ServiceStatus,
    *,
    label: str,
) -> RunSeries:
    """One run's record.

    Args:
        policy: the name it ran under.
        service: the service's name.
        seed: of the trace.
        reading: the client's account.
        samples: the server's status from the start of the trace (first) to its end (last), ascending.
        after: its status when the last request had been answered.
        label: for the report.
    """
    load, first, last = reading.load, samples[0].status, samples[-1].status
    missing = load.offered - load.completed
    shed = min(_delta(first, after, "shed"), missing)
    rejected = min(_delta(first, after, "rejected"), missing - shed)
    summary = RunSummary(
        policy=policy,
        service=service,
        seed=seed,
        requests=load.offered,
        completed=load.completed,
        late=load.late,
        shed=shed,
        rejected=rejected,
        failed=missing - shed - rejected,
        cancelled=0,
        violations=load.violations,
        violation_ratio=load.violation_ratio,
        core_seconds=last.core_seconds - first.core_seconds,
        accuracy_mean=reading.accuracy,
        latency_ms=load.latency_ms,
        cold_starts=last.cold_starts - first.cold_starts,
        resizes=last.resizes - first.resizes,
        switches=last.switches - first.switches,
        wall_s=load.seconds,
        requests_per_wall_s=load.offered / load.seconds,
    )
    seconds = range(len(load.per_second.offered))
    ends = [_latest(samples, second + 1).status for second in seconds]
    return RunSeries(
        label=label,
        slo_ms=load.slo_ms or 0.0,
        summary=summary,
        rate_rps=[float(count) for count in load.per_second.offered],
        p50_ms=load.per_second.p50_ms,
        p99_ms=load.per_second.p99_ms,
        violations=load.per_second.violations,
        cores=[status.cores for status in ends],
        replicas=[len(status.replicas) for status in ends],
    )


def _delta(first: ServiceStatus, last: ServiceStatus, word: str) -> int:
    return last.counters.get(word, 0) - first.counters.get(word, 0)


def _latest(samples: Sequence[Sample], at_s: float) -> Sample:
    """The last sample taken at or before `at_s`; the first one if there is none."""
    return next((sample for sample in reversed(samples) if sample.at_s <= at_s), samples[0])
