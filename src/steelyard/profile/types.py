"""What a profile says: measured service times of one variant over (bucket, rows, cores).

A profile is made by `steelyard.profiler`, stored as JSON, and read by planners, the live machine and the
simulator.
"""

from typing import Literal

from steelyard.core.types import Frozen

RANDOM = "random"
"""As `Profile.inputs`: what it was measured on was made up."""


class Cell(Frozen, frozen=True):
    """One measured operating point; times in seconds, over `runs` batches.

    `width` is the faster way to use the cores there: `threads` (one n-thread session) or `lanes` (n slices).
    `rounds` is how many visits, spread over the measurement, the runs come from.
    """

    bucket: int
    rows: int
    cores: float
    p50_s: float
    p99_s: float
    runs: int
    width: Literal["lanes", "threads"] = "threads"
    rounds: int = 1


class Constants(Frozen, frozen=True):
    """Costs around a batch that planning and simulation need; seconds, and ratios of service time.

    Attributes:
        parse_s: the edge's time to check and store a request of one row; the HTTP server's is not in it.
        reply_s: the edge's time to write the answer to it; the HTTP server's is not in it.
        dispatch_s: from `RunBatch` to the worker's start, median.
        corun_ratio: service time beside a busy neighbour on another core, over that alone; >= 1 as a rule.
        starting_ratio: service time while a replica starts on an overlapping core, over that alone.
    """

    parse_s: float = 0.0002
    reply_s: float = 0.0002
    dispatch_s: float = 0.0001
    corun_ratio: float = 1.0
    starting_ratio: float = 1.0


class Profile(Frozen, frozen=True):
    """All that is known of one variant on one machine with one runtime version.

    Attributes:
        model: name of the model in the spec; informative, the key is `model_hash`.
        model_hash: SHA-256 of the model's files (for a Python class, of its source).
        machine: CPU model and count, as the store's key.
        runtime_version: `onnxruntime 1.31.1`, for instance.
        quick: measured in quick form; `profile` measures the rest.
        inputs: that it was measured on: `RANDOM`, or what the stages before it made of which examples.
        cold_start_s: `StartReplica` to `ReplicaReady`, median.
        resize_s: the resize call, median.
    """

    model: str
    variant: str
    model_hash: str
    machine: str
    runtime_version: str
    cells: tuple[Cell, ...]
    cold_start_s: float
    resize_s: float
    constants: Constants = Constants()
    quick: bool = False
    inputs: str = RANDOM


class DeclaredLatency(Frozen, frozen=True):
    """Service times stated in the spec instead of measured: coefficients or a table (docs/spec.md).

    Coefficients are those of l(b, c) = alpha b / c + beta b + gamma / c + zeta, in milliseconds (Themis,
    Sponge); rows of a table are (batch, cores, latency_ms, p99_ms or None).

    Attributes:
        coefficients_ms: (alpha, beta, gamma, zeta), or None where `table` is given.
        table: measured points, empty where coefficients are given.
        stat: which statistic the values are.
        spread: sigma of a log-normal factor with median 1.
        distribution: shape of the service time in a simulation.
    """

    coefficients_ms: tuple[float, float, float, float] | None = None
    table: tuple[tuple[int, float, float, float | None], ...] = ()
    stat: Literal["p50", "p95", "p99"] = "p50"
    spread: float = 0.05
    distribution: Literal["fixed", "lognormal", "exponential"] = "lognormal"
