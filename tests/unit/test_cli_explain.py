"""`steelyard explain`: decisions out of a journal."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.core.commands import RecordDecision
from steelyard.core.events import Woken
from steelyard.core.plan import Decision, Plan, ReplicaPlan, ServicePlan, StagePlan, VariantShare
from steelyard.journal.codec import encode
from steelyard.journal.records import VERSION, Header, Record

runner = CliRunner()
START_S = 5000.0


def plan(*cores: float) -> Plan:
    replicas = tuple(ReplicaPlan(cores=share, variants=("base",)) for share in cores)
    stage = StagePlan(replicas=replicas, mix=(VariantShare("base", 1.0),), batch_rows_max=8)
    return Plan({"ocr": ServicePlan("ocr", {"read": stage})})


def decided(t_s: float, kind: str, plan: Plan | None, reason: str, runner_up: str = "") -> RecordDecision:
    decision = Decision(plan, START_S + t_s + 1, reason, runner_up) if plan else None
    return RecordDecision(START_S + t_s, kind, "steelyard", decision, reason, runner_up)  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    steps = [
        (0.0, ()),
        (0.5, (decided(0.5, "decide", plan(1), "12 rps need 1 core", "2 cores: dearer"),)),
        (3.25, (decided(3.25, "react", None, "backlog of 40 ms needs 1 more core"),)),
        (4.0, (decided(4.0, "discarded", plan(4), "4 cores on a node of 2"),)),
        (9.0, (decided(9.0, "decide", plan(1, 1, 2), "90 rps need 4 cores"),)),
        (11.0, (decided(11.0, "decide", None, "next tick at 15 s"),)),
    ]
    lines = [encode(Header(VERSION, {}))]
    lines += [
        encode(Record("control", n, START_S + t_s, Woken(), commands))
        for n, (t_s, commands) in enumerate(steps)
    ]
    file = tmp_path / "journal"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def decisions(*arguments: str) -> list[dict[str, object]]:
    result = runner.invoke(app, ["explain", *arguments, "--json", "-"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found) == {"decisions"}
    return list(found["decisions"])


def test_times_count_from_the_first_record(journal: Path) -> None:
    found = decisions(str(journal))
    assert [decision["t_s"] for decision in found] == [0.5, 3.25, 4.0, 9.0, 11.0]
    assert [decision["kind"] for decision in found] == ["decide", "react", "discarded", "decide", "decide"]
    assert found[0]["runner_up"] == "2 cores: dearer"
    assert found[1]["services"] == {}


def test_equal_replicas_are_counted_together(journal: Path) -> None:
    assert decisions(str(journal))[3]["services"] == {
        "ocr": {
            "read": [
                {"variants": ["base"], "replicas": 1, "cores": 2.0, "batch": 8},
                {"variants": ["base"], "replicas": 2, "cores": 1.0, "batch": 8},
            ]
        }
    }


@pytest.mark.parametrize(("at", "t_s"), [("0.5", 0.5), ("3.2", 0.5), ("4.5", 3.25), ("1000", 9.0)])
def test_the_decision_in_force_is_the_last_one_that_wanted_something_and_was_not_discarded(
    journal: Path, at: str, t_s: float
) -> None:
    assert [decision["t_s"] for decision in decisions(str(journal), "--at", at)] == [t_s]


def test_before_the_first_decision_there_is_none(journal: Path) -> None:
    result = runner.invoke(app, ["explain", str(journal), "--at", "0.1"])
    assert (result.exit_code, result.stderr) == (2, f"{journal}: no decision was in force at 0.1 s\n")


def test_people_read_reason_plan_and_runner_up(journal: Path) -> None:
    text = runner.invoke(app, ["explain", str(journal)]).stdout
    assert "0.500 s  decide by steelyard: 12 rps need 1 core\n" in text
    assert "ocr.read: 1 replica of 1 core (base, batch 8)\n" in text
    assert "rather than: 2 cores: dearer\n" in text
    assert "ocr.read: 1 replica of 2 cores (base, batch 8) + 2 replicas of 1 core (base, batch 8)\n" in text


def test_a_line_that_is_being_written_is_left_for_later(journal: Path) -> None:
    with journal.open("ab") as file:
        file.write(b'{"type":"record","machine":"con')
    assert len(decisions(str(journal))) == 5


def test_a_broken_line_is_named(journal: Path) -> None:
    with journal.open("ab") as file:
        file.write(b"garbage\n")
    result = runner.invoke(app, ["explain", str(journal)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{journal}:8: ")
    assert result.stderr.count("\n") == 1


def test_a_journal_without_decisions_says_so(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(encode(Header(VERSION, {})) + b"\n")
    result = runner.invoke(app, ["explain", str(tmp_path / "journal")])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/journal: no decision yet\n")
