"""The demo's runs in real processes, with a stand-in for `steelyard` under the real client."""

import io
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from steelyard.core.errors import SteelyardError
from steelyard.demo import plan, processes, tour
from steelyard.demo.client import Job
from steelyard.demo.lines import find_font
from steelyard.demo.plan import Surge
from steelyard.demo.processes import serving, started
from steelyard.demo.recogniser import find_shipped
from steelyard.demo.replay import replay
from steelyard.demo.tour import Settings, comparison
from steelyard.metrics.runs import RunSeries, RunSummary
from steelyard.testing.live import wait_ended

# The demo's process has one thread when it starts another one; one of pytest's workers has more.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

# `profile` measures a line in 25 ms on one core. `serve` answers every line with the same tokens after 5 ms
# and accounts for it as a server of one replica would; every tenth request is refused.
STAND_IN = """
import asyncio, json, sys, time
from aiohttp import web

if sys.argv[1] == "profile":
    rows = [{"batch": batch, "cores": 1, "latency_ms": {"p50": 25.0 * batch}} for batch in (1, 4)]
    with open(sys.argv[sys.argv.index("--json") + 1], "w") as file:
        json.dump({"profiles": rows}, file)
    raise SystemExit

options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
counters = dict.fromkeys(("requests", "completed", "late", "shed", "rejected", "failed", "cancelled"), 0)
born_s = time.monotonic()

async def ready(request):
    return web.json_response({"ready": True})

async def infer(request):
    counters["requests"] += 1
    await request.read()
    if counters["requests"] % 10 == 0:
        counters["rejected"] += 1
        return web.json_response({"error": "refused"}, status=503)
    await asyncio.sleep(0.005)
    counters["completed"] += 1
    head = json.dumps({"model_name": "lines", "outputs": [{"name": "tokens", "datatype": "INT64",
        "shape": [1, 2], "parameters": {"binary_data_size": 16}}]}).encode()
    return web.Response(body=head + bytes(16), headers={"Inference-Header-Content-Length": str(len(head))})

async def status(request):
    now_s = time.monotonic()
    return web.json_response({"now_s": now_s, "services": {"lines": {
        "replicas": [{"id": 1, "state": "ready", "cores": 1.0, "stage": "read"}], "cores": 1.0,
        "core_seconds": now_s - born_s, "counters": counters, "cold_starts": 1, "resizes": 0,
        "queue_rows": 0, "p50_ms": 5.0, "p99_ms": 6.0, "rate_rps": 20.0}}})

async def main():
    application = web.Application()
    application.router.add_get("/v2/health/ready", ready)
    application.router.add_post("/v2/models/lines/infer", infer)
    application.router.add_get("/v2/steelyard/status", status)
    runner = web.AppRunner(application)
    await runner.setup()
    for option in ("--http-port", "--metrics-port"):
        await web.TCPSite(runner, "127.0.0.1", int(options[option])).start()
    await asyncio.Event().wait()

asyncio.run(main())
"""

RUN_KEYS = {
    *(
        "policy",
        "service",
        "seed",
        "requests",
        "completed",
        "late",
        "shed",
        "rejected",
        "failed",
        "cancelled",
    ),
    *("violations", "violation_ratio", "core_seconds", "accuracy_mean", "latency_ms", "cold_starts"),
    *("resizes", "switches", "plan_ms", "simulated_s", "wall_s", "requests_per_wall_s"),
}


def is_running(pid: int) -> bool:
    """Alive and not a zombie that waits for somebody to read its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)

    def command(*arguments: str) -> list[str]:
        return [sys.executable, str(script), *arguments]

    monkeypatch.setattr(processes, "steelyard_command", command)
    monkeypatch.setattr(tour, "steelyard_command", command)
    monkeypatch.setattr(plan, "SECONDS_MIN", 3)
    return script


def run_once(folder: Path) -> RunSeries:
    surge = Surge(20.0, 50.0, 1, 500.0, [20, 30], 1, 2)
    job = Job(
        url="",
        service="lines",
        counts=surge.counts,
        slo_ms=surge.slo_ms,
        seed=1,
        font=str(find_font()),
        characters=str(find_shipped().characters),
    )
    with (folder / "console.txt").open("w") as output:
        return replay(
            folder / "spec.yaml",
            "steelyard",
            job,
            surge,
            label="steelyard",
            title="t",
            folder=folder,
            options=(),
            console=Console(file=output),
        )


@pytest.mark.slow
@pytest.mark.usefixtures("stand_in")
def test_a_run_from_server_and_client_to_its_record(tmp_path: Path) -> None:
    run = run_once(tmp_path)
    # 50 requests, of which every tenth was refused.
    assert (run.summary.requests, run.summary.completed, run.summary.rejected) == (50, 45, 5)
    assert run.summary.failed == 0
    assert run.rate_rps == [20.0, 30.0]
    # One core from the start of the trace to its end, two seconds; samples come by the clock, some late.
    assert 1.5 <= run.summary.core_seconds <= 20.0
    # The tokens are blanks, and no line is empty.
    assert run.summary.accuracy_mean == 0.0
    assert "lines/s" in (tmp_path / "console.txt").read_text()
    assert json.loads((tmp_path / "reading-steelyard.json").read_text())["load"]["errors"] == {"503": 5}


@pytest.mark.slow
def test_a_server_that_does_not_start_is_one_line_with_its_own_words(tmp_path: Path, stand_in: Path) -> None:
    stand_in.write_text("raise SystemExit('spec.yaml:3: no such key')")
    with (
        pytest.raises(SteelyardError, match=r"did not become ready.*spec[.]yaml:3: no such key"),
        serving(tmp_path / "spec.yaml", policy="steelyard", log=tmp_path / "log"),
    ):
        pass


@pytest.mark.slow
def test_the_server_is_gone_when_the_block_ends(tmp_path: Path, stand_in: Path) -> None:
    del stand_in
    pids: list[int] = []

    def interrupted() -> None:
        with serving(tmp_path / "spec.yaml", policy="steelyard", log=tmp_path / "log") as server:
            pids.append(server._process.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not is_running(pids[0])


@pytest.mark.slow
def test_children_end_with_a_parent_that_is_killed_outright() -> None:
    parent = textwrap.dedent(
        """
        import signal, sys
        from steelyard.demo.processes import started
        with started([sys.executable, "-c", "import signal; signal.pause()"]) as child:
            print(child.pid, flush=True)
            signal.pause()
        """
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_running(child)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert wait_ended([child]) == []
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.slow
def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_S_MAX", 0.2)
    deaf = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('deaf', flush=True); signal.pause()"
    )
    with started([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"deaf\n"
    assert child.returncode == -signal.SIGKILL


def settings_in(folder: Path) -> Settings:
    return Settings(seconds=3, out=folder / "out", cache=folder / "cache", profiles=None, seed=1)


@pytest.mark.slow
@pytest.mark.usefixtures("stand_in")
def test_the_demo_from_start_to_end(tmp_path: Path) -> None:
    with (tmp_path / "console.txt").open("w") as output:
        outcome = tour.tour(settings_in(tmp_path), Console(file=output, width=80))
    text = (tmp_path / "console.txt").read_text()
    # 25 ms a line: 40 lines/s on one core; 8 * 25 = 200 ms.
    assert "one core answers 40 lines/s" in text
    assert "SLO      200 ms" in text
    # The stand-in reserves one core throughout; by its clock and ours the mean may lie just above one.
    policies = [run.policy for run in outcome.runs]
    assert policies[:2] == ["steelyard", "fixed-1"]
    assert set(policies[2:]) <= {"fixed-2"}
    assert max(map(len, text.splitlines()[:-1])) < 130
    assert Path(outcome.report).read_text().startswith("<!doctype html>")
    decoded = json.loads(msgspec.json.encode(outcome))
    assert decoded.keys() == {"runs", "report"}
    assert all(run.keys() == RUN_KEYS for run in decoded["runs"])
    first = decoded["runs"][0]
    assert first["requests"] == first["completed"] + first["rejected"] > 0


@pytest.mark.slow
def test_profiling_that_fails_is_one_line_with_its_words(tmp_path: Path, stand_in: Path) -> None:
    stand_in.write_text("raise SystemExit('no such model')")
    with pytest.raises(SteelyardError, match=r"profiling failed; its log .* ends: no such model"):
        tour.tour(settings_in(tmp_path), Console(file=io.StringIO()))


def test_the_table_fits_a_narrow_terminal() -> None:
    run = RunSummary(
        policy="steelyard",
        service="lines",
        seed=1,
        requests=12345,
        completed=12000,
        late=5,
        shed=300,
        rejected=40,
        failed=0,
        cancelled=0,
        violations=345,
        violation_ratio=0.028,
        core_seconds=1071.4,
        accuracy_mean=0.995,
        latency_ms={"p50": 1034.2, "p90": 1080.0, "p99": 1140.0, "max": 1180.0},
        cold_starts=12,
        resizes=34,
    )
    console = Console(width=80)
    with console.capture() as captured:
        console.print(comparison([run]))
    row = captured.get().splitlines()[1]
    assert " ".join(row.split()) == "steelyard 12345 345 2.8% 1034 ms 1140 ms 1071.4 99.5% 12 34"
