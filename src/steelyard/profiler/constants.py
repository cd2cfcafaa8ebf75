"""What goes on around a batch and beside it: cold start, and how much neighbours slow a batch down."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from statistics import median

from msgspec.structs import replace

from steelyard.core.errors import ModelError
from steelyard.profile.types import Constants
from steelyard.profiler.grid import Effort
from steelyard.profiler.station import Batch, Run, Station

RESIZES = 10
NEIGHBOUR_ROUNDS_MAX = 3
_RUNS_MIN = 3


async def cold_starts_s(station: Station, variant: str, core_id: int, effort: Effort) -> float:
    """Median seconds from the wish for a replica to its readiness, one at a time on an idle core.

    Raises:
        ModelError: the variant does not load.
    """
    took_s = []
    for _ in range(effort.cold_starts):
        ready = await station.start((variant,), (core_id,))
        took_s.append(ready.cold_start_s)
        await station.stop(ready.replica_id)
    return median(took_s)


async def neighbours(
    station: Station, variant: str, core_ids: Sequence[int], batch: Batch, effort: Effort, known: Constants
) -> Constants:
    """Slow-down of a one-core replica by a busy neighbour on the next core, and by a start on its own.

    Alone and disturbed alternate, so that what else the machine does is on both sides. With one core there
    is no neighbour to be busy beside, and `corun_ratio` stays as it was.

    Raises:
        ModelError: the variant does not load, or fails.
    """
    ready = await station.start((variant,), core_ids[:1])
    alone: list[float] = []
    beside: list[float] = []
    during: list[float] = []
    for _ in range(min(NEIGHBOUR_ROUNDS_MAX, effort.rounds)):
        alone += await _for_a_while(station, ready.replica_id, variant, batch, effort)
        during += await _while_one_starts(station, ready.replica_id, variant, core_ids[0], batch)
        if len(core_ids) > 1:
            beside += await _beside_a_busy_one(station, ready.replica_id, variant, core_ids[1], batch, effort)
    await station.stop(ready.replica_id)
    return replace(
        known,
        corun_ratio=_ratio(beside, alone) if beside else known.corun_ratio,
        starting_ratio=_ratio(during, alone) if during else known.starting_ratio,
    )


def _ratio(disturbed: Sequence[float], alone: Sequence[float]) -> float:
    """Of the medians; never below 1, which would be noise."""
    return max(1.0, median(disturbed) / median(alone))


async def _for_a_while(
    station: Station, replica_id: int, variant: str, batch: Batch, effort: Effort
) -> list[float]:
    await station.run(replica_id, variant, batch)
    runs: list[Run] = []
    while len(runs) < _RUNS_MIN or (
        len(runs) < effort.visit_runs_max and runs[-1].finished_s - runs[0].started_s < effort.visit_s
    ):
        runs.append(await station.run(replica_id, variant, batch))
    return [run.service_s for run in runs]


async def _beside_a_busy_one(
    station: Station, replica_id: int, variant: str, core_id: int, batch: Batch, effort: Effort
) -> list[float]:
    neighbour = (await station.start((variant,), (core_id,))).replica_id

    async def keep_busy() -> None:
        while True:
            await station.run(neighbour, variant, batch)

    busy = asyncio.create_task(keep_busy())
    try:
        return await _for_a_while(station, replica_id, variant, batch, effort)
    finally:
        busy.cancel()
        with suppress(asyncio.CancelledError, ModelError):
            await busy
        await station.stop(neighbour)


async def _while_one_starts(
    station: Station, replica_id: int, variant: str, core_id: int, batch: Batch
) -> list[float]:
    """Service times of the batches that began while another replica was starting on the same core."""
    starting = station.begin_start((variant,), (core_id,))
    times_s = []
    while not starting.done():
        times_s.append((await station.run(replica_id, variant, batch)).service_s)
    await station.stop((await starting).replica_id)
    return times_s
