"""The server's side of the zygote: start it, ask it for workers, start another one if it dies.

If the zygote dies its workers die with it, so the owner is told once (`on_lost`) and all replicas are gone. A
new zygote is started at once, at most `RESTARTS_MAX` times in `RESTARTS_S`: after that, workers cannot be
made, and each `fork` says so.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from steelyard.worker import messages as m
from steelyard.worker.doorbell import LoopDoorbell, pair

RESTARTS_MAX = 5
RESTARTS_S = 60.0
EXIT_S_MAX = 2.0  # for the zygote to end its workers and itself; then it is killed
# A BLAS pool's threads would spin in workers on cores they do not have; who sets these has decided otherwise.
_DEFAULTS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# From 1.29 on, ONNX Runtime's Linux wheels start a telemetry thread on import (microsoft/onnxruntime#27379):
# a fork beside a running thread is unsafe, and a server has nothing to tell anybody.
_FIXED = {"ORT_DISABLE_TELEMETRY": "1"}


class Launcher:
    """One zygote at a time.

    Args:
        on_forked: a worker's process exists.
        on_exited: a worker has ended, or could not be made.
        on_lost: the zygote died, and every worker with it.
        group: (cgroup version, the server's cgroup directory), None without quotas.
        loop: the driver's.
    """

    def __init__(
        self,
        on_forked: Callable[[m.Forked], None],
        on_exited: Callable[[m.Exited], None],
        on_lost: Callable[[str], None],
        *,
        group: tuple[int, Path] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._on_forked = on_forked
        self._on_exited = on_exited
        self._on_lost = on_lost
        self._group = group
        self._loop = loop
        self._starts: list[float] = []
        self._reaping: set[asyncio.Task[None]] = set()
        self._doorbell: LoopDoorbell[m.FromZygote] | None = None
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The zygote's process id."""
        return self._process.pid

    def fork(self, replica_id: int, group: str, fds: Sequence[int]) -> None:
        """Ask for a worker that gets `fds`, which are taken over; ends in `on_forked` or `on_exited`."""
        if self._doorbell is None:
            for fd in fds:
                os.close(fd)
            reason = f"the process that makes workers died {len(self._starts)} times in {RESTARTS_S:g} s"
            self._loop.call_soon(self._on_exited, m.Exited(replica_id, None, reason))
            return
        self._doorbell.send(m.Fork(replica_id, group), fds=fds)

    def kill(self, replica_id: int) -> None:
        """End a worker at once; ends in `on_exited`."""
        if self._doorbell is not None:
            self._doorbell.send(m.Kill(replica_id))

    async def close(self) -> None:
        """End the zygote and what it made; safe to call twice."""
        if self._doorbell is not None:
            self._doorbell.close()
            self._doorbell = None
        await asyncio.gather(*self._reaping)
        await reaped(self._process, EXIT_S_MAX)

    def _start(self) -> "subprocess.Popen[bytes]":
        self._starts.append(time.monotonic())
        ours, its = pair()
        arguments = [str(its.fileno()), str(os.getpid())]
        if self._group is not None:
            arguments += [str(self._group[0]), str(self._group[1])]
        with its:
            # Its own process group: ^C at the terminal reaches the server alone, which drains before workers
            # end. In the server's session: in one of its own, the workers' niceness would not count against
            # the server, as the kernel weighs sessions against each other (autogroups, sched(7)).
            # -P: the current directory must not shadow a module that we import.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "steelyard.backend.zygote", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=2,  # workers' prints belong to the server's log, not to its output
                env={**_DEFAULTS, **os.environ, **_FIXED},
                pass_fds=(its.fileno(),),
                process_group=0,
            )
        self._doorbell = LoopDoorbell(ours, m.FromZygote, self._received, self._lost, loop=self._loop)
        return process

    def _received(self, message: m.FromZygote, _fds: list[int]) -> None:
        match message:
            case m.Forked():
                self._on_forked(message)
            case m.Exited():
                self._on_exited(message)

    def _lost(self, reason: str) -> None:
        if self._doorbell is None:  # closed meanwhile
            return
        self._doorbell = None
        dead = self._process
        dead.kill()
        task = self._loop.create_task(reaped(dead, EXIT_S_MAX))
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)
        recent_s = time.monotonic() - RESTARTS_S
        self._starts = [start_s for start_s in self._starts if start_s > recent_s]
        if len(self._starts) <= RESTARTS_MAX:
            self._process = self._start()
        self._on_lost(f"the process that makes workers ended{reason and f' ({reason})'}")


async def reaped(process: "subprocess.Popen[bytes]", seconds_max: float) -> None:
    """Wait until a process has ended, kill it if it takes longer than that, and reap it."""
    if process.returncode is not None:
        return
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(process.pid)
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds_max)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    process.kill()  # does nothing to a process that has ended
    process.wait()
