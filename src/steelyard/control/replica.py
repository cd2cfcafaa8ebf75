"""What the control plane knows of one replica.

Three amounts of cores are kept apart: `cores_desired` (the plan's), `cores_requested` (asked of the
backend) and `cores` (observed).
"""

from steelyard.core.snapshot import CoreShare, ReplicaState
from steelyard.core.types import Frozen

StageKey = tuple[str, str]
"""(service, stage)."""


class Replica(Frozen, frozen=True):
    """One replica, from `StartReplica` to `ReplicaGone`.

    Attributes:
        pending: shares asked for by a resize that the backend has not confirmed; None when there is none.
        refusals: resizes refused in a row.
        retry_at_s: no resize is asked for before this time.
        loading: variants asked for that are not resident yet.
        unloading: resident variants that were asked to go.
    """

    replica_id: int
    service: str
    stage: str
    node: str
    variants: tuple[str, ...]
    state: ReplicaState
    cores: float
    cores_desired: float
    cores_requested: float
    started_s: float
    expected_ready_s: float | None = None
    throttled_ratio: float = 0.0
    pending: tuple[CoreShare, ...] | None = None
    refusals: int = 0
    retry_at_s: float = 0.0
    loading: tuple[str, ...] = ()
    unloading: tuple[str, ...] = ()

    @property
    def coming(self) -> tuple[str, ...]:
        """Variants that are resident when everything asked for is done."""
        if not self.loading and not self.unloading:
            return self.variants
        return tuple(v for v in (*self.variants, *self.loading) if v not in self.unloading)
