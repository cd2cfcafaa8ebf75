"""What the live benches share: a generator beside a real server, whose account is read at both ends.

Everything runs in processes of its own on one machine: the server (front end and decisions at nice 0, workers
at nice 5 on the cores they were given), and one generator a service. Nothing else should run.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.demo.processes import steelyard_command
from steelyard.testing.live import LiveServer


def start_load(
    server: LiveServer,
    service: str,
    counts: Sequence[int],
    payload: Path,
    folder: Path,
    *,
    slo_s: float,
    seed: int,
) -> tuple["subprocess.Popen[bytes]", Path]:
    """Start the generator on a trace of counts a second; its JSON will be in the returned file."""
    name = f"{service}-{seed}-{os.getpid()}"
    trace, result = folder / f"{name}.trace", folder / f"{name}.json"
    trace.write_text("".join(f"{count}\n" for count in counts))
    command = steelyard_command(
        "load", server.url, "--model", service, "--trace", str(trace), "--input", str(payload),
        "--seed", str(seed), "--slo", f"{slo_s * 1000:g}ms", "--json", str(result),
    )  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE), result


def finish_load(process: "subprocess.Popen[bytes]", result: Path, *, seconds_max: float) -> dict[str, Any]:
    """Wait for a generator and read what it measured; a void run (status 1) says so in its `void`."""
    _, errors = process.communicate(timeout=seconds_max)
    if process.returncode not in (0, 1) or not result.exists():
        raise RuntimeError(f"the generator failed: {errors.decode()[-2000:]}")
    measured: dict[str, Any] = json.loads(result.read_text())
    return measured


def core_seconds(before: Mapping[str, Any], after: Mapping[str, Any], service: str) -> float:
    """Core-seconds reserved for a service between two readings of the status."""
    return float(after["services"][service]["core_seconds"] - before["services"][service]["core_seconds"])
