"""The demo's other processes: the server, and the client that sends the lines.

The rule of this file: whatever ends the demo ends them. Each is in a session of its own, so that Ctrl-C
reaches only the demo, which then stops them in order; and each gets SIGTERM from the kernel when the demo
dies without a word.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import msgspec

from steelyard.core.errors import SteelyardError
from steelyard.worker.threads import die_with_parent

READY_S_MAX = 60.0
STOP_S_MAX = 15.0
_POLL_S = 0.1


class ReplicaStatus(msgspec.Struct, frozen=True):
    """One replica as the server sees it."""

    id: int
    state: str
    cores: float


class ServiceStatus(msgspec.Struct, frozen=True):
    """One service as the server sees it; counts and core-seconds since the server started."""

    replicas: list[ReplicaStatus]
    cores: float
    core_seconds: float
    counters: dict[str, int]
    cold_starts: int
    resizes: int
    queue_rows: int
    p50_ms: float | None
    p99_ms: float | None
    rate_rps: float
    switches: int = 0


class Status(msgspec.Struct, frozen=True):
    """`GET /v2/steelyard/status`; fields that are not needed here are ignored."""

    now_s: float
    services: dict[str, ServiceStatus]


class Server:
    """A running `steelyard serve`; see `serving`."""

    def __init__(
        self, process: subprocess.Popen[bytes], http_port: int, metrics_port: int, log: Path
    ) -> None:
        self.url = f"http://127.0.0.1:{http_port}"
        self._process = process
        self.status_url = f"http://127.0.0.1:{metrics_port}/v2/steelyard/status"
        self._log = log

    def status(self, service: str) -> ServiceStatus:
        """The service's own account.

        Raises:
            SteelyardError: the server does not answer, or has ended.
        """
        try:
            with urllib.request.urlopen(self.status_url, timeout=5) as answer:
                return msgspec.json.decode(answer.read(), type=Status).services[service]
        except (OSError, msgspec.MsgspecError, KeyError) as error:
            raise SteelyardError(
                f"the server's status cannot be read ({error!r}); its log: {self._log}"
            ) from None

    def wait_ready(self, *, seconds_max: float = READY_S_MAX) -> None:
        """Return when the server takes requests.

        Raises:
            SteelyardError: it ended, or took longer than `seconds_max`; the last line of its log says why.
        """
        give_up_s = time.monotonic() + seconds_max
        while time.monotonic() < give_up_s and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(_POLL_S)
        last = (self._log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise SteelyardError(f"the server did not become ready; its log {self._log} ends: {last}")


@contextmanager
def serving(spec: Path, *, policy: str, log: Path, options: Sequence[str] = ()) -> Iterator[Server]:
    """A server on free ports, ready; it is drained when the block ends.

    Raises:
        SteelyardError: it does not become ready.
    """
    http_port, metrics_port = free_ports(2)
    arguments = ["serve", str(spec), "--policy", policy, "--grpc-port", "0", *options]
    arguments += ["--http-port", str(http_port), "--metrics-port", str(metrics_port)]
    arguments += ["--decisions", str(log.with_suffix(".decisions.jsonl"))]
    with (
        log.open("wb") as output,
        started(steelyard_command(*arguments), stdout=output, stderr=output) as process,
    ):
        server = Server(process, http_port, metrics_port, log)
        server.wait_ready()
        yield server


@contextmanager
def started(
    command: Sequence[str], *, stdout: IO[bytes] | int | None = None, stderr: IO[bytes] | int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that ends with the block (SIGTERM, then SIGKILL), and with this process."""
    parent_pid = os.getpid()

    def before_exec() -> None:
        if not die_with_parent(signal.SIGTERM, parent_pid):
            os._exit(1)

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=before_exec,  # noqa: PLW1509 -- the demo has one thread
    )
    try:
        yield process
    finally:
        stop(process)
        if process.stdout is not None:
            process.stdout.close()


def stop(process: subprocess.Popen[bytes], *, seconds_max: float = STOP_S_MAX) -> None:
    """End a process politely, after `seconds_max` not so; returns when it is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def steelyard_command(*arguments: str) -> list[str]:
    """This very installation's `steelyard`, wherever its script lies."""
    return [sys.executable, "-c", "from steelyard.cli.main import app; app()", *arguments]


def free_ports(count: int) -> list[int]:
    """Ports that servers may listen on, all different, and given to nobody else for a minute.

    On each a connection was made and closed, whose end lingers in the system for 60 s (TIME_WAIT). Such a
    port is not given to whoever asks for any, but to whoever asks for it by number (with SO_REUSEADDR, as
    servers do). One that had only been free a moment ago could be another's by the time the server starts.
    """
    with ExitStack() as stack:  # all at a time, so they differ
        return [
            _lingering_port(stack.enter_context(socket.create_server(("127.0.0.1", 0)))) for _ in range(count)
        ]


def _lingering_port(listener: socket.socket) -> int:
    with socket.create_connection(listener.getsockname()) as client:
        listener.accept()[0].close()  # who closes first is left with the connection's end
        client.recv(1)
    return int(listener.getsockname()[1])
