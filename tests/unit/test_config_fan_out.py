"""How many rows each stage is given for each row of the request."""

from pathlib import Path

import pytest

from steelyard.config.fan_out import fan_outs
from steelyard.config.load import read_spec
from steelyard.config.pipeline import stage_order
from steelyard.core.errors import SpecError


def rows(pipeline: str, service: str = "") -> dict[str, int]:
    text = (
        "models: {m: {variants: {v: {onnx: m.onnx}, w: {onnx: w.onnx}}}}\n"
        f"services:\n  s: {{slo: {{latency: 1s}}, pipeline: {pipeline}{service}}}\n"
    )
    loaded = read_spec(text, "spec.yaml", Path())
    spec, path = loaded.spec.services["s"], ("services", "s")
    return fan_outs(spec, stage_order(spec, loaded.source, path), loaded.source, path)


def refusal(pipeline: str, service: str = "") -> str:
    with pytest.raises(SpecError) as raised:
        rows(pipeline, service)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_chain_hands_on_what_it_was_given() -> None:
    assert rows("{a: {model: m}, b: {model: m, after: [a]}}") == {"a": 1, "b": 1}


def test_counts_multiply_along_the_items_and_a_join_waits_for_all_of_them() -> None:
    # 6 lines a page, 2 words a line: 12 words; the join is given one row with all of them.
    pipeline = (
        "{detect: {model: m}, read: {model: m, each: detect.lines}, split: {model: m, each: read.words}, "
        "join: {model: m, inputs: {x: split.y}}}"
    )
    found = rows(pipeline, ", items: {detect.lines: 6, read.words: 2}")
    assert found == {"detect": 1, "read": 6, "split": 12, "join": 1}


def test_a_stages_own_count_is_for_each_row_of_its_first_input() -> None:
    pipeline = "{a: {model: m, fan_out: 2}, b: {model: m, after: [a], fan_out: 3}, c: {model: m, after: [b]}}"
    # 2 from the request, 3 for each of them; c waits for all.
    assert rows(pipeline) == {"a": 2, "b": 6, "c": 1}


def test_each_row_goes_its_own_way_with_a_count_of_one() -> None:
    pipeline = "{a: {model: m, fan_out: 4}, b: {model: m, after: [a], fan_out: 1}}"
    assert rows(pipeline) == {"a": 4, "b": 4}


@pytest.mark.parametrize(
    ("pipeline", "service", "message"),
    [
        (
            "{a: {model: m}, b: {model: m, each: a.lines}}",
            "",
            (
                "spec.yaml:3: services.s.pipeline.b.each: nothing says how many a.lines has: "
                "give items: {a.lines: 6}, for example"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, each: a.lines}}",
            ", items: {a.lines: {mean: 6}}",
            (
                'spec.yaml:3: services.s.items["a.lines"]: plan and simulate know fixed whole counts so far: '
                "give a plain number in place of a poisson distribution"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, each: a.lines}}",
            ", items: {a.lines: {mean: {v: 6, w: 5}, distribution: fixed}}",
            (
                'spec.yaml:3: services.s.items["a.lines"]: plan and simulate know fixed whole counts so far: '
                "give one number for all variants, got 2"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, each: a.lines}}",
            ", items: {a.lines: 6.1}",
            (
                'spec.yaml:3: services.s.items["a.lines"]: plan and simulate know fixed whole counts so far: '
                "want a whole number of at least 1, got 6.1"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, after: [a], fan_out: 0.5}}",
            "",
            (
                "spec.yaml:3: services.s.pipeline.b.fan_out: plan and simulate know fixed whole counts so "
                "far: want a whole number of at least 1, got 0.5"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, each: a.lines, fan_out: 2}}",
            ", items: {a.lines: 2}",
            (
                "spec.yaml:3: services.s.pipeline.b.fan_out: goes without items of a.lines: "
                "they say the same, give one"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, after: [a], fan_out: 5000}}",
            "",
            (
                "spec.yaml:3: services.s.pipeline.b: want at most limits.queue_rows (4096) rows a request, "
                "got 5000"
            ),
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(pipeline: str, service: str, message: str) -> None:
    assert refusal(pipeline, service) == message
