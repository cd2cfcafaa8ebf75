"""`steelyard load` from its options to its JSON, against a server in another thread's process: a real
socket."""

import json
import multiprocessing
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from steelyard.cli.main import app

KEYS = {
    "offered",
    "completed",
    "violations",
    "violation_ratio",
    "errors",
    "latency_ms",
    "goodput_rps",
    "lateness_ms",
    "void",
}


def serve(listener: socket.socket) -> None:
    async def infer(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def describe(_: web.Request) -> web.Response:
        return web.json_response({"name": "m", "inputs": [{"name": "x"}], "outputs": []})

    application = web.Application()
    application.router.add_post("/v2/models/m/infer", infer)
    application.router.add_get("/v2/models/m", describe)
    web.run_app(application, sock=listener, print=None)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(listener,), daemon=True)
        server.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.kill()
        server.join()


@pytest.fixture
def payload(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", np.ones((1, 4), dtype=np.float32))
    return str(tmp_path / "x.npy")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["load", *arguments])


def report(*arguments: str) -> Result:
    result = run(*arguments)
    # A busy machine may make a run void (status 1); what it says is the same.
    assert result.exit_code in (0, 1), result.stderr
    return result


@pytest.mark.slow
def test_rate_and_seconds_give_the_json_of_the_contract(url: str, payload: str) -> None:
    output = json.loads(
        report(url, "-m", "m", "--input", payload, "--rate", "50", "--seconds", "0.5", "--json", "-").stdout
    )
    assert output.keys() >= KEYS
    assert output["offered"] == output["completed"] > 0
    assert output["latency_ms"].keys() >= {"p50", "p99", "max"}
    assert output["lateness_ms"].keys() >= {"p99", "max"}


@pytest.mark.slow
def test_a_trace_is_sliced_scaled_and_kept_to_the_model(url: str, payload: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,service,count\n0,m,9\n1,m,4\n1,other,50\n2,m,9\n")
    out = tmp_path / "out.json"
    text = report(
        *(url, "--model", "m", "--input", payload, "--trace", str(trace), "--trace-slice", "1:2"),
        *("--trace-scale", "2", "--slo", "10s", "--json", str(out)),
    ).stdout
    # Second 1 has 4 arrivals for m, times 2.
    assert json.loads(out.read_text())["offered"] == 8
    assert "8 requests in 1 s" in text
    assert "(SLO 10000 ms)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --rate with --seconds, or --trace"),
        (["--rate", "1"], "--rate needs --seconds"),
        (["--rate", "1", "--seconds", "1", "--slo", "50"], "--slo: want a positive duration"),
        (["--rate", "nan", "--seconds", "1"], "rate: want a positive number, got nan"),
        (["--rate", "1", "--seconds", "1", "--max-latency-ms", "-1"], "--max-latency-ms: want a positive"),
        (["--trace", "none.txt"], "none.txt: cannot read the trace"),
        (["--trace", "trace.txt", "--trace-slice", "3"], "such as 60:120, got 3"),
        (["--trace", "trace.txt", "--trace-slice", "0:9"], "got 0:9"),
        (["--trace", "trace.txt", "--trace-gaps", "fill"], "--trace-gaps: unknown value fill"),
        (["--trace", "other.csv"], "no arrivals for 'm'; it has other"),
    ],
)
def test_bad_options_are_one_clear_line(
    arguments: list[str], message: str, payload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("trace.txt").write_text("1\n2\n")
    Path("other.csv").write_text("t_s,service\n0,other\n")
    result = run("http://127.0.0.1:9", "-m", "m", "--input", payload, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
