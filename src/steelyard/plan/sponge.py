"""Sponge: the fewest cores of one instance that serves a second's requests before any of them is late.

    minimise    c, then b
    subject to  ceil(rate / b) l(b, c) <= 0.9 SLO - d

where d is the part of the SLO that the network has used up already, the largest among the waiting requests. A
whole second's requests are supposed to be queued at once and served batch after batch.

    enumerate_choices(service_time_s, rate, slo_s, network_s) -> SpongeChoice | None    the released walk
    closed_form(service_time_s, rate, slo_s, network_s) -> SpongeChoice | None          the inequality above

`service_time_s` is a table, `[rows - 1][cores - 1]` in seconds (`steelyard.plan.problem.tabulate`); its
shape is the largest batch and size. None: nothing is feasible, and the instance stays as it is. The two are
equal: the walk adds up what the closed form multiplies, so they can differ by rounding only, and only where
the last batch ends at the limit to within it.

Source: Razavi, Ghafouri, Muehlhaeuser, Jamshidi and Wang, "Sponge: Inference Serving with Dynamic SLOs Using
In-Place Vertical Scaling", EuroMLSys 2024 (arXiv 2404.00704), and its released code.
"""

from collections.abc import Callable, Iterator
from math import ceil
from typing import NamedTuple

from steelyard.plan.problem import Table

MARGIN = 0.9
"""Share of the SLO that is planned for."""


class SpongeChoice(NamedTuple):
    """The instance's cores and largest batch."""

    cores: int
    rows: int


def enumerate_choices(
    service_time_s: Table, rate: int, slo_s: float, network_s: float = 0.0
) -> SpongeChoice | None:
    """The first feasible pair, cores outside and rows inside, by walking through a second's requests.

    Args:
        service_time_s: seconds, `[rows - 1][cores - 1]`.
        rate: requests a second, whole.
        slo_s: the end-to-end bound.
        network_s: the longest that a waiting request has been under way before it arrived.
    """
    return _first(service_time_s, lambda rows, l_s: _walk_fits(rows, l_s, rate, slo_s, network_s))


def closed_form(
    service_time_s: Table, rate: int, slo_s: float, network_s: float = 0.0
) -> SpongeChoice | None:
    """The same by ceil(rate / b) l(b, c) <= 0.9 SLO - d."""
    return _first(
        service_time_s,
        lambda rows, l_s: rate == 0 or ceil(rate / rows) * l_s + network_s <= MARGIN * slo_s,
    )


def _walk_fits(rows: int, l_s: float, rate: int, slo_s: float, network_s: float) -> bool:
    elapsed_s = 0.0
    for _ in range(0, rate, rows):
        if l_s + elapsed_s + network_s > MARGIN * slo_s:
            return False
        elapsed_s += l_s
    return True


def _first(service_time_s: Table, fits: Callable[[int, float], bool]) -> SpongeChoice | None:
    def pairs() -> Iterator[SpongeChoice]:
        for cores in range(1, len(service_time_s[0]) + 1):
            for rows in range(1, len(service_time_s) + 1):
                if fits(rows, service_time_s[rows - 1][cores - 1]):
                    yield SpongeChoice(cores, rows)

    return next(pairs(), None)
