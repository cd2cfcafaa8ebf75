"""What each of several services may count on, whatever the others need.

Every service is there, however small its part: cores are given step by step to whoever has least for its
weight (max-min fairness), until it has what it likes, and then on to the last core: what a service keeps
while it is not asked for anything grows with the times that are observed, and must not take the room of
others. A service that is asked takes what it needs of the others' (`shortage`).
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from steelyard.policies.steelyard.sizing import EXACT


class Guest(NamedTuple):
    """One service.

    Attributes:
        weight: of the service.
        fewest: cores that it must have: a step for each stage, or what it was promised.
        likes: cores that it keeps while nothing arrives, if there is room.
        most: cores that it may have.
    """

    weight: float
    fewest: float
    likes: float
    most: float = inf


def rooms(guests: Sequence[Guest], cores: float, step: float) -> list[float]:
    """Cores for each; what it likes where not even the fewest fit."""
    given = [guest.fewest for guest in guests]
    likes = [guest.likes for guest in guests]
    if sum(given) > cores + EXACT:
        return likes
    if sum(likes) > cores + EXACT:
        return _filled(given, likes, guests, cores, step)
    return _filled(likes, [guest.most for guest in guests], guests, cores, step)


def _filled(
    given: list[float], limits: Sequence[float], guests: Sequence[Guest], cores: float, step: float
) -> list[float]:
    """Steps for whoever has least for its weight and may have another, as long as there are any."""
    left = cores - sum(given)
    while left >= step - EXACT:
        hungry = [i for i, limit in enumerate(limits) if given[i] + step <= limit + EXACT]
        if not hungry:
            break
        given[min(hungry, key=lambda i: (given[i] / guests[i].weight, i))] += step
        left -= step
    return given
