"""Whose outputs stages are measured on: the most accurate variants'."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from steelyard.cli.recording import most_accurate, source_of
from steelyard.core.errors import InputError
from steelyard.core.types import PathAccuracy, Service, Stage, Variant

FIND = Stage("find", (Variant("tiny", 0.8), Variant("large", 0.9)))
CUT = Stage("cut", (Variant("cut"),), ("find",))
READ = Stage("read", (Variant("a"), Variant("b", 0.7), Variant("c", 0.7)), ("cut",))
SERVICE = Service("pages", 1.0, (FIND, CUT, READ))


def test_the_best_measured_path_goes_before_stages_one_by_one() -> None:
    # Of two alike the first; of one that nobody has rated nothing is known.
    assert most_accurate(SERVICE) == {"find": "large", "cut": "cut", "read": "b"}
    paths = (
        PathAccuracy({"find": "large", "read": "b"}, 0.6),
        PathAccuracy({"find": "tiny", "read": "c"}, 0.65),
    )
    found = most_accurate(replace(SERVICE, path_accuracies=paths))
    assert found == {"find": "tiny", "cut": "cut", "read": "c"}


def test_examples_are_named_by_their_content(tmp_path: Path) -> None:
    file, other = tmp_path / "a.npz", tmp_path / "b.npz"
    file.write_bytes(b"abc")
    other.write_bytes(b"abc")
    # SHA-256 of abc begins with ba7816bf8f01 (FIPS 180-2, appendix B.1).
    assert source_of(file) == source_of(other) == "examples ba7816bf8f01"
    with pytest.raises(InputError, match=r"cannot read .*gone: No such file or directory"):
        source_of(tmp_path / "gone")
