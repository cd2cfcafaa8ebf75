"""How a replica with several cores spends them on one batch: lanes or threads, as the profile says.

*Threads*: one session with as many threads as cores; every batch gets faster, at a price in memory for each
count.
*Lanes*: one 1-thread session, called by as many threads as cores, each on a slice of the batch; costs no
memory and scales best, but one row gets no faster, so `lanes` from one row on means "a single row runs on one
thread". Measured in docs/adr/0007.
"""

from collections.abc import Iterable, Sequence
from math import ceil

from steelyard.profile.types import Profile
from steelyard.runtime.base import Width, WidthRule


def width_cores(cores: float) -> int:
    """Whole cores a batch is spread over: `cores` rounded up, at least 1 (fractions are the quota's)."""
    return max(1, ceil(cores - 1e-9))


def width_for(rules: Sequence[WidthRule], cores: int, rows: int) -> Width:
    """The width of a batch of `rows` rows on `cores` whole cores.

    Rules of the nearest core count apply (the smaller one of two equally near), and of these the one with the
    largest `rows` that the batch reaches. Where no rule speaks, `threads`: never slower than one thread by
    much, and faster for a single row.
    """
    if not rules:
        return "threads"
    nearest = min((rule.cores for rule in rules), key=lambda known: (abs(known - cores), known))
    reached = [rule for rule in rules if rule.cores == nearest and rule.rows <= rows]
    return max(reached, key=lambda rule: rule.rows).width if reached else "threads"


def width_rules(profile: Profile) -> tuple[WidthRule, ...]:
    """The rules that a profile's measurements amount to.

    Where shape buckets disagree at one (rows, cores), the width that most buckets found faster wins, threads
    on a tie. Only changes are listed: a rule holds from its rows on.
    """
    votes: dict[tuple[int, int], int] = {}
    for cell in profile.cells:
        if cell.cores >= 2 and cell.cores == int(cell.cores):
            place = (int(cell.cores), cell.rows)
            votes[place] = votes.get(place, 0) + (1 if cell.width == "lanes" else -1)
    rules: list[WidthRule] = []
    for (cores, rows), lanes in sorted(votes.items()):
        width: Width = "lanes" if lanes > 0 else "threads"
        if not rules or (rules[-1].cores, rules[-1].width) != (cores, width):
            rules.append(WidthRule(cores, rows, width))
    return tuple(rules)


def needs_threads(rules: Sequence[WidthRule], cores: int) -> bool:
    """Whether any batch on `cores` cores runs on an n-thread session; if not, none need be kept."""
    starts = {1, *(rule.rows for rule in rules)}
    return cores == 1 or any(width_for(rules, cores, rows) == "threads" for rows in starts)


def thread_counts(cores_max: int) -> tuple[int, ...]:
    """Thread counts worth a session each: all up to 4, then 6, 8, 12, 16 ... and `cores_max`, ascending.

    A session costs about 1.5 times the model's size, so a wide range must not mean a session a core.
    """
    counts = set(range(1, min(cores_max, 4) + 1))
    step = 4
    while step < cores_max:
        counts |= {count for count in (step * 3 // 2, step * 2) if count <= cores_max}
        step *= 2
    return tuple(sorted(counts | {cores_max}))


def nearest_count(built: Iterable[int], wanted: int) -> int:
    """The built thread count to use for `wanted` cores: the largest that fits, else the smallest there is."""
    counts = sorted(built)
    fitting = [count for count in counts if count <= wanted]
    return fitting[-1] if fitting else counts[0]


def slices(rows: int, lanes: int) -> list[slice]:
    """Cut rows into at most `lanes` consecutive slices, none empty, with sizes that differ by at most one."""
    lanes = max(1, min(rows, lanes))
    edges = [rows * lane // lanes for lane in range(lanes + 1)]
    return [slice(edges[lane], edges[lane + 1]) for lane in range(lanes)]
