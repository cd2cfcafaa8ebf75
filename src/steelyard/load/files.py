"""Open trace files: plain or packed with gzip, whatever their name says."""

import gzip
from pathlib import Path
from typing import IO

from steelyard.core.errors import TraceError
from steelyard.workload.read import Gaps, read_trace
from steelyard.workload.trace import Trace

_GZIP_MAGIC = b"\x1f\x8b"


def read_trace_file(path: Path, *, gaps: Gaps = "silence") -> Trace:
    """Read a trace file; see `steelyard.workload.read` for the formats.

    Raises:
        TraceError: no such file, not text, cut off, or a bad value in it.
    """
    try:
        with _open_text(path) as lines:
            return read_trace(lines, name=str(path), gaps=gaps)
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from None


def _open_text(path: Path) -> IO[str]:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8", newline="")
