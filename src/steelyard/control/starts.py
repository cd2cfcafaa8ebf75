"""Starts of replicas: how long they take, and when to try again after one has failed.

A stage whose starts fail is tried again after 0.5 s, 1 s, 2 s ... up to 30 s, for ever at that rate: a
model file that comes back must be served again without anybody's help. One success forgets the failures. A
replica that is lost *after* it was ready is not a failed start: it is replaced at once.
"""

from collections.abc import Mapping

from steelyard.control.fleet import Replica, StageKey
from steelyard.core.types import Service

RETRY_S = 0.5
RETRY_S_MAX = 30.0
COLD_START_WEIGHT = 0.3
"""Weight of the latest cold start in the moving average."""


class Starts:
    """Expected cold starts and failed starts, by (service, stage)."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self.cold_start_s: dict[StageKey, float] = {
            (service.name, stage.name): max(variant.cold_start_s for variant in stage.variants)
            for service in services.values()
            for stage in service.stages
        }
        self._failures: dict[StageKey, int] = {}
        self._retry_at_s: dict[StageKey, float] = {}

    def succeeded(self, replica: Replica, cold_start_s: float) -> None:
        """A replica became ready after `cold_start_s` seconds (0: not measured)."""
        key = (replica.service, replica.stage)
        self._failures.pop(key, None)
        self._retry_at_s.pop(key, None)
        if cold_start_s > 0:
            former_s = self.cold_start_s.get(key, cold_start_s)
            self.cold_start_s[key] = former_s + COLD_START_WEIGHT * (cold_start_s - former_s)

    def failed(self, replica: Replica, *, now_s: float) -> float:
        """A replica never became ready; seconds until its stage is tried again."""
        key = (replica.service, replica.stage)
        failures = self._failures.get(key, 0)
        delay_s = float(min(RETRY_S * 2 ** min(failures, 16), RETRY_S_MAX))
        self._failures[key] = failures + 1
        self._retry_at_s[key] = now_s + delay_s
        return delay_s

    def blocked(self, *, now_s: float) -> frozenset[StageKey]:
        """Stages that may not start replicas now."""
        return frozenset(key for key, at_s in self._retry_at_s.items() if at_s > now_s)

    def next_retry_s(self, *, now_s: float) -> float:
        """When the next stage is tried again; inf if none waits."""
        return min((at_s for at_s in self._retry_at_s.values() if at_s > now_s), default=float("inf"))
