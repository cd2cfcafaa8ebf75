"""The bar is for terminals, and for what takes long."""

import pytest

from steelyard.cli import progress
from steelyard.cli.progress import progress_bar


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    with progress_bar() as show:
        show(30, 60, "of 60 simulated seconds")
    return capsys.readouterr().err


def test_there_is_none_elsewhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    assert shown(capsys) == ""


def test_it_comes_after_two_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    assert shown(capsys) == ""
    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    assert "of 60 simulated seconds" in shown(capsys)
