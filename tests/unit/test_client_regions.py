"""Shared memory of a client: bounded, reused only when nobody can still read it, and never left over."""

import threading
from pathlib import Path

import numpy as np
import pytest

from steelyard.client import regions
from steelyard.client.regions import REGION_BYTES_MIN, RegionPool, needed_bytes
from steelyard.client.wire import Place, tensor_bytes


def in_system(pool: RegionPool) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{pool._prefix}-*"))


def test_tensors_lie_one_after_another_on_lines_of_their_own() -> None:
    pool = RegionPool()
    tensors = {
        "x": tensor_bytes(np.arange(20, dtype=np.float32)),  # 80 bytes: two lines of 64
        "none": tensor_bytes(np.zeros(0, np.int64)),
        "words": tensor_bytes(np.array([b"ab"], np.object_)),  # 4 + 2 bytes: one line
    }
    assert needed_bytes(tensors) == 128 + 0 + 64
    region = pool.take(needed_bytes(tensors))
    assert region is not None
    assert region.store(tensors) == {
        "x": Place(region.name, 0, 80),
        "none": Place(region.name, 128, 0),
        "words": Place(region.name, 128, 6),
    }
    (file,) = in_system(pool)
    content = file.read_bytes()
    assert content[:80] == np.arange(20, dtype=np.float32).tobytes()
    assert content[128:134] == b"\x02\0\0\0ab"
    pool.give_back(region)  # never registered: of no use
    assert in_system(pool) == []


def test_a_region_is_reused_once_its_requests_are_answered() -> None:
    pool = RegionPool()
    first = pool.take(1000)
    assert first is not None
    assert first.byte_size == REGION_BYTES_MIN
    first.is_registered = True
    pool.give_back(first)
    assert pool.take(REGION_BYTES_MIN) is first
    other = pool.take(1000)  # the first is in use
    assert other is not None
    assert other is not first
    first.unanswered = 1  # a request timed out: the server may read it yet
    pool.give_back(first)
    assert pool.retired() == [first.name]
    assert pool.retired() == []
    pool.give_back(other)
    assert in_system(pool) == []


def test_the_smallest_that_fits_is_taken_and_idle_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "REGIONS_MAX", 2)
    pool = RegionPool()
    taken = [pool.take(size) for size in (4 * REGION_BYTES_MIN, REGION_BYTES_MIN)]
    assert pool.take(1) is None  # two are all that it may have: the request goes through the socket
    for region in taken:
        assert region is not None
        region.is_registered = True
        pool.give_back(region)
    assert pool.take(10) is taken[1]
    larger = pool.take(8 * REGION_BYTES_MIN)  # the idle one is too small: it makes room
    assert larger is not None
    assert larger.byte_size == 8 * REGION_BYTES_MIN
    assert taken[0] is not None
    assert pool.retired() == [taken[0].name]
    for region in (larger, taken[1]):
        assert region is not None
        pool.give_back(region)
    pool.close()
    assert in_system(pool) == []


def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "POOL_BYTES_MAX", 3 * REGION_BYTES_MIN)
    pool = RegionPool()
    region = pool.take(2 * REGION_BYTES_MIN)
    assert region is not None
    assert pool.take(2 * REGION_BYTES_MIN) is None
    pool.give_back(region)


def test_after_the_end_what_is_given_back_is_retired() -> None:
    pool = RegionPool()
    idle, used = pool.take(1), pool.take(1)
    assert idle is not None
    assert used is not None
    for region in (idle, used):
        region.is_registered = True
    pool.give_back(idle)
    pool.close()
    pool.give_back(used)
    assert pool.retired() == [idle.name, used.name]
    assert in_system(pool) == []


def test_threads_never_share_a_region() -> None:
    pool = RegionPool()
    held: set[str] = set()
    lock = threading.Lock()
    clashes: list[str] = []

    def work() -> None:
        for _ in range(50):
            region = pool.take(100)
            assert region is not None
            region.is_registered = True
            with lock:
                if region.name in held:
                    clashes.append(region.name)
                held.add(region.name)
            with lock:
                held.discard(region.name)
            pool.give_back(region)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert clashes == []
    pool.close()
    assert in_system(pool) == []
