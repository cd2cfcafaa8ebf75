"""Cores that replicas share and lend each other: each running batch has its part among those that run.

A replica's fraction of a core is a weight (docs/adr/0012): it has that much when all who share the core run a
batch, and the rest of those who do not. So a batch's speed changes with every start and end of a batch on one
of its cores; what is done of it is kept as a part of the whole, and its end is reckoned anew. On whole cores
of its own a batch has nobody to wait for, and none of this is asked.

Two things are simpler than live: the kernel takes turns of milliseconds where this is a fluid, and a batch
spreads over no more cores than its replica's fractions round up to.
"""

from collections.abc import Callable, Sequence
from math import ceil

from steelyard.core.snapshot import CoreShare
from steelyard.sim.draws import Durations
from steelyard.sim.kernel import Kernel, Kind

_EXACT = 1e-9
_COMPLETION = Kind.COMPLETION
Core = tuple[str, int]
"""(node, core id)."""


class _Batch:
    """A batch on parts of cores: of `left` at `since_s`, from 1 to 0, it does `speed` a second."""

    __slots__ = (
        "cores",
        "done",
        "durations",
        "left",
        "most",
        "ratio",
        "rows",
        "since_s",
        "speed",
        "turn",
        "variant",
    )

    def __init__(
        self,
        cores: dict[Core, float],
        durations: Durations,
        variant: str,
        rows: int,
        ratio: float,
        done: Callable[[], None],
    ) -> None:
        self.cores = cores
        self.most = float(ceil(sum(cores.values(), 0.0) - _EXACT))
        self.durations = durations
        self.variant = variant
        self.rows = rows
        self.ratio = ratio
        self.done = done
        self.left = 1.0
        self.speed = 0.0
        self.since_s = 0.0
        self.turn = 0  # how often its end has been reckoned: only the latest one counts


class LentCores:
    """The batches that run on parts of cores, of all nodes that lend.

    Args:
        kernel: the clock.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._batches: dict[int, _Batch] = {}
        self._running: dict[Core, dict[int, float]] = {}

    def run(
        self,
        replica_id: int,
        node: str,
        shares: Sequence[CoreShare],
        durations: Durations,
        variant: str,
        rows: int,
        *,
        stretch: float,
        done: Callable[[], None],
    ) -> None:
        """Start a batch on a replica that runs none; `done` is called at its end.

        Args:
            replica_id: whose.
            node: where.
            shares: of the replica, as they are when the batch starts.
            durations: of its stage; a batch on parts of cores is drawn as on the whole ones.
            variant: that runs.
            rows: of the batch.
            stretch: times as long as drawn.
            done: told of its end.
        """
        cores = {(node, share.core_id): share.fraction for share in shares}
        batch = _Batch(cores, durations, variant, rows, stretch, done)
        batch.ratio *= durations.draw_s(variant, rows, batch.most) / durations.median_s(
            variant, rows, batch.most
        )
        batch.since_s = self._kernel.now_s
        self._batches[replica_id] = batch
        for core, fraction in cores.items():
            self._running.setdefault(core, {})[replica_id] = fraction
        self._reckon(cores)

    def drop(self, replica_id: int) -> None:
        """Forget a replica's batch, if it runs one on parts of cores: it was lost."""
        batch = self._batches.pop(replica_id, None)
        if batch is None:
            return
        batch.turn += 1
        for core in batch.cores:
            del self._running[core][replica_id]
        self._reckon(batch.cores)

    def _reckon(self, cores: dict[Core, float]) -> None:
        """Reckon the ends of all batches on these cores anew."""
        now_s = self._kernel.now_s
        for replica_id in {replica_id: None for core in cores for replica_id in self._running[core]}:
            batch = self._batches[replica_id]
            batch.left = max(0.0, batch.left - (now_s - batch.since_s) * batch.speed)
            batch.since_s = now_s
            batch.speed = 1.0 / (
                batch.ratio * batch.durations.median_s(batch.variant, batch.rows, self._has(batch))
            )
            batch.turn += 1
            end_s = now_s + batch.left / batch.speed
            self._kernel.schedule(end_s, _COMPLETION, self._on_end, (replica_id, batch, batch.turn))

    def _has(self, batch: _Batch) -> float:
        """Cores that a batch has at the moment, in hundredths."""
        cores = 0.0
        for core, fraction in batch.cores.items():
            cores += fraction / sum(self._running[core].values(), 0.0)
        return min(batch.most, max(0.01, round(cores, 2)))

    def _on_end(self, ended: tuple[int, _Batch, int]) -> None:
        replica_id, batch, turn = ended
        if turn == batch.turn:
            self.drop(replica_id)
            batch.done()
