"""Which idle replica takes the next batch: the `routing` rules of a plan."""

from collections.abc import Mapping
from typing import Protocol

from steelyard.core.estimate import Estimator
from steelyard.core.lifecycle import Replica
from steelyard.core.mix import VariantMix
from steelyard.core.plan import Routing
from steelyard.core.work import Piece


class Router(Protocol):
    """Order in which idle replicas are offered the most urgent piece; asked if there are several."""

    def order(self, idle: Mapping[int, Replica], head: Piece) -> list[Replica]:
        """All of `idle`, the preferred one first."""
        ...

    def took(self, replica: Replica) -> None:
        """A replica took a batch."""
        ...


class LeastFinish:
    """The replica expected to finish the head first; ties by id."""

    def __init__(self, estimator: Estimator, mix: VariantMix) -> None:
        self._estimator = estimator
        self._mix = mix

    def order(self, idle: Mapping[int, Replica], head: Piece) -> list[Replica]:
        """Fastest first."""

        def finish(replica: Replica) -> tuple[float, int]:
            ranked = self._mix.usable if self._mix.is_whole else self._mix.ranked
            variant = ranked(replica.variants)[0]
            return self._estimator.service_s(variant, head.bucket, head.rows, replica.cores), replica.id

        return sorted(idle.values(), key=finish)

    def took(self, replica: Replica) -> None:
        """Keeps nothing."""


class RoundRobin:
    """In turn, by id."""

    def __init__(self) -> None:
        self._last_id = -1

    def order(self, idle: Mapping[int, Replica], head: Piece) -> list[Replica]:
        """From the one after the last that took a batch on."""
        del head
        return sorted(idle.values(), key=lambda replica: (replica.id <= self._last_id, replica.id))

    def took(self, replica: Replica) -> None:
        """Remember whose turn it was."""
        self._last_id = replica.id


def make_router(rule: Routing, estimator: Estimator, mix: VariantMix) -> Router:
    """The router a plan asks for."""
    return RoundRobin() if rule == "round_robin" else LeastFinish(estimator, mix)
