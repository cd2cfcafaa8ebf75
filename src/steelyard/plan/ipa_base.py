"""IPA's base allocation: how many cores a replica of each variant always has.

The variants of a stage are walked in the order of their accuracy. Each gets the fewest cores, a power of two
and no fewer than the variant before it, on which some batch gives `rate_rps` rows a second within the stage's
part of the SLO; where none does, the most that it can use. From then on only the number of replicas changes.
The part of a stage is in proportion to the mean of its variants' times for one row. (The release takes a
multiple of that mean as the stage's own SLO, and the sum as the pipeline's; here the SLO is given.)
"""

from collections.abc import Callable, Sequence

LatencyS = Callable[[int, int], float]
"""Seconds that a batch of (rows) takes on (cores)."""

ROWS_MAX = 64


def powers_of_two(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `most`."""
    return tuple(1 << exponent for exponent in range(most.bit_length())) if most >= 1 else ()


def base_cores(
    latencies_s: Sequence[LatencyS],
    rows_max: Sequence[int],
    cores_max: Sequence[int],
    *,
    rate_rps: float,
    budget_s: float,
) -> tuple[int, ...]:
    """Cores of a replica of each variant; never falling.

    Args:
        latencies_s: of the variants, the least accurate first.
        rows_max: largest batch of each.
        cores_max: most cores that each can use, >= 1.
        rate_rps: what one replica should carry.
        budget_s: the stage's part of the SLO.
    """
    found: list[int] = []
    for latency_s, rows, most in zip(latencies_s, rows_max, cores_max, strict=True):
        sizes = [c for c in powers_of_two(most) if c >= (found[-1] if found else 1)]
        enough = (c for c in sizes if _suffices(latency_s, rows, c, rate_rps, budget_s))
        found.append(next(enough, sizes[-1] if sizes else max(most, found[-1] if found else 1)))
    return tuple(min(cores, most) for cores, most in zip(found, cores_max, strict=True))


def shares_of_slo(latencies_s: Sequence[Sequence[LatencyS]], slo_s: float) -> tuple[float, ...]:
    """Seconds of the SLO for each stage, in proportion to its variants' mean time for one row on one core."""
    means = [sum((each(1, 1) for each in stage), 0.0) / len(stage) for stage in latencies_s]
    return tuple(slo_s * mean / sum(means) for mean in means)


def _suffices(latency_s: LatencyS, rows_max: int, cores: int, rate_rps: float, budget_s: float) -> bool:
    for rows in powers_of_two(min(rows_max, ROWS_MAX)):
        time_s = latency_s(rows, cores)
        if time_s <= budget_s and rows / time_s >= rate_rps:
            return True
    return False
