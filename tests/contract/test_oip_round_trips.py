"""Tensors of every datatype and rank through stock clients over a real socket, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.serve.edge import make_app
from steelyard.serve.edge.tensors import KINDS
from steelyard.testing.http import running_server
from steelyard.testing.intake import ComputingIntake, served
from steelyard.testing.live import WAIT_S_MAX

pytestmark = pytest.mark.slow


def test_every_datatype_and_rank_through_tritonclient() -> None:
    services = {}
    for rank in range(6):
        tensors = {dtype: (dtype, (-1,) * rank) for dtype in KINDS}
        services[f"rank{rank}"] = served(f"rank{rank}", tensors, tensors, batchable=False)
    intake = ComputingIntake(services, lambda arrays: arrays, arena_bytes=1 << 22)
    script = Path(__file__).with_name("triton_round_trips.py")
    with running_server(make_app(intake)) as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(script), str(server.port), "11"],
            capture_output=True,
            text=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    # 6 ranks x 14 datatypes x (4 forms + 2 codings + 1 with asyncio), and 14 with what is not finite
    assert done.stdout.split() == ["602"]
    assert intake.arena.bytes_used == 0
    intake.close()
