"""How many replicas a stage keeps, active and parked, and when it starts or gives up some.

Cores come within a window, replicas take a cold start. So replicas are counted for two purposes:
- *efficient*: one core is the cheapest throughput, so there are as many as carry the need with the cores of
  calm times. While there are fewer, live replicas carry it with more cores each, at a premium. Replicas are
  started when the premium paid has grown to what their cold starts will cost (the ski-rental rule: Karlin,
  Manasse, Rudolph, Sleator 1988), which pays at most twice what one would have paid knowing the future.
- *reserve*: with all their cores, live replicas carry four times what arrives: the growth of one cold
  start. These are started at once; whatever comes after that has had the time to start its own.

Replicas that are not needed are *parked*: they keep their memory and have no cores, and come back within a
window. They are given up when what they occupied has grown to what a cold start costs, a parked one
reckoned at `PARKED_CORES`.
"""

from math import ceil
from typing import NamedTuple

from steelyard.policies.steelyard.knob import AS_IT_COMES, Knob
from steelyard.policies.steelyard.sizing import EXACT

URGENT_SHARE = 0.7
"""Replicas are started at once where the need is this part of what live ones can carry at most."""
PATIENCE = 2.0
"""Times the cost of a cold start that is paid before one is started, or a replica given up."""
PARKED_CORES = 0.05
"""What a parked replica costs: a gigabyte of memory, at 18 GB for the price of a core (Themis 2025)."""
MOURN_S_MIN = 1.0


class Crew(NamedTuple):
    """How many replicas are wanted: for the need itself, and to have growth in hand."""

    efficient: int
    reserve: int

    @property
    def wanted(self) -> int:
        """Whichever is more."""
        return max(self.efficient, self.reserve)


def crew(
    need_rps: float,
    arriving_rps: float,
    base_rps: float,
    most_rps: float,
    limit: int,
    knob: Knob = AS_IT_COMES,
) -> Crew:
    """Replicas of one stage; all rates in the profile's units.

    Args:
        need_rps: rows a second to carry, smoothed.
        arriving_rps: rows a second that arrive; 0 keeps no reserve.
        base_rps: what a replica carries with the cores of calm times.
        most_rps: what it carries with as many as it can make use of.
        limit: replicas that can be active at once.
        knob: how much growth to be ready for.
    """
    efficient = ceil(need_rps / base_rps - EXACT)
    reserve = ceil(knob.growth * arriving_rps / most_rps - EXACT)
    return Crew(min(limit, max(1, efficient)), min(limit, max(1, reserve)))


def start_price(replicas: int, cores: float, cold_start_s: float, patience: float = 1.0) -> float:
    """Core-seconds of premium after which replicas of so many cores are started."""
    return PATIENCE * patience * replicas * cores * cold_start_s


def parting_price(cores: float, cold_start_s: float) -> float:
    """Core-seconds that a replica may occupy in vain before it is given up."""
    return PATIENCE * cores * max(cold_start_s, MOURN_S_MIN)
