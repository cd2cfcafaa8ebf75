"""Twenty seconds of `bench/soak.py` on a real server: nothing fails, and nothing that should stay grows."""

import os
import sys
from pathlib import Path

import pytest
from peers.cell import Cores, Lengths, running
from peers.models import Model
from peers.servers import STEELYARD
from soak import LIMITS, soak

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]
SECONDS, RATE_RPS, SLO_S = 20.0, 60.0, 2.0
ALLOWED = {**LIMITS, "memory MB": 60.0, "file descriptors": 200.0}
"""A minute. Of memory, 20 MB in these seconds: allocators still fill pools; the bench waits for that. Of
descriptors, connections that the generator makes when the machine stands still for a moment; one a request
would be 3600."""
CALLERS = 64
"""At first, so that places for that many requests at a time have been used once."""


def test_a_server_under_steady_load_does_not_grow(mlp: Path) -> None:
    model = Model("mlp", mlp, (64,), "y", "float32", True)
    core_ids = sorted(os.sched_getaffinity(0))
    cores = Cores(core_ids[0], core_ids[-1])
    setting, lengths = {"batch": 16, "wire": "oip"}, Lengths(1.0, 1.0, 1)
    with running(STEELYARD, model, setting, Path(sys.executable), cores, lengths, slo_s=SLO_S) as cell:
        cell.saturate(CALLERS, 1.0)
        found, trends = soak(cell, RATE_RPS, SECONDS, ALLOWED, every_s=0.4)
    assert found["completed"] == found["offered"], found["errors"]
    assert not [each for each in trends if each.grows]
