"""What a policy wants, cut down to the cores that there are: pods that pend for ever serve nobody."""

from collections.abc import Sequence

from steelyard.plan.themis import Choice


def fitted_choices(
    choices: Sequence[Choice], present: Sequence[int], cores: int, *, replicas_first: bool
) -> list[Choice]:
    """The choices cut down to a node's cores, one at a time from the stage that takes most.

    Cut first are replicas beyond `present` (`replicas_first`) or cores beyond one, then the other, then
    replicas down to one: the caller has made sure that one core a stage fits.
    """
    fitted = list(choices)
    while sum(c.replicas * c.cores for c in fitted) > cores:
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
