"""Replicas as processes of this machine: forked from a zygote, resized in place, talked to over doorbells.

Ground truth about a worker's end is the zygote, its parent, which reaps it; a closed doorbell only makes sure
that the process ends as well. Each replica therefore ends in exactly one `ReplicaGone`. How it works and why:
docs/adr/0003.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from steelyard.backend.base import Borrower, Sink
from steelyard.backend.launcher import Launcher
from steelyard.backend.patience import Patience
from steelyard.backend.quota import PERIOD_US, EvenTurns, Quotas, QuotaUnavailableError
from steelyard.backend.replica import LocalReplica, arena_name, cores_of, is_fractional
from steelyard.core.commands import (
    LoadVariant,
    ReleaseOutputs,
    ResizeReplica,
    RunBatch,
    StartReplica,
    StopReplica,
    UnloadVariant,
)
from steelyard.core.events import NodeJoined, ReplicaGone, ReplicaThrottled, ResizeRefused
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import Frozen, Request, TensorRef
from steelyard.runtime.base import VariantSpec, WidthRule
from steelyard.worker import messages as m
from steelyard.worker.arena import Arena, StaleRefError
from steelyard.worker.doorbell import pair
from steelyard.worker.tensors import own_feeds

_log = logging.getLogger(__name__)

NODE = "local"
_CLOSE_S = 1.0  # from a kill to the zygote's word that it is done
StageKey = tuple[str, str]
"""(service, stage)."""
VariantKey = tuple[str, str, str]
"""(service, stage, variant)."""


class LocalLimits(Frozen, frozen=True):
    """Bounds of the local backend.

    Attributes:
        start_s_max: seconds from `start` to ready; a replica that takes longer is given up.
        stop_s_max: seconds a worker has to end by itself; then it is killed.
        batch_s_max: seconds a batch may take of which nothing is known; a worker that takes longer counts as
            stuck and is killed (`patience`).
        arena_bytes_max: for the outputs one worker holds; memory is only taken by what is written.
        throttle_period_s: how often throttling is reported for replicas with a quota.
        lends: replicas that share a core may use what the others leave (`quota`).
        needs_parts: without parts of a core some stage would have none: even turns are better than that.
    """

    start_s_max: float = 60.0
    stop_s_max: float = 2.0
    batch_s_max: float = 30.0
    arena_bytes_max: int = 256 << 20
    throttle_period_s: float = 0.5
    lends: bool = True
    needs_parts: bool = False


class LocalBackend:
    """See `steelyard.backend.base.Backend`.

    Args:
        core_ids: cores this node offers (`cpu.usable_core_ids`).
        stages: every variant of a stage, by (service, stage).
        widths: width rules by (service, stage, variant), from the profile.
        arena: the front end's, where requests' tensors lie.
        sink: takes the events, on the loop.
        loop: the driver's; asyncio's own or uvloop.
        limits: see there.
        takers: the stages that take items of a stage, by (service, stage), of services with several.
        slo_s: latency objective by service; workers of one without are given `batch_s_max` always.
    """

    def __init__(
        self,
        core_ids: Sequence[int],
        stages: Mapping[StageKey, tuple[VariantSpec, ...]],
        widths: Mapping[VariantKey, tuple[WidthRule, ...]],
        arena: Arena,
        sink: Sink,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: LocalLimits | None = None,
        takers: Mapping[StageKey, tuple[m.Taker, ...]] | None = None,
        slo_s: Mapping[str, float] | None = None,
    ) -> None:
        self._core_ids = tuple(core_ids)
        self._stages = dict(stages)
        self._widths = dict(widths)
        self._arena = arena
        self._sink = sink
        self._loop = loop
        self._limits = limits or LocalLimits()
        self._takers = dict(takers or {})
        self._slo_s = dict(slo_s or {})
        self._patience: dict[StageKey, Patience] = {}
        self._replicas: dict[int, LocalReplica] = {}
        self._by_arena: dict[str, LocalReplica] = {}
        self._front_arenas: dict[str, int] = {}  # of front ends in processes of their own -> descriptors
        self._borrowers: list[Borrower] = []
        self._throttled: dict[int, float] = {}
        self._throttle_timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._empty = asyncio.Event()
        self._quotas: Quotas | EvenTurns | None = None
        self.mechanism, group = "affinity of every thread; ", None
        try:
            quotas = self._quotas = Quotas(lends=self._limits.lends, cores=len(core_ids))
            group = quotas.version, quotas.group
            how = "weight" if self._limits.lends else f"quota, {PERIOD_US // 1000} ms period"
            self.mechanism += f"fractions by cgroup v{quotas.version} {how}"
        except QuotaUnavailableError as error:
            if self._limits.lends and self._limits.needs_parts:
                self._quotas = EvenTurns()
                self.mechanism += (
                    f"cores are shared by the kernel's even turns, whatever their weights: {error}"
                )
            else:
                self.mechanism += f"fractions of a core unavailable: {error}"
        self._launcher = Launcher(self._forked, self._exited, self._zygote_lost, group=group, loop=loop)

    @property
    def zygote_pid(self) -> int:
        """Process id of the workers' parent."""
        return self._launcher.pid

    def pid(self, replica_id: int) -> int | None:
        """A replica's process id; None before it has one and after its end."""
        replica = self._replicas.get(replica_id)
        return None if replica is None else replica.pid

    def node(self) -> NodeJoined:
        """This machine, with the cores it was told to use."""
        return NodeJoined(NODE, self._core_ids, fractional=self._quotas is not None)

    def start(self, command: StartReplica) -> None:
        """Start a worker; any number may start at a time."""
        assert command.replica_id not in self._replicas, command
        problem = self._why_not(command)
        if problem:
            self._not_started(command, problem)
            return
        try:
            arena_fd = os.dup(self._arena.fd)
        except OSError as error:
            self._not_started(command, f"it cannot be made: {error.strerror}")
            return
        try:
            ours, its = pair()
        except OSError as error:
            os.close(arena_fd)
            self._not_started(command, f"it cannot be made: {error.strerror}")
            return
        stage, slo_s = (command.service, command.stage), self._slo_s.get(command.service)
        patience = self._patience.setdefault(stage, Patience(slo_s, self._limits.batch_s_max))
        replica = LocalReplica(
            command,
            ours,
            self._quotas,
            self._sink,
            lambda: self._launcher.kill(command.replica_id),
            patience,
            loop=self._loop,
        )
        self._replicas[command.replica_id] = self._by_arena[replica.arena_name] = replica
        self._empty.clear()
        replica.introduce(self._worker_spec(command), self._limits.start_s_max)
        group = self._group(command.replica_id)
        self._launcher.fork(command.replica_id, group.name if group else "", (its.detach(), arena_fd))

    def _not_started(self, command: StartReplica, reason: str) -> None:
        self._loop.call_soon(self._sink, ReplicaGone(command.replica_id, expected=False, reason=reason))

    def resize(self, command: ResizeReplica) -> None:
        """Change a replica's cores within this call: 0.1 ms for a worker of a few threads."""
        replica = self._replicas.get(command.replica_id)
        problem = self._wrong_shares(command.shares)
        if replica is None or replica.is_stopping:
            problem = "no such replica"
        if replica is None or problem:
            refused = ResizeRefused(command.replica_id, replica.shares if replica else (), problem)
            self._loop.call_soon(self._sink, refused)
            return
        replica.resize(command)
        if replica.has_quota and self._throttle_timer is None:
            self._watch_throttling()

    def stop(self, command: StopReplica) -> None:
        """End a replica; one that has ended already is no error, its `ReplicaGone` was sent."""
        replica = self._replicas.get(command.replica_id)
        if replica is not None:
            replica.stop(self._limits.stop_s_max)

    def load(self, command: LoadVariant) -> None:
        """Make a variant resident; one that does not load ends in `VariantUnloaded`."""
        replica = self._replicas.get(command.replica_id)
        if replica is not None:
            replica.load(command.variant)

    def unload(self, command: UnloadVariant) -> None:
        """Drop a resident variant."""
        replica = self._replicas.get(command.replica_id)
        if replica is not None:
            replica.unload(command.variant)

    def run(
        self, command: RunBatch, requests: Sequence[Request], feeds: Sequence[m.Feed] | None = None
    ) -> None:
        """Run a batch; if the worker has just ended, or is stuck, its `ReplicaGone` is the answer."""
        replica = self._replicas.get(command.replica_id)
        if replica is None:
            return
        is_own = feeds is None
        if feeds is None:
            feeds = own_feeds(command.slices, requests)
        if not is_own or self._front_arenas:
            self.lend(replica, {block.tensor.ref.arena for feed in feeds for block in feed.blocks})
        replica.run(command, tuple(feeds))

    def release(self, command: ReleaseOutputs) -> None:
        """Let the worker reuse the place of a batch's outputs."""
        replica = self._replicas.get(command.replica_id)
        if replica is not None:
            replica.release(command.batch_id)

    def read(self, ref: TensorRef) -> memoryview:
        """The bytes of a batch's output, valid until `release`.

        Raises:
            StaleRefError: they were released, or their worker has ended.
        """
        replica = self._by_arena.get(ref.arena)
        if replica is None:
            raise StaleRefError(f"{ref}: its worker has ended")
        return replica.read(ref)

    def lend(self, borrower: Borrower, arenas: Iterable[str]) -> None:
        """Give a process the descriptors of those of these arenas that it has not got yet."""
        fds: dict[str, int] = {}
        for name in set(arenas) - borrower.borrowed:
            owner = self._by_arena.get(name)
            fd = self._front_arenas.get(name) if owner is None else owner.arena_fd
            if fd is not None:
                fds[name] = fd
        if fds:
            borrower.lend(fds)

    def add_front_end(self, borrower: Borrower, arena: str, fd: int) -> None:
        """A front end in a process of its own: its requests lie in `arena`; `fd` is taken over."""
        self._front_arenas[arena] = fd
        self._borrowers.append(borrower)

    def remove_front_end(self, borrower: Borrower, arena: str) -> None:
        """It has ended, and nobody waits for its requests; batches that read them finish."""
        os.close(self._front_arenas.pop(arena))
        self._borrowers.remove(borrower)
        for replica in self._replicas.values():
            replica.forget(arena)

    async def close(self) -> None:
        """End every replica, the zygote, and the cgroups; safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._throttle_timer is not None:
            self._throttle_timer.cancel()
        for replica in tuple(self._replicas.values()):
            replica.stop(self._limits.stop_s_max)
        if self._replicas:
            with contextlib.suppress(
                TimeoutError
            ):  # each is killed after stop_s_max, unless the zygote hangs
                await asyncio.wait_for(self._empty.wait(), self._limits.stop_s_max + _CLOSE_S)
        await self._launcher.close()
        for replica_id in tuple(self._replicas):
            self._end(replica_id, None, "")
        if self._quotas is not None:
            self._quotas.close()

    def _forked(self, message: m.Forked) -> None:
        replica = self._replicas.get(message.replica_id)
        if replica is not None:
            replica.forked(message.pid)
            if replica.has_quota and self._throttle_timer is None:
                self._watch_throttling()

    def _exited(self, message: m.Exited) -> None:
        self._end(message.replica_id, message.status, message.reason)

    def _zygote_lost(self, reason: str) -> None:
        _log.error("%s; %d replicas are lost", reason, len(self._replicas))
        for replica_id in tuple(self._replicas):
            self._end(replica_id, None, reason)

    def _end(self, replica_id: int, status: int | None, reason: str) -> None:
        replica = self._replicas.get(replica_id)
        if replica is None:
            return
        gone = replica.ended(status, reason)  # may still deliver what the worker had finished
        del self._replicas[replica_id], self._by_arena[replica.arena_name]
        self._throttled.pop(replica_id, None)
        for other in (*self._replicas.values(), *self._borrowers):
            other.forget(replica.arena_name)
        if not self._replicas:
            self._empty.set()
        self._sink(gone)

    def _group(self, replica_id: int) -> Path | None:
        return self._quotas.path(replica_id) if self._quotas else None

    def _worker_spec(self, command: StartReplica) -> m.WorkerSpec:
        stage = (command.service, command.stage)
        specs = self._stages[stage]
        found = {spec.name: self._widths.get((*stage, spec.name), ()) for spec in specs}
        group = self._group(command.replica_id)
        return m.WorkerSpec(
            command.replica_id,
            arena_name(command.replica_id),
            self._limits.arena_bytes_max,
            self._arena.name,
            tuple(share.core_id for share in command.shares),
            cores_of(command.shares),
            str(group / "cgroup.procs") if group else "",
            specs,
            command.variants,
            found,
            tuple(path or os.getcwd() for path in sys.path),  # noqa: PTH109
            self._takers.get(stage),
        )

    def _why_not(self, command: StartReplica) -> str:
        """Why a replica cannot be started, empty if it can."""
        if self._is_closed:
            return "the backend is closed"
        if (command.service, command.stage) not in self._stages:
            return f"no stage {command.stage!r} of service {command.service!r} is deployed"
        if not command.shares:
            return "a replica starts with a core at least"
        return self._wrong_shares(command.shares)

    def _wrong_shares(self, shares: Sequence[CoreShare]) -> str:
        """Why shares cannot be enforced, empty if they can."""
        foreign = sorted({share.core_id for share in shares} - set(self._core_ids))
        if foreign:
            return f"cores {foreign} are not among those offered, {list(self._core_ids)}"
        if self._quotas is None and is_fractional(tuple(shares)):
            return f"{cores_of(tuple(shares)):g} cores: {self.mechanism}"
        return ""

    def _watch_throttling(self) -> None:
        """Report throttling of replicas with a quota while there are any, and once more when it ends."""
        self._throttle_timer = None
        limited = [replica for replica in self._replicas.values() if replica.has_quota]
        for replica in limited:
            ratio = replica.throttled_ratio()
            if ratio or self._throttled.get(replica.replica_id):
                self._loop.call_soon(self._sink, ReplicaThrottled(replica.replica_id, ratio))
            self._throttled[replica.replica_id] = ratio
        if limited:
            period_s = self._limits.throttle_period_s
            self._throttle_timer = self._loop.call_later(period_s, self._watch_throttling)
