"""How a server runs, apart from what it serves: ports, limits, files. Set by the CLI, constant afterwards."""

from pathlib import Path

from steelyard.core.types import Frozen


class ServeSettings(Frozen, frozen=True):
    """Settings of one server process.

    Attributes:
        host: address to listen on.
        http_port: Open Inference Protocol over HTTP; 0 turns it off; None picks a free port (for tests).
        grpc_port: the same over gRPC, where the extra is installed; 0 turns it off; None picks a free port.
        front_ends: processes that speak HTTP, all on `http_port`; 0: the server itself does.
        grpc_in_process: the server itself speaks gRPC; otherwise a process of its own does.
        metrics_port: Prometheus and status; 0 turns it off; None picks a free port.
        journal: file for events and commands of every request; None records none of them.
        decisions: file for decisions, rewritten at start and limited in size; None keeps them in the log.
        body_bytes_max: largest HTTP body, also after decompression, and largest gRPC message.
        arena_bytes: place for the tensors of all open requests of one process that listens.
        window_s: sensing window.
        drain_s_max: how long SIGTERM waits for queued requests.
        overload_status: HTTP status of a refusal under overload, 503 or 429.
        log_requests: log every request, not only the failed ones.
    """

    host: str = "127.0.0.1"
    http_port: int | None = 8080
    grpc_port: int | None = 0
    front_ends: int = 0
    grpc_in_process: bool = False
    metrics_port: int | None = 8082
    journal: Path | None = None
    decisions: Path | None = None
    body_bytes_max: int = 64 << 20
    arena_bytes: int = 512 << 20
    window_s: float = 0.1
    drain_s_max: float = 30.0
    overload_status: int = 503
    log_requests: bool = False
