"""Several runs at once: order, errors that name their run, progress."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path

import pytest

from steelyard.core.errors import SpecError, TraceError
from steelyard.core.types import Service, Stage, Variant
from steelyard.journal.codec import encode, read
from steelyard.journal.records import CONTROL, VERSION, Header, Record
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.decisions import DecisionLog, run_of
from steelyard.sim.many import needed_bytes, simulate_many
from steelyard.sim.result import SimulatedRun
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.testing.live import WAIT_S_MAX, wait_until
from steelyard.workload.trace import count_trace

SERVICE = Service("ocr", 0.2, (Stage("read", (Variant("base", 0.9, 4, 4),)),))
TIMES = (StageTimes("ocr", "read", (), {"base": DeclaredLatency((20.0, 5.0, 0.0, 0.0))}),)


def scenario(policy: str = "static", *, seed: int = 0, seconds: int = 3) -> Scenario:
    trace = count_trace([20] * seconds)
    return Scenario(
        {"ocr": SERVICE}, TIMES, {"ocr": trace}, policy, {}, (SimulatedNode("local", 4),), seed=seed
    )


def timeless(run: SimulatedRun) -> list[tuple[object, ...]]:
    return [(s.policy, s.seed, s.requests, s.completed, s.latency_ms["p99"]) for s in run.summaries]


def test_one_after_the_other_in_this_process() -> None:
    told: list[tuple[float, float]] = []
    runs = simulate_many(
        [scenario(seed=1), scenario(seed=2, seconds=2)],
        processes=1,
        on_progress=lambda done, all_: told.append((done, all_)),
    )
    assert [run.seed for run in runs] == [1, 2]
    assert told == [(1.0, 5.0), (2.0, 5.0), (3.0, 5.0), (4.0, 5.0), (5.0, 5.0)]


def test_a_run_that_fails_is_named() -> None:
    runs = simulate_many([scenario(), scenario("statik", seed=7)], processes=1)
    assert next(runs).label == "static"
    with pytest.raises(SpecError, match="run statik, seed 7: unknown policy 'statik'"):
        next(runs)


def test_decisions_of_each_run_come_before_it() -> None:
    told: list[tuple[int, str, int]] = []
    for run in simulate_many(
        [scenario(seed=1), scenario("themis", seed=2)],
        processes=1,
        on_decisions=lambda of, log: told.append((of.seed, of.policy, len(log.lines))),
    ):
        # Neither run has more decisions than a run keeps by itself.
        assert told[-1][2] == len(run.decisions) > 0
    assert [seed for seed, _, _ in told] == [1, 2]


def test_decisions_beyond_the_limit_are_counted() -> None:
    log = DecisionLog("static", 0, bytes_max=10)
    list(simulate_many([scenario()], processes=1, on_decisions=lambda _, made: log.lines.extend(made.lines)))
    full = DecisionLog("static", 0, bytes_max=10)
    decision = read([encode(Header(VERSION, {})), *log.lines])
    records = [line for line in decision if isinstance(line, Record)]
    for record in records:
        full.record(CONTROL, record.now_s, record.event, record.commands)
        full.record("service/ocr", record.now_s, record.event, record.commands)
    assert (full.lines, full.dropped) == ([], len(records))


def test_records_name_their_run() -> None:
    assert run_of("control/themis+ours/3") == "themis+ours, seed 3"
    assert (run_of("control"), run_of("service/ocr")) == ("", "")


def test_memory_is_that_of_the_largest_runs_at_once_and_of_all_series() -> None:
    # 60, 60 and 200 requests in 3, 3 and 10 s. Two at once: 51 x (60 + 200); 200 x 16 for the series.
    three = [scenario(seed=1), scenario(seed=2), scenario(seconds=10)]
    assert needed_bytes(three, 2) == 51 * 260 + 200 * 16
    assert needed_bytes([], 0) == 0


def test_runs_beyond_memory_are_refused_before_the_first() -> None:
    # 10^13 requests: 510 TB.
    huge = scenario()._replace(traces={"ocr": count_trace([10_000_000] * 1_000_000)})
    with pytest.raises(
        TraceError, match=r"2 runs, 1 at once, would take about 510,000\.\d GB, more than 50%"
    ):
        next(simulate_many([scenario(), huge], processes=1))


def test_nothing_to_run() -> None:
    assert list(simulate_many([])) == []


@pytest.mark.slow
def test_processes_give_the_same_runs_in_the_order_given() -> None:
    scenarios = [scenario(seed=1, seconds=30), scenario("themis", seed=2), scenario(seed=3)]
    told: list[float] = []
    here = list(simulate_many(scenarios, processes=1))
    there = list(simulate_many(scenarios, processes=2, on_progress=lambda done, _: told.append(done)))
    assert [timeless(run) for run in there] == [timeless(run) for run in here]
    assert told[-1] == 36.0


@pytest.mark.slow
def test_a_run_that_fails_elsewhere_is_named() -> None:
    runs = simulate_many([scenario(), scenario("statik", seed=7)], processes=2)
    assert next(runs).label == "static"
    with pytest.raises(SpecError, match="run statik, seed 7: unknown policy 'statik'"):
        next(runs)


@pytest.mark.slow
def test_a_caller_that_leaves_ends_the_processes() -> None:
    before = set(active_children())
    runs = simulate_many([scenario(), *[scenario(seconds=20_000)] * 2], processes=2)
    assert next(runs).label == "static"
    runs.close()  # type: ignore[attr-defined]
    assert set(active_children()) == before


SCRIPT = """
import signal, sys
from steelyard.cli.main import app
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what is in the background without
    app(sys.argv[1:])
"""
SPEC = """
cluster: {cores: 4}
models: {m: {variants: {v: {latency: {alpha_ms: 20}, cold_start: 1s}}}}
services: {s: {slo: {latency: 200ms}, pipeline: {a: {model: m}}}}
policy: {name: static, replicas: 1}
"""


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "after"), [("2", 1), ("2", 3), ("1", 1)])
def test_ctrl_c_ends_all_processes_without_a_word_of_theirs(
    tmp_path: Path, processes: str, after: int
) -> None:
    """With two: while they import, after 1 (the resource tracker is the first child), or soon after."""
    process = _started(tmp_path, processes)
    children = 0 if processes == "1" else after
    try:
        wait_until(
            lambda: process.poll() is not None or _is_running(process.pid, tmp_path, children=children),
            "it runs",
        )
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        stdout, stderr = process.communicate(timeout=WAIT_S_MAX)
        assert (process.returncode, stdout, stderr.strip()) == (130, "", "")
        # The resource tracker ends when it finds nobody left.
        wait_until(lambda: not _living(process.pid), "the end of all of them")
    finally:
        with suppress(ProcessLookupError):  # they would run for many minutes
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_a_killed_caller_takes_its_processes_along(tmp_path: Path) -> None:
    """It could tell nobody; their runs take many minutes."""
    process = _started(tmp_path, "2")
    try:
        wait_until(
            lambda: process.poll() is not None or _is_running(process.pid, tmp_path, children=3), "it runs"
        )
        process.kill()
        assert process.wait(WAIT_S_MAX) == -signal.SIGKILL
        wait_until(lambda: not _living(process.pid), "the end of all of them")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _started(folder: Path, processes: str) -> subprocess.Popen[str]:
    """`steelyard simulate` with four long runs, in a session of its own."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "spec.yaml").write_text(SPEC)
    (folder / "trace.txt").write_text("40\n" * 20_000)
    asked = ["simulate", "spec.yaml", "--trace", "trace.txt", "--seeds", "4", "--processes", processes]
    return subprocess.Popen(
        [sys.executable, "script.py", *asked, "--decisions", "decisions.jsonl"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _is_running(pid: int, folder: Path, *, children: int) -> bool:
    """Whether the file of decisions is there, and the process has so many children."""
    of_main = Path(f"/proc/{pid}/task/{pid}/children")
    written = (folder / "decisions.jsonl").exists()
    return written and len(of_main.read_text().split()) >= children


def _living(group: int) -> list[int]:
    """Processes of a group that have not ended; those that init has yet to reap have."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has gone meanwhile
            pid, _, rest = file.read_text().partition(" ")
            state, _, of_group = rest.rpartition(") ")[2].split()[:3]
            found += [int(pid)] if int(of_group) == group and state != "Z" else []
    return found
