"""A real server whose Python stage never returns from one request: the others of its batch are answered.

The objective is 2 s and the only replica has a core: the batch that hangs is found out after half a second, a
new worker takes some tenths, and if the one to blame comes first again, the same once more.
"""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from steelyard.backend.patience import KNOWN_BATCHES
from steelyard.testing.live import LiveServer, serve

pytestmark = pytest.mark.slow

MODEL = """
import threading, time
import numpy as np

def double(batch):
    x = batch["x"]
    if (x == -1).any():
        threading.Event().wait()
    if (x == -2).any():
        time.sleep(0.1)
    return {"y": 2 * x}
"""
SPEC = """\
version: 1
models:
  double:
    variants:
      only:
        python: "model.py:double"
        latency: {alpha_ms: 0.1, beta_ms: 0.1, gamma_ms: 1, zeta_ms: 1}
        batch_max: 8
        cores_max: 1
services:
  double:
    slo: {latency: 2s}
    inputs: {x: {dtype: FP32, shape: [-1, 1]}}
    pipeline: {double: {model: double}}
policies:
  one: {name: static, replicas: 1, cores: 1, batch: 8}
policy: one
"""


async def ask(session: aiohttp.ClientSession, url: str, x: float) -> tuple[int, str]:
    """Status and body of one request."""
    head = f'{{"inputs": [{{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [{x}]}}]}}'
    async with session.post(f"{url}/v2/models/double/infer", data=head.encode()) as answer:
        return answer.status, await answer.text()


async def hang(server: LiveServer) -> list[tuple[int, str]]:
    """Answers of eight requests that share a batch; the first hangs."""
    async with aiohttp.ClientSession() as session:
        for _ in range(KNOWN_BATCHES):  # what batches take is known
            await ask(session, server.url, 1)
        before = asyncio.create_task(ask(session, server.url, -2))
        await asyncio.sleep(0.03)  # it runs, and whatever comes now is the next batch
        answers = await asyncio.gather(*(ask(session, server.url, x) for x in (-1, 3, 4, 5, 6, 7, 8, 9)))
        assert (await before)[0] == 200
        assert (await ask(session, server.url, 10))[0] == 200
        return answers


def test_one_request_that_hangs_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    with serve(spec, tmp_path) as server:
        (status, body), *others = asyncio.run(hang(server))
        assert status == 503, body
        assert "its batch did not end twice" in body
        assert [answer[0] for answer in others] == [200] * 7, others
        counters = server.status()["services"]["double"]["counters"]
        assert (counters["failed"], counters["completed"]) == (1, counters["requests"] - 1)
