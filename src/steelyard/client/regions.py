"""Shared memory for inputs, on the server's own host: regions that are registered once and reused.

The rules of this file:
- A region's name is taken back from the system as soon as the server has registered it: both sides hold it
  by then, and nothing is left in /dev/shm whatever becomes of either process.
- A region whose request ended without an answer may still be read by the server. It is not used again, and
  its name is unregistered at the next occasion.
- Regions are bounded in number and bytes; beyond that a request goes through the socket.
"""

import mmap
import os
import threading
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from steelyard.client.wire import Buffer, Place

FOLDER = Path("/dev/shm")
"""Where shm_open(3) keeps its objects on Linux."""
REGIONS_MAX = 32
POOL_BYTES_MAX = 1 << 30
REGION_BYTES_MIN = 1 << 18
SHARED_BYTES_MIN = 1 << 18
"""Smaller requests cost the same either way (`bench/client.py`)."""
_ALIGNMENT = 64


class Region:
    """One shared memory object of this process, `byte_size` bytes.

    Attributes:
        is_registered: the server knows it.
        unanswered: requests that named it and have no answer; the server may still read it for them.
    """

    def __init__(self, name: str, byte_size: int) -> None:
        self.name = name
        self.byte_size = byte_size
        self.is_registered = False
        self.unanswered = 0
        self._path = FOLDER / name
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, byte_size)  # full memory is an error here, not a signal later
            self._memory = mmap.mmap(fd, byte_size)
        except OSError:
            self.hide()
            raise
        finally:
            os.close(fd)

    def hide(self) -> None:
        """Take back the name: the object lives as long as somebody holds it."""
        self._path.unlink(missing_ok=True)

    def store(self, tensors: Mapping[str, Buffer]) -> dict[str, Place]:
        """Copy tensors here, one after another; they fit (`needed_bytes`)."""
        places: dict[str, Place] = {}
        offset = 0
        for name, data in tensors.items():
            self._memory[offset : offset + len(data)] = data
            places[name] = Place(self.name, offset, len(data))
            offset += _aligned(len(data))
        return places

    def close(self) -> None:
        """Give the memory back."""
        self.hide()
        self._memory.close()


class RegionPool:
    """Regions of one client; used by several threads at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._prefix = f"steelyard-{os.getpid()}-{os.urandom(4).hex()}"
        self._idle: list[Region] = []
        self._regions = 0
        self._is_closed = False
        self._bytes = 0
        self._retired: list[str] = []

    def take(self, byte_size: int) -> Region | None:
        """A region of at least so many bytes, for one request; None if none may be made."""
        with self._lock:
            fitting = [region for region in self._idle if region.byte_size >= byte_size]
            if fitting:
                region = min(fitting, key=lambda one: one.byte_size)
                self._idle.remove(region)
                return region
            size = max(REGION_BYTES_MIN, 1 << (byte_size - 1).bit_length())
            while self._idle and self._is_full(size):
                self._retire(self._idle.pop(0))
            if self._is_full(size):
                return None
            try:
                region = Region(f"{self._prefix}-{next(self._numbers)}", size)
            except OSError:  # no memory, or no such folder: the socket is always there
                return None
            self._regions += 1
            self._bytes += size
            return region

    def give_back(self, region: Region) -> None:
        """The request has ended: the region may hold another, unless the server may still read it."""
        with self._lock:
            if region.is_registered and not region.unanswered and not self._is_closed:
                self._idle.append(region)
            else:
                self._retire(region)

    def retired(self) -> list[str]:
        """Names to unregister; each is told once."""
        with self._lock:
            names, self._retired = self._retired, []
            return names

    def close(self) -> None:
        """Retire every region that is idle, and from now on each that is given back."""
        with self._lock:
            self._is_closed = True
            while self._idle:
                self._retire(self._idle.pop())

    def _is_full(self, byte_size: int) -> bool:
        return self._regions >= REGIONS_MAX or self._bytes + byte_size > POOL_BYTES_MAX

    def _retire(self, region: Region) -> None:
        self._regions -= 1
        self._bytes -= region.byte_size
        if region.is_registered:
            self._retired.append(region.name)
        region.close()


def needed_bytes(tensors: Mapping[str, Buffer]) -> int:
    """Bytes that `Region.store` takes."""
    return sum(_aligned(len(data)) for data in tensors.values())


def _aligned(byte_size: int) -> int:
    return -(-byte_size // _ALIGNMENT) * _ALIGNMENT
