"""Starts of replicas and loads of variants: how long they take, and when to try again after one has failed.

A stage whose starts fail is tried again after 0.5 s, 1 s, 2 s ... up to 30 s, for ever at that rate: a
model file that comes back must be served again without anybody's help. One success forgets the failures. A
replica that is lost *after* it was ready is not a failed start: it is replaced at once. The same holds for a
variant that does not load into live replicas of a stage.
"""

from collections.abc import Mapping
from typing import Generic, TypeVar

from steelyard.control.replica import Replica, StageKey
from steelyard.core.types import Service

RETRY_S = 0.5
RETRY_S_MAX = 30.0
COLD_START_WEIGHT = 0.3
"""Weight of the latest cold start in the moving average."""

VariantKey = tuple[str, str, str]
"""(service, stage, variant)."""
Key = TypeVar("Key")


class _Retries(Generic[Key]):
    """What has failed, how often in a row, and when it is tried again."""

    def __init__(self) -> None:
        self._failures: dict[Key, int] = {}
        self._retry_at_s: dict[Key, float] = {}

    def succeeded(self, key: Key) -> None:
        """Forget the failures."""
        self._failures.pop(key, None)
        self._retry_at_s.pop(key, None)

    def failed(self, key: Key, *, now_s: float) -> float:
        """One more failure; seconds until the next try."""
        failures = self._failures.get(key, 0)
        delay_s = float(min(RETRY_S * 2 ** min(failures, 16), RETRY_S_MAX))
        self._failures[key] = failures + 1
        self._retry_at_s[key] = now_s + delay_s
        return delay_s

    def waiting(self, *, now_s: float) -> frozenset[Key]:
        """What may not be tried now."""
        if not self._retry_at_s:
            return frozenset()
        return frozenset(key for key, at_s in self._retry_at_s.items() if at_s > now_s)

    def next_s(self, *, now_s: float) -> float:
        """When the next is tried again; inf if none waits."""
        if not self._retry_at_s:
            return float("inf")
        return min((at_s for at_s in self._retry_at_s.values() if at_s > now_s), default=float("inf"))


class Starts:
    """Expected cold starts by (service, stage), and what has failed."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self.cold_start_s: dict[StageKey, float] = {
            (service.name, stage.name): max(variant.cold_start_s for variant in stage.variants)
            for service in services.values()
            for stage in service.stages
        }
        self._starts: _Retries[StageKey] = _Retries()
        self._loads: _Retries[VariantKey] = _Retries()

    def succeeded(self, replica: Replica, cold_start_s: float) -> None:
        """A replica became ready after `cold_start_s` seconds (0: not measured)."""
        key = (replica.service, replica.stage)
        self._starts.succeeded(key)
        if cold_start_s > 0:
            former_s = self.cold_start_s.get(key, cold_start_s)
            self.cold_start_s[key] = former_s + COLD_START_WEIGHT * (cold_start_s - former_s)

    def failed(self, replica: Replica, *, now_s: float) -> float:
        """A replica never became ready; seconds until its stage is tried again."""
        return self._starts.failed((replica.service, replica.stage), now_s=now_s)

    def loaded(self, replica: Replica, variant: str) -> None:
        """A variant was loaded into a live replica."""
        self._loads.succeeded((replica.service, replica.stage, variant))

    def not_loaded(self, replica: Replica, variant: str, *, now_s: float) -> float:
        """A variant did not load into a live replica; seconds until its stage is tried again."""
        return self._loads.failed((replica.service, replica.stage, variant), now_s=now_s)

    def blocked(self, *, now_s: float) -> frozenset[StageKey]:
        """Stages that may not start replicas now."""
        return self._starts.waiting(now_s=now_s)

    def unloadable(self, *, now_s: float) -> frozenset[VariantKey]:
        """Variants that may not be loaded now."""
        return self._loads.waiting(now_s=now_s)

    def next_retry_s(self, *, now_s: float) -> float:
        """When the next stage or variant is tried again; inf if none waits."""
        return min(self._starts.next_s(now_s=now_s), self._loads.next_s(now_s=now_s))
