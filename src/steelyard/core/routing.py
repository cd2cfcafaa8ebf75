"""Which idle replica takes the next batch: the `routing` rules of a plan."""

from collections.abc import Mapping
from typing import Protocol

from steelyard.core.estimate import Estimator
from steelyard.core.lifecycle import Replica, ReplicaPool
from steelyard.core.mix import VariantMix
from steelyard.core.plan import Routing
from steelyard.core.work import Piece


class Router(Protocol):
    """Order in which idle replicas are offered the most urgent piece."""

    def first(self, idle: Mapping[int, Replica], head: Piece) -> Replica:
        """The preferred one."""
        ...

    def order(self, idle: Mapping[int, Replica], head: Piece) -> list[Replica]:
        """All of `idle`, the preferred one first."""
        ...

    def took(self, replica: Replica) -> None:
        """A replica took a batch."""
        ...


class LeastFinish:
    """The replica expected to finish the head first; ties by id."""

    def __init__(self, pool: ReplicaPool, estimator: Estimator, mix: VariantMix) -> None:
        self._pool = pool
        self._estimator = estimator
        self._mix = mix

    def first(self, idle: Mapping[int, Replica], head: Piece) -> Replica:
        """The fastest."""
        return idle[min(idle)] if self._pool.is_uniform else self.order(idle, head)[0]

    def order(self, idle: Mapping[int, Replica], head: Piece) -> list[Replica]:
        """Fastest first."""
        if self._pool.is_uniform:
            return [idle[replica_id] for replica_id in sorted(idle)]
        ranked = self._mix.usable if self._mix.is_whole else self._mix.ranked
        line, bucket, rows = self._estimator.line, head.bucket, head.rows
        finishes = [
            (line(ranked(replica.variants)[0], bucket, replica.cores).service_s(rows), replica_id)
            for replica_id, replica in idle.items()
        ]
        finishes.sort()
        return [idle[replica_id] for _, replica_id in finishes]

    def took(self, replica: Replica) -> None:
        """Keeps nothing."""


class RoundRobin:
    """In turn, by id."""

    def __init__(self) -> None:
        self._last_id = -1

    def first(self, idle: Mapping[int, Replica], head: Piece) -> Replica:
        """The one after the last that took a batch."""
        return self.order(idle, head)[0]

    def order(self, idle: Mapping[int, Replica], head: Piece) -> list[Replica]:
        """From the one after the last that took a batch on."""
        del head
        return sorted(idle.values(), key=lambda replica: (replica.id <= self._last_id, replica.id))

    def took(self, replica: Replica) -> None:
        """Remember whose turn it was."""
        self._last_id = replica.id


def make_router(rule: Routing, pool: ReplicaPool, estimator: Estimator, mix: VariantMix) -> Router:
    """The router a plan asks for."""
    return RoundRobin() if rule == "round_robin" else LeastFinish(pool, estimator, mix)
