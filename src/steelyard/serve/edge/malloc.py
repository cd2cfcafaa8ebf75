"""glibc's malloc, told to keep large blocks.

By default a block over 128 KiB (growing at run time) is its own `mmap`, unmapped when freed, so each 600 KB
body faults its pages in afresh. With the thresholds below such blocks come from the heap and stay there
(docs/adr/0005). The price is memory that returns to the system later.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
MMAP_THRESHOLD_BYTES = 64 << 20
MMAP_THRESHOLD_BYTES_OLD = 32 << 20
"""The most that older glibc takes (mallopt(3): 4 MiB x sizeof(long))."""
TRIM_THRESHOLD_BYTES = 256 << 20


def keep_large_blocks() -> bool:
    """Set the thresholds for this process, before the first request; False where libc is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    kept = libc.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES) or libc.mallopt(
        _M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES_OLD
    )
    return bool(kept and libc.mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES))
