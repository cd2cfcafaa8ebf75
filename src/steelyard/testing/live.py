"""A real server in a process of its own, for end-to-end tests and benches: started, awaited, stopped by pid.

Nothing here sleeps in place of a condition: what is waited for is polled, with an end.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

READY_S_MAX = 60.0
STOP_S_MAX = 40.0


def steelyard(*arguments: str) -> list[str]:
    """The command line of a `steelyard` sub-command in this environment."""
    return [str(Path(sys.executable).with_name("steelyard")), *arguments]


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def wait_until(condition: Callable[[], bool], what: str, *, seconds_max: float = 20.0) -> None:
    """Return when the condition holds; raise with `what` was waited for when it does not in time."""
    give_up_s = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"waited {seconds_max:g} s in vain: {what}")
        time.sleep(0.01)


def get_json(url: str) -> Any:
    """The JSON behind a URL."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


class LiveServer:
    """A running `steelyard serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, metrics_port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.status_url = f"http://127.0.0.1:{metrics_port}/v2/steelyard/status"
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
        """Return when the server says it is ready; raise with its log if it ends or takes too long."""
        give_up_s = time.monotonic() + READY_S_MAX
        while time.monotonic() < give_up_s:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                if get_json(f"{self.url}/v2/health/ready").get("ready"):
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the server did not become ready:\n{self.log.read_text()[-4000:]}")


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, at any depth."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it ended while we looked
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def mapped_arenas(pid: int) -> list[str]:
    """Lines of a process's memory map that are payload arenas; none if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if "memfd:steelyard" in line]


def worker_pids(server: LiveServer) -> list[int]:
    """The server's workers: the leaves of its process tree that map arenas."""
    family = descendants(server.process.pid)
    return [pid for pid in family if mapped_arenas(pid) and not descendants(pid)]


@contextlib.contextmanager
def serve(spec: Path, folder: Path, *options: str, name: str = "server") -> Iterator[LiveServer]:
    """Run a server on free ports until the block ends; its log goes to `folder`."""
    port, metrics_port = free_ports(2)
    log = folder / f"{name}.log"
    command = steelyard(
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
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        server = LiveServer(process, port, metrics_port, log)
        server.wait_ready()
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
