"""One run's record from the client's and the server's views."""

import numpy as np

from steelyard.demo.account import Sample, record
from steelyard.demo.client import Reading
from steelyard.demo.processes import ReplicaStatus, ServiceStatus
from steelyard.load.result import OK, Outcomes, summarise

WORDS = ("requests", "completed", "late", "shed", "rejected", "failed", "cancelled")


def status(
    cores_by_id: dict[int, float],
    core_seconds: float,
    *,
    cold_starts: int = 0,
    resizes: int = 0,
    **counters: int,
) -> ServiceStatus:
    return ServiceStatus(
        replicas=[ReplicaStatus(each, "ready", cores) for each, cores in cores_by_id.items()],
        cores=sum(cores_by_id.values()),
        core_seconds=core_seconds,
        counters=dict.fromkeys(WORDS, 0) | counters,
        cold_starts=cold_starts,
        resizes=resizes,
        queue_rows=0,
        p50_ms=None,
        p99_ms=None,
        rate_rps=0.0,
    )


def reading() -> Reading:
    """Six requests in 3 s: four completed (one of them late), one 503, one timeout."""
    outcomes = Outcomes(np.array([0.1, 0.2, 1.1, 1.2, 2.1, 2.2]), np.full(6, 0.1))
    outcomes.status[:] = [OK, OK, OK, 503, OK, -2]
    outcomes.latency_s[:] = [0.01, 0.02, 0.2, 0.001, 0.03, np.nan]
    outcomes.lateness_s[:] = 0.0
    return Reading(summarise(outcomes, seconds=3.0, slo_s=0.1), 0.75)


def test_the_accounting_law_holds_and_causes_come_from_the_server() -> None:
    samples = [
        Sample(0.0, status({1: 1.0}, 10.0, cold_starts=1, resizes=4, requests=5, shed=5)),
        Sample(0.6, status({1: 2.0}, 11.0, requests=7, shed=5)),
        Sample(1.4, status({1: 1.0, 2: 1.0}, 12.5, requests=9, shed=6)),
        Sample(3.0, status({2: 1.0}, 14.5, cold_starts=3, resizes=9, requests=11, shed=6)),
    ]
    after = status({2: 1.0}, 15.0, requests=11, shed=6)
    run = record("p", "lines", 7, reading(), samples, after, label="P")
    summary = run.summary
    # Two of six were not completed: the server shed one (6 - 5), the other is failed.
    assert (summary.requests, summary.completed, summary.shed, summary.rejected, summary.failed) == (
        6,
        4,
        1,
        0,
        1,
    )
    ends = summary.completed + summary.shed + summary.rejected + summary.failed + summary.cancelled
    assert ends == summary.requests
    assert summary.violations == summary.late + summary.shed + summary.rejected + summary.failed == 3
    # From the trace's first to its last sample, not what was reserved before or after it.
    assert summary.core_seconds == 4.5
    # By the server's counts, which also see what is undone between two samples: 3 - 1 and 9 - 4.
    assert (summary.cold_starts, summary.resizes) == (2, 5)
    assert summary.accuracy_mean == 0.75
    # The status that held at the end of seconds 0, 1 and 2: samples at 0.6, 1.4 and 3.0.
    assert (run.cores, run.replicas) == ([2.0, 2.0, 1.0], [1, 2, 1])
    assert run.rate_rps == [2.0, 2.0, 2.0]
    assert run.violations == [0, 2, 1]


def test_more_refusals_at_the_server_than_the_client_lacks_do_not_break_the_sum() -> None:
    samples = [Sample(0.0, status({1: 1.0}, 0.0)), Sample(3.0, status({1: 1.0}, 3.0, shed=1, rejected=9))]
    summary = record("p", "lines", 7, reading(), samples, samples[-1].status, label="P").summary
    assert (summary.shed, summary.rejected, summary.failed) == (1, 1, 0)
