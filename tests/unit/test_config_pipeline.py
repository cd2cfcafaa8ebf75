"""References between a pipeline's stages."""

from pathlib import Path

import pytest

from steelyard.config.load import LoadedSpec, read_spec
from steelyard.config.pipeline import stage_order, tensor_of
from steelyard.core.errors import SpecError


def loaded(pipeline: str, service: str = "") -> LoadedSpec:
    text = (
        "models: {m: {variants: {v: {onnx: m.onnx}, w: {onnx: w.onnx}}}}\n"
        f"services: {{s: {{slo: {{latency: 1s}}, pipeline: {pipeline}{service}}}}}\n"
    )
    return read_spec(text, "spec.yaml", Path())


def order(pipeline: str) -> tuple[str, ...]:
    spec = loaded(pipeline)
    return stage_order(spec.spec.services["s"], spec.source, ("services", "s"))


def test_a_stage_comes_after_everything_it_refers_to() -> None:
    # d waits for b through `after`, b for a through `inputs`, c for b through `each` and `when`.
    stages = order(
        "{d: {model: m, after: [b]}, c: {model: m, each: b.y, when: 'b.ok > 0.5'}, "
        "b: {model: m, inputs: {x: a.y}}, a: {model: m}}"
    )
    assert stages.index("a") < stages.index("b") < stages.index("d")
    assert stages.index("b") < stages.index("c")


def test_a_stage_that_refers_to_itself_is_a_cycle() -> None:
    with pytest.raises(SpecError, match="the stages form a cycle: a -> a"):
        loaded("{a: {model: m, inputs: {x: a.y}}}")


def test_a_condition_orders_stages_too() -> None:
    with pytest.raises(SpecError, match="the stages form a cycle: "):
        loaded("{a: {model: m, when: 'b.y > 0'}, b: {model: m, inputs: {x: a.y}}}")


@pytest.mark.parametrize("condition", ["a.y > 0.5", "a.y>=-1", "a.y == .5", "a.y != 1e-3", "a.y < +2"])
def test_conditions_compare_a_tensor_with_a_number(condition: str) -> None:
    loaded(f"{{a: {{model: m}}, b: {{model: m, inputs: {{x: a.y}}, when: '{condition}'}}}}")


@pytest.mark.parametrize("condition", ["a.y", "a.y > b.y", "0.5 < a.y", "a.y > 0.5 and a.z > 1", ""])
def test_other_conditions_are_refused(condition: str) -> None:
    with pytest.raises(SpecError, match=r"want a condition such as|want exactly one|want 'stage"):
        loaded(f"{{a: {{model: m}}, b: {{model: m, inputs: {{x: a.y}}, when: '{condition}'}}}}")


def test_a_reference_splits_at_its_first_dot() -> None:
    assert tensor_of("detect.layer.3.out") == ("detect", "layer.3.out")


def test_items_may_depend_on_the_variant_of_any_stage_before_them() -> None:
    pipeline = "{a: {model: m}, g: {python: 'p:f', inputs: {x: a.y}}, c: {model: m, each: g.lines}}"
    items = loaded(pipeline, ", items: {g.lines: {mean: {v: 6.1, w: 5.2}}}").spec.services["s"].items
    assert items["g.lines"].mean == {"v": 6.1, "w": 5.2}


def test_a_plain_number_of_items_is_fixed() -> None:
    pipeline = "{a: {model: m}, c: {model: m, each: a.lines}}"
    items = loaded(pipeline, ", items: {a.lines: 3}").spec.services["s"].items["a.lines"]
    assert (items.mean, items.distribution) == ({"": 3.0}, "fixed")
