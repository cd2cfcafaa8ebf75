"""Who answers in a plan: equal replicas together, and the share of a stage's rows that each variant answers.

A replica answers with the resident variant that has the largest share of the mix. Where the data plane
chooses among several resident ones (`choice: fit`), the shares are those that it comes to at a rate: as many
rows with the more accurate variant as the replicas can carry beside the rest with the next one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from steelyard.core.plan import ReplicaPlan, StagePlan
from steelyard.core.types import Frozen, ServiceTimes

BUSY_MAX = 0.9
"""Share of their time that replicas are reckoned to be busy before accuracy is lowered."""


class Group(Frozen, frozen=True):
    """Equal replicas of one stage, and the share of its rows that they answer with a variant.

    `replicas` is 0 for a further variant of the replicas in the group before it.
    """

    variant: str
    replicas: int
    cores: float
    batch: int
    share: float


class Crew(NamedTuple):
    """Equal replicas, with a group for each variant that they answer with."""

    groups: tuple[Group, ...]

    @property
    def replicas(self) -> int:
        """How many there are."""
        return self.groups[0].replicas

    @property
    def cores(self) -> float:
        """Of each."""
        return self.groups[0].cores

    @property
    def batch(self) -> int:
        """Most rows in a batch of any of the variants."""
        return max(group.batch for group in self.groups)

    @property
    def share(self) -> float:
        """Of the stage's rows, that they answer."""
        return sum((group.share for group in self.groups), 0.0)

    def service_time_s(self, times: ServiceTimes, rows: int) -> float:
        """Median seconds of a batch, by the variants' shares."""
        share = self.share or len(self.groups)
        return (
            sum(
                (
                    (group.share if self.share else 1.0)
                    * times.service_time_s(group.variant, 0, min(rows, group.batch), group.cores)
                    for group in self.groups
                ),
                0.0,
            )
            / share
        )

    def service_time_s_p99(self, times: ServiceTimes, rows: int) -> float:
        """0.99 quantile of a batch with the slowest variant that answers."""
        return max(
            times.service_time_s_p99(group.variant, 0, min(rows, group.batch), group.cores)
            for group in self.groups
        )


def crews_of(groups: Sequence[Group]) -> list[Crew]:
    """Groups by the replicas that they are of."""
    crews: list[Crew] = []
    for group in groups:
        if group.replicas:
            crews.append(Crew((group,)))
        else:
            crews[-1] = Crew((*crews[-1].groups, group))
    return crews


def groups_of(stage: StagePlan, times: ServiceTimes, rows_rps: float = 0.0) -> tuple[Group, ...]:
    """A stage's replicas, equal ones counted together, most cores first.

    Rows of a variant are divided by what its replicas can carry.

    Args:
        stage: its plan.
        times: of its variants.
        rows_rps: rows a second that it is given, by which `choice: fit` chooses.
    """
    shares = dict(stage.mix)
    counted = Counter((_variant(replica, shares), replica.cores) for replica in stage.replicas)
    fitting = _fitting(stage, times, rows_rps)
    if fitting:
        main = max(fitting, key=lambda variant: fitting[variant])
        of_cores = Counter(replica.cores for replica in stage.replicas)
        rates = {cores: _rate_rps(stage, times, main, cores, count) for cores, count in of_cores.items()}
        total = sum(rates.values(), 0.0)
        return tuple(
            Group(
                variant,
                count if variant == main else 0,
                cores,
                _rows_max(stage, variant),
                share * rates[cores] / total if total else 0.0,
            )
            for cores, count in sorted(of_cores.items(), reverse=True)
            for variant, share in sorted(fitting.items(), key=lambda item: item[0] != main)
        )
    carried = {key: _rate_rps(stage, times, *key, count) for key, count in counted.items()}
    totals: dict[str, float] = {}
    for (variant, _), rate_rps in carried.items():
        totals[variant] = totals.get(variant, 0.0) + rate_rps
    return tuple(
        Group(
            variant,
            count,
            cores,
            _rows_max(stage, variant),
            shares.get(variant, 0.0) * carried[variant, cores] / totals[variant] if totals[variant] else 0.0,
        )
        for (variant, cores), count in sorted(counted.items(), key=lambda item: (-item[0][1], item[0][0]))
    )


def _fitting(stage: StagePlan, times: ServiceTimes, rows_rps: float) -> dict[str, float]:
    """Shares that `choice: fit` comes to at a rate; empty where it has no choice.

    With u and v the capacities of two variants that follow each other in the mix, a share x of the first
    keeps the replicas busy for x / u + (1 - x) / v seconds a row, at most `BUSY_MAX` of the time between two.
    """
    resident = [set(replica.variants) for replica in stage.replicas if replica.cores > 0]
    usable = [share.variant for share in stage.mix if all(share.variant in known for known in resident)]
    if stage.rules.choice != "fit" or not resident or len(usable) < 2 or rows_rps <= 0:
        return {}
    rates = {
        variant: sum((_rate_rps(stage, times, variant, replica.cores, 1) for replica in stage.replicas), 0.0)
        for variant in usable
    }
    if BUSY_MAX * rates[usable[0]] >= rows_rps:
        return {usable[0]: 1.0}
    for better, worse in pairwise(usable):
        if BUSY_MAX * rates[worse] >= rows_rps:
            busy_s = (1 / rates[better], 1 / rates[worse])
            share = (BUSY_MAX / rows_rps - busy_s[1]) / (busy_s[0] - busy_s[1])
            return {better: share, worse: 1.0 - share}
    return {max(usable, key=lambda variant: rates[variant]): 1.0}


def _rate_rps(stage: StagePlan, times: ServiceTimes, variant: str, cores: float, replicas: int) -> float:
    """Rows a second that so many replicas carry in full batches."""
    rows = _rows_max(stage, variant)
    return replicas * rows / times.service_time_s(variant, 0, rows, cores) if cores > 0 else 0.0


def _rows_max(stage: StagePlan, variant: str) -> int:
    return stage.rows_max.get(variant, stage.batch_rows_max)


def _variant(replica: ReplicaPlan, shares: Mapping[str, float]) -> str:
    return max(replica.variants, key=lambda variant: shares.get(variant, 0.0))
