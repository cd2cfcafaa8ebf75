"""Who gets the cores where they are not enough for all: shares are evened out, by weight.

Every stage first gets one active replica, heaviest services first. Then step by step the stage that is worst
off gets the next step (services below their least cores first), until nothing is left. Worst off is who
carries least of what arrives at its service, over weight; of those who carry all of it, who carries least of
what it needs, with what waits. So the stages of a pipeline are held in balance, whichever of them the queue
is in: what one of them answers beyond what the next one can is lost there, after it was paid for. And
services are served alike.
"""

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from steelyard.core.snapshot import ReplicaView
from steelyard.policies.steelyard.pace import StagePace


class Claim(NamedTuple):
    """One stage in a shortage.

    Attributes:
        service: whose.
        weight: of the service.
        pace: the stage.
        replicas: live ones, most cores first.
        flow: rows a second that come with what arrives at the service, in the profile's units.
        need: the same with what waits.
        at_most: rows a second beyond which it is given nothing.
    """

    service: str
    weight: float
    pace: StagePace
    replicas: Sequence[ReplicaView]
    flow: float
    need: float
    at_most: float


def share_out(
    claims: Sequence[Claim],
    free: Mapping[str, float],
    limits: Mapping[str, float],
    least: Mapping[str, float],
) -> list[list[float]]:
    """Cores for each replica of each claim.

    Args:
        claims: of all stages that have live replicas.
        free: cores that the claims' replicas may have together, by node.
        limits: the same by service.
        least: cores that a service is to have before others get more, whatever it needs.
    """
    left, allowed = dict(free), dict(limits)
    shares = [[0.0] * len(claim.replicas) for claim in claims]
    carried = [0.0] * len(claims)
    held = dict.fromkeys(limits, 0.0)

    def is_below(index: int) -> bool:
        """Whether the claim's service has less than its least."""
        service = claims[index].service
        return held[service] < least[service] - 1e-9

    def standing(index: int) -> tuple[bool, bool, float]:
        """The least is worst off."""
        return not is_below(index), *_standing(claims[index], carried[index])

    def give(index: int) -> bool:
        """The next step for one claim; whether there was one."""
        claim, cores = claims[index], shares[index]
        rate, step, target = claim.pace.sizing.rate_rps, claim.pace.sizing.step, claim.pace.target
        best, best_rank = -1, (3, 0.0)
        for place, replica in enumerate(claim.replicas):
            size = cores[place]
            more = step if size else target.least
            room = min(left[replica.node], allowed[claim.service])
            if more <= room + 1e-9 and size + more <= claim.pace.most + 1e-9:
                rank = (1 if not size else 0 if size < target.cores else 2, size)
                if rank < best_rank:
                    best, best_rank = place, rank
        if best < 0:
            return False
        before = cores[best]
        more = step if before else target.least
        cores[best] += more
        left[claim.replicas[best].node] -= more
        allowed[claim.service] -= more
        held[claim.service] += more
        carried[index] += rate(cores[best]) - rate(before)
        return True

    order = sorted(range(len(claims)), key=lambda i: (-claims[i].weight, i))
    started = [i for i in order if give(i)]
    waiting = [(standing(i), i) for i in started]
    heapify(waiting)
    while waiting:
        _, index = heappop(waiting)
        is_wanted = carried[index] < claims[index].at_most - 1e-9 or is_below(index)
        if is_wanted and give(index):
            heappush(waiting, (standing(index), index))
    return shares


def _standing(claim: Claim, carried: float) -> tuple[bool, float]:
    """Whether what arrives is carried, and capacity over that, or over need, and weight."""
    is_carried = carried >= claim.flow - 1e-9
    return is_carried, carried / max(claim.need if is_carried else claim.flow, 1e-9) / claim.weight
