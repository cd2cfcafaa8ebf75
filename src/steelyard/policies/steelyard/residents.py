"""Which variants the replicas of a stage have resident, so that a switch takes no longer than a batch.

In the order of need: the one that is planned; the fastest, which carries a burst where cores run out; the
most accurate, for requests that ask for it; and those between, from the planned one downwards. As many as
the memory allows where it is known, at most `RESIDENT_MAX`, and the planned one in any case.
"""

from collections.abc import Mapping, Sequence

from steelyard.core.snapshot import NodeView
from steelyard.core.types import Service

RESIDENT_MAX = 4


def resident(
    order: Sequence[str], planned: str, bytes_of: Mapping[str, int], room_bytes: int
) -> tuple[str, ...]:
    """Variants to keep resident, in the given order.

    Args:
        order: those that count, the most accurate first; the last is the fastest.
        planned: the first that the plan answers with.
        bytes_of: memory of a replica that has one resident, by variant; 0: nobody knows.
        room_bytes: for one replica; 0: as much as it likes.
    """
    place = order.index(planned)
    wanted = [planned, order[-1], order[0], *order[place + 1 :], *order[:place]]
    kept: list[str] = []
    for name in dict.fromkeys(wanted):
        total = sum(bytes_of[each] for each in (*kept, name))
        if not kept or (len(kept) < RESIDENT_MAX and (not room_bytes or total <= room_bytes)):
            kept.append(name)
    return tuple(name for name in order if name in kept)


def room_bytes(nodes: Sequence[NodeView], services: Mapping[str, Service]) -> int:
    """Memory that a stage's replicas may take together: an equal part; 0 where a node does not say."""
    if not all(node.memory_bytes for node in nodes):
        return 0
    stages = sum(len(service.stages) for service in services.values())
    return sum(node.memory_bytes for node in nodes) // stages


def replicas_at_most(bytes_of_one: int, room: int, limit: int) -> int:
    """Replicas that fit a stage's part of the memory, and `limit`; at least one."""
    if not room or not bytes_of_one:
        return limit
    return max(1, min(limit, room // bytes_of_one))
