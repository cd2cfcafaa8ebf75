"""Where `decide` runs: a process of its own, so that a slow policy never holds up the serving loop.

The planner is exec'd, not forked: it shares nothing with the server but a socket, on which length-prefixed
msgpack travels. It is told once what it plans for (`PlannerTask`), then answers one snapshot at a time. A
`decide` that raises answers with its error; one that overruns `solve_s_max` is killed and the planner started
anew, with the policy's memory lost, which every policy must bear (it bears a server's restart, too). One that
is still starting when the time is up goes on starting: on a slow machine the next would be no sooner.
"""

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from steelyard.core.commands import Solve
from steelyard.core.events import Solved, SolveFailed
from steelyard.core.plan import Decision
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.core.types import Frozen, Service
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.tables import StageTimes, service_times
from steelyard.worker.threads import die_with_parent

_PREFIX = struct.Struct("!I")
_MESSAGE_BYTES_MAX = 64 << 20
_START_S_MAX = 120.0
_READY = b"\0"
"""What a planner says once it has its policy."""
_encoder = msgspec.msgpack.Encoder()


class PlannerTask(Frozen, frozen=True):
    """What a planner is told at its start: the policy, the services and their service times."""

    policy: str
    options: dict[str, object]
    services: dict[str, Service]
    times: tuple[StageTimes, ...]


class PlannerAnswer(Frozen, frozen=True):
    """One decision, or the text of what `decide` raised."""

    decision: Decision | None
    error: str
    solve_s: float


def make_task_policy(task: PlannerTask) -> Policy:
    """The policy a task names, knowing its services and their times.

    Raises:
        SpecError: no such policy, or not with these options.
    """
    times = {(stage.service, stage.stage): service_times(stage) for stage in task.times}
    return make_policy(task.policy, PolicyContext(task.services, times, task.options))


class PlannerProcess:
    """The server's side: one solve at a time, answered on the serving loop.

    Args:
        task: what to plan for.
        solve_s_max: seconds after which a solve is given up.
    """

    def __init__(self, task: PlannerTask, *, solve_s_max: float = 5.0) -> None:
        self._task = task
        self._solve_s_max = solve_s_max
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._started_s = 0.0
        self._is_ready = False
        self._solving: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._latest_id = 0

    def solve(self, command: Solve, answer: Callable[[Solved | SolveFailed], None]) -> None:
        """Decide on the command's snapshot; `answer` is called once, from the running loop.

        A service that is loaded or unloaded makes the decision under way obsolete, and asks for another: that
        one waits for its turn, and what waits for a turn is obsolete when yet another is asked for.
        """
        self._latest_id = command.solve_id
        solving = asyncio.get_running_loop().create_task(self._solve(command, answer))
        self._solving.add(solving)
        solving.add_done_callback(self._solving.discard)

    async def close(self) -> None:
        """End the planner; a solve in progress is not answered."""
        for solving in tuple(self._solving):
            solving.cancel()
        await asyncio.gather(*self._solving, return_exceptions=True)
        self._stop()

    async def _solve(self, command: Solve, answer: Callable[[Solved | SolveFailed], None]) -> None:
        async with self._turn:
            if command.solve_id == self._latest_id:
                answer(await self._solved(command))
            else:
                answer(SolveFailed(command.solve_id, "another decision was asked for meanwhile"))

    async def _solved(self, command: Solve) -> Solved | SolveFailed:
        try:
            async with asyncio.timeout(self._solve_s_max):
                reply = await self._ask(command.snapshot)
        except TimeoutError:
            may_start = self._writer is not None and time.monotonic() < self._started_s + _START_S_MAX
            is_starting = may_start and not self._is_ready
            if not is_starting:
                self._stop()
            what = "the planner process has not started" if is_starting else "gave up"
            return SolveFailed(command.solve_id, f"{what} after {self._solve_s_max:g} s")
        except (OSError, EOFError, msgspec.DecodeError) as error:
            self._stop()
            what = f"the planner process ended: {error or type(error).__name__}"
            return SolveFailed(command.solve_id, what)
        if reply.decision is None:
            return SolveFailed(command.solve_id, reply.error)
        return Solved(command.solve_id, reply.decision, reply.solve_s)

    async def _ask(self, snapshot: ClusterSnapshot) -> PlannerAnswer:
        if self._process is None:
            await self._start()
        assert self._reader is not None
        assert self._writer is not None
        if not self._is_ready:
            await self._reader.readexactly(len(_READY))
            self._is_ready = True
        self._write(snapshot)
        await self._writer.drain()
        (size,) = _PREFIX.unpack(await self._reader.readexactly(_PREFIX.size))
        return msgspec.msgpack.decode(await self._reader.readexactly(size), type=PlannerAnswer)

    async def _start(self) -> None:
        self._started_s = time.monotonic()
        ours, theirs = socket.socketpair()
        arguments = [str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                # -P: the current directory must not shadow a module that we import.
                [sys.executable, "-P", "-m", "steelyard.serve.planner", *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=_MESSAGE_BYTES_MAX)
        self._write(self._task)

    def _write(self, value: Frozen) -> None:
        assert self._writer is not None
        body = _encoder.encode(value)
        self._writer.write(_PREFIX.pack(len(body)) + body)

    def _stop(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._reader = self._writer = None
        self._is_ready = False


class InlinePlanner:
    """Decides in this process and answers after the policy's declared `solve_s`: for virtual time."""

    def __init__(self, policy: Policy, *, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._policy = policy
        self._call_later = call_later

    def solve(self, command: Solve, answer: Callable[[Solved | SolveFailed], None]) -> None:
        """Decide now, answer `solve_s` later."""
        solved = Solved(command.solve_id, self._policy.decide(command.snapshot), self._policy.solve_s)
        self._call_later(self._policy.solve_s, lambda: answer(solved))


def _read(stream: socket.socket) -> bytes | None:
    prefix = _read_exactly(stream, _PREFIX.size)
    return None if prefix is None else _read_exactly(stream, _PREFIX.unpack(prefix)[0])


def _read_exactly(stream: socket.socket, size: int) -> bytes | None:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = stream.recv(min(1 << 20, size - len(chunks)))
        if not chunk:
            return None
        chunks += chunk
    return bytes(chunks)


def _finite(decision: Decision) -> Decision:
    """The decision, if a journal can hold it: JSON has no infinite numbers.

    Raises:
        ValueError: one of its numbers is not finite.
    """
    try:
        msgspec.json.decode(msgspec.json.encode(decision), type=Decision)
    except msgspec.ValidationError as error:
        raise ValueError(f"a number of the decision is not finite: {error}") from None
    return decision


def _decide(policy: Policy, snapshot: ClusterSnapshot) -> PlannerAnswer:
    started_s = time.monotonic()
    try:
        decision, error = _finite(policy.decide(snapshot)), ""
    except Exception as raised:
        decision, error = None, f"{type(raised).__name__}: {raised}"
    return PlannerAnswer(decision, error, time.monotonic() - started_s)


def main(fd: int, server_pid: int) -> None:
    """The planner's loop: a task, then snapshots, until the server closes the socket or dies."""
    if not die_with_parent(signal.SIGKILL, server_pid):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the server, which ends us
    with socket.socket(fileno=fd) as stream, suppress(ConnectionError):
        body = _read(stream)
        if body is None:
            return
        policy = make_task_policy(msgspec.msgpack.decode(body, type=PlannerTask))
        stream.sendall(_READY)
        while (body := _read(stream)) is not None:
            answer = _encoder.encode(_decide(policy, msgspec.msgpack.decode(body, type=ClusterSnapshot)))
            stream.sendall(_PREFIX.pack(len(answer)) + answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
