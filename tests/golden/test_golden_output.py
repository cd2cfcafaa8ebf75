"""What commands print for machines: every key, and whole outputs where they repeat exactly."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.core.commands import RecordDecision
from steelyard.core.events import Woken
from steelyard.core.plan import Decision, Plan, ReplicaPlan, ServicePlan, StagePlan, VariantShare
from steelyard.demo.tour import Outcome
from steelyard.journal.codec import encode
from steelyard.journal.records import VERSION, Header, Record
from steelyard.load.result import OK, Outcomes, summarise
from steelyard.metrics.runs import RunSummary

Golden = Callable[[str, str], None]
runner = CliRunner()


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Paths of a JSON value: `profiles[].latency_ms.p50`."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from keys(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        yield from keys(value[0], f"{path}[]")
    else:
        yield path


def output(*arguments: str) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("trace.txt").write_text("1\n2\n\n4\n0\n")
    return "trace.txt"


def test_trace_info(trace: str, golden: Golden) -> None:
    golden("trace_info.json", output("trace", "info", trace, "--json", "-"))
    golden("trace_info.txt", output("trace", "info", trace))


def test_trace_synth(trace: str, golden: Golden) -> None:
    golden("trace_synth.txt", output("trace", "synth", "surge", "--seconds", "6", "--seed", "3"))
    output(
        "trace", "synth", "surge", "--seconds", "6", "--seed", "3", "--out", "made.txt", "--json", "made.json"
    )
    golden("trace_synth.json", Path("made.json").read_text())


def test_explain(tmp_path: Path, golden: Golden) -> None:
    stage = StagePlan(
        replicas=(ReplicaPlan(1.0, ("base",)), ReplicaPlan(1.0, ("base",))),
        mix=(VariantShare("base", 1.0),),
        batch_rows_max=8,
    )
    plan = Plan({"ocr": ServicePlan("ocr", {"read": stage})})
    why, not_why = "ocr: 90 rows/s need 2 cores", "ocr: 1x2 cores batch 8, dearer"
    commands = (
        RecordDecision(10.5, "decide", "steelyard", Decision(plan, 11.5, why, not_why), why, not_why),
        RecordDecision(10.6, "react", "steelyard", None, "ocr: 1 core more for a backlog of 40 ms"),
    )
    lines = (
        Header(VERSION, {}),
        Record("control", 0, 10.0, Woken(), ()),
        Record("control", 1, 10.6, Woken(), commands),
    )
    journal = tmp_path / "journal"
    journal.write_bytes(b"".join(encode(line) + b"\n" for line in lines))
    golden("explain.txt", output("explain", str(journal)))
    golden("explain.json", output("explain", str(journal), "--json", "-"))


def test_help(monkeypatch: pytest.MonkeyPatch, golden: Golden) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    golden("help.txt", output())


def test_load_keys(golden: Golden) -> None:
    outcomes = Outcomes(np.array([0.0, 0.5]), np.array([0.05, 0.05]))
    outcomes.status[:] = (OK, 503)
    outcomes.latency_s[0], outcomes.lateness_s[:] = 0.02, 0.0001
    result = msgspec.to_builtins(summarise(outcomes, seconds=1.0, slo_s=0.05))
    golden("load_keys.txt", "\n".join(keys(result)) + "\n")


def test_demo_keys(golden: Golden) -> None:
    times_ms: dict[str, float | None] = dict.fromkeys(("p50", "p90", "p99", "max"), 1.0)
    run = RunSummary("steelyard", "ocr", 1, 9, 9, 0, 0, 0, 0, 0, 0, 0.0, 60.0, 1.0, times_ms)
    run = replace(run, plan_ms={"p50": 1.0, "max": 2.0})
    golden("demo_keys.txt", "\n".join(keys(msgspec.to_builtins(Outcome([run], "report.html")))) + "\n")


@pytest.mark.slow
def test_profile_keys(tmp_path: Path, golden: Golden) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "models: {m: {variants: {v: {runtime: sleep, options: {alpha_ms: 1}, batch_max: 2, cores_max: 1}}}}\n"
        "services: {s: {slo: {latency: 100ms}, pipeline: {a: {model: m}}}}\npolicy: static\n"
    )
    made = output("profile", str(spec), "--quick", "--profiles", str(tmp_path / "profiles"), "--json", "-")
    profiles = json.loads(made)
    assert [row["batch"] for row in profiles["profiles"]] == [1, 2]
    golden("profile_keys.txt", "\n".join(keys(profiles)) + "\n")
