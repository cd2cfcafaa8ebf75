"""`steelyard trace`: made and described."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.cli.trace import open_trace
from steelyard.core.errors import TraceError

runner = CliRunner()


def counts(*arguments: str) -> list[int]:
    result = runner.invoke(app, ["trace", "synth", *arguments])
    assert result.exit_code == 0, result.stderr
    return [int(line) for line in result.stdout.split()]


def test_a_surge_is_the_middle_third_unless_told() -> None:
    assert counts("surge", "--seconds", "6", "--base", "2", "--peak", "5", "--even") == [2, 2, 5, 5, 2, 2]
    told = counts(
        "surge", "--seconds", "6", "--base", "2", "--peak", "5", "--from", "1", "--to", "2", "--even"
    )
    assert told == [2, 5, 2, 2, 2, 2]


def test_the_peak_is_three_times_the_base_unless_told() -> None:
    assert max(counts("surge", "--seconds", "6", "--base", "2", "--even")) == 6


def test_every_shape_can_be_made() -> None:
    assert counts("constant", "--seconds", "3", "--base", "4", "--even") == [4, 4, 4]
    # A line from 1 to 3 over three seconds: 1, 2, 3.
    assert counts("ramp", "--seconds", "3", "--base", "1", "--peak", "3", "--even") == [1, 2, 3]
    # A jump at the third of 9 seconds; half of it is gone after decay x ln 2.
    spike = counts("spike", "--seconds", "9", "--base", "0", "--peak", "100", "--decay", "1", "--even")
    assert spike[:3] == [0, 0, 0]
    assert spike[3] == 100
    # A sine that begins at its low: 2 at 0, 4 a quarter on, 6 at half.
    assert counts("diurnal", "--seconds", "4", "--base", "2", "--peak", "6", "--even") == [2, 4, 6, 4]


def test_a_seed_repeats() -> None:
    first = counts("constant", "--seconds", "50", "--seed", "3")
    assert first == counts("constant", "--seconds", "50", "--seed", "3")
    assert first != counts("constant", "--seconds", "50", "--seed", "4")


def test_what_was_made_is_described(tmp_path: Path) -> None:
    file = tmp_path / "trace.txt"
    made = runner.invoke(
        app, ["trace", "synth", "surge", "--seconds", "6", "--even", "--out", str(file), "--json", "-"]
    )
    described = runner.invoke(app, ["trace", "info", str(file), "--json", "-"])
    assert (made.exit_code, described.exit_code) == (0, 0)
    # 10, 10, 30, 30, 10, 10: 100 requests in 6 s.
    facts = json.loads(described.stdout)
    assert (facts["requests"], facts["seconds"], facts["max_rps"]) == (100, 6, 30)
    assert {**json.loads(made.stdout), **facts} == json.loads(made.stdout)
    assert "100 requests in 6 s" in made.stderr


def test_slices_come_before_scaling(tmp_path: Path) -> None:
    file = tmp_path / "trace.txt.gz"
    with gzip.open(file, "wt") as lines:
        lines.write("1\n2\n\n4\n")
    trace = open_trace(file, gaps="hold", cut="1:4", scale=2.0)
    assert trace.counts.tolist() == [4, 4, 8]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["synth", "surg"], "unknown shape surg; did you mean surge?"),
        (["synth", "constant", "--seconds", "0"], "want 1 to"),
        (["synth", "constant", "--base", "-1"], "rate: want a rate of 0 to 5,000,000"),
        (["synth", "surge", "--json", "-"], "--out and --json cannot both be standard output"),
        (["synth", "surge", "--out", "/nope/x"], "--out: cannot write /nope/x"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str) -> None:
    result = runner.invoke(app, ["trace", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(line)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"gaps": "hol"}, "--trace-gaps: unknown value hol; did you mean hold?"),
        ({"cut": "5"}, "--trace-slice: {file}: want two whole seconds such as 60:120, got 5"),
        ({"cut": "a:b"}, "--trace-slice: {file}: want two whole seconds such as 60:120, got a:b"),
        ({"cut": "0:99"}, "--trace-slice: {file}: want a slice A:B with 0 <= A < B <= 2, got 0:99"),
        ({"scale": -1.0}, "--trace-scale: want a positive scale, got -1"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, str], line: str) -> None:
    (tmp_path / "trace.txt").write_text("1\n2\n")
    with pytest.raises(TraceError) as raised:
        open_trace(tmp_path / "trace.txt", **options)  # type: ignore[arg-type]
    assert str(raised.value).startswith(line.format(file=tmp_path / "trace.txt"))


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    (tmp_path / "packed.gz").write_text("not packed")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"1\n" * 1000)[:-9])
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("packed.gz", "cut.gz"):
        with pytest.raises(TraceError, match="cannot read the trace: "):
            open_trace(tmp_path / name)
    with pytest.raises(TraceError, match=r"not a text file; a packed trace's name ends in .gz"):
        open_trace(tmp_path / "binary")


def test_a_damaged_archive_is_one_line(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"1\n2\n" * 1000))
    packed[15] ^= 0xFF
    (tmp_path / "t.txt.gz").write_bytes(packed)
    with pytest.raises(TraceError, match=r"t\.txt\.gz: cannot read the trace: "):
        open_trace(tmp_path / "t.txt.gz")
