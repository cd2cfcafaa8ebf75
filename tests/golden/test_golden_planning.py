"""What `plan` and `simulate` print and write, and how they refuse what is wrong, word for word."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steelyard.cli.main import app

Golden = Callable[[str, str], None]
runner = CliRunner()
SPEC = (Path(__file__).parent / "data" / "pipeline.yaml").read_text(encoding="utf-8")
MARKED = (
    "t_s,service,class,latency_ms,rows\n0.1,video,gold,,1\n0.2,labels,,,1\n0.3,video,,150,2\n1.5,labels,,,1\n"
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the spec and some traces, and nothing of this machine in what is printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    Path("spec.yaml").write_text(SPEC)
    Path("trace.txt").write_text("8\n10\n\n20\n9\n8\n")
    Path("marked.csv").write_text(MARKED)


def output(*arguments: str) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def steady(text: str) -> str:
    """JSON without what a wall clock measured, and without digits that a compiler may round otherwise."""

    def walk(value: Any, key: str = "") -> Any:
        if key in ("plan_ms", "wall_s", "requests_per_wall_s", "solve_ms"):
            return "wall clock"
        if isinstance(value, dict):
            return {name: walk(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return round(value, 6) if isinstance(value, float) else value

    return json.dumps(walk(json.loads(text)), indent=2) + "\n"


def test_plan(golden: Golden) -> None:
    # A rate at which nobody waits: the bound is the sum of the service times.
    asked = ("plan", "spec.yaml", "--service", "video", "--rate", "0.1")
    golden("plan.json", steady(output(*asked, "--json", "-")))
    golden("plan.txt", output(*asked))


def test_plan_that_does_not_hold(golden: Golden) -> None:
    asked = ("plan", "spec.yaml", "--service", "video", "--json", "-")
    found = [json.loads(output(*asked, "--rate", rate)) for rate in ("60", "400")]
    for slo in ("50ms", "30ms"):
        Path("spec.yaml").write_text(SPEC.replace("400ms", slo))
        found.append(json.loads(output(*asked, "--rate", "0.1")))
    assert [answer["feasible"] for answer in found] == [False] * 4
    assert [answer["latency_bound_ms"] is None for answer in found] == [True, True, False, False]
    golden("plan_infeasible.txt", "".join(f"{answer['reason']}\n" for answer in found))


def test_plan_with_parked_replicas_and_two_variants(golden: Golden) -> None:
    Path("two.yaml").write_text(
        "cluster: {cores: 8}\n"
        "models: {m: {variants: {\n"
        "  v: {latency: {alpha_ms: 30}, accuracy: 0.9}, w: {latency: {alpha_ms: 10}, accuracy: 0.5}}}}\n"
        "services: {s: {slo: {latency: 200ms}, pipeline: {a: {model: m}, b: {model: m, after: [a]}}}}\n"
        "policy: steelyard\n"
    )
    golden("plan_parked.txt", output("plan", "two.yaml", "--rate", "140"))


def test_simulate(golden: Golden) -> None:
    asked = [
        "simulate",
        "spec.yaml",
        "--trace",
        "video=trace.txt",
        "--policy",
        "fixed,static",
        "--seeds",
        "2",
    ]
    asked += ["--processes", "1", "--trace-gaps", "hold", "--trace-slice", "1:5", "--trace-scale", "1.5"]
    golden("simulate.json", steady(output(*asked, "--json", "-")))
    golden("simulate.txt", output(*asked))


def test_simulate_marked_requests(golden: Golden) -> None:
    asked = ("simulate", "spec.yaml", "--trace", "marked.csv", "--cold", "--json", "-")
    golden("simulate_marked.json", steady(output(*asked)))


@pytest.mark.slow
def test_everything_but_the_wall_clock_repeats_on_any_number_of_processes() -> None:
    asked = ["simulate", "spec.yaml", "--trace", "video=trace.txt", "--policy", "fixed,static", "--json", "-"]
    assert steady(output(*asked, "--processes", "1")) == steady(output(*asked, "--processes", "2"))


PLAN = ("plan", "spec.yaml", "--service", "video", "--rate", "5")
SIMULATE = ("simulate", "spec.yaml", "--trace", "video=trace.txt")

# Options beside a command's, files in place of the usual ones, and what is replaced in the spec, and by what.
MISTAKES: list[tuple[tuple[str, ...], dict[str, str], dict[str, str]]] = [
    (("plan", "spec.yaml", "--rate", "5"), {}, {}),
    (("plan", "spec.yaml", "--rate", "5", "--service", "vidoe"), {}, {}),
    (("plan", "spec.yaml", "--service", "video", "--rate", "-1"), {}, {}),
    (("plan", "spec.yaml", "--service", "video", "--rate", "nan"), {}, {}),
    ((*PLAN, "--policy", "steelyrad"), {}, {}),
    ((*PLAN, "--slo", "50ms"), {}, {}),
    (PLAN, {}, {"policy: fixed": "policy: fixd"}),
    (PLAN, {}, {"replicas: 3": "replicsa: 3"}),
    ((*SIMULATE, "--policy", "fixed,steelyrad"), {}, {}),
    ((*SIMULATE, "--policy", "fixed,,static"), {}, {}),
    ((*SIMULATE, "--policy", "fixed,fixed"), {}, {}),
    ((*SIMULATE, "--seeds", "0"), {}, {}),
    ((*SIMULATE, "--html", "no/such/folder.html"), {}, {}),
    ((*SIMULATE, "--json", "no/such/folder.json"), {}, {}),
    # traces
    (SIMULATE, {"trace.txt": ""}, {}),
    (SIMULATE, {"trace.txt": "\n\n"}, {}),
    (SIMULATE, {"trace.txt": "3\n-3\n"}, {}),
    (SIMULATE, {"trace.txt": "3\nnan\n"}, {}),
    (SIMULATE, {"trace.txt": "3\n2.5\n"}, {}),
    (SIMULATE, {"trace.txt": "t_s,count\n1e9,3\n"}, {}),
    (SIMULATE, {"trace.txt": "t_s,count\n"}, {}),
    (SIMULATE, {"trace.txt": "t_s,count\n1\n"}, {}),
    (SIMULATE, {"trace.txt": "t_s,count\n1,2,3\n"}, {}),
    (SIMULATE, {"trace.txt": "t_s,count,count\n1,2,3\n"}, {}),
    (SIMULATE, {"trace.txt": "1000000000\n"}, {}),
    ((*SIMULATE, "--trace-scale", "1e9"), {}, {}),
    ((*SIMULATE, "--trace-gaps", "hodl"), {}, {}),
    ((*SIMULATE, "--trace-slice", "4:9"), {}, {}),
    ((*SIMULATE, "--trace-slice", "4"), {}, {}),
    ((*SIMULATE, "--trace-scale", "-1"), {}, {}),
    ((*SIMULATE, "--trace-scale", "nan"), {}, {}),
    ((*SIMULATE, "--trace", "video=marked.csv"), {}, {}),
    (("simulate", "spec.yaml", "--trace", "vidoe=trace.txt"), {}, {}),
    (("simulate", "spec.yaml", "--trace", "trace.txt"), {}, {}),
    (("simulate", "spec.yaml", "--trace", "gone.txt"), {}, {}),
    (("simulate", "spec.yaml", "--trace", "marked.csv"), {"marked.csv": MARKED.replace("video", "vdeo")}, {}),
    (("simulate", "spec.yaml", "--trace", "marked.csv"), {"marked.csv": MARKED.replace("gold", "glod")}, {}),
    (
        ("simulate", "spec.yaml", "--trace", "marked.csv"),
        {"marked.csv": MARKED.replace("150,2", "150,999")},
        {},
    ),
    (("simulate", "spec.yaml", "--trace", "marked.csv"), {"marked.csv": MARKED.replace("150,2", "0,2")}, {}),
    (("simulate", "spec.yaml", "--trace", "labels=marked.csv"), {"marked.csv": "t_s,service\n1,video\n"}, {}),
    # specs
    (SIMULATE, {}, {"latency: 400ms": "latency: 20ms"}),
    (
        SIMULATE,
        {},
        {
            "cores: 6}, {name: west, cores: 4}": "cores: 1}",
            "label: {model": "l: &l {model",
            "classifier}\npolicies": "classifier}\n      b: *l\n      c: *l\npolicies",
        },
    ),
    (SIMULATE, {}, {"classes: {gold": "cores: {max: 0.3}\n    classes: {gold"}),
    (SIMULATE, {}, {"detect.boxes: 2": "detect.boxes: {mean: {fine: 2.5, fien: 2}}"}),
    (SIMULATE, {}, {"detect.boxes: 2": "detect.boxes: 0"}),
    (SIMULATE, {}, {"    items: {detect.boxes: 2}\n": ""}),
    (SIMULATE, {}, {"fine: {latency: {alpha_ms: 20, zeta_ms: 2}, ": "fine: {runtime: sleep, "}),
    (SIMULATE, {}, {"fine: {latency: {alpha_ms: 20, zeta_ms: 2}, ": "fine: {latency: {table: t.csv}, "}),
    (SIMULATE, {}, {"alpha_ms: 20": "alpha_ms: .nan"}),
    (SIMULATE, {}, {"alpha_ms: 60": "alpha_ms: 1e400"}),
    (SIMULATE, {}, {"accuracy: 0.9, batch_max: 4": "accuracy: 0.9, batch_max: 100000000"}),
    (SIMULATE, {}, {"accuracy: 0.9": "accuracy: -0.1"}),
    (SIMULATE, {}, {"accuracy: 0.9": "accuracy: 1.01"}),
    (SIMULATE, {}, {"detect: {model: detector}": "detect: {model: detector, after: [classify]}"}),
    (SIMULATE, {}, {"each: detect.boxes": "each: detetc.boxes"}),
    (SIMULATE, {}, {"detect.boxes: 2": "detect.boxes: 1e9"}),
    (SIMULATE, {}, {"policy: fixed": "policy: infadapter"}),
    (SIMULATE, {}, {"policy: fixed": "policy: proteus"}),
    (
        SIMULATE,
        {"t.csv": "batch,cores,latency_ms\n1000000,1,5\n"},
        {"fine: {latency: {alpha_ms: 20, zeta_ms: 2}, ": "fine: {latency: {table: t.csv}, "},
    ),
    (SIMULATE, {}, {"zeta_ms: 2}": "zeta_ms: -9}"}),
]


def line_of(arguments: tuple[str, ...], files: dict[str, str], changes: dict[str, str]) -> str:
    """What is printed of one mistake, with the folder as it was before."""
    text = SPEC
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after, 1)
    now = {"spec.yaml": text, "trace.txt": "8\n10\n20\n", "marked.csv": MARKED, "t.csv": TABLE, **files}
    for name, content in now.items():
        Path(name).write_text(content)
    result = runner.invoke(app, list(arguments))
    assert (result.exit_code, result.stdout) == (2, ""), (arguments, changes, result.output)
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


TABLE = "batch,cores,latency_ms\n1,1,20\n4,1,nan\n"


def test_mistakes(golden: Golden) -> None:
    golden("planning_errors.txt", "".join(line_of(*mistake) for mistake in MISTAKES))


def test_gaps_are_said(golden: Golden) -> None:
    texts = []
    for gaps in ("silence", "hold"):
        asked = ["simulate", "spec.yaml", "--trace", "video=trace.txt", "--trace-gaps", gaps]
        result = runner.invoke(app, asked)
        assert result.exit_code == 0
        texts.append(result.stderr)
    golden("gaps.txt", "".join(texts))
