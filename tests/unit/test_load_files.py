"""Trace files: gzip by content, and clear lines for files that cannot be read."""

import gzip
from pathlib import Path

import pytest

from steelyard.core.errors import TraceError
from steelyard.load.files import read_trace_file


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("1\n2\n")
    (tmp_path / "packed").write_bytes(gzip.compress(b"1\n2\n"))
    for name in ("plain.txt", "packed"):
        assert read_trace_file(tmp_path / name).counts.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"\xff\xfe1\n", "cannot be read"),
        (gzip.compress(b"1\n2\n" * 100)[:-12], "cannot be read"),
        (b"", "the trace is empty"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "trace.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TraceError, match=message) as caught:
        read_trace_file(path)
    assert str(path) in str(caught.value)
