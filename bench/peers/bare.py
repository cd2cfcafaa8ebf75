"""The yardstick: ONNX Runtime called in a closed loop, without a server, on the server's core.

    taskset --cpu-list CORE python -m peers.bare MODEL_FILE ROW SECONDS BATCHES

prints rows a second by batch size as JSON. The inputs lie ready; nothing is copied or decided.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from peers.models import Model, session_options

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


def throughput(file: Path, row: tuple[int, ...], seconds: float, batches: Sequence[int]) -> dict[str, float]:
    """Rows a second by batch size, each for so many seconds after a first call."""
    session = ort.InferenceSession(file, session_options(), providers=["CPUExecutionProvider"])
    found = {}
    for batch in batches:
        x = np.random.default_rng(batch).standard_normal((batch, *row), dtype=np.float32)
        session.run(None, {"x": x})
        calls, start_s = 0, time.perf_counter()
        while (took_s := time.perf_counter() - start_s) < seconds:
            session.run(None, {"x": x})
            calls += 1
        found[str(batch)] = round(calls * batch / took_s, 1)
    return found


def measure(model: Model, core: int, seconds: float, batches: Sequence[int] = BATCHES) -> dict[str, float]:
    """The same in a process of its own on `core`."""
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "peers.bare"]
    command += [str(model.file), json.dumps(model.row), str(seconds), json.dumps(batches)]
    folder = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    file, row, seconds, batches = sys.argv[1:]
    found = throughput(Path(file), tuple(json.loads(row)), float(seconds), json.loads(batches))
    print(json.dumps(found))
