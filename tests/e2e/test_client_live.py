"""The client against a real server of a decorated function: every datatype, shared memory, deadlines."""

import asyncio
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    RejectedError,
    Retries,
    session,
)
from steelyard.client.wire import datatype
from steelyard.runtime.base import Array
from steelyard.testing.live import WAIT_S_MAX, LiveServer, get_json, serve

pytestmark = pytest.mark.slow

APP = """\
import steelyard

TENSORS = {name: (name, [-1, -1]) for name in DTYPES}

@steelyard.service(
    slo="5s", name="echo", batch_max=4, inputs=TENSORS, outputs=TENSORS,
    example=dict.fromkeys(TENSORS, [2]),
)
class Echo:
    def setup(self, options):
        self.options = options

    def predict(self, batch):
        return dict(batch)
"""
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
}
ALL = (*DTYPES, "BYTES")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("echo")
    (folder / "app.py").write_text(APP.replace("DTYPES", repr(ALL)))
    with serve(Path(f"{folder}/app.py:Echo"), folder, "--profiles", str(folder / "profiles")) as running:
        yield running


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that ends takes its regions along, however long the server takes to answer."""
    monkeypatch.setattr(session, "CLOSE_S_MAX", WAIT_S_MAX)


def tensors(rows: int, columns: int, seed: int) -> dict[str, Array]:
    """Any bits at all, NaNs and subnormals included; booleans and bytes as they must be."""
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for name, dtype in DTYPES.items():
        size = rows * columns * np.dtype(dtype).itemsize
        made[name] = np.frombuffer(rng.bytes(size), dtype).reshape(rows, columns)
    made["BOOL"] = rng.integers(2, size=(rows, columns)).astype(np.bool_)
    words = np.empty(rows * columns, np.object_)
    words[:] = [rng.bytes(int(length)) for length in rng.integers(5, size=rows * columns)]
    made["BYTES"] = words.reshape(rows, columns)
    return made


def assert_same(sent: dict[str, Array], got: dict[str, Array]) -> None:
    assert got.keys() == sent.keys()
    for name, array in sent.items():
        assert datatype(array) == name
        assert got[name].shape == array.shape
        if name == "BYTES":
            assert got[name].tolist() == array.tolist()
        else:
            assert got[name].tobytes() == array.tobytes()


def regions(server: LiveServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get_json(f"{server.url}/v2/systemsharedmemory/status")
    return found


def in_system() -> set[str]:
    return {one.name for one in Path("/dev/shm").glob(f"steelyard-{os.getpid()}-*")}


def test_every_datatype_comes_back_bit_for_bit(server: LiveServer) -> None:
    with Client(server.url) as sent, Client(server.url, shared_memory=True) as shared:

        @settings(max_examples=20, deadline=None)
        @given(st.integers(1, 6), st.sampled_from([0, 1, 3, 3000]), st.integers(0, 99), st.booleans())
        def round_trip(rows: int, columns: int, seed: int, is_shared: bool) -> None:
            inputs = tensors(rows, columns, seed)
            answer = (shared if is_shared else sent).infer("echo", inputs, request_id="é")
            assert_same(inputs, answer.outputs)
            assert (answer.variant, answer.request_id, answer.bounds_missed) == ("echo", "é", ())

        round_trip()


def test_shared_memory_is_registered_once_and_nothing_of_it_stays(server: LiveServer) -> None:
    inputs = tensors(2, 4000, 1)
    with Client(server.url, shared_memory=True) as client:
        for _ in range(5):
            assert_same(inputs, client.infer("echo", inputs).outputs)
            assert len(regions(server)) == 1
            assert in_system() == set()  # both hold it, none by its name
        asked = urllib.request.Request(f"{server.url}/v2/systemsharedmemory/unregister", b"{}", method="POST")
        urllib.request.urlopen(asked, timeout=WAIT_S_MAX).close()
        for _ in range(
            2
        ):  # a server that has forgotten it, as after a restart, gets the tensors, then another
            assert_same(inputs, client.infer("echo", inputs).outputs)
        assert len(regions(server)) == 1
    assert (regions(server), in_system()) == ([], set())


def test_many_calls_at_a_time_each_get_their_own_answer(server: LiveServer) -> None:
    async def main() -> None:
        async with AsyncClient(server.url, shared_memory=True, connections_max=8) as client:

            async def call(seed: int) -> None:
                inputs = tensors(1, 6000 if seed % 2 else 2, seed)
                assert_same(inputs, (await client.infer("echo", inputs)).outputs)

            async with asyncio.TaskGroup() as group:
                for seed in range(24):
                    group.create_task(call(seed))
        assert regions(server) == []

    asyncio.run(main())


def test_pages_refusals_and_time(server: LiveServer) -> None:
    inputs = tensors(1, 2, 3)
    with Client(server.url, retries=Retries(attempts_max=2)) as client:
        assert client.is_ready()
        assert client.is_ready("echo")
        metadata = client.metadata("echo")
        assert {(one.name, one.dtype, one.shape) for one in metadata.inputs} == {
            (name, name, (-1, -1)) for name in ALL
        }
        assert client.infer("echo", inputs, outputs=["FP32"]).outputs.keys() == {"FP32"}
        (statistics,) = client.statistics("echo")
        assert statistics["inference_stats"]["success"]["count"] >= 1
        with pytest.raises(NotFoundError, match="known models: 'echo'"):
            client.infer("ech", inputs)
        with pytest.raises(InvalidInputError, match="BOOL"):
            client.infer("echo", {"FP32": inputs["FP32"]})
        with pytest.raises(RejectedError, match="cannot meet the request's bounds") as raised:
            client.infer("echo", inputs, max_core_ms=1e-6)
        assert raised.value.nearest is not None
        assert (raised.value.nearest.max_core_ms or 0) > 1e-6
        with pytest.raises(DeadlineExceededError):
            client.infer("echo", inputs, max_latency_ms=1e-6)
