"""The matrix resumes: what a run can reach decides whether it is repeated; a line is written at once."""

import json
from pathlib import Path

import pytest
from headlines_cases import Candidate, Job, candidates, least_core_s, refusal, scenario
from headlines_code import fingerprint
from headlines_judge import Case
from headlines_store import Line, Store

FILES = {
    "steelyard/sim/run.py": "from steelyard.core import clock\nimport steelyard.policies.registry\n",
    "steelyard/core/clock.py": "TICK_S = 1\n",
    "steelyard/policies/registry.py": "import steelyard.policies.hpa, steelyard.policies.kpa\n",
    "steelyard/policies/hpa.py": "from steelyard.policies.meters import Meter\n",
    "steelyard/policies/kpa.py": "",
    "steelyard/policies/meters.py": "Meter = 1\n",
    "steelyard/policies/ours/__init__.py": "",
    "steelyard/policies/ours/policy.py": "",
}


def sources(folder: Path, **changes: str) -> Path:
    for name, text in (FILES | changes).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("changed", "touches"),
    [
        ("steelyard/core/clock.py", {"hpa", "kpa", "ours"}),
        ("steelyard/policies/meters.py", {"hpa"}),
        ("steelyard/policies/kpa.py", {"kpa"}),
        ("steelyard/policies/registry.py", set()),
        ("steelyard/policies/ours/policy.py", {"ours"}),
        ("steelyard/serve/server.py", set()),
    ],
)
def test_a_change_touches_the_runs_that_can_reach_it(tmp_path: Path, changed: str, touches: set[str]) -> None:
    before, after = sources(tmp_path / "before"), sources(tmp_path / "after", **{changed: "CHANGED = 1\n"})
    policies = {"hpa", "kpa", "ours"}
    assert {name for name in policies if fingerprint(name, before) != fingerprint(name, after)} == touches


def test_both_forms_of_a_policy_reach_the_same(tmp_path: Path) -> None:
    folder = sources(tmp_path)
    assert fingerprint("hpa+ours", folder) == fingerprint("hpa", folder)


def job_of(trace: Path, policy: str = "static", seed: int = 1) -> Job:
    return Job("nlp-t24", Candidate(policy), Case("surge-180", 6.0, seed), 0, trace)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """660 s of 21 a second: one request a second after the divisor of 21."""
    path = tmp_path / "trace.txt"
    path.write_text("21\n" * 660)
    return path


def test_only_what_is_missing_is_run_again(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "runs" / "runs.jsonl"
    jobs = [job_of(trace), job_of(trace, seed=2), job_of(trace, "themis")]
    path.parent.mkdir()
    written = [
        {**jobs[0].key, "summary": {}},
        {**jobs[1].key, "error": "SpecError: was broken then"},
        {**jobs[2].key, "code": "another", "summary": {}},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in written))
    # One is done, one failed, one was run on other sources.
    assert Store(path).missing(jobs) == jobs[1:]


def test_a_line_that_was_cut_off_is_run_again_and_swallows_no_other(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "runs.jsonl"
    jobs = [job_of(trace), job_of(trace, seed=2)]
    whole = json.dumps({**jobs[0].key, "summary": {}})
    path.write_text(f"{whole}\n{whole[:40]}")
    assert Store(path).missing(jobs) == jobs[1:]
    Store(path).run([], stamp={}, processes=1, on_done=lambda _: None)
    assert path.read_text() == f"{whole}\n{whole[:40]}\n"  # what comes next begins a line


@pytest.mark.long
def test_a_run_is_a_line_at_once_and_found_again(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "runs.jsonl"
    lines: list[Line] = []
    Store(path).run([job_of(trace)], stamp={"commit": "abc"}, processes=1, on_done=lines.append)
    (line,) = lines
    assert "error" not in line
    assert json.loads(path.read_text()) == line
    assert line["summary"]["requests"] == 660
    assert line["bound"] == pytest.approx(660 * least_core_s("nlp-t24"))
    assert not Store(path).missing([job_of(trace)])


def test_the_least_core_time_is_that_of_the_cheapest_sizes() -> None:
    # By hand, kappa = alpha + beta c + (gamma + zeta c) / b [ms] at c = 1 and the better of b = 1, 4 (docs of
    # the coefficients in bench/specs): 21.4 + 1.56 + (53.8 + 27.8) / 4 = 43.36; 304.6 + 74.1 + (-13.5 + 11.6)
    # at b = 1 = 376.8; 263.9 + 83.6 + (-1 + 23.6) / 4 = 353.15. Together 773.31 ms.
    assert least_core_s("nlp-t24") == pytest.approx(0.77331)


def test_static_is_sized_for_the_largest_second(trace: Path) -> None:
    trace.write_text("21\n" * 659 + "210\n")
    groups = {name: group for name, (group,) in scenario(job_of(trace)).options["stages"].items()}
    # Ten requests a second in the last one. A core translates at most 1000 / 376.8 = 2.65 rows a second and
    # summarises 1000 / 353.15 = 2.83: neither can do with fewer than 4 cores.
    cores = {name: group["replicas"] * group["cores"] for name, group in groups.items()}
    assert cores["translate"] >= 4
    assert cores["summarise"] >= 4
    assert cores["identify"] >= 1


def test_candidates_have_labels_of_their_own() -> None:
    labels = [candidate.label for candidate in candidates((0.001, 0.01))]
    assert len(set(labels)) == len(labels)
    assert "steelyard violation_target=0.001" in labels


def test_an_unknown_policy_is_refused_with_its_reason() -> None:
    assert "unknown policy" in refusal(Candidate("nothing"))
    assert refusal(Candidate("static")) == ""
