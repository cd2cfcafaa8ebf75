"""The same program in processes whose hashes differ: what depends on the order of a set or dict shows."""

import os
import subprocess
import sys
from pathlib import Path

HASH_SEEDS = ("1", "4242")
RUN_S_MAX = 200.0


def printed(program: str, *arguments: str, hash_seed: str, folder: Path | None = None) -> str:
    """What a Python program prints under a hash seed; `folder` is where it looks for modules first.

    Raises:
        CalledProcessError: it failed; its `stderr` says how.
    """
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    if folder is not None:
        path = (str(folder), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, check=True, text=True, timeout=RUN_S_MAX
    )
    return done.stdout
