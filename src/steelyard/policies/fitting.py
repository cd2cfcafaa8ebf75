"""What a policy wants, cut down to what there is, and which node each replica of it goes to.

There are cores and, where nodes and variants say so, memory: `needs` are bytes of a replica by stage,
`memory` those of a node, 0 where nobody knows.

Pods that pend for ever serve nobody, so what does not fit is left out. A replica stays on a node where its
stage has one already, as long as it fits there: replicas that move pay a cold start. The others go where they
fit first, the largest before the smaller ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from steelyard.plan.themis import Choice

EXACT = 1e-9
UNKNOWN_BYTES = 1 << 62
"""Of a node that does not say how much memory it has."""


def fitted_choices(
    choices: Sequence[Choice],
    present: Sequence[int],
    nodes: Sequence[int],
    *,
    replicas_first: bool,
    needs: Sequence[int] = (),
    memory: Sequence[int] = (),
) -> list[Choice]:
    """The choices cut down to the nodes, one at a time from the stage that takes most.

    Cut first are replicas for which there is no memory. Then replicas beyond `present` (`replicas_first`) or
    cores beyond one, then the other, then replicas down to one: the caller has made sure that one core a
    stage fits. Where there is no memory for one replica a stage, that is what is left, and does not fit.
    """
    most = max(nodes)
    counts = [choice.replicas for choice in choices]
    if any(needs):
        counts = within_memory(counts, needs, memory)
    fitted = [
        choice._replace(replicas=count, cores=min(choice.cores, most))
        for choice, count in zip(choices, counts, strict=True)
    ]
    while not _fits(fitted, nodes):
        extra = [i for i, c in enumerate(fitted) if c.replicas > max(1, present[i])]
        large = [i for i, c in enumerate(fitted) if c.cores > 1]
        first, second = (extra, large) if replicas_first else (large, extra)
        several = [i for i, c in enumerate(fitted) if c.replicas > 1]
        among = first or second or several
        index = max(among, key=lambda i: (fitted[i].replicas * fitted[i].cores, -i))
        cut = fitted[index]
        if among is large:
            fitted[index] = cut._replace(cores=cut.cores - 1)
        else:
            fitted[index] = cut._replace(replicas=cut.replicas - 1)
    return fitted


def placed(
    sizes: Sequence[Sequence[float]],
    present: Sequence[Sequence[str]],
    nodes: Mapping[str, float],
    needs: Sequence[int] = (),
    memory: Mapping[str, int] | None = None,
) -> list[list[str]] | None:
    """The node of each replica of each stage; None if no place was found for one.

    Args:
        sizes: cores of each replica, by stage; 0 for one that is parked.
        present: nodes of each stage's replicas now.
        nodes: cores by name.
        needs: see the module.
        memory: likewise, by name.
    """
    if len(nodes) == 1:
        (only,) = nodes
        return [[only] * len(stage) for stage in sizes]
    room = _Room(nodes, needs or [0] * len(sizes), memory or {})
    staying = _first_fit(sizes, present, room)
    return _first_fit(sizes, [()] * len(sizes), room) if staying is None else staying


class _Room(NamedTuple):
    cores: Mapping[str, float]
    needs: Sequence[int]
    memory: Mapping[str, int]


def within_memory(counts: Sequence[int], needs: Sequence[int], memory: Sequence[int]) -> list[int]:
    """Replicas by stage, fewer of those that take most, as long as there is no memory for all of them.

    One of each stage is left in any case.
    """
    left = list(counts)
    while any(memory) and not _fits_memory(left, needs, memory):
        several = [i for i, count in enumerate(left) if count > 1 and needs[i]]
        if not several:
            break
        left[max(several, key=lambda i: (left[i] * needs[i], -i))] -= 1
    return left


def _fits_memory(counts: Sequence[int], needs: Sequence[int], memory: Sequence[int]) -> bool:
    """Whether the nodes have the memory, by first fit in falling order of need."""
    free = [size or UNKNOWN_BYTES for size in memory]
    for need, count in sorted(zip(needs, counts, strict=True), reverse=True):
        left = count if need else 0
        for index, size in enumerate(free):
            here = min(left, size // need) if need else 0
            free[index] -= here * need
            left -= here
        if left:
            return False
    return True


def _fits(choices: Sequence[Choice], nodes: Sequence[int]) -> bool:
    """Whether first fit in falling order of size finds a place for every replica."""
    if len(nodes) == 1:
        return sum(choice.replicas * choice.cores for choice in choices) <= nodes[0]
    free = list(nodes)
    for choice in sorted(choices, key=lambda choice: -choice.cores):
        left = choice.replicas
        for index, cores in enumerate(free):
            here = min(left, cores // choice.cores)
            free[index] -= here * choice.cores
            left -= here
        if left:
            return False
    return True


def _first_fit(
    sizes: Sequence[Sequence[float]], present: Sequence[Sequence[str]], room: _Room
) -> list[list[str]] | None:
    free = dict(room.cores)
    free_bytes = {name: room.memory.get(name, 0) or UNKNOWN_BYTES for name in free}
    own = [Counter(names) for names in present]
    at = [[""] * len(stage) for stage in sizes]
    falling = sorted(
        ((stage, index) for stage, of_stage in enumerate(sizes) for index in range(len(of_stage))),
        key=lambda place: -sizes[place[0]][place[1]],
    )
    for stays in (True, False):
        for stage, index in falling:
            if at[stage][index]:
                continue
            size, need = sizes[stage][index], room.needs[stage]
            roomy = [name for name in free if free[name] >= size - EXACT and free_bytes[name] >= need]
            if stays:
                roomy = [name for name in roomy if own[stage][name]]
                roomy.sort(key=lambda name: -free[name])
            elif not roomy:
                return None
            if roomy:
                at[stage][index] = roomy[0]
                free[roomy[0]] -= size
                free_bytes[roomy[0]] -= need
                own[stage][roomy[0]] -= 1
    return at
