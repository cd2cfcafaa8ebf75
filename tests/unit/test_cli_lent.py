"""More stages than cores: what parts of a core come to in `plan`, and in `simulate`."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steelyard.cli.lent import with_lent_parts
from steelyard.cli.main import app
from steelyard.config.load import load_spec
from steelyard.config.planning import blueprint
from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan, VariantShare

SPEC = """version: 1
cluster: {cores: 2}
models:
  m: {variants: {v: {latency: {beta_ms: 100, spread: 0}, cores_max: 1, batch_max: 1, cold_start: 1s}}}
  glue: {variants: {g: {latency: {beta_ms: 5, spread: 0}, cores_max: 1, batch_max: 1, cold_start: 1s}}}
services:
  s:
    slo: {latency: 800ms}
    pipeline: {a: {model: m}, b: {model: glue, after: [a]}, c: {model: glue, after: [b]},
      d: {model: m, after: [c]}, e: {model: glue, after: [d]}}
"""
runner = CliRunner()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    Path("trace.txt").write_text("4\n" * 30)


def answer(*arguments: str) -> dict[str, Any]:
    result = runner.invoke(app, [*arguments, "--json", "-"])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def capped() -> None:
    Path("spec.yaml").write_text(SPEC.replace("cores: 2}", "cores: 2, fractions: capped}", 1))


def parts(*cores: float) -> ServicePlan:
    """One replica a stage."""
    stages = {
        name: StagePlan((ReplicaPlan(size, (variant,)),), (VariantShare(variant, 1.0),), 1)
        for name, size, variant in zip("abcde", cores, "vggvg", strict=True)
    }
    return ServicePlan("s", stages)


def test_a_stage_has_what_the_others_leave() -> None:
    made = blueprint(load_spec(Path("spec.yaml")), cores_available=2)
    lent = with_lent_parts(made, parts(0.5, 0.25, 0.25, 0.5, 0.25), 4.0)
    # At 4/s a and d keep 0.4 of a core busy each, b, c and e 0.02 each: 0.86 of two cores. What the others
    # leave of a core is 1 - 0.46 / 2 = 0.77 to a and d, 1 - 0.84 / 2 = 0.58 to the rest.
    assert [stage.replicas[0].cores for stage in lent.stages.values()] == [0.77, 0.58, 0.58, 0.77, 0.58]


def test_nobody_has_less_than_its_part() -> None:
    made = blueprint(load_spec(Path("spec.yaml")), cores_available=2)
    plan = parts(0.5, 0.25, 0.25, 0.5, 0.25)
    assert with_lent_parts(made, plan, 20.0) == plan


def test_whole_cores_and_capped_parts_are_as_planned() -> None:
    capped()
    made = blueprint(load_spec(Path("spec.yaml")), cores_available=2)
    plan = parts(0.5, 0.25, 0.25, 0.5, 0.25)
    assert with_lent_parts(made, plan, 1.0) == plan


def test_five_stages_are_planned_on_two_cores() -> None:
    asked = ("plan", "spec.yaml", "--rate", "1")
    lent = answer(*asked)
    assert (lent["feasible"], lent["cores"]) == (True, 2.0)
    capped()
    found = answer(*asked)
    assert found["stages"] == lent["stages"]
    assert found["latency_bound_ms"] > lent["latency_bound_ms"]


def test_lent_parts_serve_what_capped_ones_do_not() -> None:
    # 0.4 of a core each for the two models: a request takes 215 ms at best, with a whole core at every stage.
    asked = ("simulate", "spec.yaml", "--trace", "trace.txt")
    (lent,) = answer(*asked)["runs"]
    capped()
    (found,) = answer(*asked)["runs"]
    assert lent["violations"] <= found["violations"]
    assert lent["latency_ms"]["p50"] < found["latency_ms"]["p50"]
    assert lent["latency_ms"]["p50"] >= 215.0
    assert lent["core_seconds"] <= 60.0
