"""`steelyard plan`: what the policy is shown, and what is made of its answer."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from steelyard.cli.main import app
from steelyard.cli.plan import Planned, Question, planned, steady_snapshot
from steelyard.config.load import read_spec
from steelyard.config.planning import Blueprint, blueprint
from steelyard.core.errors import SteelyardError
from steelyard.core.plan import Decision
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.policies.sensing import rate_over

runner = CliRunner()
TEXT = """
cluster: {nodes: [{name: east, cores: 4}, {name: west, cores: 2}]}
models:
  m:
    variants:
      v: {latency: {alpha_ms: 10}, accuracy: 0.9, cores_max: 4}
      w: {latency: {alpha_ms: 5}, accuracy: 0.5, cores_max: 4}
  n: {variants: {x: {latency: {alpha_ms: 5}, accuracy: 0.5, cores_max: 4}}}
services:
  s: {slo: {latency: 200ms}, pipeline: {a: {model: m}, b: {model: n, after: [a]}}}
  t: {slo: {latency: 200ms}, pipeline: {c: {model: n}}}
"""

ONE_STAGE = TEXT.replace("b: {model: n, after: [a]}", "")


@pytest.fixture
def made() -> Blueprint:
    return blueprint(read_spec(TEXT, "spec.yaml", Path()), cores_available=1)


def snapshot(made: Blueprint, rate_rps: float) -> ClusterSnapshot:
    policy = make_policy("static", PolicyContext(made.services, made.service_times()))
    return steady_snapshot(made, "s", rate_rps, policy)


@pytest.mark.parametrize("rate_rps", [0.0, 0.4, 12.5, 20.0, 1000.0])
def test_the_policy_sees_the_rate_on_an_empty_cluster(made: Blueprint, rate_rps: float) -> None:
    seen = snapshot(made, rate_rps)
    asked, other = seen.services
    # Whole rows: within one of the rate over five seconds, and over the last one.
    assert sum(window.arrival_rows for window in asked.windows) == pytest.approx(5 * rate_rps, abs=1)
    assert rate_over(asked, 1.0, now_s=seen.now_s) == pytest.approx(rate_rps, abs=1)
    assert all(rows == pytest.approx(rate_rps, abs=1) for rows in asked.arrival_rows_by_second)
    assert sum(window.arrival_rows for window in other.windows) == 0
    assert seen.now_s == 0.0
    assert [(node.name, node.cores, node.cores_free) for node in seen.nodes] == [
        ("east", 4.0, 4.0),
        ("west", 2.0, 2.0),
    ]
    assert all(view.desired is None and not view.replicas for view in seen.services)


def test_an_answer_is_what_the_policy_decided(made: Blueprint) -> None:
    stages = {
        "s.a": [{"variant": "v", "replicas": 2, "cores": 1}, {"variant": "w", "replicas": 1, "cores": 1}],
        "s.b": [{"cores": 1}],
    }
    found = planned(made, Question("static", {"stages": stages, "batch": 1}, "s", 20.0), label="mine")
    assert (found.service, found.policy, found.feasible, found.cores) == ("s", "mine", True, 4.0)
    assert [(g.variant, g.replicas) for g in found.stages["a"]] == [("v", 2), ("w", 1)]
    assert [g.share for g in found.stages["a"]] == pytest.approx([2 / 3, 1 / 3])
    # (2/3 x 0.9 + 1/3 x 0.5) x 0.5.
    assert found.accuracy == pytest.approx((0.6 + 0.5 / 3) * 0.5)
    assert found.reason == "fixed allocation of 5 cores"
    assert found.solve_ms >= 0


def test_stages_that_are_more_than_the_cores_of_their_service_share_a_core() -> None:
    text = TEXT.replace("s: {slo", "s: {cores: {max: 1}, slo").split("  t: {slo")[0]
    made = blueprint(read_spec(text, "spec.yaml", Path()), cores_available=1)
    found = planned(made, Question("steelyard", {}, "s", 1.0))
    assert (found.feasible, found.cores) == (True, 1.0)
    assert sum(group.cores for groups in found.stages.values() for group in groups) == 1.0


def test_a_plan_costs_its_part_of_its_nodes_prices() -> None:
    one_service = TEXT.split("  t: {slo")[0]
    nodes = "cluster: {nodes: [{name: east, cores: 4, price_per_hour: 0.8}, {name: west, cores: 2%s}]}"
    stages = {"s.a": [{"variant": "v", "replicas": 1, "cores": 3}], "s.b": [{"replicas": 1, "cores": 2}]}

    def price(west: str) -> float | None:
        text = one_service.replace(TEXT.splitlines()[1], nodes % west)
        made = blueprint(read_spec(text, "spec.yaml", Path()), cores_available=1)
        return planned(made, Question("static", {"stages": stages, "batch": 1}, "s", 20.0)).price_per_hour

    # Three of the four cores in the east for 0.8, and both in the west for 0.3.
    assert price(", price_per_hour: 0.3") == pytest.approx(0.6 + 0.3)
    assert price("") is None


def test_an_unknown_accuracy_is_none() -> None:
    text = TEXT.replace("v: {latency: {alpha_ms: 10}, accuracy: 0.9,", "v: {latency: {alpha_ms: 10},")
    made = blueprint(read_spec(text, "spec.yaml", Path()), cores_available=1)
    assert planned(made, Question("static", {}, "s", 1.0)).accuracy is None


def test_a_measured_path_counts_before_the_product_of_its_stages() -> None:
    text = TEXT.replace("s: {slo", "s: {path_accuracies: [{variants: {a: v, b: x}, accuracy: 0.7}], slo")
    made = blueprint(read_spec(text, "spec.yaml", Path()), cores_available=1)
    assert planned(made, Question("static", {}, "s", 1.0)).accuracy == pytest.approx(0.7)


def test_an_infeasible_plan_says_why_and_what_would_do(made: Blueprint) -> None:
    # Stage a carries 100 rows/s on its core.
    found = planned(made, Question("static", {"batch": 1}, "s", 150.0))
    assert (found.feasible, found.latency_bound_ms) == (False, None)
    assert found.reason.startswith("stage a is given 150 rows/s, its 1 core carries 100 ")
    assert "cores would hold it: " in found.reason
    assert found.reason.endswith("; decided: fixed allocation of 3 cores")


def test_what_a_stage_carries_is_what_its_best_batch_does(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("batch,cores,latency_ms\n1,1,10\n2,1,16\n4,1,80\n")
    text = ONE_STAGE.replace("v: {latency: {alpha_ms: 10}", "v: {latency: {table: m.csv}")
    made = blueprint(read_spec(text, "spec.yaml", tmp_path), cores_available=1)
    # 2 rows in 16 ms: 125 a second; full batches of 4 would be 50.
    found = planned(made, Question("static", {"batch": 4}, "s", 150.0))
    assert found.reason.startswith("stage a is given 150 rows/s, its 1 core carries 125 ")


def test_a_policy_that_reacts_is_given_what_it_takes_within_a_window(
    made: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One core of v carries 100 rows/s; on two it holds 150 within 200 ms, 100 of them for the window.
    assert not planned(made, Question("static", {"batch": 1}, "s", 150.0)).feasible
    monkeypatch.setattr("steelyard.policies.static.StaticPolicy.reacts", True)
    found = planned(made, Question("static", {"batch": 1}, "s", 150.0))
    assert (found.feasible, found.cores) == (True, 2.0)
    assert found.cores_peak > 2.0
    assert found.latency_bound_ms is not None
    assert 100 < found.latency_bound_ms <= 200
    assert "cores within a window when rows wait: 1 replica of " in found.reason


class Silent:
    """A policy that leaves everything as it is."""

    name, solve_s, reacts = "silent", 0.0, False

    def react(self, snapshot: ClusterSnapshot) -> None:
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        return Decision(None, 1.0, "why should I")


def test_a_policy_without_a_plan_is_an_error(made: Blueprint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.cli.plan.make_policy", lambda *_: Silent())
    with pytest.raises(SteelyardError, match=r"^policy silent has no plan for s: why should I$"):
        planned(made, Question("silent", {}, "s", 1.0))


def test_a_policy_without_a_plan_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steelyard.cli.plan.make_policy", lambda *_: Silent())
    file = tmp_path / "spec.yaml"
    file.write_text(TEXT)
    asked = ["plan", str(file), "--service", "s", "--rate", "5", "--policy", "steelyard", "--json", "-"]
    result = runner.invoke(app, asked)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "policy steelyard has no plan for s: why should I\n"


def test_every_known_policy_answers(made: Blueprint, tmp_path: Path) -> None:
    from steelyard.policies.registry import known_policies

    file = tmp_path / "spec.yaml"
    file.write_text(TEXT)
    for name in known_policies():
        asked = ["plan", str(file), "--service", "s", "--rate", "20", "--policy", name, "--json", "-"]
        result = runner.invoke(app, asked)
        if result.exit_code == 2:  # a policy for services of one stage says so, and plans one
            assert "2 stages" in result.stderr, (name, result.stderr)
            file.write_text(ONE_STAGE)
            result = runner.invoke(app, asked)
            file.write_text(TEXT)
        assert result.exit_code == 0, (name, result.stderr)


def of_two_replicas(text: str) -> Planned:
    """What a fixed plan of two replicas of one core comes to."""
    known = blueprint(read_spec(text, "spec.yaml", Path()), cores_available=1)
    return planned(known, Question("static", {"replicas": 2}, "s", 10.0))


def test_a_plan_beyond_the_memory_does_not_hold() -> None:
    text = ONE_STAGE.replace("accuracy: 0.9,", "accuracy: 0.9, memory: 400MB,").replace(
        "{name: east, cores: 4}, {name: west, cores: 2}", "{name: east, cores: 4, memory: 1GB}"
    )
    assert of_two_replicas(text).feasible
    found = of_two_replicas(text.replace("memory: 1GB", "memory: 700MB"))
    assert not found.feasible
    assert found.reason.startswith("800,000,000 bytes wanted on node east, which has 700,000,000; ")


@pytest.mark.parametrize(
    ("policy", "options", "words"),
    [
        ("static", {"replicas": 2}, "2 devices gpu wanted on node east, which has 1"),
        ("steelyard", {}, "s.a: variant v@gpu is for device gpu, the replica has cpu"),
    ],
)
def test_no_cores_make_up_for_devices_that_are_not_there(
    policy: str, options: dict[str, object], words: str
) -> None:
    text = """
cluster: {nodes: [{name: east, cores: 4, devices: {gpu: 1}}]}
models: {m: {variants: {v: {latency: {gpu: {alpha_ms: 10}}, accuracy: 0.9}}}}
services: {s: {slo: {latency: 200ms}, pipeline: {a: {model: m}}}}
"""
    known = blueprint(read_spec(text, "spec.yaml", Path()), cores_available=1)
    found = planned(known, Question(policy, options, "s", 10.0))
    assert (found.feasible, found.latency_bound_ms) == (False, None)
    assert found.reason.startswith(f"{words}; decided: ")
