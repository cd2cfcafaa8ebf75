"""What commands print where nobody can take it."""

import errno
from typing import NoReturn

import pytest
import typer

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
