"""A mistake in a spec file is one line that names file, line, key and the nearest choice, word for word."""

from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard.config.load import read_spec
from steelyard.core.errors import SpecError

SPEC = (Path(__file__).parent / "data" / "spec.yaml").read_text(encoding="utf-8")

# What is replaced in the full spec, and by what.
MISTAKES = [
    ("version: 1", "version: 2"),
    ("backend: local", "backend: locl"),
    ("cores: auto", "cores: all"),
    ("cores: auto", "cores: 0"),
    ("cores: auto", "cores: 2.5"),
    ("cores: auto", "nodes: []"),
    ("cores: auto", "nodes: [{name: a, cores: 4}, {name: a, cores: 4}]"),
    ("cores: auto", "cores: 4\n  nodes: [{name: a, cores: 4}]"),
    ("cores: auto", "nodes: [{name: a, cores: 4, network: 3}]"),
    ("models:", "modles:"),
    ("variants:\n      small", "variant:\n      small"),
    ("onnx: models/rec.onnx, ", ""),
    ("onnx: models/rec.onnx", "onx: models/rec.onnx"),
    ("onnx: models/rec.onnx", "onnx: models/rec.onnx, python: 'a:B'"),
    ("onnx: models/rec.onnx", "onnx: models/rec.onnx, target: x"),
    ("onnx: models/rec.onnx", "onnx: 5"),
    ("accuracy: 0.97", "accuracy: 97"),
    ("accuracy: 0.97", "accuracy: .nan"),
    ("accuracy: 0.97", "accuracy: high"),
    ("batch_max: 16", "batch_max: 0"),
    ("batch_max: 16", "batch_max: true"),
    ("[3, 48, 320]", "[3, 48, wide]"),
    ("{shape: [3, 48, 320]}", "[3, 48, 320]"),
    ("dim: 2", "dim: 0"),
    ("[160, 320, 640]", "[160, 640, 320]"),
    ("[160, 320, 640]", "[]"),
    ("[CPUExecutionProvider]", "CPUExecutionProvider"),
    ("memory: 300MB", "memory: 300"),
    ("alpha_ms: 148.8", "alpha_ms: -148.8"),
    ("alpha_ms: 148.8", "alpha_ms: .inf"),
    ("alpha_ms: 148.8", "alpha_ms: 148.8, table: x.csv"),
    ("alpha_ms: 148.8, beta_ms: 37.5, gamma_ms: 5.4, zeta_ms: -15.5", "table: missing.csv"),
    ("alpha_ms: 148.8, beta_ms: 37.5, gamma_ms: 5.4, zeta_ms: -15.5", "stat: p95"),
    ("alpha_ms: 148.8, beta_ms: 37.5, gamma_ms: 5.4, zeta_ms: -15.5", "stat: p50, alpha: 3"),
    ("cold_start: 6s", "cold_start: 6"),
    ("services:", "service:"),
    ("  ocr:\n", "  'o c r':\n"),
    ("    slo: {latency: 400ms, quantile: 0.99}\n", ""),
    ("latency: 400ms", "latncy: 400ms"),
    ("latency: 400ms", "latency: -5ms"),
    ("latency: 400ms", "latency: 0ms"),
    ("latency: 400ms", "latency: .nan"),
    ("latency: 400ms", "latency: 400"),
    ("latency: 400ms", "latency:"),
    ("{latency: 400ms, quantile: 0.99}", "400ms"),
    ("quantile: 0.99", "quantile: 99"),
    ("quantile: 0.99", "quantile: 1.0"),
    ("dtype: UINT8", "dtype: uint8"),
    ("model: reader", "model: raeder"),
    ("model: reader, ", ""),
    ("model: reader", "model: reader, python: 'a:b'"),
    ("each: crop.lines", "each: page.lines"),
    ("each: crop.lines", "each: crap.lines"),
    ("each: crop.lines", "each: crop"),
    ("each: crop.lines", "each: crop.lines, after: [detct]"),
    ('when: "crop.legible > 0.5"', 'when: "crop.legible >> 0.5"'),
    ('when: "crop.legible > 0.5"', 'when: "crp.legible > 0.5"'),
    ("request.image}}\n      crop", "request.imge}}\n      crop"),
    ("      detect:", "      request:"),
    ("text: page.text}", "text: pgae.text}"),
    ("small: 6.1", "smal: 6.1"),
    ("small: 6.1", "small: many"),
    ("small: 6.1", "small: -1"),
    ("distribution: poisson", "distribution: posson"),
    ("mean: {small: 6.1, tiny: 5.2}", "mean: {}"),
    ("distribution: poisson}}", "distribution: poisson}, crop.legible: 1.2}"),
    ("each: crop.lines", "each: request.image"),
    ('when: "crop.legible > 0.5"', 'when: "detect.sure > 0.5"'),
    ("inputs: {texts: read.text, boxes: detect.boxes}", "each: read.words"),
    ("inputs: {texts: read.text, boxes: detect.boxes}", "after: [read], fan_out: 2"),
    ('when: "crop.legible > 0.5"', 'when: "crop.legible > 0.5", batch_max: 4'),
    ("weight: 1\n", "weight: 1\n    path_accuracies: 0.9\n"),
    ("weight: 1\n", "weight: 1\n    path_accuracies: [{variants: {detct: tiny}, accuracy: 0.9}]\n"),
    ("weight: 1\n", "weight: 1\n    path_accuracies: [{variants: {detect: tyni}, accuracy: 0.9}]\n"),
    ("weight: 1\n", "weight: 1\n    path_accuracies: [{variants: {crop: x}, accuracy: 0.9}]\n"),
    ("weight: 1\n", "weight: 1\n    path_accuracies: [{variants: {read: base}, accuracy: 1.9}]\n"),
    (
        "weight: 1\n",
        (
            "weight: 1\n    path_accuracies: [{variants: {read: base}, accuracy: 0.9}, "
            "{variants: {read: base}, accuracy: 0.8}]\n"
        ),
    ),
    ("weight: 1\n", "weight: 1\n    path_accuracies: {file: missing.json}\n"),
    ("weight: 1\n", "weight: 1\n    path_accuracies: {flie: missing.json}\n"),
    ("{alpha_ms: 148.8, beta_ms", "{gpu: {cpu: {alpha_ms: 1}}}, options: {beta_ms"),
    ("{alpha_ms: 148.8, beta_ms", "{cpu: {alpha_ms: 2}, gpu: {alpha_ms: -1}}, options: {beta_ms"),
    ("{min: 1, max: 8}", "{min: 9, max: 8}"),
    ("weight: 1\n", "weight: 0\n"),
    ("outputs: {text:", "outputs: {'':"),
    ("weight: 1\n", "weight: 1\n    weight: 2\n"),
    ("accuracy_floor: 0.85", "accuracy_floor: 0.85, cost_max_cores: 20"),
    ("{accuracy_floor: 0.85}", "{}"),
    ("policy: steelyard", "policy: [steelyard]"),
    ("policy: steelyard", "policy: {period: 3s}"),
    ("policy: steelyard", "policy: {steelyard"),
]


def lines() -> str:
    text = []
    for before, after in MISTAKES:
        assert before in SPEC, before
        with pytest.raises(SpecError) as raised:
            read_spec(SPEC.replace(before, after, 1), "spec.yaml", Path())
        text.append(str(raised.value))
    return "\n".join(text) + "\n"


def test_the_specification_of_the_documentation_is_accepted() -> None:
    read_spec(SPEC, "spec.yaml", Path())


def test_spec_errors(golden: Callable[[str, str], None]) -> None:
    text = lines()
    assert text.count("\n") == len(MISTAKES)
    golden("spec_errors.txt", text)
