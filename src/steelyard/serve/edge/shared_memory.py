"""System shared memory: tensors of clients on the same host that never pass through a socket.

The rules of this file:
- A region is never mapped. Its file belongs to the client, who may cut it short at any moment, and touching a
  mapping of what is gone kills the process (SIGBUS). Reading into the arena and writing the answer by
  `preadv` and `pwrite` are the same single copy, and what is gone is an error of one request.
- A region's file stays open as long as anything refers to it: a request under way writes its answer to the
  region that it named, even if that was unregistered meanwhile.
- Regions are bounded in number. When there are too many, those go first whose object has no name any more:
  our client takes it back at once, and if it has died nobody will unregister the region. One that lives is
  told that its region is not registered, and sends its inputs through the socket.
- Only clients of this host may register regions or name them (`is_local`): a region of one client must not
  become readable to the network. What a proxy hands on says so in a header, and is not local.

Source: Triton's system shared memory extension; keys are those of shm_open(3).
"""

import os
import stat
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steelyard.core.errors import InputError
from steelyard.serve.edge.replies import RETRY_AFTER_S, RefusedError
from steelyard.serve.edge.shown import shown

REGIONS_MAX = 256
"""Each holds a file descriptor."""
KEY_CHARS_MAX = 255
FOLDER = Path("/dev/shm")
"""Where shm_open(3) keeps its objects on Linux."""
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LOOPBACK = ("127.0.0.1", "::1")
_FORWARDED = frozenset((b"x-forwarded-for", b"forwarded", b"x-real-ip"))


class Region:
    """`byte_size` bytes from `offset` on of the shared memory object `key`; closed when nothing holds it."""

    def __init__(self, name: str, key: str, offset: int, byte_size: int, fd: int) -> None:
        self.name = name
        self.key = key
        self.offset = offset
        self.byte_size = byte_size
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    @property
    def is_unnamed(self) -> bool:
        """Whether only who has it open can still use the object."""
        return os.fstat(self._fd).st_nlink == 0

    def read_into(self, offset: int, memory: memoryview) -> None:
        """Fill `memory` with the bytes from `offset` of the region on.

        Raises:
            InputError: the client has cut the object short, or it cannot be read.
        """
        done, start = 0, self.offset + offset
        while done < len(memory):
            try:
                count = os.preadv(self._fd, [memory[done:]], start + done)
            except OSError as error:
                raise self._failed(error.strerror) from None
            if not count:
                raise self._failed("it has become shorter")
            done += count

    def write(self, offset: int, pieces: Iterable[memoryview]) -> None:
        """Write `pieces` one after another from `offset` of the region on.

        Raises:
            InputError: the client has cut the object short, or it cannot be written.
        """
        at = self.offset + offset
        try:
            if os.fstat(self._fd).st_size < self.offset + self.byte_size:
                raise self._failed("it has become shorter")
            for piece in pieces:
                done = 0
                while done < len(piece):
                    done += os.pwrite(self._fd, piece[done:], at + done)
                at += done
        except OSError as error:
            raise self._failed(error.strerror) from None

    def _failed(self, why: str | None) -> InputError:
        return InputError(f"shared memory region '{self.name}' cannot be used: {why}")


class Span(NamedTuple):
    """A tensor's place: `length` bytes from `offset` of a region on."""

    region: Region
    offset: int
    length: int

    def read_into(self, memory: memoryview) -> None:
        """Copy the tensor's bytes; `memory` is as long. Raises InputError."""
        self.region.read_into(self.offset, memory)

    def read(self) -> memoryview:
        """The tensor's bytes. Raises InputError."""
        data = bytearray(self.length)
        self.read_into(memoryview(data))
        return memoryview(data)

    def write(self, name: str, pieces: list[memoryview]) -> int:
        """Put the output `name` here; its length in bytes, which may be less than the place has.

        Raises:
            InputError: it is longer, or the region cannot be written.
        """
        size = sum(map(len, pieces))
        if size > self.length:
            raise InputError(
                f"output '{name}' has {size} bytes; its place in shared memory region "
                f"'{self.region.name}' has {self.length}"
            )
        self.region.write(self.offset, pieces)
        return size


Spread = Callable[[str, tuple[str, int, int] | None], Awaitable[None]]
"""(name, (key, offset, size)), or (name, None) for what is forgotten; an empty name stands for all."""


class Regions:
    """The registered regions of one edge, by name.

    Attributes:
        spread: lets other edges know what a client of this one registered or unregistered; returns when they
            do, and raises InputError if one of them cannot use it.
    """

    spread: Spread | None = None

    def __init__(self) -> None:
        self._by_name: dict[str, Region] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a shared memory object and keep a range of it under `name`.

        Raises:
            InputError: the name is taken, or there is no such range to be had.
            RefusedError: there are too many.
        """
        if name in self._by_name:
            raise InputError(f"shared memory region {shown(name)} is registered already")
        if len(self._by_name) >= REGIONS_MAX and not self._make_room():
            text = f"{REGIONS_MAX} shared memory regions are registered, which is the limit"
            raise RefusedError(503, text, reason="regions_full", retry_after_s=RETRY_AFTER_S)
        if offset < 0 or byte_size < 1:
            raise InputError(
                f"shared memory region {shown(name)}: offset {offset} and byte_size {byte_size} are no range"
            )
        fd = _open(name, key)
        size = os.fstat(fd).st_size
        if offset + byte_size > size:
            os.close(fd)
            raise InputError(
                f"shared memory region {shown(name)} ends at byte {offset + byte_size} of {shown(key)}, "
                f"which has {size}"
            )
        self._by_name[name] = Region(name, key, offset, byte_size, fd)

    def unregister(self, name: str | None) -> None:
        """Forget a region, or all of them; one that is not registered is forgotten already."""
        if name is None:
            self._by_name.clear()
        else:
            self._by_name.pop(name, None)

    def status(self, name: str | None) -> list[dict[str, Any]]:
        """A region, or all of them, as the protocol shows them.

        Raises:
            InputError: there is no such region.
        """
        regions = self._by_name.values() if name is None else [self._region(name)]
        return [
            {"name": one.name, "key": one.key, "offset": one.offset, "byte_size": one.byte_size}
            for one in regions
        ]

    def span(self, name: str, offset: int, length: int) -> Span:
        """A tensor's place in a region.

        Raises:
            InputError: there is no such region, or it ends before the tensor does.
        """
        region = self._region(name)
        if offset < 0 or length < 0 or offset + length > region.byte_size:
            raise InputError(
                f"{length} bytes from {offset} on do not lie in shared memory region {shown(name)}, "
                f"which has {region.byte_size}"
            )
        self._by_name[name] = self._by_name.pop(name)  # the order is that of their last use
        return Span(region, offset, length)

    def _region(self, name: str) -> Region:
        region = self._by_name.get(name)
        if region is None:
            raise InputError(f"no shared memory region {shown(name)} is registered")
        return region

    def _make_room(self) -> bool:
        """Forget the region of no name that was used least recently; false if there is none."""
        for name, region in self._by_name.items():
            if region.is_unnamed:
                del self._by_name[name]
                return True
        return False


def is_local(scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request (an ASGI scope and its headers) comes from this host."""
    return not is_forwarded(headers) and are_local(scope.get("client"), scope.get("server"))


def is_forwarded(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a proxy handed a request on."""
    return not _FORWARDED.isdisjoint(headers)


def are_local(client: Sequence[Any] | None, server: Sequence[Any] | None) -> bool:
    """Whether both ends of a connection, addresses first, are on this host."""
    if client is None:
        return False
    return client[0] in _LOOPBACK or (server is not None and client[0] == server[0])


def _open(name: str, key: str) -> int:
    base = key.removeprefix("/")
    if not base or "/" in base or "\0" in base or base in (".", "..") or len(base) > KEY_CHARS_MAX:
        raise InputError(f"shared memory region {shown(name)}: {shown(key)} is no key of shared memory")
    try:
        fd = os.open(FOLDER / base, _FLAGS)
    except OSError as error:
        raise InputError(
            f"shared memory region {shown(name)}: {shown(key)} cannot be opened: {error.strerror}"
        ) from None
    except ValueError:  # text that no file name can hold, such as a lone surrogate
        raise InputError(
            f"shared memory region {shown(name)}: {shown(key)} is no key of shared memory"
        ) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InputError(f"shared memory region {shown(name)}: {shown(key)} is no shared memory")
    return fd
