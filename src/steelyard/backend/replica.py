"""One replica of the local backend as the server sees it: its worker's doorbell, its cores, its arena.

A resize that meets a replica still starting is carried out when it is ready: until then the worker sets its
own affinity, and two hands on it would race. What a call causes is emitted in the loop's next turn, never
within the call: the caller may be in the middle of a decision.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from math import fsum

from steelyard.backend.base import BackendEvent, Sink
from steelyard.backend.patience import Patience
from steelyard.backend.quota import EvenTurns, Quotas
from steelyard.core.commands import ResizeReplica, RunBatch, StartReplica
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ResizeRefused,
    VariantLoaded,
    VariantUnloaded,
)
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import TensorRef
from steelyard.worker import messages as m
from steelyard.worker import threads
from steelyard.worker.arena import ArenaReader
from steelyard.worker.doorbell import FDS_MAX, LoopDoorbell

Shares = tuple[CoreShare, ...]

READ_MAX = 32
"""Batches whose outputs a worker keeps at most though nobody reads them, until its next order."""

STANDSTILL_S_MIN, STANDSTILL_PART = 0.1, 0.5
"""A look at an overdue batch that is late by this many seconds and part of its time: all stood still."""


class LocalReplica:
    """A worker and what the server holds for it.

    Args:
        command: as it was asked for.
        sock: the server's end of the worker's doorbell; taken over.
        quotas: None where fractions cannot be enforced.
        sink: takes the events.
        kill: ends the worker's process.
        patience: with its batches.
        loop: the driver's.

    Attributes:
        arena_fd: of the worker's arena, to lend it; None before it is ready and after its end.
        borrowed: names of other workers' arenas that the worker may read.
    """

    def __init__(
        self,
        command: StartReplica,
        sock: socket.socket,
        quotas: Quotas | EvenTurns | None,
        sink: Sink,
        kill: Callable[[], None],
        patience: Patience,
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.replica_id = command.replica_id
        self.service = command.service
        self.arena_name = arena_name(command.replica_id)
        self.pid: int | None = None
        self.is_ready = False
        self.is_stopping = False
        self.has_quota = False
        self._is_shared = False
        self.arena_fd: int | None = None
        self.borrowed: set[str] = set()
        self._command = command
        self._quotas = quotas
        self._sink = sink
        self._kill = kill
        self._loop = loop
        self._patience = patience
        self.shares: Shares = command.shares
        self._cores_told = cores_of(command.shares)  # parking does not change it
        self._pending: ResizeReplica | None = None
        self._started_s = time.monotonic()
        self._reason = ""
        self._is_stuck = False
        self._timer: asyncio.TimerHandle | None = None
        self._read: list[int] = []  # batches whose outputs the worker may give back
        self._overdue: dict[int, tuple[float, float]] = {}  # batch -> (loop time when stuck, seconds)
        self._watch: asyncio.TimerHandle | None = None
        self._reader: ArenaReader | None = None
        self._doorbell: LoopDoorbell[m.FromWorker] = LoopDoorbell(
            sock, m.FromWorker, self._received, self._lost, loop=loop
        )

    def introduce(self, spec: m.WorkerSpec, start_s_max: float) -> None:
        """Tell the worker who it is, and give it `start_s_max` seconds to become ready."""
        self._doorbell.send(spec)
        text = f"not ready after {start_s_max:g} s"
        self._timer = self._loop.call_later(start_s_max, self._give_up, text)

    def forked(self, pid: int) -> None:
        """Its process exists."""
        self.pid = pid
        if is_fractional(self.shares):  # it binds the cold start as well
            try:
                self._set_quota(self.shares)
            except OSError as error:
                self._give_up(f"its CPU quota cannot be set: {error.strerror}")

    def lend(self, arenas: Mapping[str, int]) -> None:
        """Let the worker read other workers' arenas from now on; their descriptors stay the caller's."""
        names = tuple(arenas)
        for start in range(0, len(names), FDS_MAX):
            some = names[start : start + FDS_MAX]
            fds: list[int] = []
            try:
                fds += (os.dup(arenas[name]) for name in some)
            except OSError as error:
                for fd in fds:
                    os.close(fd)
                self._give_up(f"it cannot be lent what others hold: {error.strerror}")
                return
            self._doorbell.send(m.Lend(some), fds=fds)
        self.borrowed.update(names)

    def forget(self, arena: str) -> None:
        """The owner of an arena has ended: no further batch reads it."""
        if arena in self.borrowed:
            self.borrowed.remove(arena)
            self._doorbell.send(m.Forget(arena))

    def run(self, command: RunBatch, feeds: tuple[m.Feed, ...]) -> None:
        """Send a batch; a worker that takes too long for it is killed (`patience`)."""
        seconds_max = self._patience.seconds_max(command.expected_s, command.given_s or 0.0)
        overdue_s = self._loop.time() + seconds_max
        self._overdue[command.batch_id] = (overdue_s, seconds_max)
        if self._watch is not None and self._watch.when() > overdue_s:
            self._watch.cancel()
            self._watch = None
        if self._watch is None:  # one timer serves all batches until it fires
            self._watch = self._loop.call_at(overdue_s, self._look_for_stuck)
        read, self._read = self._read, []
        self._doorbell.send(m.Run(command.batch_id, command.variant, command.rows, feeds, tuple(read)))

    def release(self, batch_id: int) -> None:
        """No hurry, and a packet would wake the worker: it wants the place for its next batch only."""
        self._read.append(batch_id)
        if len(self._read) >= READ_MAX:
            read, self._read = self._read, []
            self._doorbell.send(m.Free(tuple(read)))

    def load(self, variant: str) -> None:
        """Ask for a variant."""
        self._doorbell.send(m.Load(variant))

    def unload(self, variant: str) -> None:
        """Give a variant up."""
        self._doorbell.send(m.Unload(variant))

    def resize(self, command: ResizeReplica) -> None:
        """Change the cores; shrinking, the width first, so that no batch has more threads than cores."""
        if not self.is_ready:
            self._pending = command
            return
        began_s = time.perf_counter()
        before = self.shares
        try:
            if command.shares:  # without, it is parked: its cores may be another's, but it runs no batch
                self._place(command.shares)
        except OSError as error:
            with contextlib.suppress(OSError):  # as far as the kernel allows, all is as it was
                if before:
                    self._place(before)
            self._emit_soon(ResizeRefused(self.replica_id, before, error.strerror or str(error)))
            return
        self.shares = command.shares
        call_s = time.perf_counter() - began_s
        self._emit_soon(ReplicaResized(self.replica_id, cores_of(command.shares), call_s))

    def stop(self, stop_s_max: float) -> None:
        """Let the worker end by itself within `stop_s_max` seconds; one still starting is killed."""
        if self.is_stopping:
            return
        self.is_stopping = True
        self._cancel_timer()
        if self.is_ready:
            self._doorbell.send(m.Stop())
            self._timer = self._loop.call_later(stop_s_max, self._kill)
        else:
            self._kill()

    def read(self, ref: TensorRef) -> memoryview:
        """The bytes of an output.

        Raises:
            StaleRefError: they were released.
        """
        assert self._reader is not None
        return self._reader.view(ref)

    def throttled_ratio(self) -> float:
        """Share of quota periods throttled since the last call."""
        if self._quotas is None:
            return 0.0
        try:
            return self._quotas.throttled_ratio(self.replica_id)
        except OSError:
            return 0.0  # its group has gone with its worker, whose end is on its way to us

    def ended(self, status: int | None, reason: str = "") -> ReplicaGone:
        """The worker has ended: take what it still had to say, let everything go, and say how it ended."""
        self._doorbell.drain()
        self.close()
        reason = self._reason or reason or _end_in_words(status)
        if self.is_stopping:
            return ReplicaGone(self.replica_id, expected=True)
        return ReplicaGone(self.replica_id, False, reason, self._is_stuck)

    def close(self) -> None:
        """Let go of the doorbell, the arena and the quota."""
        self._cancel_timer()
        if self._watch is not None:
            self._watch.cancel()
        self._doorbell.close()
        if self._quotas is not None:
            self._quotas.forget(self.replica_id)
        if self._reader is not None:
            self._reader.close()
        if self.arena_fd is not None:
            os.close(self.arena_fd)
            self.arena_fd = None

    def _received(self, message: m.FromWorker, fds: list[int]) -> None:
        match message:
            case m.Done():
                self._overdue.pop(message.batch_id, None)
                self._patience.ended(message.finished_s - message.started_s)
                self._sink(
                    BatchCompleted(
                        message.batch_id,
                        self.replica_id,
                        message.started_s,
                        message.finished_s,
                        message.outputs,
                        message.items,
                    )
                )
            case m.Failed():
                self._overdue.pop(message.batch_id, None)
                self._sink(BatchFailed(message.batch_id, self.replica_id, message.reason, message.is_input))
            case m.Ready():
                self._became_ready(fds[0])
            case m.StartFailed(reason=reason):
                self._reason = reason
            case m.Loaded(variant=variant):
                self._sink(VariantLoaded(self.replica_id, variant))
            case m.Unloaded(variant=variant, reason=reason):
                self._sink(VariantUnloaded(self.replica_id, variant, reason))

    def _became_ready(self, arena_fd: int) -> None:
        self.arena_fd = arena_fd
        try:
            self._reader = ArenaReader(self.arena_name, os.dup(arena_fd))
        except OSError as error:
            self._give_up(f"its outputs cannot be read: {error.strerror}")
            return
        if self.is_stopping:
            return
        self._cancel_timer()
        self.is_ready = True
        asked = self._command
        self._sink(
            ReplicaReady(
                self.replica_id,
                asked.stage,
                asked.node,
                cores_of(self.shares),
                asked.variants,
                asked.service,
                time.monotonic() - self._started_s,
            )
        )
        if self._pending is not None:
            self.resize(self._pending)
            self._pending = None

    def _place(self, shares: Shares) -> None:
        """Enforce `shares`.

        Raises:
            OSError: the kernel refused some part of it.
        """
        assert self.pid is not None
        cores = cores_of(shares)
        if cores < self._cores_told:
            self._tell(cores)
        if self._is_shared or is_fractional(shares):
            self._set_quota(shares)
        threads.set_affinity(self.pid, [share.core_id for share in shares])
        if cores > self._cores_told:
            self._tell(cores)

    def _tell(self, cores: float) -> None:
        self._doorbell.send(m.SetCores(cores))
        self._cores_told = cores

    def _set_quota(self, shares: Shares) -> None:
        if self._quotas is None:
            raise OSError(errno.ENOTSUP, "fractions of a core cannot be enforced here")
        wanted = is_fractional(shares)
        self._quotas.set(self.replica_id, cores_of(shares) if wanted else None)
        self._is_shared = wanted
        self.has_quota = wanted and not self._quotas.lends

    def _lost(self, reason: str) -> None:
        """Its socket is closed: as a rule because it has ended, and the zygote is about to say so."""
        self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._kill()

    def _look_for_stuck(self) -> None:
        """Give the worker up if a batch is overdue; otherwise look again when the next one would be.

        If this process stood still, the batch may have ended meanwhile; or the machine did, with the
        worker: the batch is given its time again.
        """
        self._doorbell.drain()
        self._watch = None
        if not self._overdue:
            return
        now_s = self._loop.time()
        batch_id, (first_s, seconds_max) = min(self._overdue.items(), key=lambda item: item[1])
        if now_s - first_s > max(STANDSTILL_S_MIN, seconds_max * STANDSTILL_PART):
            first_s = now_s + seconds_max
            self._overdue[batch_id] = (first_s, seconds_max)
        if first_s <= now_s:
            self._is_stuck = True
            self._give_up(f"stuck: a batch did not end within {seconds_max:g} s")
        else:
            self._watch = self._loop.call_at(first_s, self._look_for_stuck)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _emit_soon(self, event: BackendEvent) -> None:
        self._loop.call_soon(self._sink, event)


def arena_name(replica_id: int) -> str:
    """Name of the arena that a replica's worker owns."""
    return f"replica-{replica_id}"


def cores_of(shares: Shares) -> float:
    """Cores in all, rid of what adding fractions leaves behind."""
    return round(fsum(share.fraction for share in shares), 6)


def is_fractional(shares: Shares) -> bool:
    """Whether it takes a quota to enforce the shares: two halves make one core, but affinity gives two."""
    return any(share.fraction < 1 for share in shares)


def _end_in_words(status: int | None) -> str:
    if status is None:
        return "its process could not be made"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
