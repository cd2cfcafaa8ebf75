"""A request that memory could never hold is 413, whichever way it takes: another moment would not do."""

import asyncio
import json
from collections.abc import Callable, Iterator

import pytest
from fuzz_direct import DirectEdge

from steelyard.serve.edge import EdgeSettings, make_app
from steelyard.serve.edge.http import EdgeApp
from steelyard.serve.link import messages as m
from steelyard.serve.link.remote import RemoteIntake
from steelyard.serve.repository import RepositoryEntry
from steelyard.testing.http import ask_app
from steelyard.testing.intake import ComputingIntake, served
from steelyard.worker.arena import Arena

SERVICES = {"echo": served("echo", {"x": ("FP32", (-1, 4))}, {"x": ("FP32", (-1, 4))}, rows_max=1024)}
ARENA_BYTES = 8192
PATH = "/v2/models/echo/infer"

Ask = Callable[[EdgeApp, bytes, dict[str, str]], tuple[int, str]]


def through_asgi(app: EdgeApp, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    answer = ask_app(app, "POST", PATH, body, headers)
    return answer.status, answer.json().get("error", "")


def in_one_piece(app: EdgeApp, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    return _directly(app, headers, body, cut=0)


def in_two_pieces(app: EdgeApp, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    return _directly(app, headers, body, cut=len(body) - 1)


def _directly(app: EdgeApp, headers: dict[str, str], body: bytes, *, cut: int) -> tuple[int, str]:
    lines = [f"POST {PATH} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    pieces = [head + body[:cut], body[cut:]] if cut else [head + body]

    async def ask() -> bytes:
        return await DirectEdge(app).ask(pieces)

    answer_head, _, answer = asyncio.run(ask()).partition(b"\r\n\r\n")
    assert b"retry-after" not in answer_head.lower()
    return int(answer_head[9:12]), json.loads(answer).get("error", "")


@pytest.fixture(name="app")
def _app() -> Iterator[EdgeApp]:
    intake = ComputingIntake(SERVICES, lambda arrays: arrays, arena_bytes=ARENA_BYTES)
    yield make_app(intake)
    assert intake.arena.bytes_used == 0
    intake.close()


def asked(rows: int) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request of so many rows."""
    data = bytes(16 * rows)
    given = {
        "name": "x",
        "datatype": "FP32",
        "shape": [rows, 4],
        "parameters": {"binary_data_size": len(data)},
    }
    text = json.dumps({"inputs": [given]}).encode()
    return text + data, {"Inference-Header-Content-Length": str(len(text))}


LINE = (
    "the request's tensors take 16384 bytes of memory, each a power of two; the server has 8192 for requests "
    "(option --arena)"
)


@pytest.mark.parametrize("ask", [through_asgi, in_one_piece, in_two_pieces])
def test_it_is_413_and_says_what_would_do(app: EdgeApp, ask: Ask) -> None:
    # 509 rows of 16 bytes and the slot's header of 64 are 8208 bytes: the next power of two is 16384.
    # One row less is 8192: the whole arena.
    assert ask(app, *asked(509)) == (413, LINE)
    assert ask(app, *asked(508)) == (200, "")


@pytest.mark.parametrize("ask", [through_asgi, in_one_piece, in_two_pieces])
def test_a_front_end_in_its_own_process_says_the_same_of_its_own_memory(ask: Ask) -> None:
    seen = m.Seen(is_ready=True, is_open=True, entry=RepositoryEntry("echo", "READY"))
    welcome = m.Welcome(1, "http", "127.0.0.1", 0, ARENA_BYTES, 1.0, EdgeSettings(), SERVICES, {"echo": seen})

    class Nobody:
        def post(self, message: object) -> None:
            raise AssertionError(message)

        def wake(self) -> None:
            raise AssertionError

    intake = RemoteIntake(welcome, Arena("fe1", ARENA_BYTES), Nobody())
    assert ask(make_app(intake), *asked(509)) == (413, LINE)
    assert intake.arena.bytes_used == 0
    intake.close()
