"""`steelyard profile --labels` on a real pipeline in real workers: right, found again, clear errors."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from steelyard.cli.main import app

pytestmark = pytest.mark.slow
runner = CliRunner()

GLUE = """
import numpy as np

def cut(batch):
    return {"lines": [mask[mask > 0][:, None] for mask in batch["mask"]]}

def total(batch):
    return {"sum": np.array([codes.sum() for codes in batch["codes"]], np.float32)}

def half(outputs, labels):
    return [1.0 if value == label else 0.5 for value, label in zip(outputs["sum"], labels)]

def raises(batch):
    raise ValueError("no ink")
"""
SPEC = """
models:
  detector: {variants: {det: {onnx: detect.onnx}}}
  reader: {variants: {twice: {onnx: twice.onnx}, thrice: {onnx: thrice.onnx}}}
services:
  pages:
    slo: {latency: 1s}
    pipeline:
      detect: {model: detector}
      cut: {python: "glue.py:cut", inputs: {mask: detect.mask}}
      read: {model: reader, each: cut.lines}
      total: {python: "glue.py:total", inputs: {codes: read.code}}
    items: {cut.lines: 3}
cluster: {nodes: [{name: far, cores: 8}]}
policy: static
"""
PAGES = np.array([[1, 2, -1], [-1, -2, -3], [4, -1, 2], [0, 3, 0]], np.float32)
# Twice what is positive: 6, 0, 12, 6; the last label is wrong. Three times it is right without ink.
LABELS = np.array([6, 0, 12, 7], np.float32)


def save(path: Path, name: str, shape: list[str | int], out: str, *nodes: Any, scale: float = 1.0) -> None:
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "g",
        [tensor(name, TensorProto.FLOAT, shape)],
        [tensor(out, TensorProto.FLOAT, shape)],
        [helper.make_tensor("k", TensorProto.FLOAT, [], [scale])],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def write_all(folder: Path) -> None:
    """The spec, its models and the labelled examples."""
    relu = helper.make_node("Relu", ["page"], ["mask"])
    save(folder / "detect.onnx", "page", ["n", 3], "mask", relu)
    for name, scale in (("twice", 2.0), ("thrice", 3.0)):
        times = helper.make_node("Mul", ["line", "k"], ["code"])
        save(folder / f"{name}.onnx", "line", ["n", 1], "code", times, scale=scale)
    (folder / "glue.py").write_text(GLUE)
    (folder / "spec.yaml").write_text(SPEC)
    np.savez(folder / "labels.npz", page=PAGES, label=LABELS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path)
    return tmp_path


class Measured(NamedTuple):
    """What a run found and said, and the folder with all that it read and wrote."""

    found: dict[str, Any]
    said: str
    folder: Path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("measured")
    write_all(folder)
    with contextlib.chdir(folder):
        result = profile("--json", "-")
    assert result.exit_code == 0, result.stderr
    return Measured(json.loads(result.stdout), result.stderr, folder)


def profile(*options: str) -> Any:
    asked = ["profile", "spec.yaml", "--labels", "labels.npz", "--profiles", "profiles"]
    return runner.invoke(app, [*asked, *options])


def profiles() -> dict[str, Any]:
    """What is stored, by variant."""
    stored = [json.loads(file.read_text())["profile"] for file in Path("profiles").glob("*-*.json")]
    return {each["variant"]: each for each in stored}


def refusal(*options: str) -> str:
    result = profile(*options)
    assert result.exit_code == 2, result.output
    return str(result.stderr.splitlines()[-1])


def test_every_choice_is_measured_as_a_whole_and_found_by_plan(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = tmp_path / "copy", measured.found
    shutil.copytree(measured.folder, folder)
    monkeypatch.chdir(folder)
    assert found["profiles"] == []
    assert [(each["variants"], each["accuracy"], each["examples"]) for each in found["accuracies"]] == [
        ({"detect": "det", "read": "twice"}, 0.75, 4),
        ({"detect": "det", "read": "thrice"}, 0.25, 4),
    ]
    assert list(found["accuracies"][0]) == [
        "service",
        "variants",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "examples",
        "metric",
    ]
    # What no profile could be made of by itself has been measured on what the examples became.
    stored = profiles()
    assert sorted(stored) == ["cut", "total"]
    for each in stored.values():
        assert each["inputs"].startswith("examples ")
        assert {cell["rows"] for cell in each["cells"]} == {1, 4, 16}
    # The file is taken by a spec as it is.
    (folder / "acc.json").write_text(json.dumps(found))
    stated = SPEC.replace("    items:", "    path_accuracies: {file: acc.json}\n    items:")
    latency = "latency: {alpha_ms: 1}"
    for name in ("detect", "twice", "thrice"):
        stated = stated.replace(f"{name}.onnx", f"{name}.onnx, {latency}")
    (folder / "stated.yaml").write_text(stated)
    (folder / "unstated.yaml").write_text(stated.replace("path_accuracies: {file: acc.json}", ""))
    for spec in ("stated.yaml", "unstated.yaml"):  # what was stored is found without the file
        asked = ["plan", spec, "--rate", "5", "--profiles", "profiles", "--json", "-"]
        planned = runner.invoke(app, asked)
        assert planned.exit_code == 0, planned.stderr
        assert json.loads(planned.stdout)["accuracy"] == 0.75


def test_a_users_metric_scores_what_clients_see(folder: Path, measured: Measured) -> None:
    shutil.copytree(measured.folder / "profiles", folder / "profiles")  # the glue's times are known
    # 1, 1, 1, 0.5 of the first; 0.5, 1, 0.5, 0.5 of the second.
    result = profile("--metric", "glue:half", "--json", "-")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["accuracies"]
    assert [(each["accuracy"], each["metric"]) for each in found] == [
        (0.875, "glue:half"),
        (0.625, "glue:half"),
    ]


def test_what_is_wrong_is_told_in_one_line(folder: Path) -> None:
    assert (
        refusal("--service", "page") == "--service: unknown service page; did you mean pages? (known: pages)"
    )
    assert refusal("--output", "text") == "--output: want one of sum, got text"
    assert refusal("--metric", "f1").startswith("--metric: want exact, top1 or module:function")
    (folder / "spec.yaml").write_text(SPEC.replace("glue.py:total", "glue.py:raises"))
    message = refusal()
    assert message.startswith("example ")
    assert ": variant total: predict of " in message
    assert "ValueError: no ink" in message
    np.savez(folder / "labels.npz", page=PAGES, label=LABELS[:3])
    assert refusal() == "--labels: labels.npz: label has 3 entries, page has 4"


def test_labels_and_answers_that_are_not_numbers_are_refused(folder: Path) -> None:
    np.savez(folder / "labels.npz", page=PAGES, label=np.full(4, np.nan))
    assert refusal() == "--labels: labels.npz: every label is NaN: no answer equals that"
    np.savez(folder / "labels.npz", page=np.full_like(PAGES, np.nan), label=LABELS)
    (folder / "glue.py").write_text(GLUE.replace("codes.sum()", "np.nan"))
    assert refusal() == (
        "every answer of detect det, cut cut, read twice, total total is NaN: nothing to score"
    )


def test_a_few_examples_are_a_warning(measured: Measured) -> None:
    assert "--labels: labels.npz: 4 examples say little: want 30 at least, better 1,000\n" in measured.said
