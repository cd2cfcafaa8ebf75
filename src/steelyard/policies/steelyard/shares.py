"""Who gets how many cores when they are short: weighted max-min, first what keeps a queue finite.

Two rounds of filling. In the first, nobody gets more than keeps his queue from growing; in the second, what
is left goes to what the SLO needs. A service that needs little is served in full, those that need more than
their weighted share divide the rest by weight: giving a quiet neighbour its small need costs least
violations.
"""

from collections.abc import Mapping, Sequence
from math import floor
from typing import NamedTuple


class Need(NamedTuple):
    """Cores of one service: at least `least`; `stable` keeps the queue finite, `full` holds the SLO."""

    service: str
    weight: float
    least: float
    stable: float
    full: float


def share_cores(cores: float, needs: Sequence[Need], step: float) -> dict[str, float]:
    """Cores by service, multiples of `step`, at most `cores` in all and at most `full` each.

    Where even the `least` of all are too many, the heaviest services get theirs and the others nothing.
    """
    shares: dict[str, float] = {}
    left = cores
    for need in sorted(needs, key=lambda n: -n.weight):
        shares[need.service] = need.least if need.least <= left + 1e-9 else 0.0
        left -= shares[need.service]
    served = [need for need in needs if shares[need.service] > 0]
    for goal in ("stable", "full"):
        wants = {n.service: max(getattr(n, goal), shares[n.service]) for n in served}
        shares = _fill(cores, shares, wants, {n.service: n.weight for n in served}, step)
    return shares


def _fill(
    cores: float,
    shares: Mapping[str, float],
    wants: Mapping[str, float],
    weights: Mapping[str, float],
    step: float,
) -> dict[str, float]:
    """Raise the shares step by step towards what is wanted; the least share by weight goes first."""
    result = dict(shares)
    left = floor((cores - sum(result.values())) / step + 1e-9)
    while left > 0:
        hungry = [name for name in wants if result[name] + step <= wants[name] + 1e-9]
        if not hungry:
            break
        result[min(hungry, key=lambda n: (result[n] / weights[n], n))] += step
        left -= 1
    return result
