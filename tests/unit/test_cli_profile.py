"""`steelyard profile`: options that do not go together are refused before anything is measured."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from steelyard.cli.main import app


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--metric", "top1"], "--metric goes with --labels\n"),
        (["--output", "y"], "--output goes with --labels\n"),
        (["--service", "s"], "--service goes with --labels or --examples\n"),
        (
            ["--labels", "labels.npz", "--examples", "pages.npz"],
            "--examples does not go with --labels: one measures times, the other accuracies\n",
        ),
        (
            ["--labels", "labels.npz", "--quick"],
            "--quick does not go with --labels: accuracies are measured on all examples\n",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path: Path, options: list[str], line: str) -> None:
    result = CliRunner().invoke(app, ["profile", str(tmp_path / "spec.yaml"), *options])
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", line)
