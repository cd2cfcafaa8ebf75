"""What commands print where nobody can take it."""

import errno
from pathlib import Path
from typing import NoReturn

import pytest
import typer
from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.cli.output import say, write_json
from steelyard.core.errors import SteelyardError


def test_json_on_standard_output_ends_with_one_newline(capsys: pytest.CaptureFixture[str]) -> None:
    write_json("-", {"a": 1})
    assert capsys.readouterr().out == '{\n  "a": 1\n}\n'


def test_a_full_disk_behind_standard_output_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(typer, "echo", full)
    with pytest.raises(SteelyardError, match=r"^cannot write the result: No space left on device$"):
        write_json("-", {"a": 1})


def test_a_reader_that_has_left_is_not_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> NoReturn:
        raise BrokenPipeError

    monkeypatch.setattr(typer, "echo", closed)
    with pytest.raises(BrokenPipeError):
        say("text")


LOAD = ("load", "http://127.0.0.1:1", "--model", "net", "--input", "input.json")
READERS = {
    "plan": ("plan", "input.json", "--rate", "10"),
    "profile": ("profile", "input.json"),
    "profile --labels": ("profile", "spec.yaml", "--labels", "input.json"),
    "profile --examples": ("profile", "spec.yaml", "--examples", "input.json"),
    "explain": ("explain", "input.json"),
    "trace info": ("trace", "info", "input.json"),
    "load --input": (*LOAD, "--rate", "1", "--seconds", "1"),
    "load --trace": (*LOAD[:-1], "other.json", "--trace", "input.json"),
}
"""Commands that read `input.json`."""


@pytest.mark.parametrize("command", READERS)
def test_no_command_writes_over_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("input.json").write_text("kept")
    result = CliRunner().invoke(app, [*READERS[command], "--json", "./input.json"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "--json: input.json is read; want another file\n"
    assert Path("input.json").read_text() == "kept"


def test_a_hard_link_to_what_is_read_is_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("input.json").write_text("1\n")
    Path("other.json").hardlink_to("input.json")
    result = CliRunner().invoke(app, ["trace", "info", "input.json", "--json", "other.json"])
    assert (result.exit_code, result.stderr) == (2, "--json: input.json is read; want another file\n")


@pytest.mark.parametrize("name", ["circle", "dangling", 300 * "x"])
def test_names_that_can_be_no_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("input.json").write_text("1\n")
    Path("circle").symlink_to("circle")
    Path("dangling").symlink_to("nowhere/file")
    result = CliRunner().invoke(app, ["trace", "info", "input.json", "--json", name])
    assert (result.exit_code, result.stderr) == (2, f"--json: cannot write {name}\n")


@pytest.mark.parametrize("command", [*READERS.values(), ("demo",)])
def test_where_no_result_can_be_written_nothing_is_measured(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*command, "--json", "/nope/result"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "--json: cannot write /nope/result\n"


def test_two_results_want_two_files(tmp_path: Path) -> None:
    file = str(tmp_path / "file")
    result = CliRunner().invoke(app, ["trace", "synth", "constant", "--out", file, "--json", file])
    assert result.exit_code == 2
    assert result.stderr == f"--json: {file} is --out already; want another file\n"
    assert not Path(file).exists()


@pytest.mark.parametrize("seed", ["-1", str(2**53)])
@pytest.mark.parametrize(
    "command",
    [
        (*LOAD, "--rate", "1", "--seconds", "1"),
        ("trace", "synth", "constant"),
        ("simulate", "spec.yaml", "--trace", "trace.txt"),
        ("demo",),
    ],
)
def test_a_seed_is_what_json_can_hold(command: tuple[str, ...], seed: str) -> None:
    result = CliRunner().invoke(app, [*command, "--seed", seed])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Invalid value for '--seed': ")
