"""`steelyard profile --examples`: each stage of a real pipeline is measured on what it is really given."""

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

# The glue refuses what the stage before it would never make: a random mask. `find` marks the rows of a
# page that have ink: those are its lines.
GLUE = """
import numpy as np

def cut(batch):
    assert all(set(np.unique(mask)) <= {0.0, 1.0} for mask in batch["mask"]), "no mask"
    return {"lines": [page[mask > 0.5] for mask, page in zip(batch["mask"], batch["page"])]}

def join(batch):
    assert isinstance(batch["ink"], list), "one array a page"
    return {"sum": np.array([ink.sum() for ink in batch["ink"]], np.float32)}
"""
SPEC = """
models:
  finder: {variants: {find: {onnx: find.onnx, batch_max: 2, cores_max: 1}}}
  reader:
    variants:
      good: {onnx: read.onnx, example: {line: {shape: [4]}}, batch_max: 2, accuracy: 0.9}
      bad: {onnx: read.onnx, example: {line: {shape: [4]}}, batch_max: 2, accuracy: 0.5, options: {number: 2}}
services:
  pages:
    slo: {latency: 1s}
    inputs: {page: {dtype: FP32, shape: [-1, 3, 4]}}
    pipeline:
      find: {model: finder, inputs: {page: request.page}}
      cut: {python: "glue.py:cut", inputs: {mask: find.mask, page: request.page}, batch_max: 2}
      read: {model: reader, each: cut.lines, inputs: {line: cut.lines}}
      join: {python: "glue.py:join", inputs: {ink: read.ink}, batch_max: 2}
    items: {cut.lines: 2}
cluster: {nodes: [{name: far, cores: 8}]}
policy: static
"""
PAGES = np.zeros((3, 3, 4), np.float32)
PAGES[0, :2] = 1  # two lines, none, three
PAGES[2] = 1


def save(path: Path, name: str, out: str, shapes: list[list[str | int]], *nodes: Any) -> None:
    (taken, given), tensor = shapes, helper.make_tensor_value_info
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [-1])
    graph = helper.make_graph(
        list(nodes),
        "g",
        [tensor(name, TensorProto.FLOAT, taken)],
        [tensor(out, TensorProto.FLOAT, given)],
        [axes],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def write_all(folder: Path) -> None:
    """The spec, its models and the examples."""
    largest = helper.make_node("ReduceMax", ["page", "axes"], ["mask"], keepdims=0)
    save(folder / "find.onnx", "page", "mask", [["n", 3, 4], ["n", 3]], largest)
    total = helper.make_node("ReduceSum", ["line", "axes"], ["ink"], keepdims=0)
    save(folder / "read.onnx", "line", "ink", [["n", "width"], ["n"]], total)
    (folder / "glue.py").write_text(GLUE)
    (folder / "spec.yaml").write_text(SPEC)
    np.savez(folder / "pages.npz", page=PAGES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path)
    return tmp_path


class Measured(NamedTuple):
    """What a run said, and where it stored what it measured."""

    said: Any
    profiles: Path


@pytest.fixture(scope="module")
def without_examples(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("without")
    write_all(folder)
    with contextlib.chdir(folder):
        return Measured(run(), folder / "profiles")


def run(*options: str) -> Any:
    asked = ["profile", "spec.yaml", "--quick", "--profiles", "profiles"]
    return runner.invoke(app, [*asked, *options])


def test_each_stage_is_measured_on_what_the_ones_before_it_make(folder: Path) -> None:
    found = run("--examples", "pages.npz", "--json", "-")
    assert found.exit_code == 0, found.stderr
    rows = json.loads(found.stdout)["profiles"]
    assert {row["variant"] for row in rows} == {"find", "cut", "good", "bad", "join"}
    (source,) = {row["inputs"] for row in rows}
    assert source.startswith("examples ")
    assert {(row["variant"], row["batch"]) for row in rows} >= {
        ("cut", 1),
        ("cut", 2),
        ("join", 2),
        ("good", 2),
    }

    # The same examples again: nothing is left to do. Without any: random ones would be worse.
    for options in (("--examples", "pages.npz"), ()):
        again = run(*options)
        assert again.exit_code == 0, again.stderr
        assert "measuring" not in again.stderr
    assert f"; on {source};" in again.stdout


def test_without_examples_what_is_made_up_is_said_to_be(without_examples: Measured) -> None:
    found = without_examples.said
    assert found.exit_code == 0, found.stderr
    assert "pages.cut: a Python stage without a signature is not measured; give its latency" in found.stderr
    assert "measured on random inputs" in found.stdout


def test_what_no_example_reaches_is_said(folder: Path, without_examples: Measured) -> None:
    shutil.copytree(without_examples.profiles, folder / "profiles")  # the readers' are what is wanted here
    np.savez(folder / "pages.npz", page=PAGES[1:2])  # a page without lines: nothing to read
    found = run("--examples", "pages.npz", "--json", "-")
    assert found.exit_code == 0, found.stderr
    assert "pages.read: none of the examples reaches it: measured on random inputs" in found.stderr
    inputs = {row["variant"]: row["inputs"] for row in json.loads(found.stdout)["profiles"]}
    assert inputs["good"] == "random"
    assert inputs["cut"] == inputs["join"] != "random"


def test_what_is_wrong_with_examples_is_one_line(folder: Path) -> None:
    for options, line in (
        (("--examples", "gone.npz"), "--examples: cannot read gone.npz: No such file or directory"),
        (
            ("--examples", "pages.npz", "--service", "page"),
            "--service: unknown service page; did you mean pages? (known: pages)",
        ),
    ):
        found = run(*options)
        assert (found.exit_code, found.stderr.splitlines()[-1]) == (2, line)
    np.savez(folder / "pages.npz", pages=PAGES)
    assert run("--examples", "pages.npz").stderr.splitlines()[-1] == (
        "--examples: pages.npz: unknown input pages; did you mean page? (known: page)"
    )
