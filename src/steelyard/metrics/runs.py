"""What runs come to, live or simulated: plain records, of which reports are made.

The keys of `RunSummary` are those of `runs[]` in the JSON of `demo` and `simulate` (docs/cli.md): a contract.
What one kind of run cannot know (the simulator's own speed in a live run) is None.
"""

from steelyard.core.types import Frozen


class RunSummary(Frozen, frozen=True):
    """One run of one policy on one service; accounting as in docs/glossary.md.

    Attributes:
        requests: completed + shed + rejected + failed + cancelled.
        violations: late + shed + rejected + failed.
        violation_ratio: violations over requests that were not cancelled.
        core_seconds: cores reserved, from the start to the end of the trace.
        accuracy_mean: over completed requests; None where nobody knows the truth.
        latency_ms: p50, p90, p99, max of completed requests.
        plan_ms: p50, max of the planner's time.
    """

    policy: str
    service: str
    seed: int
    requests: int
    completed: int
    late: int
    shed: int
    rejected: int
    failed: int
    cancelled: int
    violations: int
    violation_ratio: float
    core_seconds: float
    accuracy_mean: float | None
    latency_ms: dict[str, float | None]
    cold_starts: int | None = None
    resizes: int | None = None
    switches: int | None = None
    plan_ms: dict[str, float | None] | None = None
    simulated_s: float | None = None
    wall_s: float | None = None
    requests_per_wall_s: float | None = None


class RunSeries(Frozen, frozen=True):
    """A run over time, for the charts; every list has one entry a second, None where nothing is known.

    Attributes:
        label: what the run is called on the page.
        slo_ms: the latency bound.
        rate_rps: requests that arrived in the second.
        p50_ms: of those completed, by second of arrival.
        p99_ms: the same.
        violations: of the requests that arrived in the second.
        cores: reserved at the second's end.
        replicas: alive at the second's end, starting ones included.
        accuracy: estimated mean of those completed, by second of arrival; empty if nothing is known of any.
    """

    label: str
    slo_ms: float
    summary: RunSummary
    rate_rps: list[float]
    p50_ms: list[float | None]
    p99_ms: list[float | None]
    violations: list[int]
    cores: list[float]
    replicas: list[int]
    accuracy: list[float | None] = []
