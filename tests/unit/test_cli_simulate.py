"""`steelyard simulate`: runs, totals, a report, and runs that fail."""

import json
import re
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.cli.simulate import totals
from steelyard.metrics.runs import RunSummary

runner = CliRunner()
SPEC = """
cluster: {cores: 4}
models: {m: {variants: {v: {latency: {alpha_ms: 20}, cold_start: 1s}}}}
services: {s: {slo: {latency: 200ms}, pipeline: {a: {model: m}}}}
policies: {two: {name: static, replicas: 2}}
policy: {name: static, replicas: 1}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    Path("trace.txt").write_text("10\n20\n10\n")


def simulated(*arguments: str) -> dict[str, list[dict[str, object]]]:
    result = runner.invoke(app, ["simulate", "spec.yaml", "--trace", "trace.txt", *arguments, "--json", "-"])
    assert result.exit_code == 0, result.stderr
    found: dict[str, list[dict[str, object]]] = json.loads(result.stdout)
    return found


def test_runs_are_by_policy_then_seed() -> None:
    found = simulated("--policy", "two,static", "--seed", "3", "--seeds", "2", "--processes", "1")
    order = [("two", 3), ("two", 4), ("static", 3), ("static", 4)]
    assert [(run["policy"], run["seed"]) for run in found["runs"]] == order
    assert [(total["policy"], total["seed"]) for total in found["totals"]] == order
    # A warm static allocation is paid for as long as the trace lasts: 2 x 1 and 1 x 1 cores for 3 s.
    assert [run["core_seconds"] for run in found["runs"]] == [6.0, 6.0, 3.0, 3.0]


def test_the_specs_policy_is_the_default_and_keeps_its_options() -> None:
    (run,) = simulated()["runs"]
    assert (run["policy"], run["core_seconds"], run["requests"]) == ("static", 3.0, 40)


def test_a_cold_start_is_paid() -> None:
    (warm,), (cold,) = simulated()["runs"], simulated("--cold")["runs"]
    assert (warm["cold_starts"], cold["cold_starts"]) == (0, 1)
    assert int(str(cold["violations"])) > int(str(warm["violations"]))


def test_a_report_is_one_page_of_the_runs() -> None:
    simulated("--policy", "two,static", "--processes", "1", "--html", "report.html")
    page = Path("report.html").read_text()
    assert "spec: simulated policies" in page
    assert "the arrivals of" not in page
    for words in ("two", "static", "3 s of arrivals: trace.txt", "warm, with the policy&#x27;s own plan"):
        assert words in page, words


def test_explain_reads_the_decisions_of_every_run() -> None:
    arguments = ("--policy", "two,themis", "--seeds", "2", "--processes", "1", "--decisions", "made.jsonl")
    simulated(*arguments)
    result = runner.invoke(app, ["explain", "made.jsonl", "--at", "0.5"])
    assert result.exit_code == 0, result.stderr
    runs = [line.removesuffix(":") for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert runs == ["two, seed 0", "two, seed 1", "themis, seed 0", "themis, seed 1"]
    assert "    0.000 s  decide by static: fixed allocation of 2 cores\n" in result.stdout
    found = json.loads(runner.invoke(app, ["explain", "made.jsonl", "--json", "-"]).stdout)["decisions"]
    assert {decision["run"] for decision in found} == set(runs)
    # A warm start decides at the start of the trace.
    assert [decision["t_s"] for decision in found if decision["run"] == "two, seed 1"] == [0.0]


def test_requests_beyond_memory_are_one_line() -> None:
    Path("trace.txt").write_text("9\n" * 1000)
    arguments = ["simulate", "spec.yaml", "--trace", "trace.txt", "--trace-scale", "1000000"]
    result = runner.invoke(app, [*arguments, "--seeds", "1000", "--processes", "1000"])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    # 1000 runs of 9e9 requests at 51 bytes.
    assert result.stderr.startswith("1000 runs, 1000 at once, would take about 459,000.2 GB, more than 50%")


def test_a_run_that_fails_is_one_line_and_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("run static, seed 0: ZeroDivisionError: division by zero")

    monkeypatch.setattr("steelyard.sim.many.simulate", fails)
    result = runner.invoke(app, ["simulate", "spec.yaml", "--trace", "trace.txt"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("run static, seed 0: ")
    assert result.stderr.count("\n") == 1


def test_nothing_is_simulated_for_a_report_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.sim.many.simulate", lambda *_, **__: pytest.fail("a run was started"))
    for option in ("--html", "--json", "--decisions"):
        for file in ("no/such/file", "spec.yaml/file"):
            arguments = ["simulate", "spec.yaml", "--trace", "trace.txt", option, file]
            result = runner.invoke(app, arguments)
            assert (result.exit_code, result.stderr) == (2, f"{option}: cannot write {file}\n")


def test_an_output_is_never_written_over_what_is_read_or_another_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steelyard.sim.many.simulate", lambda *_, **__: pytest.fail("a run was started"))
    trace = Path("trace.txt").read_text()
    for given, told in (
        (["--html", "trace.txt"], "--html: trace.txt is read; want another file\n"),
        (["--json", "./spec.yaml"], "--json: spec.yaml is read; want another file\n"),
        (["--html", "a", "--json", "a"], "--json: a is --html already; want another file\n"),
    ):
        for named in ("trace.txt", "ocr=trace.txt"):
            result = runner.invoke(app, ["simulate", "spec.yaml", "--trace", named, *given])
            assert (result.exit_code, result.stderr) == (2, told)
    assert Path("trace.txt").read_text() == trace


def test_no_seed_is_beyond_what_json_can_hold() -> None:
    arguments = ["simulate", "spec.yaml", "--trace", "trace.txt", "--seed", str(2**53 - 1), "--seeds", "2"]
    result = runner.invoke(app, arguments)
    told = "--seeds: want no seed above 9007199254740991, got 2 from 9007199254740991 on\n"
    assert (result.exit_code, result.stderr) == (2, told)


def test_nothing_is_simulated_for_a_report_without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.sim.many.simulate", lambda *_, **__: pytest.fail("a run was started"))
    monkeypatch.setitem(sys.modules, "plotly", None)  # as if it were not installed
    result = runner.invoke(app, ["simulate", "spec.yaml", "--trace", "trace.txt", "--html", "page.html"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install '.[report]' in a clone" in result.stderr


def test_a_model_needs_a_profile() -> None:
    Path("net.onnx").write_bytes(b"a model")
    result = runner.invoke(
        app, ["simulate", "net.onnx", "--slo", "50ms", "--trace", "trace.txt", "--profiles", "none"]
    )
    assert result.exit_code == 2
    assert "no profile of it on this machine in none: run `steelyard profile net.onnx`" in result.stderr


def test_totals_are_over_services() -> None:
    times: dict[str, float | None] = dict.fromkeys(("p50", "p90", "p99", "max"), 1.0)
    # requests 10: 6 completed, 1 of them late, 1 shed, 1 rejected, 1 failed, 1 cancelled: 4 violations of 9.
    run = RunSummary("p", "s", 0, 10, 6, 1, 1, 1, 1, 1, 4, 4 / 9, 2.5, None, times)
    other = replace(run, service="t", requests=2, completed=2, late=0, shed=0, rejected=0, failed=0,
                    cancelled=0, violations=0, violation_ratio=0.0)  # fmt: skip
    first, second = totals([run, other, replace(run, seed=1)])
    assert (first.policy, first.seed, first.requests, first.completed) == ("p", 0, 12, 8)
    assert (first.late, first.shed, first.rejected, first.failed, first.cancelled) == (1, 1, 1, 1, 1)
    # 4 of 12 - 1.
    assert (first.violations, first.violation_ratio, first.core_seconds) == (4, 4 / 11, 5.0)
    assert (second.seed, second.violation_ratio) == (1, 4 / 9)


def test_a_run_in_which_nothing_was_ever_started_says_why() -> None:
    Path("spec.yaml").write_text(SPEC.replace("replicas: 2", "replicas: 9"))
    result = runner.invoke(app, ["simulate", "spec.yaml", "--trace", "trace.txt", "--policy", "two"])
    assert result.exit_code == 0
    why = "9 cores wanted on node local, which has 4"
    assert result.stderr == f"two, seed 0: nothing was ever started: {why}\n"


def test_a_policy_of_one_machine_uses_all_nodes() -> None:
    # Two replicas of two cores each fit two nodes of two, and no single one of them.
    nodes = "cluster: {nodes: [{name: a, cores: 2}, {name: b, cores: 2}]}"
    Path("spec.yaml").write_text(
        SPEC.replace("cluster: {cores: 4}", nodes).replace("replicas: 2", "replicas: 2, cores: 2")
    )
    result = runner.invoke(
        app, ["simulate", "spec.yaml", "--trace", "trace.txt", "--policy", "two", "--json", "-"]
    )
    assert result.stderr == ""
    (run,) = json.loads(result.stdout)["runs"]
    assert run["core_seconds"] == 4.0 * run["simulated_s"]


def test_no_requests_are_no_violations() -> None:
    Path("trace.txt").write_text("0\n0\n")
    (run,) = simulated()["runs"]
    assert (run["requests"], run["violation_ratio"], run["core_seconds"]) == (0, 0.0, 2.0)


@pytest.mark.long
def test_what_the_readme_says_of_planning_works() -> None:
    root = Path(__file__).parents[2]
    Path("examples").symlink_to(root / "examples")
    readme = (root / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^steelyard ((?:plan|simulate|trace synth) [^#\n]+)", readme, flags=re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["plan", "trace", "simulate"]
    for line in lines:
        short = ["--trace-slice", "90:110", "--processes", "1"] if line.startswith("simulate") else []
        result = runner.invoke(app, [*line.split(), *short])
        assert result.exit_code == 0, result.stderr
    assert Path("video.html").stat().st_size > 1_000_000


@pytest.mark.long
def test_a_pipeline_that_was_measured_is_planned_and_simulated() -> None:
    Path("measured.yaml").write_text(
        "models:\n"
        "  m: {variants: {v: {runtime: sleep, options: {alpha_ms: 4}, batch_max: 2, cores_max: 1}}}\n"
        "  n: {variants: {w: {runtime: sleep, options: {alpha_ms: 2}, batch_max: 1, cores_max: 1}}}\n"
        "services: {s: {slo: {latency: 200ms}, pipeline: {a: {model: m}, b: {model: n, after: [a]}}}}\n"
        "cluster: {nodes: [{name: n, cores: 8}]}\npolicy: static\n"
    )
    profiled = runner.invoke(app, ["profile", "measured.yaml", "--quick", "--profiles", "profiles"])
    assert profiled.exit_code == 0, profiled.stderr
    asked = ["plan", "measured.yaml", "--rate", "10", "--profiles", "profiles", "--json", "-"]
    planned = runner.invoke(app, asked)
    assert planned.exit_code == 0, planned.stderr
    assert json.loads(planned.stdout)["stages"]["a"][0]["batch"] == 2
    asked = ["simulate", "measured.yaml", "--trace", "trace.txt", "--profiles", "profiles", "--json", "-"]
    run = json.loads(runner.invoke(app, asked).stdout)["runs"][0]
    assert (run["requests"], run["violations"]) == (40, 0)
    # 4 + 2 ms as the sleeps were measured, and some for waking up.
    assert 6 < run["latency_ms"]["p50"] < 60
