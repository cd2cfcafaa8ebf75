"""The load of a comparison, in a process of its own: open-loop Poisson arrivals, or a closed loop.

It is `steelyard.load`'s rule (a request leaves when it is due, its latency counts from there, the
generator's own lateness is reported) with less work a request: messages are bytes made beforehand, HTTP is
spoken over plain sockets in one `select` loop. That costs some 30 µs a request, a tenth of an HTTP
library's, so that one core can load servers of several thousand requests a second. Connections are used in
turn.

A run that can no longer meet any objective is ended: its p99 is infinite, and the server is spared a backlog.
What the machine's own stalls spoil does not count (`stalls`).

Commands come as JSON lines on standard input, answers go as JSON lines to standard output.
"""

import asyncio
import base64
import gc
import json
import math
import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from peers.connection import TIMEOUT_S, Connection
from peers.stalls import Stalls
from peers.wire import GRPC_METHOD
from steelyard.load.generator import run
from steelyard.load.result import CONNECTION, OK, OVERRUN, TIMEOUT, Outcomes, Seconds, quantile, summarise

CONNECTIONS, CONNECTIONS_MAX = 32, 900
"""At first, and at most: enough for a stall of 0.3 s at 3,000 requests a second; `select` takes no descriptor
above 1,023."""
CHANNELS = 4
PAUSE_S = 0.02
"""A caller that was refused does not ask again at once."""
GRPC_REFUSED = {"RESOURCE_EXHAUSTED": 503, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": TIMEOUT}
START_DELAY_S = 0.02
COUNTED_MIN = 0.3
"""A run of which less counts is void."""


class Gauge:
    """Counts what makes a run hopeless: more late or lost requests than a p99 allows, stalls aside."""

    def __init__(self, offered: int, late_s: float | None, stalls: Stalls) -> None:
        """Without `late_s` there is always hope."""
        self._left = math.inf if late_s is None else math.floor(0.01 * offered) + 1
        self._late_s = math.inf if late_s is None else late_s
        self._stalls = stalls

    def note(self, status: int, latency_s: float, due_s: float) -> bool:
        """Whether there is still hope."""
        if status != OK or latency_s > self._late_s:
            self._stalls.look()
            self._left -= not self._stalls.spoils(due_s)
        return self._left > 0


def closed_off(outcomes: Outcomes) -> Outcomes:
    """What is still open at the end: never sent, or never answered."""
    still_open = outcomes.status == 0
    outcomes.status[still_open] = np.where(np.isnan(outcomes.lateness_s[still_open]), OVERRUN, TIMEOUT)
    return outcomes


class Shooter(Protocol):
    """Speaks to one server."""

    def open(self, at_s: Seconds, start_s: float, gauge: Gauge) -> Outcomes:
        """Offer requests at these times after the start, while there is hope."""

    def closed(self, connections: int, seconds: float) -> tuple[int, int]:
        """How many requests so many callers got answered, and how many not; each asks again."""

    def ask(self) -> tuple[int, bytes, int | None, float]:
        """One request: status, content, length of its JSON, seconds."""


class HttpShooter:
    """Over plain sockets."""

    def __init__(self, address: tuple[str, int], messages: Sequence[bytes]) -> None:
        self._address = address
        self._messages = messages
        self._idle: deque[Connection] = deque()
        self._busy: dict[Connection, bool] = {}  # whether all of its request was sent
        self._read: tuple[bytes, int | None] = (b"", None)

    def open(self, at_s: Seconds, start_s: float, gauge: Gauge) -> Outcomes:
        outcomes = Outcomes(at_s, np.full(len(at_s), np.inf))
        self.connect(CONNECTIONS)
        due_s, hope, index = (at_s + start_s).tolist(), True, 0
        while hope and (index < len(due_s) or self._busy):
            now_s = time.perf_counter()
            if index < len(due_s) and due_s[index] <= now_s:
                outcomes.lateness_s[index] = now_s - due_s[index]
                if self._begin(index):
                    outcomes.status[index] = 0
                else:
                    outcomes.status[index] = OVERRUN
                    hope = gauge.note(OVERRUN, 0.0, due_s[index])
                index += 1
                if index % 4:  # answers are read while a burst is sent
                    continue
            next_s = due_s[index] if index < len(due_s) else due_s[-1] + TIMEOUT_S
            for number, status, ended_s in self._poll(next_s - now_s):
                outcomes.status[number] = status
                outcomes.latency_s[number] = ended_s - due_s[number]
                hope = gauge.note(status, outcomes.latency_s[number], due_s[number]) and hope
            if index == len(due_s) and time.perf_counter() > next_s:
                break
        self._forget()
        return closed_off(outcomes)

    def closed(self, connections: int, seconds: float) -> tuple[int, int]:
        self.connect(connections)
        self._forget(keep=connections)
        for index in range(connections):
            self._begin(index)
        answered, refused, end_s = 0, 0, time.perf_counter() + seconds
        pausing: deque[tuple[float, int]] = deque()
        while (left_s := end_s - time.perf_counter()) > 0:
            for number, status, ended_s in self._poll(min(left_s, PAUSE_S) if pausing else left_s):
                if status == OK:
                    answered += 1
                    self._begin(number)
                else:
                    refused += 1
                    pausing.append((ended_s + PAUSE_S, number))
            while pausing and pausing[0][0] < time.perf_counter():
                self._begin(pausing.popleft()[1])
        self._forget()
        return answered, refused

    def ask(self) -> tuple[int, bytes, int | None, float]:
        self.connect(1)
        start_s = time.perf_counter()
        self._begin(0)
        while time.perf_counter() < start_s + TIMEOUT_S:
            for _, status, ended_s in self._poll(TIMEOUT_S):
                return status, *self._read, ended_s - start_s
        return TIMEOUT, b"", None, TIMEOUT_S

    def _begin(self, index: int) -> bool:
        """Send a request over the connection that has been idle longest; False if there is none."""
        while self.connect(1):
            connection = self._idle.popleft()
            if connection.is_open:
                break
            connection.socket.close()
        else:
            return False
        try:
            self._busy[connection] = connection.send(index, self._messages[index % len(self._messages)])
        except OSError:
            connection.socket.close()
            return False
        return True

    def _poll(self, seconds: float) -> list[tuple[int, int, float]]:
        """Requests that have ended after at most so long: number, status, when."""
        unsent = [connection for connection, sent in self._busy.items() if not sent]
        readable, writable, _ = select.select(self._busy, unsent, (), max(0.0, seconds))
        for connection in writable:
            self._busy[connection] = connection.flush()
        ended = []
        for connection in readable:
            status = connection.read()
            if not status:
                continue
            del self._busy[connection]
            if status == CONNECTION:
                connection.socket.close()
                if connection.was_stale and self._begin(connection.index):
                    continue
            else:
                self._idle.append(connection)
            self._read = connection.content, connection.json_length
            ended.append((connection.index, status, time.perf_counter()))
        return ended

    def connect(self, wanted: int) -> bool:
        """Have so many idle connections, as far as `CONNECTIONS_MAX` allows; whether there is one."""
        while len(self._idle) < wanted and len(self._idle) + len(self._busy) < CONNECTIONS_MAX:
            try:
                self._idle.append(Connection(self._address))
            except OSError:
                break
        return bool(self._idle)

    def _forget(self, *, keep: int = CONNECTIONS) -> None:
        """Close connections with a request on its way, and idle ones beyond `keep`."""
        while len(self._idle) > keep:
            self._idle.popleft().socket.close()
        for connection in self._busy:
            connection.socket.close()
        self._busy.clear()


class GrpcShooter:
    """Over grpc.aio, messages as bytes, several channels."""

    def __init__(self, address: tuple[str, int], messages: Sequence[bytes]) -> None:
        import grpc

        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        target = f"{address[0]}:{address[1]}"
        self._channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(CHANNELS)]
        self._calls = [channel.unary_unary(GRPC_METHOD) for channel in self._channels]
        self._messages = messages
        self._error: type[Exception] = grpc.aio.AioRpcError

    async def open(self, at_s: Seconds, start_s: float, gauge: Gauge) -> Outcomes:
        outcomes = Outcomes(at_s, np.full(len(at_s), np.inf))
        hope, tasks = True, set[asyncio.Task[None]]()

        async def fire(index: int, due_s: float) -> None:
            nonlocal hope
            status, _ = await self._one(index)
            outcomes.status[index], outcomes.latency_s[index] = status, time.perf_counter() - due_s
            hope = gauge.note(status, outcomes.latency_s[index], due_s) and hope

        for index, due_s in enumerate((at_s + start_s).tolist()):
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            if not hope:
                break
            outcomes.lateness_s[index] = time.perf_counter() - due_s
            if len(tasks) >= CONNECTIONS_MAX:
                outcomes.status[index] = OVERRUN
                hope = gauge.note(OVERRUN, 0.0, due_s)
                continue
            task = asyncio.create_task(fire(index, due_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks and hope:
            await asyncio.wait(tasks, timeout=TIMEOUT_S)
        for task in tasks:
            task.cancel()
        return closed_off(outcomes)

    async def closed(self, connections: int, seconds: float) -> tuple[int, int]:
        answered, refused, end_s = 0, 0, time.perf_counter() + seconds

        async def caller(index: int) -> None:
            nonlocal answered, refused
            while time.perf_counter() < end_s:
                status, _ = await self._one(index)
                answered += status == OK and time.perf_counter() < end_s
                if status != OK:
                    refused += 1
                    await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*map(caller, range(connections)))
        return answered, refused

    async def ask(self) -> tuple[int, bytes, int | None, float]:
        start_s = time.perf_counter()
        status, content = await self._one(0)
        return status, content, None, time.perf_counter() - start_s

    async def _one(self, index: int) -> tuple[int, bytes]:
        call, message = self._calls[index % CHANNELS], self._messages[index % len(self._messages)]
        try:
            return OK, await call(message, timeout=TIMEOUT_S)
        except self._error as error:
            return GRPC_REFUSED.get(error.code().name, 500), b""  # type: ignore[attr-defined]


def poisson(rate_rps: float, seconds: float, seed: int) -> Seconds:
    """Arrivals of a Poisson process, seconds, at least one."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate_rps, size=int(rate_rps * seconds + 6 * math.sqrt(rate_rps * seconds) + 8))
    at_s = np.cumsum(gaps)
    return at_s[at_s < seconds] if at_s[0] < seconds else at_s[:1]


def measured(outcomes: Outcomes, seconds: float, counted: NDArray[np.bool_]) -> dict[str, Any]:
    """A run in numbers, of what counts; p99 over all of that, unanswered requests infinitely late."""
    share = float(counted.mean())
    outcomes = _only(outcomes, counted) if share else outcomes
    latency_s = np.where(outcomes.status == OK, outcomes.latency_s, np.inf)
    result = summarise(outcomes, seconds=seconds, slo_s=None)
    p99_s = quantile(latency_s, 0.99)
    assert p99_s is not None
    return {
        "counted": round(share, 3),
        "offered": result.offered,
        "completed": result.completed,
        "errors": result.errors,
        "p50_ms": result.latency_ms["p50"],
        "p99_ms": round(p99_s * 1e3, 3) if math.isfinite(p99_s) else None,
        "lateness_p99_ms": result.lateness_ms["p99"],
        "void": result.void or share < COUNTED_MIN,
    }


def _only(outcomes: Outcomes, chosen: NDArray[np.bool_]) -> Outcomes:
    found = Outcomes(outcomes.at_s[chosen], outcomes.bound_s[chosen])
    found.lateness_s, found.latency_s = outcomes.lateness_s[chosen], outcomes.latency_s[chosen]
    found.status = outcomes.status[chosen]
    return found


async def obey(shooter: Any, asked: dict[str, Any], watched: Sequence[Path]) -> dict[str, Any]:
    """Carry out one command; `watched` are the files of the cores' watchers."""
    match asked:
        case {"do": "open", "rate_rps": rate_rps, "seconds": seconds, "seed": seed, "late_s": late_s}:
            at_s, start_s = poisson(rate_rps, seconds, seed), time.perf_counter() + START_DELAY_S
            stalls = Stalls(watched, start_s)
            outcomes = await _whatever(shooter.open(at_s, start_s, Gauge(len(at_s), late_s, stalls)))
            stalls.look()
            found = measured(outcomes, seconds, stalls.counted(at_s + start_s))
            return {"rate_rps": rate_rps, "all_completed": int((outcomes.status == OK).sum()), **found}
        case {"do": "closed", "connections": connections, "seconds": seconds}:
            answered, refused = await _whatever(shooter.closed(connections, seconds))
            return {"answered": answered, "refused": refused}
        case {"do": "connect", "connections": connections}:
            return {"connected": shooter.connect(connections)}
        case {"do": "ask"}:
            status, content, json_length, seconds = await _whatever(shooter.ask())
            text = base64.b64encode(content).decode()
            return {"status": status, "content": text, "json_length": json_length, "seconds": seconds}
    raise ValueError(f"unknown command {asked}")


async def _whatever(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value


async def main(transport: str, port: int, messages: Sequence[bytes], watched: Sequence[Path]) -> None:
    make: Any = {"http": HttpShooter, "grpc": GrpcShooter}[transport]
    shooter = make(("127.0.0.1", port), messages)
    gc.collect()
    gc.freeze()
    gc.disable()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        found = await obey(shooter, json.loads(line), watched)
        gc.collect()
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    folder, watched = Path(sys.argv[3]), [Path(name) for name in sys.argv[4:]]
    messages = [file.read_bytes() for file in sorted(folder.iterdir())]
    run(main(sys.argv[1], int(sys.argv[2]), messages, watched))
