"""Tensors in system shared memory: registered, checked, read and written; and clients that take it away."""

import contextlib
import os
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.serve.edge import make_app
from steelyard.serve.edge import shared_memory as edge_shared_memory
from steelyard.serve.edge.http import EdgeApp
from steelyard.testing.http import HttpAnswer, ask_app
from steelyard.testing.intake import ComputingIntake, served

NAMES: dict[str, tuple[str, tuple[int, ...]]] = {"x": ("FP32", (-1, 4)), "s": ("BYTES", (-1, 1))}
SERVICES = {
    "echo": served("echo", {"x": NAMES["x"]}, {"x": NAMES["x"]}),
    "both": served("both", NAMES, NAMES),
}
X = np.arange(8, dtype=np.float32).reshape(2, 4)
STATUS = "/v2/systemsharedmemory/status"


class Client:
    """An application, and a shared memory object of 4096 bytes that its client owns."""

    def __init__(self, app: EdgeApp, memory: shared_memory.SharedMemory) -> None:
        self.app = app
        self.memory = memory
        assert memory.buf is not None
        self.bytes = memory.buf

    def post(self, path: str, body: Any = b"", client: str = "127.0.0.1") -> HttpAnswer:
        return ask_app(self.app, "POST", path, body, client=client)

    def register(self, **changes: Any) -> HttpAnswer:
        body = {"key": self.memory.name, "offset": 0, "byte_size": 4096, **changes}
        return self.post("/v2/systemsharedmemory/region/r/register", body)

    def status(self) -> Any:
        return ask_app(self.app, "GET", STATUS).json()

    def infer(
        self, out: dict[str, Any] | None = None, client: str = "127.0.0.1", **changes: Any
    ) -> HttpAnswer:
        place = {"shared_memory_region": "r", "shared_memory_byte_size": 32, **changes}
        body: dict[str, Any] = {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "parameters": place}]
        }
        if out is not None:
            body["outputs"] = [{"name": "x", "parameters": {"shared_memory_region": "r", **out}}]
        return self.post("/v2/models/echo/infer", body, client)

    def put(self, data: bytes, at: int = 0) -> None:
        self.bytes[at : at + len(data)] = data


@pytest.fixture(name="client")
def _client() -> Iterator[Client]:
    intake = ComputingIntake(SERVICES, lambda arrays: arrays, arena_bytes=1 << 16)
    memory = shared_memory.SharedMemory(create=True, size=4096)
    client = Client(make_app(intake), memory)
    yield client
    client.bytes.release()
    memory.close()
    with contextlib.suppress(FileNotFoundError):
        memory.unlink()
    assert intake.arena.bytes_used == 0
    intake.close()


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_input_and_output_in_one_region(client: Client) -> None:
    assert client.register().status == 200
    client.put(X.tobytes(), at=16)
    answer = client.infer(
        {"shared_memory_byte_size": 40, "shared_memory_offset": 64}, shared_memory_offset=16
    )
    assert answer.status == 200, answer
    assert answer.json()["outputs"] == [
        {
            "name": "x",
            "datatype": "FP32",
            "shape": [2, 4],
            "parameters": {
                "shared_memory_region": "r",
                "shared_memory_byte_size": 32,
                "shared_memory_offset": 64,
            },
        }
    ]
    assert bytes(client.bytes[64:96]) == X.tobytes()
    assert bytes(client.bytes[96:104]) == bytes(8)  # no byte more than the output has


def test_a_region_may_begin_anywhere_in_its_object(client: Client) -> None:
    assert client.register(offset=128, byte_size=32).status == 200
    client.put(X.tobytes(), at=128)
    answer = client.infer()
    assert answer.json()["outputs"][0]["data"] == X.ravel().tolist()


def test_strings_in_shared_memory_beside_a_binary_tensor(client: Client) -> None:
    client.register()
    client.put(b"\x02\x00\x00\x00hi\x00\x00\x00\x00")
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X.ravel().tolist()},
        {
            "name": "s",
            "datatype": "BYTES",
            "shape": [2, 1],
            "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 10},
        },
    ]
    answer = client.post("/v2/models/both/infer", {"inputs": inputs, "outputs": [{"name": "s"}]})
    assert answer.json()["outputs"][0]["data"] == ["hi", ""]
    client.put(b"\xff")  # a length beyond the tensor's end
    answer = client.post("/v2/models/both/infer", {"inputs": inputs})
    line = "input 's' of shape [2, 1]: element 0 is longer than what is left of the data"
    assert (answer.status, answer.json()["error"]) == (400, line)


def test_registering_and_unregistering(client: Client) -> None:
    before = open_fds()
    assert client.status() == []
    client.register(key=f"/{client.memory.name}", offset=8, byte_size=64)
    region = {"name": "r", "key": f"/{client.memory.name}", "offset": 8, "byte_size": 64}
    assert client.status() == [region]
    assert ask_app(client.app, "GET", "/v2/systemsharedmemory/region/r/status").json() == [region]
    assert client.register().json()["error"] == "shared memory region 'r' is registered already"
    assert client.post("/v2/systemsharedmemory/region/other/unregister").status == 200
    assert client.post("/v2/systemsharedmemory/region/r/unregister").status == 200
    assert client.status() == []
    assert open_fds() == before
    client.register()
    assert client.post("/v2/systemsharedmemory/unregister").status == 200
    assert open_fds() == before
    answer = ask_app(client.app, "GET", "/v2/systemsharedmemory/region/r/status")
    assert (answer.status, answer.json()["error"]) == (400, "no shared memory region 'r' is registered")


NO_KEY = "shared memory region 'r': {key} is no key of shared memory"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"key": "../../etc/passwd"}, NO_KEY.format(key="'../../etc/passwd'")),
        ({"key": "/"}, NO_KEY.format(key="'/'")),
        ({"key": ".."}, NO_KEY.format(key="'..'")),
        ({"key": "a\0b"}, NO_KEY.format(key="'a\\x00b'")),
        ({"key": "x" * 256}, NO_KEY.format(key=f"'{'x' * 40}'")),
        (
            {"key": "no-such-object"},
            "shared memory region 'r': 'no-such-object' cannot be opened: No such file or directory",
        ),
        ({"offset": -1}, "shared memory region 'r': offset -1 and byte_size 4096 are no range"),
        ({"byte_size": 0}, "shared memory region 'r': offset 0 and byte_size 0 are no range"),
        ({"offset": 1}, "shared memory region 'r' ends at byte 4097 of 'NAME', which has 4096"),
        (
            {"byte_size": 2**63},
            "shared memory region 'r' ends at byte 9223372036854775808 of 'NAME', which has 4096",
        ),
        ({"key": None}, "the body is not what is taken here: Expected `str`, got `null` - at `$.key`"),
    ],
)
def test_what_cannot_be_registered(client: Client, changes: dict[str, Any], line: str) -> None:
    before = open_fds()
    answer = client.register(**changes)
    assert (answer.status, answer.json()["error"]) == (400, line.replace("NAME", client.memory.name))
    assert open_fds() == before


def test_a_link_or_a_pipe_is_no_shared_memory(client: Client) -> None:
    for make in (lambda path: path.symlink_to("/etc/passwd"), os.mkfifo):
        path = Path("/dev/shm") / f"{client.memory.name}-other"
        make(path)
        try:
            assert client.register(key=path.name).status == 400
        finally:
            path.unlink()


def test_there_are_only_so_many_regions(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_shared_memory, "REGIONS_MAX", 1)
    client.register()
    body = {"key": client.memory.name, "byte_size": 8}
    answer = client.post("/v2/systemsharedmemory/region/q/register", body)
    assert answer.json()["error"] == "1 shared memory regions are registered, which is the limit"
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def test_regions_without_a_name_make_room_the_one_used_least_recently_first(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_shared_memory, "REGIONS_MAX", 3)

    def register(name: str, *, is_hidden: bool) -> None:
        path = Path("/dev/shm") / f"{client.memory.name}-{name}"
        path.write_bytes(bytes(4096))
        body = {"key": path.name, "byte_size": 4096}
        assert client.post(f"/v2/systemsharedmemory/region/{name}/register", body).status == 200
        if is_hidden:
            path.unlink()

    before = open_fds()
    assert client.register().status == 200  # has its name still, and stays
    register("a", is_hidden=True)
    register("b", is_hidden=True)
    assert client.infer(shared_memory_region="a").status == 200
    register("c", is_hidden=True)
    assert {one["name"] for one in client.status()} == {"r", "a", "c"}
    assert open_fds() == before + 3
    line = "no shared memory region 'b' is registered"
    answer = client.infer(shared_memory_region="b")
    assert (answer.status, answer.json()["error"]) == (400, line)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"shared_memory_region": "q"}, "no shared memory region 'q' is registered"),
        (
            {"shared_memory_byte_size": 31},
            "input 'x' of shape [2, 4] and type FP32 takes 32 bytes; shared_memory_byte_size is 31",
        ),
        (
            {"shared_memory_byte_size": None},
            "input 'x' is in shared memory without a shared_memory_byte_size",
        ),
        (
            {"shared_memory_offset": 4070},
            "32 bytes from 4070 on do not lie in shared memory region 'r', which has 4096",
        ),
        (
            {"shared_memory_offset": -8},
            "32 bytes from -8 on do not lie in shared memory region 'r', which has 4096",
        ),
        ({"binary_data_size": 32}, "input 'x' is in shared memory and has data, too"),
    ],
)
def test_a_wrong_place_of_an_input(client: Client, changes: dict[str, Any], line: str) -> None:
    client.register()
    answer = client.infer(**changes)
    assert (answer.status, answer.json()["error"]) == (400, line)


def test_an_output_that_does_not_fit_its_place(client: Client) -> None:
    client.register()
    answer = client.infer({"shared_memory_byte_size": 31})
    line = "output 'x' has 32 bytes; its place in shared memory region 'r' has 31"
    assert (answer.status, answer.json()["error"]) == (400, line)


def test_a_client_that_cuts_its_memory_short_harms_only_itself(client: Client) -> None:
    """With a mapping, this is where the server would die of SIGBUS."""
    client.register()
    client.put(X.tobytes())
    assert client.infer({"shared_memory_byte_size": 32, "shared_memory_offset": 64}).status == 200
    os.truncate(f"/dev/shm/{client.memory.name}", 16)
    answer = client.infer()
    line = "shared memory region 'r' cannot be used: it has become shorter"
    assert (answer.status, answer.json()["error"]) == (400, line)
    os.truncate(f"/dev/shm/{client.memory.name}", 64)
    answer = client.infer({"shared_memory_byte_size": 32, "shared_memory_offset": 64})
    assert (answer.status, answer.json()["error"]) == (400, line)
    os.truncate(f"/dev/shm/{client.memory.name}", 4096)
    assert client.infer().status == 200


def test_a_region_outlives_its_name_for_requests_under_way(client: Client) -> None:
    """The file stays open for the request that names it, and is closed with its end."""
    before = open_fds()
    client.register()
    regions = client.app.inferences.regions
    span = regions.span("r", 0, 32)
    regions.unregister("r")
    client.memory.unlink()
    span.write("x", [memoryview(b"written")])
    assert bytes(client.bytes[:7]) == b"written"
    del span
    assert open_fds() == before


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3"])
def test_clients_of_other_hosts_have_no_part_in_it(client: Client, address: str) -> None:
    client.register()
    line = "shared memory is only for clients on the server's host"
    for path in ("/v2/systemsharedmemory/region/r/register", "/v2/systemsharedmemory/unregister"):
        answer = client.post(path, b"{}", client=address)
        assert (answer.status, answer.json()["error"]) == (400, line)
    answer = ask_app(client.app, "GET", STATUS, client=address)
    assert answer.json()["error"] == line
    answer = client.infer(client=address)
    line = "input 'x' is in shared memory, which only clients on the server's host may use"
    assert (answer.status, answer.json()["error"]) == (400, line)
    assert len(client.status()) == 1


def test_what_a_proxy_hands_on_is_not_of_this_host(client: Client) -> None:
    answer = ask_app(client.app, "GET", STATUS, headers={"X-Forwarded-For": "127.0.0.1"})
    assert answer.status == 400
