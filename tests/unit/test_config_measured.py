"""Accuracies that were measured stand in where the spec declares none, found by content and wiring."""

from pathlib import Path

import pytest

from steelyard.config.load import LoadedSpec, load_spec
from steelyard.config.measured import content_hash, wiring_hash
from steelyard.config.planning import blueprint
from steelyard.config.stages import candidates
from steelyard.core.types import PathAccuracy, Service
from steelyard.profiler.accuracies import Accuracy, AccuracyStore, Measurement

MODELS = """models:
  m:
    variants:
      v: {python: "a.py:V", latency: {alpha_ms: 1}}
      w: {python: "b.py:W", latency: {alpha_ms: 1}}
  n: {variants: {x: {python: "c.py:X", latency: {alpha_ms: 1}}}}
"""
SINGLE = MODELS + "services: {s: {slo: {latency: 1s}, pipeline: {a: {model: m}}}}\n"
PAIR = (
    MODELS + "services: {s: {slo: {latency: 1s}, pipeline: {a: {model: m}, "
    "g: {python: 'g.py:f', inputs: {y: a.y}}, b: {model: n, inputs: {y: g.y}}}}}\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcg":
        (tmp_path / f"{name}.py").write_text(f"# {name}\n")
    return tmp_path


def loaded(folder: Path, text: str) -> LoadedSpec:
    (folder / "spec.yaml").write_text(text)
    return load_spec(folder / "spec.yaml")


def save(spec: LoadedSpec, folder: Path, chosen: dict[str, str], accuracy: float) -> None:
    """Store an accuracy of one choice, as `steelyard profile --labels` would."""
    pipeline = spec.spec.services["s"].pipeline
    contents = {
        stage: content_hash(spec, candidate, pipeline[stage].model or stage)
        for stage, variant in chosen.items()
        for candidate in candidates(spec, "s", stage, pipeline[stage])
        if candidate.name == variant
    }
    models = {stage: variant for stage, variant in chosen.items() if pipeline[stage].model}
    found = Accuracy("s", models, accuracy, accuracy, accuracy, 100, "exact")
    AccuracyStore(folder).save([Measurement(wiring_hash(spec, "s"), contents, found)])


def made(spec: LoadedSpec, folder: Path) -> Service:
    return blueprint(spec, cores_available=8, profiles=folder).services["s"]


def test_a_service_of_one_stage_has_accurate_variants(folder: Path) -> None:
    spec = loaded(folder, SINGLE)
    save(spec, folder, {"a": "v"}, 0.9)
    assert [v.accuracy for v in made(spec, folder).stages[0].variants] == [0.9, None]
    # What the spec says is believed.
    stated = loaded(folder, SINGLE.replace("alpha_ms: 1}}", "alpha_ms: 1}, accuracy: 0.5}", 1))
    assert [v.accuracy for v in made(stated, folder).stages[0].variants] == [0.5, None]


def test_a_pipeline_has_accurate_paths(folder: Path) -> None:
    spec = loaded(folder, PAIR)
    save(spec, folder, {"a": "w", "g": "g", "b": "x"}, 0.8)
    assert made(spec, folder).path_accuracies == (PathAccuracy({"a": "w", "b": "x"}, 0.8),)
    stated = PAIR.replace("pipeline:", "path_accuracies: [{variants: {a: v}, accuracy: 0.7}], pipeline:")
    assert made(loaded(folder, stated), folder).path_accuracies == (PathAccuracy({"a": "v"}, 0.7),)


def test_names_may_change_but_not_contents_or_wires(folder: Path) -> None:
    spec = loaded(folder, PAIR)
    save(spec, folder, {"a": "w", "g": "g", "b": "x"}, 0.8)
    renamed = loaded(folder, PAIR.replace("w: {python", "small: {python"))
    assert made(renamed, folder).path_accuracies == (PathAccuracy({"a": "small", "b": "x"}, 0.8),)
    rewired = loaded(folder, PAIR.replace("inputs: {y: g.y}", "inputs: {y: a.y}"))
    assert made(rewired, folder).path_accuracies == ()
    (folder / "g.py").write_text("# glue decides, too\n")
    assert made(loaded(folder, PAIR), folder).path_accuracies == ()
