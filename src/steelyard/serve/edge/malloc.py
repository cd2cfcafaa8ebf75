"""glibc's malloc, told to keep large blocks.

By default a block over 128 KiB (growing at run time) is its own `mmap`, unmapped when freed, so each 600 KB
body faults its pages in afresh. With the thresholds below such blocks come from the heap and stay there
(docs/adr/0005). The price is memory that returns to the system later.
"""

import ctypes
import sys
from functools import cache
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
MMAP_THRESHOLD_BYTES = 64 << 20
MMAP_THRESHOLD_BYTES_OLD = 32 << 20
"""The most that older glibc takes (mallopt(3): 4 MiB x sizeof(long))."""
TRIM_THRESHOLD_BYTES = 256 << 20


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` (malloc.h, glibc 2.33): all arenas together, in bytes."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    )


def in_use_bytes() -> int | None:
    """Bytes that this process's malloc has given out, blocks that it keeps not counted; tens of microseconds.

    None where libc does not tell. Objects of Python below 512 bytes are not malloc's.
    """
    mallinfo2 = _mallinfo2()
    if mallinfo2 is None:
        return None
    told = mallinfo2()
    return int(told.uordblks + told.hblkhd)


@cache
def _mallinfo2() -> Any:
    libc = _glibc()
    if libc is None or not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = _Mallinfo2
    return libc.mallinfo2


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def keep_large_blocks() -> bool:
    """Set the thresholds for this process, before the first request; False where libc is not glibc."""
    libc = _glibc()
    if libc is None:
        return False
    kept = libc.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES) or libc.mallopt(
        _M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES_OLD
    )
    return bool(kept and libc.mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES))
