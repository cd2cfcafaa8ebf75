"""Compression's choices, the allocator's thresholds, and the log that never blocks."""

import asyncio
import gzip
import io
import json
import logging
import random
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.serve.edge import keep_large_blocks
from steelyard.serve.edge.bounds import header_bounds, parameter_bounds
from steelyard.serve.edge.codec import header_length
from steelyard.serve.edge.compression import (
    ACCEPT_BYTES_MAX,
    INLINE_BYTES,
    INLINE_INFLATED_BYTES,
    MEMBERS_MAX,
    Coding,
    TooLargeError,
    answer_coding,
    compress,
    inflate,
)
from steelyard.serve.edge.head import parse_head
from steelyard.serve.edge.logs import PENDING_LINES_MAX, EventLog, ServerLogHandler
from steelyard.serve.edge.receive import BodyReader
from steelyard.serve.edge.replies import RefusedError
from steelyard.serve.edge.settings import EdgeSettings


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None),
        (b"", None),
        (b"identity", None),
        (b"gzip", "gzip"),
        (b"deflate", "deflate"),
        (b" GZip ", "gzip"),
        (b"gzip;q=0", None),
        (b"gzip;q=nonsense", None),
        (b"br", None),
        # what an HTTP library can read is not a wish
        (b"gzip, deflate", None),
        (b"gzip, deflate, br, zstd", None),
        (b"*", None),
        # weights are
        (b"gzip, identity;q=0.5", "gzip"),
        (b"gzip;q=0.2, identity;q=0.5", None),
        (b"gzip;q=0.3, deflate;q=0.8, identity;q=0", "deflate"),
        # nobody says so much, and reading it would keep others waiting
        (b"gzip" + b" " * ACCEPT_BYTES_MAX, None),
    ],
)
def test_an_answer_is_compressed_for_those_who_ask(accept: bytes | None, coding: str | None) -> None:
    assert answer_coding(accept) == coding


@given(st.binary(max_size=400), st.integers(1, 50))
def test_compressed_bodies_come_out_as_they_went_in(body: bytes, chunk_bytes: int) -> None:
    codings: tuple[Coding, ...] = ("gzip", "deflate")
    for coding in codings:
        packed = compress(body, coding)
        chunks = [packed[at : at + chunk_bytes] for at in range(0, len(packed), chunk_bytes)]
        assert inflate(chunks, coding, len(body)) == body


def test_several_gzip_members_are_one_body() -> None:
    assert inflate([gzip.compress(b"ab") + gzip.compress(b"cd")], "gzip", 4) == b"abcd"
    with pytest.raises(TooLargeError):
        inflate([gzip.compress(b"ab") + gzip.compress(b"cd")], "gzip", 3)


def test_members_of_a_gzip_body_are_bounded() -> None:
    """An empty one is 20 bytes: a body of 64 MiB would be three million of them."""
    empty = gzip.compress(b"")
    assert inflate([empty * MEMBERS_MAX], "gzip", 0) == b""
    with pytest.raises(InputError, match="the gzip body has over 4096 members"):
        inflate([empty * (MEMBERS_MAX + 1)], "gzip", 0)


def test_members_that_end_within_and_between_pieces_are_one_body() -> None:
    rng = random.Random(5)
    texts = [rng.randbytes(size) for size in (0, 1 << 16, 3, 200_000, (1 << 16) - 23, 1)]
    packed = b"".join(gzip.compress(text, 0) for text in texts)
    assert inflate([packed], "gzip", 1 << 20) == b"".join(texts)
    with pytest.raises(InputError, match="the gzip body ends early"):
        inflate([packed[:-1]], "gzip", 1 << 20)


@pytest.mark.parametrize(("inflated_bytes", "threads"), [(INLINE_INFLATED_BYTES, 0), (3 << 20, 1)])
def test_a_small_body_that_becomes_large_is_not_inflated_on_the_loop(
    monkeypatch: pytest.MonkeyPatch, inflated_bytes: int, threads: int
) -> None:
    used: list[int] = []

    async def on_thread(inflate: Callable[..., bytes], *arguments: object) -> bytes:
        used.append(1)
        return inflate(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", on_thread)
    packed = gzip.compress(bytes(inflated_bytes))
    assert len(packed) < INLINE_BYTES
    reader = BodyReader(EdgeSettings(body_bytes_max=4 << 20))
    found = asyncio.run(reader.inflate({b"content-encoding": b"gzip"}, [packed]))
    assert (len(b"".join(found)), len(used)) == (inflated_bytes, threads)
    with pytest.raises(RefusedError, match="the body is over the limit"):
        asyncio.run(reader.inflate({b"content-encoding": b"gzip"}, [gzip.compress(bytes(5 << 20))]))


@pytest.mark.parametrize("size", [1, 10, 25])
def test_a_body_cut_short_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="the gzip body ends early"):
        inflate([gzip.compress(b"some text to pack")[:size]], "gzip", 100)


def test_trailing_rubbish_is_refused() -> None:
    with pytest.raises(InputError, match="the body is not deflate"):
        inflate([zlib.compress(b"x") + b"rubbish"], "deflate", 100)


def test_thresholds_are_taken_by_this_libc() -> None:
    assert keep_large_blocks() is True


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_log_lines() -> None:
    stream = io.StringIO()
    log = EventLog(stream)
    log.event("started", version="1", path=object)
    log.request(503, request_id="a", service="ocr", text="busy")
    log.request(500, request_id="b", service="ocr", text="bug")
    log.request(200, request_id="c", service="ocr", text="")
    log.close()
    found = lines(stream)
    assert [(line["level"], line["event"]) for line in found] == [
        ("info", "started"),
        ("warning", "request"),
        ("error", "request"),
        ("info", "request"),
    ]
    assert found[1] | {"ts": ""} == {
        "ts": "",
        "level": "warning",
        "event": "request",
        "id": "a",
        "service": "ocr",
        "status": 503,
        "text": "busy",
    }
    assert str(found[0]["ts"]).endswith("+00:00")


def test_what_goes_wrong_on_a_loop_is_one_line_that_says_where() -> None:
    stream = io.StringIO()
    log = EventLog(stream, request_lines_per_s_max=2)

    async def go_wrong() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log.loop_error)
        for _ in range(9):
            loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(0)

    asyncio.run(go_wrong())
    log.close()
    found = lines(stream)
    assert 2 <= len(found) < 9  # limited in rate, as requests are
    assert (found[0]["level"], found[0]["event"]) == ("error", "internal_error")
    assert str(found[0]["error"]).startswith("ZeroDivisionError")
    assert Path(__file__).name in str(found[0]["where"])


def test_request_lines_are_limited_in_rate_and_what_is_left_out_is_counted() -> None:
    stream = io.StringIO()
    log = EventLog(stream, request_lines_per_s_max=3)
    for _ in range(50):
        log.request(503, request_id="a", service="ocr")
    log.event("stopping")
    log.close()
    *requests, last = lines(stream)
    # a burst of 3, and perhaps some more if this loop took that long
    assert 3 <= len(requests) < 50
    left_out = sum(int(str(line.get("suppressed", 0))) for line in (*requests, last))
    assert left_out == 50 - len(requests)


def test_a_stalled_reader_stalls_nobody() -> None:
    """While the stream blocks, lines go to a buffer of limited length; the rest are counted."""
    writing, may_write = threading.Event(), threading.Event()

    class Stalled(io.StringIO):
        def write(self, text: str) -> int:
            writing.set()
            may_write.wait(30)
            return super().write(text)

    stream = Stalled()
    log = EventLog(stream)
    log.event("first")
    assert writing.wait(10)
    for number in range(PENDING_LINES_MAX + 100):
        log.event("more", number=number)
    assert log.suppressed == 100
    may_write.set()
    log.close()
    assert len(lines(stream)) == 1 + PENDING_LINES_MAX


def test_a_closed_stream_ends_the_writer_quietly() -> None:
    stream = io.StringIO()
    stream.close()
    log = EventLog(stream)
    log.event("nobody hears this")
    log.close()


def test_the_http_server_s_warnings_become_events() -> None:
    stream = io.StringIO()
    log = EventLog(stream)
    logger = logging.Logger("test")
    logger.addHandler(ServerLogHandler(log))
    logger.warning("Invalid HTTP request received.")
    logger.info("not this")
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("Exception in ASGI application\n")
    log.close()
    assert [line | {"ts": ""} for line in lines(stream)] == [
        {
            "ts": "",
            "level": "warning",
            "event": "http_server",
            "text": "Invalid HTTP request received.",
            "error": "",
        },
        {
            "ts": "",
            "level": "error",
            "event": "http_server",
            "text": "Exception in ASGI application",
            "error": "ValueError('why')",
        },
    ]


def test_a_bound_of_any_length_can_be_handed_on() -> None:
    """JSON's integers have no end; a message to the one that decides has 64 bits for one."""
    head = parse_head(b'{"inputs":[],"parameters":{"max_core_ms":1%b}}' % (b"0" * 30))
    assert head.parameters is not None
    bounds = parameter_bounds(head.parameters)
    assert bounds.max_core_ms == 1e30
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(bounds))[-1] == 1e30


def test_whitespace_after_the_value_of_a_header_is_no_part_of_it() -> None:
    """RFC 9110, 5.5; the HTTP parser leaves it there."""
    assert header_length(b"12 \t") == 12
    assert header_bounds({b"steelyard-slo-class": b"gold ", b"steelyard-max-core-ms": b"3 "})[-3:] == (
        "gold",
        None,
        3.0,
    )
