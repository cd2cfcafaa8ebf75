"""Measure blocks of operating points on one replica, their rounds interleaved.

Each visit to a point gives the replica its cores, runs one batch that does not count (caches, memory plans
and the migration of threads belong to the resize, not to the batch) and then some that do.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from steelyard.profile.types import Cell
from steelyard.profiler.grid import Effort, Setting
from steelyard.profiler.station import Batch, Run, Station
from steelyard.runtime.base import Width

Samples = dict[Setting, list[list[float]]]
"""Service times in seconds, by visit."""

RUNS_FOR_TAIL = 30
"""With fewer runs a point's own p99 is little more than its maximum: its block's spread speaks, too."""
LANES_GAIN_MIN = 0.03
"""Lanes are chosen only if they are faster than threads by more than noise."""


class Sampler:
    """Takes samples on one replica.

    Args:
        station: where the replica is.
        replica_id: the replica, ready.
        core_ids: cores it may be given; a point of c cores uses the first c.
        variants: which of the replica's resident variants runs at which width.
        effort: how long.
        rng: decides the order of visits.
        on_visit: called after each visit.
    """

    def __init__(
        self,
        station: Station,
        replica_id: int,
        core_ids: Sequence[int],
        variants: Mapping[Width, str],
        effort: Effort,
        rng: np.random.Generator,
        on_visit: Callable[[Setting], None] = lambda _: None,
    ) -> None:
        self._station = station
        self._replica_id = replica_id
        self._core_ids = tuple(core_ids)
        self._variants = dict(variants)
        self._effort = effort
        self._rng = rng
        self._on_visit = on_visit
        self._cores = len(self._core_ids)
        self._end_s = float("inf") if effort.total_s is None else _now_s() + effort.total_s
        self.resize_s: list[float] = []
        self.dispatch_s: list[float] = []

    @property
    def is_time_up(self) -> bool:
        """Whether the effort's total is spent."""
        return _now_s() >= self._end_s

    async def measure(self, block: Sequence[Setting], batch: Batch) -> list[Cell]:
        """Measure one block: every point in every round, or, when the time is up, at least once.

        Raises:
            ModelError: the model failed on a batch.
        """
        samples: Samples = {setting: [] for setting in block}
        for completed in range(self._effort.rounds):
            for index in self._rng.permutation(len(block)):
                setting = block[int(index)]
                if completed == 0 or not self.is_time_up:
                    samples[setting].append(await self._visit(setting, batch))
                self._on_visit(setting)
        return cells(samples)

    async def resize(self, cores: int) -> None:
        """Give the replica the first `cores` cores, and note how long the call took."""
        self.resize_s.append(await self._station.resize(self._replica_id, self._core_ids[:cores]))
        self._cores = cores

    async def _visit(self, setting: Setting, batch: Batch) -> list[float]:
        if setting.cores != self._cores:
            await self.resize(setting.cores)
        if not self.is_time_up:
            await self._run(setting, batch)
        begun_s = _now_s()
        runs: list[Run] = []
        while not runs or (
            len(runs) < self._effort.visit_runs_max and _now_s() - begun_s < self._effort.visit_s
        ):
            runs.append(await self._run(setting, batch))
        self.dispatch_s += [run.dispatch_s for run in runs]
        return [run.service_s for run in runs]

    async def _run(self, setting: Setting, batch: Batch) -> Run:
        return await self._station.run(self._replica_id, self._variants[setting.width], batch)


def _spread(samples: Samples) -> float:
    """0.99 quantile of time over median, of all points together: >= 1."""
    ratios: list[float] = []
    for visits in samples.values():
        times_s = [time_s for visit in visits for time_s in visit]
        middle_s = median(times_s)
        ratios += [time_s / middle_s for time_s in times_s]
    return max(1.0, float(np.quantile(ratios, 0.99)))


def _now_s() -> float:
    """The loop's clock: limits of time hold on virtual time, too."""
    return asyncio.get_running_loop().time()


def cells(samples: Samples) -> list[Cell]:
    """One cell a (bucket, rows, cores): the faster width's, threads unless lanes gain more than noise."""
    spread = _spread(samples)
    found: dict[tuple[int, int, int], Cell] = {}
    for setting in sorted(samples, key=lambda setting: (setting[:3], setting.width == "lanes")):
        times_s = [time_s for visit in samples[setting] for time_s in visit]
        p50_s, p99_s = median(times_s), float(np.quantile(times_s, 0.99))
        if len(times_s) < RUNS_FOR_TAIL:
            p99_s = max(p99_s, p50_s * spread)
        place = (setting.bucket, setting.rows, setting.cores)
        threads = found.get(place)
        if threads is None or p50_s < threads.p50_s * (1 - LANES_GAIN_MIN):
            found[place] = Cell(*place, p50_s, p99_s, len(times_s), setting.width, len(samples[setting]))
    return list(found.values())
