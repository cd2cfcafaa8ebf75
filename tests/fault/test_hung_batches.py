"""A real server whose Python stage never returns from one request: the others of its batch are answered.

The only replica has a core: the batch that hangs is found out after a quarter of the objective, a new worker
takes some tenths, and if the one to blame comes first again, the same once more. An objective of 8 s leaves a
slow machine time for that.

The batch before it is held by two pipes: one says that it runs, the other lets it end.
"""

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from steelyard.backend.patience import KNOWN_BATCHES
from steelyard.testing.live import LiveServer, serve, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # a batch that is only late must not pass for hung

MODEL = """
import threading
from pathlib import Path

def double(batch):
    x = batch["x"]
    if (x == -1).any():
        threading.Event().wait()
    if (x == -2).any():
        Path({begun!r}).write_bytes(b"")
        Path({end!r}).read_bytes()
    return {{"y": 2 * x}}
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
    slo: {latency: 8s}
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


async def hang(server: LiveServer, begun: Path, end: Path) -> list[tuple[int, str]]:
    """Answers of eight requests that share a batch; the first hangs."""

    def queue_rows() -> int:
        return int(server.status()["services"]["double"]["queue_rows"])

    async with aiohttp.ClientSession() as session:
        for _ in range(KNOWN_BATCHES):  # what batches take is known
            await ask(session, server.url, 1)
        before = asyncio.create_task(ask(session, server.url, -2))
        await asyncio.to_thread(begun.read_bytes)  # it runs: whatever comes now is the next batch
        rest = [asyncio.create_task(ask(session, server.url, x)) for x in (-1, 3, 4, 5, 6, 7, 8, 9)]
        await asyncio.to_thread(wait_until, lambda: queue_rows() == len(rest), "all eight in the queue")
        await asyncio.to_thread(end.write_bytes, b"")
        answers = await asyncio.gather(*rest)
        assert (await before)[0] == 200
        assert (await ask(session, server.url, 10))[0] == 200
        return answers


def test_one_request_that_hangs_takes_no_other_with_it(tmp_path: Path) -> None:
    begun, end = tmp_path / "begun", tmp_path / "end"
    os.mkfifo(begun)
    os.mkfifo(end)
    (tmp_path / "model.py").write_text(MODEL.format(begun=str(begun), end=str(end)))
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    with serve(spec, tmp_path) as server:
        (status, body), *others = asyncio.run(hang(server, begun, end))
        assert status == 503, body
        assert "its batch did not end twice" in body
        assert [answer[0] for answer in others] == [200] * 7, others
        counters = server.status()["services"]["double"]["counters"]
        assert (counters["failed"], counters["completed"]) == (1, counters["requests"] - 1)
