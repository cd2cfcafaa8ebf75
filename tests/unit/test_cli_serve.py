"""`steelyard serve` up to the server, and, marked slow, the examples served by the installed command."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.cli.serve import _usual_decisions
from steelyard.demo.processes import free_ports
from steelyard.testing.live import READY_S_MAX, WAIT_S_MAX, wait_until

runner = CliRunner()
EXAMPLES = Path(__file__).parents[2] / "examples"
SLEEPING = """
models: {m: {variants: {v: {runtime: sleep, latency: {alpha_ms: 2}}}}}
services: {s: {slo: {latency: 100ms}, pipeline: {a: {model: m}}}}
policy: static
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "spec.yaml"
    file.write_text(SLEEPING)
    return file


def test_a_spec_is_printed_as_it_is(spec: Path) -> None:
    result = runner.invoke(app, ["serve", str(spec), "--print-spec"])
    assert (result.exit_code, result.stdout) == (0, SLEEPING)


def test_a_lone_model_prints_the_spec_it_stands_for(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    result = runner.invoke(app, ["serve", str(tmp_path / "net.onnx"), "--slo", "50ms", "--print-spec"])
    assert result.exit_code == 0
    (tmp_path / "spec.yaml").write_text(result.stdout)
    again = runner.invoke(app, ["serve", str(tmp_path / "spec.yaml"), "--print-spec"])
    assert again.stdout == result.stdout


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--slo", "50ms"], "--slo goes with an ONNX file; in a spec file set services.NAME.slo.latency"),
        (["--ports", "tritn"], "--ports: want triton, got tritn"),
        (["--http-port", "8082"], "want three different ports, got 8082, 8081 and 8082"),
        (["--http-port", "0", "--grpc-port", "0"], "want a port for clients: HTTP and gRPC are both 0, off"),
        (["--http-port", "-1"], "Invalid value for '--http-port'"),
        (["--metrics-port", "65536"], "Invalid value for '--metrics-port'"),
        (["--cores", "0"], "Invalid value for '--cores'"),
        (["--cores", "100000"], "--cores: want at most the "),
        (["--overload-status", "500"], "--overload-status: want 503 or 429, got 500"),
        (["--body-max", "64"], "--body-max: want a size such as 300MB or 64GiB, got 64"),
        (["--arena", "none"], "--arena: want a size such as 300MB or 64GiB, got none"),
        (["--drain", "-3s"], "--drain: want a positive duration such as 50ms"),
        (["--journal", "/nope/journal"], "--journal: cannot write /nope/journal"),
        (["--decisions", "/"], "--decisions: cannot write /"),
        (["--journal", "same", "--decisions", "same"], "--journal and --decisions: want two files, got same"),
        (["--nope"], "No such option: --nope"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_starts(spec: Path, options: list[str], line: str) -> None:
    result = runner.invoke(app, ["serve", str(spec), *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--journal", "/dev/full"], "cannot write /dev/full: No space left on device"),
        (["--arena", "1KB"], "cannot set 1000 bytes aside for requests: an arena needs at least"),
        (["--arena", "8000000TB"], "cannot set 8000000000000000000 bytes aside for requests: "),
    ],
)
def test_what_the_machine_does_not_give_is_one_line(spec: Path, options: list[str], line: str) -> None:
    http = ["--http-port", str(free_ports(1)[0]), "--metrics-port", "0", "--grpc-port", "0"]
    result = runner.invoke(app, ["serve", str(spec), "--decisions", f"{spec}.why", *http, *options])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(line)


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port", "--metrics-port"])
def test_a_taken_port_is_known_before_anything_is_measured(spec: Path, option: str) -> None:
    ports = {"--http-port": str(free_ports(1)[0]), "--metrics-port": "0", "--grpc-port": "0"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        options = [word for pair in (ports | {option: port}).items() for word in pair]
        result = runner.invoke(app, ["serve", str(spec), "--decisions", str(spec) + ".why", *options])
    assert result.exit_code == 2
    assert result.stderr == f"cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_decisions_are_recorded_without_being_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert _usual_decisions(8080) == tmp_path / "steelyard" / "decisions-8080.jsonl"


def test_a_server_without_a_place_for_decisions_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert _usual_decisions(8080) is None
    assert capsys.readouterr().err.startswith("decisions are only logged: cannot write to ")


@pytest.mark.parametrize("slo", ["-5ms", "0ms", "nan", "50", "nanms"])
def test_a_wrong_objective_is_one_line(tmp_path: Path, slo: str) -> None:
    (tmp_path / "net.onnx").touch()
    result = runner.invoke(app, ["serve", str(tmp_path / "net.onnx"), f"--slo={slo}"])
    assert result.exit_code == 2
    assert result.stderr == f"--slo: want a positive duration such as 50ms, 6s or 2m, got {slo}\n"


def test_a_model_without_an_objective_asks_for_one(tmp_path: Path) -> None:
    result = runner.invoke(app, ["serve", str(tmp_path / "net.onnx")])
    assert result.exit_code == 2
    assert result.stderr.endswith("an ONNX file needs its latency objective: add --slo 50ms, for example\n")


@contextmanager
def serving(arguments: list[str], url: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The installed command as a process, ready; killed at the end if it is still there."""
    command = [str(Path(sys.executable).parent / "steelyard"), "serve", *arguments]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: is_ready(url) or process.poll() is not None, "ready", seconds_max=READY_S_MAX)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=WAIT_S_MAX) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_the_ranker_example_is_served_and_stops_in_order(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    folder = tmp_path / "ranker"
    shutil.copytree(EXAMPLES / "ranker", folder)
    spec = folder / "spec.yaml"
    assert spec.read_text().count("latency: 20ms") == 1
    spec.write_text(spec.read_text().replace("latency: 20ms", "latency: 5s"))  # for a machine of any speed
    arguments = [str(spec), "--http-port", str(port), "--metrics-port", "0"]
    arguments += ["--profiles", str(tmp_path / "profiles"), "--decisions", str(tmp_path / "decisions")]
    log = tmp_path / "log"
    with serving(arguments, url, log) as process:
        body = {
            "inputs": [
                {"name": "user", "datatype": "FP32", "shape": [1, 64], "data": [1.0] * 64},
                {"name": "candidates", "datatype": "FP32", "shape": [1, 200, 64], "data": [1.0] * 200 * 64},
            ]
        }
        request = urllib.request.Request(f"{url}/v2/models/rank/infer", data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=WAIT_S_MAX) as answer:
            outputs = {output["name"]: output for output in json.loads(answer.read())["outputs"]}
        # The candidates are the user: every angle is zero, every score the cosine of it.
        assert outputs["scores"]["shape"] == [1, 200]
        assert outputs["scores"]["data"] == pytest.approx([1.0] * 200, abs=1e-5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S_MAX) == 0, log.read_text()
    assert "measuring ranker/dot on this machine" in log.read_text()
    result = runner.invoke(app, ["explain", str(tmp_path / "decisions")])
    assert result.exit_code == 0
    assert "decide by steelyard: " in result.stdout
    assert list((tmp_path / "profiles").glob("*.json"))
