"""The command line as a whole: commands found, mistakes in one line, exit statuses."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import steelyard
from steelyard.cli.main import COMMANDS, app

runner = CliRunner()


def test_the_version_is_the_packages() -> None:
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"steelyard {steelyard.__version__}\n")


def test_without_a_command_the_help_lists_all_of_them() -> None:
    result = runner.invoke(app, [])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"  {command} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serv"], "unknown command 'serv'; did you mean serve? (known: "),
        (["xyzzy"], "unknown command 'xyzzy' (known: "),
        (["--nope"], "No such option: --nope"),
        (["trace", "synth"], "Missing argument 'shape'."),
        (["trace", "synth", "surge", "--seconds", "many"], "Invalid value for '--seconds'"),
        (["trace", "info", "/nope"], "/nope: cannot read the trace: No such file or directory"),
        (["serve", "/nope.yaml"], "/nope.yaml: cannot read the spec file: No such file or directory"),
        (["explain", "/nope"], "/nope: cannot read the journal: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], line: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")


@pytest.mark.slow
def test_the_installed_command_imports_nothing_it_does_not_need() -> None:
    check = (
        "import sys; from steelyard.cli.main import app\n"
        "try: app(['--version'])\n"
        "except SystemExit: pass\n"
        "heavy = {'onnxruntime', 'numpy', 'plotly', 'aiohttp', 'uvicorn', 'onnx'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
