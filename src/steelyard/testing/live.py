"""A real server in a process of its own, for end-to-end tests and benches: started, awaited, stopped by pid.

Nothing here sleeps in place of a condition: what is waited for is polled, with an end. The ends are far off,
as they are for what hangs: a machine that is slow, or stands still for a moment, fails no test.
"""

import contextlib
import json
import os
import select
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from steelyard.demo.processes import Server, free_ports, steelyard_command, stop

STOP_S_MAX = 40.0
"""More than a server takes to drain by default."""
WAIT_S_MAX = 60.0
READY_S_MAX = 100.0


def wait_until(condition: Callable[[], bool], what: str, *, seconds_max: float = WAIT_S_MAX) -> None:
    """Return when the condition holds; raise with `what` was waited for when it does not in time."""
    give_up_s = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"waited {seconds_max:g} s in vain: {what}")
        time.sleep(0.01)


def get_json(url: str) -> Any:
    """The JSON behind a URL."""
    with urllib.request.urlopen(url, timeout=WAIT_S_MAX) as answer:
        return json.load(answer)


def wait_ended(pids: Iterable[int], *, seconds_max: float = WAIT_S_MAX) -> list[int]:
    """Those of `pids` that still run after at most so long; the kernel says when one ends (pidfd_open)."""
    left: dict[int, int] = {}
    waiting = select.poll()
    try:
        for pid in set(pids):
            with contextlib.suppress(ProcessLookupError):  # ended and reaped
                left[os.pidfd_open(pid)] = pid
        for fd in left:
            waiting.register(fd, select.POLLIN)
        give_up_s = time.monotonic() + seconds_max
        while left and (ended := waiting.poll(1000 * max(0.0, give_up_s - time.monotonic()))):
            for fd, _ in ended:
                waiting.unregister(fd)
                os.close(fd)
                del left[fd]
        return sorted(left.values())
    finally:
        for fd in left:
            os.close(fd)


class LiveServer:
    """A running `steelyard serve`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, metrics_port: int, log: Path) -> None:
        self._server = Server(process, port, metrics_port, log)
        self.process = process
        self.url = self._server.url
        self.status_url = self._server.status_url
        self.log = log

    def status(self) -> dict[str, Any]:
        """The server's own account: replicas, cores, core-seconds, counters, by service."""
        account: dict[str, Any] = get_json(self.status_url)
        return account

    def replicas(self, service: str) -> list[dict[str, Any]]:
        """The replicas of a service, as the status shows them."""
        found: list[dict[str, Any]] = self.status()["services"][service]["replicas"]
        return found

    def wait_ready(self) -> None:
        """Return when the server says it is ready; raise with the end of its log if it does not."""
        self._server.wait_ready(seconds_max=READY_S_MAX)


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, at any depth."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it ended while we looked
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def cgroups_of(pid: int) -> list[Path]:
    """Directories in the cgroup file system that a server or backend of this process id has made."""
    return [
        Path(folder, name)
        for folder, names, _ in os.walk("/sys/fs/cgroup")  # others come and go meanwhile
        for name in names
        if name.startswith(f"steelyard-{pid}-")
    ]


def mapped_arenas(pid: int) -> list[str]:
    """Lines of a process's memory map that are payload arenas; none if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if "memfd:steelyard" in line]


def worker_pids(server: LiveServer) -> list[int]:
    """The server's workers: the leaves of its process tree that map arenas, front ends left out."""
    family = descendants(server.process.pid)
    front_ends = {one["pid"] for one in server.status()["front_ends"]}
    return [pid for pid in family if pid not in front_ends and mapped_arenas(pid) and not descendants(pid)]


@contextlib.contextmanager
def serve(
    spec: Path, folder: Path, *options: str, name: str = "server", prelude: str = ""
) -> Iterator[LiveServer]:
    """Run a server on free ports until the block ends; its log goes to `folder`.

    `prelude` is Python that its process runs first, to be looked into.
    """
    port, metrics_port = free_ports(2)
    log = folder / f"{name}.log"
    command = steelyard_command(
        "serve",
        str(spec),
        "--http-port",
        str(port),
        "--metrics-port",
        str(metrics_port),
        "--grpc-port",
        "0",
        "--decisions",
        str(folder / f"{name}.decisions.jsonl"),
        *options,
    )
    command[2] = prelude + command[2]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        server = LiveServer(process, port, metrics_port, log)
        server.wait_ready()
        yield server
    finally:
        stop(process, seconds_max=STOP_S_MAX)
