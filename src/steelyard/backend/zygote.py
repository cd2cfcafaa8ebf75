"""The zygote: a process that has imported everything a worker needs and forks workers on request.

Started by exec before there is anything to inherit, it stays single-threaded and makes no session, so that a
fork is safe and takes a millisecond. It is the workers' parent: it reaps them, reports their exits at once,
and is the only one to signal them, so a process id is never used after its process was reaped.

It outlives nobody: when the server's end of the socket closes, or the server itself dies while some other
process still holds that end, it kills the workers with their process groups, removes the server's cgroups
and exits. Workers ask the kernel to be killed when it dies.

Run as `python -P -m steelyard.backend.zygote SOCKET_FD SERVER_PID [CGROUP_VERSION CGROUP_DIRECTORY]`.
"""

import contextlib
import gc
import io
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import onnxruntime  # noqa: F401  imported once here, shared by every worker

from steelyard.backend import quota
from steelyard.runtime import onnx  # noqa: F401  the same
from steelyard.worker import messages as m
from steelyard.worker import process, threads
from steelyard.worker.doorbell import Doorbell, PeerLostError

_PARENT_DIED = signal.SIGUSR1
_REMOVE_S_MAX = 0.5  # how long a cgroup may stay busy after its last process was reaped


class _Child(NamedTuple):
    replica_id: int
    pid: int
    pidfd: int  # readable once the process has ended
    group: Path | None


class Zygote:
    """Forks workers, watches them, and cleans up behind them.

    Args:
        sock: the server's doorbell.
        server_pid: whose death ends it.
        group: (cgroup version, the server's cgroup directory), None for none; removed at the end.
    """

    def __init__(self, sock: socket.socket, server_pid: int, group: tuple[int, Path] | None) -> None:
        self._doorbell: Doorbell[m.ToZygote] = Doorbell(sock, m.ToZygote)
        self._server_pid = server_pid
        self._group = group
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._doorbell, selectors.EVENT_READ)
        self._wake, self._wakened = socket.socketpair()
        for end in (self._wake, self._wakened):
            end.setblocking(False)
        self._selector.register(self._wakened, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the server goes; then end every worker and remove the server's cgroups."""
        # The kernel sends this signal when the *thread* that started us ends; the server may well live on. So
        # the signal only makes us look who our parent is.
        signal.signal(_PARENT_DIED, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        is_alive = threads.die_with_parent(_PARENT_DIED, self._server_pid)
        with contextlib.suppress(PeerLostError):
            while is_alive:
                for key, _ in self._selector.select():
                    self._handle(key)
                is_alive = os.getppid() == self._server_pid
        self._end_all()

    def _handle(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._doorbell:
            received, fds = self._doorbell.receive()
            for message in received:
                match message:
                    case m.Fork():
                        self._fork(message, fds)
                    case m.Kill(replica_id=replica_id):
                        self._kill(replica_id)
        elif key.fileobj is self._wakened:
            self._wakened.recv(64)
        else:
            self._reap(key.data)

    def _fork(self, fork: m.Fork, fds: list[int]) -> None:
        """Fork one worker; `fds` are its socket and the front end's arena."""
        group = self._group[1] / fork.group if self._group and fork.group else None
        try:
            if self._group and group:
                quota.make_group(group, self._group[0])
            pid = os.fork()
            if pid == 0:
                _be_worker(fds)
        except OSError as error:
            self._doorbell.send(m.Exited(fork.replica_id, None, f"cannot make a process: {error}"))
            return
        finally:
            for fd in fds:
                os.close(fd)
        child = _Child(fork.replica_id, pid, os.pidfd_open(pid), group)
        self._children[fork.replica_id] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        self._doorbell.send(m.Forked(fork.replica_id, pid))

    def _kill(self, replica_id: int) -> None:
        child = self._children.get(replica_id)
        if child is not None:
            os.kill(child.pid, signal.SIGKILL)

    def _reap(self, child: _Child) -> None:
        self._doorbell.send(m.Exited(child.replica_id, self._bury(child)))

    def _bury(self, child: _Child) -> int:
        """Reap one ended worker with all that it left behind; its exit status, or minus its signal."""
        # Its own children first: while it is a zombie, its process group cannot be another's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        del self._children[child.replica_id]
        if child.group is not None:
            quota.remove_group(child.group)  # if it is still busy, it goes with the server's
        return os.waitstatus_to_exitcode(status)

    def _end_all(self) -> None:
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in tuple(self._children.values()):
            self._bury(child)
        if self._group is not None:
            _remove(self._group[1])


def _be_worker(fds: Sequence[int]) -> NoReturn:
    """The child's side of the fork: keep nothing of the zygote's, serve one replica, exit."""
    status = 1
    try:
        zygote_pid = os.getppid()
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(_PARENT_DIED, signal.SIG_DFL)
        _close_others({0, 1, 2, *fds})
        np.random.seed()  # noqa: NPY002  user classes draw from it; forked workers must not draw alike
        if threads.die_with_parent(signal.SIGKILL, zygote_pid):
            status = process.main(socket.socket(fileno=fds[0]), fds[1])
    except BaseException:  # nothing may unwind into the zygote's own frames
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _close_others(kept: set[int]) -> None:
    edges = sorted(kept)
    for low, high in pairwise([*edges, os.sysconf("SC_OPEN_MAX")]):
        os.closerange(low + 1, high)


def _remove(group: Path) -> None:
    """Remove a cgroup; the kernel may call it busy for a moment after its last process was reaped."""
    until_s = time.monotonic() + _REMOVE_S_MAX
    while not quota.remove_group(group) and time.monotonic() < until_s:
        time.sleep(0.005)


def main(arguments: Sequence[str]) -> None:
    """Entry point; see the module's docstring for the arguments."""
    threads.ignore_terminal_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a user class prints appears at once
    sock = socket.socket(fileno=int(arguments[0]))
    group = (int(arguments[2]), Path(arguments[3])) if len(arguments) > 2 else None
    gc.collect()
    gc.freeze()  # collections in workers must not touch, and so copy, what all of them share
    Zygote(sock, int(arguments[1]), group).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
