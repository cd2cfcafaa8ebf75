"""Switching variants by a greedy rule, device by device: after INFaaS (Romero et al., ATC 2021).

Every family has its devices. One that cannot carry its demand and a slack switches the device on which least
accuracy is given up for each row a second that is won, until it can; one that could carry it with a more
accurate variant on some device switches the device that gains most accuracy, as long as it still can.
Families do not know of each other, and a device never changes its family: `plan.proteus` does both.
"""

from collections.abc import Mapping

from steelyard.plan.proteus import Family, Hosted, Key

SLACK = 0.05
_EQUAL = 1e-9


def switched(family: Family, counts: Mapping[Key, int], *, slack: float = SLACK) -> dict[Key, int]:
    """What a family's devices are to host; as many of each kind as before."""
    hosted = {one.name: counts.get((family.name, one.name), 0) for one in family.variants}
    target_rps = family.demand_rps * (1.0 + slack)
    for better in (False, True):
        while step := _step(family, hosted, target_rps, upgrades=better):
            given_up, taken = step
            hosted[given_up.name] -= 1
            hosted[taken.name] += 1
    return {(family.name, name): count for name, count in hosted.items() if count}


def _step(
    family: Family, hosted: Mapping[str, int], target_rps: float, *, upgrades: bool
) -> tuple[Hosted, Hosted] | None:
    """The next switch (from, to) of one device, or None; all in one direction, so that there is an end."""
    carried = sum((hosted[one.name] * one.rate_rps for one in family.variants), 0.0)
    best: tuple[float, Hosted, Hosted] | None = None
    for old in family.variants:
        for new in family.variants:
            if not hosted[old.name] or old.kind != new.kind:
                continue
            faster, better = new.rate_rps - old.rate_rps, new.accuracy - old.accuracy
            if upgrades:
                fits = better > _EQUAL and carried + faster >= target_rps
                worth = better
            else:
                fits = faster > _EQUAL and carried < target_rps and better <= _EQUAL
                worth = min(faster, target_rps - carried) / max(-better, _EQUAL)
            if fits and (best is None or worth > best[0]):
                best = worth, old, new
    return best[1:] if best is not None else None
