"""By when a piece must have finished at its stage: the deadline of a pipeline, carried along it.

A request has one absolute deadline, end to end. A piece is due at
`deadline - reply_s - (longest path behind its stage of least service times)`: what finishes later cannot be
answered in time, whatever happens behind. The least service time of a stage is that of one row of a request
(`fan_out` rows there, as counted lately if they are items; at most a batch) on the ready replica and with the
variant that are fastest, as corrected live; without a ready replica, that of its fastest variant on as many
cores as it can use.

The rule leaves queueing behind a stage out, and so is a bound and not a share: no stage has a budget of its
own, and the order of deadlines is the same at all stages. Only for stages that are crowded time is reserved
beyond the least (`crowding`). A piece's due time is set when it begins to wait,
and again while it waits if replicas behind its stage have changed; corrections count from the next piece on.
Admission asks at the stages that requests enter, by the due times there.
"""

from __future__ import annotations

from math import ceil

from steelyard.core.estimate import Estimator
from steelyard.core.lifecycle import ReplicaPool
from steelyard.core.types import Stage


class Remaining:
    """What is behind one stage, and the least time it takes; kept until a replica or a correction changes.

    Args:
        stage: as the spec has it.
        estimator: its service times.
        pool: its replicas.

    Attributes:
        behind: all stages behind this one.
        reserved_s: what is left to it beyond its least.
        is_reserved: so it is for a stage behind.
    """

    def __init__(self, stage: Stage, estimator: Estimator, pool: ReplicaPool) -> None:
        self._fan_out = ceil(stage.fan_out)
        self._fan_out_version = 0
        self.behind: list[Remaining] = []
        self._variants = stage.variants
        self._estimator = estimator
        self._pool = pool
        self._largest: dict[tuple[str, ...], float] = {}
        self._largest_version = -1
        self._followers: list[Remaining] = []
        self._after_s: dict[tuple[int, float], float] = {}
        self._after_version = -1
        self.reserved_s = 0.0
        self.is_reserved = False
        self._before: list[Remaining] = []
        self._reserved_version = 0

    def precede(self, follower: Remaining) -> None:
        """That one's stage takes this one's outputs; to be told from the last stage to the first."""
        self._followers.append(follower)
        for stage in (follower, *follower.behind):
            if stage not in self.behind:
                self.behind.append(stage)
                stage._before.append(self)  # noqa: SLF001  of the same kind

    @property
    def largest(self) -> dict[tuple[str, ...], float]:
        """Cores of the largest ready replica with the same resident variants, by those."""
        if self._largest_version != self._pool.version:
            self._largest_version = self._pool.version
            self._largest = {}
            for replica in self._pool:
                if replica.state == "ready" and replica.cores > self._largest.get(replica.variants, 0.0):
                    self._largest[replica.variants] = replica.cores
        return self._largest

    def expect(self, fan_out: float) -> None:
        """It is given so many rows for each row of a request."""
        if ceil(fan_out) != self._fan_out:
            self._fan_out = ceil(fan_out)
            self._fan_out_version += 1

    def reserve(self, seconds: float) -> None:
        """Leave this stage so much, if that is more than the least, of a request with the whole objective."""
        if seconds != self.reserved_s:
            self.reserved_s = seconds
            self._reserved_version += 1
            for stage in self._before:
                stage.is_reserved = any(one.reserved_s > 0 for one in stage.behind)

    @property
    def version(self) -> int:
        """Grows when this stage's replicas, corrections, rows or reserve change."""
        return (
            self._pool.version
            + self._estimator.residuals.version
            + self._fan_out_version
            + self._reserved_version
        )

    def after_s(self, bucket: int, part: float = 1.0) -> float:
        """Seconds that the longest path behind this stage takes at least; 0 at the end.

        Args:
            bucket: of the request.
            part: of the objective that the request has; in hundredths, as the figure is kept.
        """
        if not self.behind:
            return 0.0
        version = sum([stage.version for stage in self.behind])
        if version != self._after_version:  # both parts of every summand only grow
            self._after_version = version
            self._after_s.clear()
        after_s = self._after_s.get((bucket, part))
        if after_s is None:
            after_s = max(
                follower.least_s(bucket, part) + follower.after_s(bucket, part)
                for follower in self._followers
            )
            self._after_s[bucket, part] = after_s
        return after_s

    def least_s(self, bucket: int, part: float = 1.0) -> float:
        """Seconds that this stage takes for one row of a request at least, or that are reserved for it."""
        services_s = [
            self._service_s(variant, bucket, cores)
            for variants, cores in self.largest.items()
            for variant in variants
        ] or [self._service_s(variant.name, bucket, float(variant.cores_max)) for variant in self._variants]
        return max(min(services_s), part * self.reserved_s)

    def _service_s(self, variant: str, bucket: int, cores: float) -> float:
        rows = self._estimator.rows_max(variant, self._fan_out)
        return self._estimator.service_s(variant, bucket, rows, cores)
