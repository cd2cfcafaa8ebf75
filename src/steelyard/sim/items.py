"""How many items rows have in a simulation: a fact of the request, and not of the run.

A count depends on the seed, the request, its row, the stage that takes the items and the variant that made
them; not on what was drawn before. So every policy is given the same pages, a batch that runs again finds the
same items, and runs repeat under another `PYTHONHASHSEED`. Two variants look at one row with the same luck
(common random numbers): the one that finds more on average finds at least as many on it.

`fixed` counts of a mean that is no whole number follow the requests' numbers: row `i` of request `n` has
`floor((n + i + 1) m) - floor((n + i) m)` items, so that any run of requests has as many as the mean says, to
within one.
"""

from bisect import bisect_right
from hashlib import sha256
from math import exp, floor, lgamma, log, log1p, sqrt

from steelyard.core.commands import RunBatch
from steelyard.core.types import Items, RequestId, Service, Stage

_MASK = (1 << 64) - 1
_TAIL_DEVIATIONS = 12.0
"""Standard deviations above the mean where a Poisson table ends; beyond lies less than one in 10^12."""


class ItemCounts:
    """Counts the items that one stage takes of another's rows.

    Args:
        taker: the stage that takes them. Without `items` it takes exactly its fan-out.
        service: its service's name.
        seed: of the run.
    """

    def __init__(self, taker: Stage, service: str, seed: int) -> None:
        items = taker.items or Items({}, "fixed")
        self._mean = items.mean
        self._mean_else = items.mean.get("", taker.fan_out)
        self._distribution = items.distribution
        digest = sha256("\0".join((str(seed), service, taker.name, "items")).encode()).digest()
        self._key = int.from_bytes(digest[:8], "little")
        self._tables: dict[float, list[float]] = {}

    def count(self, variant: str, request_id: RequestId, row: int) -> int:
        """Items of one row of a request, made by a variant."""
        mean = self._mean.get(variant, self._mean_else)
        if self._distribution == "fixed":
            place = request_id.sequence + row
            return floor((place + 1) * mean) - floor(place * mean)
        if mean <= 0:
            return 0
        luck = self._luck(request_id, row)
        if self._distribution == "poisson":
            return bisect_right(self._table(mean), luck)
        return int(log1p(-luck) / log(mean / (1.0 + mean)))  # failures before a success

    def _luck(self, request_id: RequestId, row: int) -> float:
        """Uniform in [0, 1)."""
        mixed = self._key
        for part in (request_id.front_end, request_id.sequence, row):
            mixed = _mix((mixed + part + 1) & _MASK)
        return (mixed >> 11) * 2.0**-53

    def _table(self, mean: float) -> list[float]:
        """Cumulated probabilities of 0, 1, ... under a Poisson distribution."""
        table = self._tables.get(mean)
        if table is None:
            table = self._tables[mean] = []
            total = 0.0
            for count in range(floor(mean + _TAIL_DEVIATIONS * (sqrt(mean) + 1.0)) + 1):
                total += exp(count * log(mean) - mean - lgamma(count + 1.0))
                table.append(total)
        return table


class StageItems:
    """Counts for all stages that take items of one.

    Args:
        service: of all of them.
        maker: the stage that makes the items.
        seed: of the run.
    """

    def __init__(self, service: Service, maker: str, seed: int) -> None:
        takers = [stage for stage in service.stages if stage.items_of == maker]
        self._counts = {stage.name: ItemCounts(stage, service.name, seed) for stage in takers}

    def of(self, batch: RunBatch) -> dict[str, tuple[int, ...]]:
        """Items of each row of a batch, as `BatchCompleted.items` has them."""
        rows = [
            (part.request_id, row)
            for part in batch.slices
            for row in range(part.row_start, part.row_start + part.rows)
        ]
        return {
            taker: tuple([counts.count(batch.variant, request_id, row) for request_id, row in rows])
            for taker, counts in self._counts.items()
        }


def stage_items(service: Service, seed: int) -> dict[str, StageItems]:
    """By stage, for those whose items another one takes."""
    makers = dict.fromkeys(stage.items_of for stage in service.stages if stage.items_of)
    return {maker: StageItems(service, maker, seed) for maker in makers}


def _mix(value: int) -> int:
    """A number of 64 bits from another, every bit depending on every bit (splitmix64's finaliser).

    Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
