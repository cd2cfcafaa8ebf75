"""What each service may count on where the nodes have fewer cores than all services like to keep.

Every service is there, however small its part: cores are given step by step to whoever has least for its
weight, until it has what it likes (max-min fairness). A service that is not asked for anything keeps no more
than its room; one that is asked takes what it needs of the others' (`shortage`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from steelyard.policies.steelyard.sizing import EXACT


class Guest(NamedTuple):
    """One service.

    Attributes:
        weight: of the service.
        fewest: cores that it must have: a step for each stage, or what it was promised.
        likes: cores that it keeps while nothing arrives, if there is room.
    """

    weight: float
    fewest: float
    likes: float


def rooms(guests: Sequence[Guest], cores: float, step: float) -> list[float]:
    """Cores for each: what it likes where all fit, or where not even the fewest do."""
    given = [guest.fewest for guest in guests]
    left = cores - sum(given)
    if left < -EXACT or sum(guest.likes for guest in guests) <= cores + EXACT:
        return [guest.likes for guest in guests]
    while left >= step - EXACT:
        hungry = [i for i, guest in enumerate(guests) if given[i] + step <= guest.likes + EXACT]
        if not hungry:
            break
        given[min(hungry, key=lambda i: (given[i] / guests[i].weight, i))] += step
        left -= step
    return given
