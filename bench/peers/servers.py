"""The servers: how each is started, with which settings it may be tuned, and what is said of that.

The rule of this file: every peer gets what its own documentation recommends for arrays and for small models
on one core, and a grid of batch sizes and waits of which its best counts, objective by objective. Nothing is
set to make one slower. Steelyard gets no more: its grid is the largest batch; its waits are its own business.
The first two settings of a grid are a large and a small batch.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import STDOUT
from typing import Any, NamedTuple

import yaml

from peers import tree
from peers.models import Model
from peers.wire import WIRES
from steelyard.demo.processes import free_ports, started, steelyard_command

APPS = Path(__file__).parent / "apps"
STEELYARD, COMPILED = "steelyard", "steelyard, compiled"


class Launch(NamedTuple):
    """A command that starts a server listening on `port`."""

    command: list[str]
    port: int
    environment: dict[str, str]


class Start(NamedTuple):
    """What a server is started with."""

    python: Path
    model: Model
    setting: Mapping[str, Any]
    slo_s: float
    folder: Path
    profiles: Path


class Contender(NamedTuple):
    """One server.

    Attributes:
        launch: makes its command.
        settings: the grid; `wire` (a key of `wire.WIRES`) is part of a setting.
        knows_slo: it is told the objective, so it is started once for each.
        said: how it was tuned, for the record.
    """

    launch: Callable[[Start], Launch]
    settings: tuple[dict[str, Any], ...]
    knows_slo: bool
    said: str


def _given(start: Start, port: int, **more: Any) -> str:
    model = start.model
    return json.dumps(
        {
            "file": str(model.file),
            "row": model.row,
            "output": model.output,
            "port": port,
            **start.setting,
            **more,
        }
    )


def _mlserver(start: Start) -> Launch:
    http, grpc = free_ports(2)
    settings = {
        "debug": False, "parallel_workers": 0, "http_port": http, "grpc_port": grpc, "host": "127.0.0.1",
        "metrics_endpoint": None, "logging_settings": None,
    }  # fmt: skip
    (start.folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": start.model.name,
        "implementation": "mlserver_app.Peer",
        "max_batch_size": start.setting["batch"],
        "max_batch_time": start.setting["wait_s"],
        "parameters": {"extra": json.loads(_given(start, grpc))},
    }
    (start.folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(start.python.parent / "mlserver"), "start", str(start.folder)]
    port = grpc if WIRES[start.setting["wire"]].transport == "grpc" else http
    return Launch(command, port, {"PYTHONPATH": str(APPS)})


def _litserve(start: Start) -> Launch:
    (port,) = free_ports(1)
    return Launch([str(start.python), str(APPS / "litserve_app.py"), _given(start, port)], port, {})


def _bentoml(start: Start) -> Launch:
    (port,) = free_ports(1)
    command = [str(start.python.parent / "bentoml"), "serve", "bentoml_app:Peer", "--working-dir", str(APPS)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    home = {"BENTOML_HOME": str(start.folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    return Launch(command, port, {"PEER_SETTINGS": _given(start, port), **home})


def _ray(start: Start) -> Launch:
    (port,) = free_ports(1)
    fast = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    settings = _given(start, port, temporary=str(start.folder / "ray"))
    command = [str(start.python), str(APPS / "ray_app.py"), settings]
    return Launch(command, port, {**quiet, **(fast if start.setting["optimised"] else {})})


def _steelyard(start: Start) -> Launch:
    http, metrics = free_ports(2)
    variant = {
        "onnx": str(start.model.file),
        "batch_max": start.setting["batch"],
        "cores_max": 1,
    }
    service = {
        "slo": {"latency": f"{start.slo_s * 1e3:g}ms"},
        "pipeline": {"run": {"model": "peer"}},
        "cores": {"min": 1, "max": 1},
    }
    spec = {
        "version": 1,
        "cluster": {"cores": 1},
        "models": {"peer": {"variants": {"only": variant}}},
        "services": {start.model.name: service},
    }
    file = start.folder / "spec.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    command = [
        str(start.python), *steelyard_command()[1:],
        "serve", str(file), "--http-port", str(http), "--grpc-port", "0", "--metrics-port", str(metrics),
        "--decisions", str(start.folder / "decisions.jsonl"),
        "--profiles", str(start.profiles),
    ]  # fmt: skip
    return Launch(command, http, {})


_OURS = Contender(
    _steelyard,
    ({"batch": 64, "wire": "oip"}, {"batch": 16, "wire": "oip"}),
    True,
    "default policy, one core for front end and worker; grid: largest batch 64, 16",
)

CONTENDERS = {
    STEELYARD: _OURS,
    COMPILED: _OURS._replace(said=f"the same, a compiled build (docs/simulator.md); {_OURS.said}"),
    "mlserver": Contender(
        _mlserver,
        (
            {"batch": 64, "wait_s": 0.002, "wire": "rest_bytes"},
            {"batch": 8, "wait_s": 0.002, "wire": "rest_bytes"},
            {"batch": 64, "wait_s": 0.01, "wire": "rest_bytes"},
            {"batch": 64, "wait_s": 0.002, "wire": "grpc_bytes"},
        ),
        False,
        "adaptive batching; parallel_workers 0, so no process in between; debug, metrics and log off; "
        "grid: batch, wait: 64, 2 ms; 8, 2 ms; 64, 10 ms; 64, 2 ms over gRPC",
    ),
    "litserve": Contender(
        _litserve,
        (
            {"batch": 64, "wait_s": 0.002, "fast": True, "wire": "json"},
            {"batch": 8, "wait_s": 0.002, "fast": True, "wire": "json"},
            {"batch": 64, "wait_s": 0.01, "fast": True, "wire": "json"},
            {"batch": 64, "wait_s": 0.0, "fast": True, "wire": "json"},
            {"batch": 64, "wait_s": 0.002, "fast": False, "wire": "json"},
        ),
        False,
        "dynamic batching, one API server and one worker, access log off; "
        "grid: batch, wait: 64, 2 ms; 8, 2 ms; 64, 10 ms; 64, none; 64, 2 ms without fast_queue",
    ),
    "bentoml": Contender(
        _bentoml,
        (
            {"batch": 64, "latency_ms": 60_000, "inline": True, "wire": "json_list"},
            {"batch": 8, "latency_ms": 60_000, "inline": True, "wire": "json_list"},
            {"batch": 64, "latency_ms": 60_000, "inline": False, "wire": "json_list"},
            {"batch": 64, "latency_ms": 100, "inline": True, "wire": "json_list"},
        ),
        False,
        "adaptive batching, one worker, metrics and access log off; "
        "grid: batch, max_latency_ms: 64, 60000 (its default); 8, 60000; 64, 60000 in a thread; 64, 100",
    ),
    "ray": Contender(
        _ray,
        (
            {"batch": 64, "wait_s": 0.002, "optimised": True, "wire": "raw"},
            {"batch": 8, "wait_s": 0.002, "optimised": True, "wire": "raw"},
            {"batch": 64, "wait_s": 0.01, "optimised": True, "wire": "raw"},
            {"batch": 64, "wait_s": 0.002, "optimised": False, "wire": "raw"},
        ),
        False,
        "serve.batch, one replica, access log off; throughput-optimised mode with HAProxy; "
        "grid: batch, wait: 64, 2 ms; 8, 2 ms; 64, 10 ms; and the default mode",
    ),
}


@contextmanager
def launched(contender: Contender, start: Start, core_ids: set[int]) -> Iterator[tuple[int, int]]:
    """A server confined to `core_ids` from its first instruction: pid of its head, and its port.

    Affinity is inherited, so every process it starts is confined too; whether all stayed is for the caller to
    check. Afterwards nothing of it is left.
    """
    launch = contender.launch(start)
    command = [
        "env",
        "-C",
        str(start.folder),
        *(f"{k}={v}" for k, v in launch.environment.items()),
        *launch.command,
    ]
    command = ["taskset", "--cpu-list", ",".join(map(str, sorted(core_ids))), *command]
    known: dict[int, str] = {}
    with (start.folder / "log").open("wb") as log:
        try:
            with started(command, stdout=log, stderr=STDOUT) as process:
                try:
                    yield process.pid, launch.port
                finally:
                    known = tree.identities(process.pid)
        finally:
            tree.end(known)
