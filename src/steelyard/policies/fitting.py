"""What a policy wants, cut down to the cores that there are, and which node each replica of it goes to.

Pods that pend for ever serve nobody, so what does not fit is left out. A replica stays on a node where its
stage has one already, as long as it fits there: replicas that move pay a cold start. The others go where they
fit first, the largest before the smaller ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from steelyard.plan.themis import Choice

EXACT = 1e-9


def fitted_choices(
    choices: Sequence[Choice], present: Sequence[int], nodes: Sequence[int], *, replicas_first: bool
) -> list[Choice]:
    """The choices cut down to the nodes' cores, one at a time from the stage that takes most.

    Cut first are replicas beyond `present` (`replicas_first`) or cores beyond one, then the other, then
    replicas down to one: the caller has made sure that one core a stage fits.
    """
    most = max(nodes)
    fitted = [choice._replace(cores=min(choice.cores, most)) for choice in choices]
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
    sizes: Sequence[Sequence[float]], present: Sequence[Sequence[str]], nodes: Mapping[str, float]
) -> list[list[str]] | None:
    """The node of each replica of each stage; None if no place was found for one.

    Args:
        sizes: cores of each replica, by stage; 0 for one that is parked.
        present: nodes of each stage's replicas now.
        nodes: cores by name.
    """
    if len(nodes) == 1:
        (only,) = nodes
        return [[only] * len(stage) for stage in sizes]
    staying = _first_fit(sizes, present, nodes)
    return _first_fit(sizes, [()] * len(sizes), nodes) if staying is None else staying


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
    sizes: Sequence[Sequence[float]], present: Sequence[Sequence[str]], nodes: Mapping[str, float]
) -> list[list[str]] | None:
    free = dict(nodes)
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
            size = sizes[stage][index]
            roomy = [name for name, cores in free.items() if cores >= size - EXACT]
            if stays:
                roomy = [name for name in roomy if own[stage][name]]
                roomy.sort(key=lambda name: -free[name])
            elif not roomy:
                return None
            if roomy:
                at[stage][index] = roomy[0]
                free[roomy[0]] -= size
                own[stage][roomy[0]] -= 1
    return at
