"""Where a benchmark's numbers go: `bench/results/<name>.json`, with what is needed to run it again.

Every record carries the commit (and whether the tree had changes), the machine, the versions that matter, the
seed and the time. Numbers without a record are not published.
"""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steelyard.core import service

RESULTS = Path(__file__).parent / "results"
IS_COMPILED = not str(service.__file__).endswith(".py")
"""Whether the core is a compiled build (docs/simulator.md): such records have names of their own."""

_PACKAGES = ("numpy", "onnxruntime", "uvloop", "uvicorn", "msgspec")


def write(name: str, payload: dict[str, Any], *, seed: int | None = None) -> Path:
    """Store one benchmark's result; a former one of the same name is replaced.

    Args:
        name: file name without suffix.
        payload: the numbers, with units in their names; JSON-serialisable.
        seed: of the random generator, None where nothing is drawn.

    Returns:
        The file's path, also printed.
    """
    record = {"name": name, **environment(), "seed": seed, **payload}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    partial = path.with_suffix(".tmp")  # a reader never sees half a file
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)
    print(f"wrote {path}")
    return path


def environment() -> dict[str, Any]:
    """Commit, machine, versions and time, as they go into every record."""
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "src", "bench")),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "load_1min": round(os.getloadavg()[0], 2),
            "kernel": platform.release(),
        },
        "python": platform.python_version(),
        "python_from": "distribution" if sys.base_prefix == "/usr" else "elsewhere",
        "packages": {package: found for package in _PACKAGES if (found := _version(package))},
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""  # an unpacked release has no repository


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
