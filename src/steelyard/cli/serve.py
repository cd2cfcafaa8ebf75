"""`steelyard serve`: from a spec file, a lone ONNX file or a Python function to a running server.

Everything that can be wrong is found before anything is started: the spec is read and resolved, its models
are asked what they take, and what has no stored profile is measured; only then does the server run.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.output import duration_option, say, size_option, writable
from steelyard.config.function import is_target, spec_for_target
from steelyard.config.load import LoadedSpec, is_onnx, load_spec, spec_for_onnx
from steelyard.core.errors import SpecError

if TYPE_CHECKING:
    from steelyard.serve.settings import ServeSettings

TRITON_PORTS = (8000, 8001, 8002)
PORTS = (8080, 8081, 8082)
FRONT_ENDS_MAX = 64


def serve(
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC", help="A spec file, an ONNX file with --slo, or file.py:name.")
    ],
    slo: Annotated[
        str | None, typer.Option(help="Latency objective of an ONNX file or function, such as 50ms.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="A policy or configuration; default: the spec's.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores to use; default: the spec's, or all available.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="HTTP port, default 8080; 0: off.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="gRPC port, default 8081; 0: off.")
    ] = None,
    front_ends: Annotated[
        int,
        typer.Option(
            min=0, max=FRONT_ENDS_MAX, metavar="N", help="Processes that handle HTTP; 0: the server's own."
        ),
    ] = 0,
    grpc_in_process: Annotated[
        bool, typer.Option("--grpc-in-process", help="Handle gRPC in the server's own process.")
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Metrics port, default 8082; 0: off.")
    ] = None,
    ports: Annotated[str | None, typer.Option(help="triton: use ports 8000, 8001 and 8002.")] = None,
    profiles: Annotated[Path | None, typer.Option(metavar="DIR", help="Where profiles are stored.")] = None,
    journal: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record every event and command here.")
    ] = None,
    decisions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where decisions are recorded.")
    ] = None,
    overload_status: Annotated[
        int, typer.Option(help="HTTP status of refusals under overload: 503 or 429.")
    ] = 503,
    body_max: Annotated[str, typer.Option(metavar="SIZE", help="Largest request body.")] = "64MiB",
    arena: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory for the tensors of open requests.")
    ] = "512MiB",
    drain: Annotated[
        str, typer.Option(metavar="TIME", help="How long to answer queued requests after SIGTERM.")
    ] = "30s",
    log_requests: Annotated[bool, typer.Option("--log-requests", help="Log every request.")] = False,
    print_spec: Annotated[bool, typer.Option("--print-spec", help="Print the spec and exit.")] = False,
) -> int:
    """Serve models under a latency objective until SIGTERM, then answer what is queued."""
    loaded = open_spec(spec, slo)
    if print_spec:
        typer.echo(loaded.text, nl=False)
        return 0

    from steelyard.serve.settings import ServeSettings

    if overload_status not in (503, 429):
        raise SpecError(f"--overload-status: want 503 or 429, got {overload_status}")
    http, grpc, metrics = _ports(ports, (http_port, grpc_port, metrics_port))
    settings = ServeSettings(
        host=host,
        http_port=http,
        grpc_port=grpc,
        front_ends=front_ends,
        grpc_in_process=grpc_in_process,
        metrics_port=metrics,
        journal=writable("--journal", journal),
        decisions=writable("--decisions", decisions) or _usual_decisions(http),
        body_bytes_max=size_option("--body-max", body_max),
        arena_bytes=size_option("--arena", arena),
        drain_s_max=duration_option("--drain", drain),
        overload_status=overload_status,
        log_requests=log_requests,
    )
    return _measure_and_run(loaded, settings, cores=cores, policy=policy, profiles=profiles)


def _measure_and_run(
    loaded: LoadedSpec,
    settings: "ServeSettings",
    *,
    cores: int | None,
    policy: str | None,
    profiles: Path | None,
) -> int:
    from steelyard.backend.cpu import usable_core_ids
    from steelyard.cli.measure import hopeless, measure, stage_times, widths_of, with_measured
    from steelyard.config.notices import notices
    from steelyard.config.resolve import resolve
    from steelyard.profiler.store import default_directory
    from steelyard.serve.edge.listen import check_address

    if settings.journal is not None and settings.journal == settings.decisions:
        raise SpecError(f"--journal and --decisions: want two files, got {settings.journal} twice")
    core_ids = usable_core_ids()
    if cores is not None and cores > len(core_ids):
        raise SpecError(f"--cores: want at most the {len(core_ids)} cores this process may use, got {cores}")
    find_modules_beside(loaded.folder)
    deployment = resolve(loaded, cores_available=len(core_ids), cores=cores, policy=policy)
    for port in (settings.http_port, settings.grpc_port, settings.metrics_port):
        if port:
            check_address(settings.host, port)
    for notice in notices(loaded.spec):
        say(notice, err=True)
    measured = measure(deployment, profiles, core_ids=core_ids, form="quick")
    deployment = with_measured(deployment, measured, loaded, profiles or default_directory())

    times = stage_times(deployment, measured)
    for line in hopeless(deployment, times, deployment.cores or len(core_ids)):
        say(line, err=True)

    from steelyard.serve.server import run

    return run(deployment, times, widths_of(measured), settings)


def open_spec(path: Path, slo: str | None) -> LoadedSpec:
    """The spec that a command's SPEC argument means.

    Raises:
        SpecError: the file is wrong, or `--slo` is missing for a model or given for a spec file.
    """
    if is_target(path):
        return spec_for_target(str(path), slo)
    if not is_onnx(path):
        if slo is not None:
            raise SpecError("--slo goes with an ONNX file; in a spec file set services.NAME.slo.latency")
        return load_spec(path)
    if slo is None:
        raise SpecError(f"{path}: an ONNX file needs its latency objective: add --slo 50ms, for example")
    return spec_for_onnx(path, duration_option("--slo", slo))


def find_modules_beside(folder: Path) -> None:
    """Let Python targets be modules beside the spec file, for this process and every one it starts."""
    place, known = str(folder.resolve()), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([place, *([known] if known else [])])
    sys.path.insert(0, place)


def _ports(preset: str | None, given: tuple[int | None, ...]) -> tuple[int, int, int]:
    if preset not in (None, "triton"):
        raise SpecError(f"--ports: want triton, got {preset}")
    default = PORTS if preset is None else TRITON_PORTS
    http, grpc, metrics = (d if g is None else g for d, g in zip(default, given, strict=True))
    if not (http or grpc):
        raise SpecError("want a port for clients: HTTP and gRPC are both 0, off; such as --http-port 8080")
    taken = [port for port in (http, grpc, metrics) if port]
    if len(set(taken)) < len(taken):
        raise SpecError(f"want three different ports, got {http}, {grpc} and {metrics}")
    return http, grpc, metrics


def _usual_decisions(port: int) -> Path | None:
    """One file a port below the user's state directory, begun anew at each start; None if it has no place."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = (Path(state) if state else Path.home() / ".local" / "state") / "steelyard"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return writable("decisions", folder / f"decisions-{port}.jsonl")
    except (OSError, SpecError):
        say(f"decisions are only logged: cannot write to {folder}", err=True)
        return None
