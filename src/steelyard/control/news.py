"""What news of replicas change: the fleet, the ledger, and what may be tried again when.

A backend refuses, fails and loses at any time; nothing here decides what to do about it. `reconcile` finds
the difference to what is desired in its next pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from steelyard.control.fleet import Fleet
from steelyard.control.ledger import Ledger
from steelyard.control.starts import Starts
from steelyard.core.events import (
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ReplicaThrottled,
    ResizeRefused,
    VariantLoaded,
    VariantUnloaded,
)

RESIZE_RETRY_S = 0.5
"""Seconds before a refused resize is asked for again; doubled with each refusal in a row, up to the next."""
RESIZE_RETRY_S_MAX = 16.0

ReplicaNews = (
    ReplicaReady
    | ReplicaResized
    | ReplicaGone
    | ReplicaThrottled
    | ResizeRefused
    | VariantLoaded
    | VariantUnloaded
)


class Came(NamedTuple):
    """What became of one piece of news.

    Attributes:
        is_change: a pass of `reconcile` must follow.
        text: for the record of decisions; empty if nothing is to be recorded.
        cause: of the commands that follow; empty: the present one.
    """

    is_change: bool
    text: str = ""
    cause: str = ""


_NOTHING = Came(False)


class News:
    """Takes news of replicas; those of replicas that are gone change nothing.

    Args:
        fleet: changed.
        ledger: changed.
        starts: told of starts and loads that succeeded and failed.

    Attributes:
        kinds: of the events that it takes.
    """

    def __init__(self, fleet: Fleet, ledger: Ledger, starts: Starts) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._starts = starts
        self._refused: set[int] = set()
        self._is_at_rest = False
        self._now_s = float("-inf")
        self._takes: dict[type, Callable[[Any], Came]] = {
            ReplicaReady: self._ready,
            ReplicaResized: self._resized,
            ResizeRefused: self._not_resized,
            ReplicaGone: self._gone,
            ReplicaThrottled: self._throttled,
            VariantLoaded: self._loaded,
            VariantUnloaded: self._unloaded,
        }
        self.kinds = tuple(self._takes)

    def take(self, event: ReplicaNews, *, is_at_rest: bool, now_s: float) -> Came:
        """Take one piece of news.

        Args:
            event: the news.
            is_at_rest: everything that is desired has been asked for.
            now_s: seconds.
        """
        self._is_at_rest, self._now_s = is_at_rest, now_s
        return self._takes[type(event)](event)

    def next_retry_s(self, *, now_s: float) -> float:
        """When the next refused resize, failed start or failed load is tried again; inf if none waits."""
        resizes_s = (self._fleet[replica_id].retry_at_s for replica_id in self._refused)
        return min([self._starts.next_retry_s(now_s=now_s), *(at_s for at_s in resizes_s if at_s > now_s)])

    def _ready(self, event: ReplicaReady) -> Came:
        replica = self._fleet.get(event.replica_id)
        if replica is None or replica.state != "starting":
            return _NOTHING
        self._starts.succeeded(replica, event.cold_start_s)
        state = "parked" if event.cores == 0 else "ready"
        self._fleet.change(event.replica_id, state=state, cores=event.cores, expected_ready_s=None)
        return Came(True)

    def _resized(self, event: ReplicaResized) -> Came:
        replica = self._fleet.get(event.replica_id)
        if replica is None:
            return _NOTHING
        if replica.pending is not None:
            self._ledger.hold(event.replica_id, replica.pending)
        state = replica.state
        if state in ("ready", "parked"):
            state = "parked" if event.cores == 0 else "ready"
        self._fleet.change(event.replica_id, state=state, cores=event.cores, pending=None, refusals=0)
        self._refused.discard(event.replica_id)
        # At rest all have the cores that are wanted, so whether one is parked changes nothing for the others.
        return Came(replica.pending is None or not self._is_at_rest)

    def _not_resized(self, event: ResizeRefused) -> Came:
        replica = self._fleet.get(event.replica_id)
        if replica is None:
            return _NOTHING
        self._ledger.hold(event.replica_id, event.shares)
        cores = self._ledger.cores(event.replica_id)
        delay_s = min(RESIZE_RETRY_S * 2 ** min(replica.refusals, 16), RESIZE_RETRY_S_MAX)
        self._fleet.change(
            event.replica_id,
            cores=cores,
            cores_requested=cores,
            pending=None,
            refusals=replica.refusals + 1,
            retry_at_s=self._now_s + delay_s,
        )
        self._refused.add(event.replica_id)
        return Came(True, f"replica {event.replica_id} was not resized: {event.reason}")

    def _gone(self, event: ReplicaGone) -> Came:
        replica = self._fleet.pop(event.replica_id)
        if replica is None:
            return _NOTHING
        self._ledger.release(event.replica_id)
        self._refused.discard(event.replica_id)
        is_change = replica.state != "draining" or not self._is_at_rest
        if event.expected or replica.state == "draining":
            return Came(is_change)
        name = f"replica {event.replica_id} of {replica.service}.{replica.stage}"
        if replica.state == "starting":
            delay_s = self._starts.failed(replica, now_s=self._now_s)
            return Came(is_change, f"{name} did not start: {event.reason}; next try in {delay_s:g} s")
        text = f"{name} was lost: {event.reason}; it is replaced"
        return Came(is_change, text, cause=f"replica {event.replica_id} lost")

    def _throttled(self, event: ReplicaThrottled) -> Came:
        if self._fleet.get(event.replica_id):
            self._fleet.change(event.replica_id, throttled_ratio=event.throttled_ratio)
        return _NOTHING

    def _loaded(self, event: VariantLoaded) -> Came:
        replica = self._fleet.get(event.replica_id)
        if replica is None:
            return _NOTHING
        self._starts.loaded(replica, event.variant)
        loading = tuple(name for name in replica.loading if name != event.variant)
        variants = replica.variants
        if event.variant not in variants:
            variants = (*variants, event.variant)
        self._fleet.change(event.replica_id, variants=variants, loading=loading)
        return Came(True)

    def _unloaded(self, event: VariantUnloaded) -> Came:
        replica = self._fleet.get(event.replica_id)
        if replica is None:
            return _NOTHING
        has_failed = event.variant in replica.loading and event.variant not in replica.unloading
        self._fleet.change(
            event.replica_id,
            variants=tuple(name for name in replica.variants if name != event.variant),
            loading=tuple(name for name in replica.loading if name != event.variant),
            unloading=tuple(name for name in replica.unloading if name != event.variant),
        )
        if not has_failed:
            return Came(True)
        delay_s = self._starts.not_loaded(replica, event.variant, now_s=self._now_s)
        where = f"replica {event.replica_id} of {replica.service}.{replica.stage}"
        why = event.reason or "no reason given"
        return Came(True, f"{where} did not load {event.variant}: {why}; next try in {delay_s:g} s")
