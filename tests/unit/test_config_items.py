"""Which stages take items, and how many rows each stage is given for each row of the request."""

from pathlib import Path

import pytest

from steelyard.config.items import Taken, planned_rows, taken_items
from steelyard.config.load import LoadedSpec, read_spec
from steelyard.config.notices import notices
from steelyard.config.pipeline import stage_order
from steelyard.core.errors import SpecError
from steelyard.core.types import Condition, Items


def loaded(pipeline: str, service: str = "") -> LoadedSpec:
    text = (
        "models: {m: {variants: {v: {onnx: m.onnx}, w: {onnx: w.onnx}}}}\n"
        f"services:\n  s: {{slo: {{latency: 1s}}, pipeline: {pipeline}{service}}}\n"
    )
    return read_spec(text, "spec.yaml", Path())


def planned(pipeline: str, service: str = "") -> dict[str, tuple[float, Items | None]]:
    read = loaded(pipeline, service)
    spec, path = read.spec.services["s"], ("services", "s")
    names = {
        stage: ("v", "w") if spec.pipeline[stage].model else (stage,)
        for stage in stage_order(spec, read.source, path)
    }
    return {name: tuple(rows) for name, rows in planned_rows(spec, names, read.source, path).items()}  # type: ignore[misc]


def rows(pipeline: str, service: str = "") -> dict[str, float]:
    return {name: fan_out for name, (fan_out, _) in planned(pipeline, service).items()}


def refusal(pipeline: str, service: str = "") -> str:
    with pytest.raises(SpecError) as raised:
        rows(pipeline, service)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_number_of_items_that_nobody_takes_is_told() -> None:
    pipeline = "{a: {model: m}, b: {model: m, each: a.lines, when: 'a.ok > 0'}}"
    spec = loaded(pipeline, ", items: {a.lines: 2, a.ok: 0.5, a.line: 3}").spec
    for command in ("serve", "plan", "simulate"):
        (line,) = notices(spec, command)
        assert line == (
            'services.s.items["a.line"] has no effect: no stage has it in each or when; '
            "did you mean a.lines? (known: a.lines, a.ok)"
        )


def test_a_chain_hands_on_what_it_was_given() -> None:
    assert rows("{a: {model: m}, b: {model: m, after: [a]}}") == {"a": 1, "b": 1}


PAGES = (
    "{detect: {model: m}, crop: {python: 'p:f', inputs: {x: detect.y}}, read: {model: m, each: crop.lines}, "
    "check: {model: m, each: crop.lines, when: 'crop.legible > 0.5'}, join: {model: m, inputs: {x: read.y}}}"
)


def test_items_are_of_the_stage_that_makes_them_and_a_join_waits_for_all() -> None:
    found = planned(PAGES, ", items: {crop.lines: 6.5}")
    assert {name: fan_out for name, (fan_out, _) in found.items()} == {
        "detect": 1,
        "crop": 1,
        "read": 6.5,
        "check": 6.5,
        "join": 1,
    }
    assert found["read"][1] == Items({"": 6.5}, "fixed")
    service = loaded(PAGES).spec.services["s"]
    assert taken_items(service, "read") == Taken("crop", "lines")
    assert taken_items(service, "check") == Taken("crop", "lines", Condition("crop", "legible", ">", 0.5))
    assert taken_items(service, "join") is None


def test_a_condition_alone_selects_rows_of_its_stage() -> None:
    pipeline = "{a: {model: m}, b: {model: m, inputs: {x: request.x}, when: 'a.score<=-1e2'}}"
    assert taken_items(loaded(pipeline).spec.services["s"], "b") == Taken(
        "a", when=Condition("a", "score", "<=", -100.0)
    )
    # As if it always held, unless `items` says for what share of the rows it does.
    assert planned(pipeline)["b"] == (1.0, Items({"": 1.0}, "fixed"))
    assert planned(pipeline, ", items: {a.score: 0.25}")["b"] == (0.25, Items({"": 0.25}, "fixed"))


def test_a_condition_takes_its_share_of_the_items() -> None:
    found = planned(PAGES, ", items: {crop.lines: {mean: 6, distribution: poisson}, crop.legible: 0.9}")
    assert found["read"] == (6.0, Items({"": 6.0}, "poisson"))
    # 0.9 x 6 of a Poisson number is a Poisson number.
    assert found["check"][0] == pytest.approx(5.4)
    assert found["check"][1] is not None
    assert found["check"][1].distribution == "poisson"


def test_means_are_by_variant_of_the_stage_that_makes_the_items() -> None:
    pipeline = "{a: {model: m}, b: {model: m, each: a.lines}}"
    fan_out, items = planned(pipeline, ", items: {a.lines: {mean: {v: 6.1, w: 5.2}}}")["b"]
    # The plan counts on the largest.
    assert fan_out == 6.1
    assert items == Items({"v": 6.1, "w": 5.2, "": 6.1}, "poisson")


def test_means_by_variant_of_a_stage_further_up_count_as_the_largest() -> None:
    fan_out, items = planned(PAGES, ", items: {crop.lines: {mean: {v: 5.2, w: 6.1}}}")["read"]
    assert (fan_out, items) == (6.1, Items({"": 6.1}, "poisson"))


def test_a_count_at_the_stage_is_fixed_and_goes_with_each_or_is_exact() -> None:
    assert planned("{a: {model: m}, b: {model: m, each: a.lines, fan_out: 2.5}}")["b"] == (
        2.5,
        Items({"": 2.5}, "fixed"),
    )
    # Without items a whole number of rows is given to the stage for each row of the one it follows.
    pipeline = "{a: {model: m, fan_out: 2}, b: {model: m, after: [a], fan_out: 3}, c: {model: m, after: [b]}}"
    assert planned(pipeline) == {"a": (2, None), "b": (6, None), "c": (1, None)}
    # Parts of a row cannot be given: they are items, drawn so that the total is kept.
    assert planned("{a: {model: m}, b: {model: m, after: [a], fan_out: 0.5}}")["b"] == (
        0.5,
        Items({"": 0.5}, "fixed"),
    )


NESTED = "and items have none of their own: take those of"


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
        (
            "{a: {model: m}, b: {model: m, each: a.lines}}",
            ", items: {a.lines: 0}",
            "spec.yaml:3: services.s.pipeline.b.each: want more than 0 items a row, got 0",
        ),
        (
            "{a: {model: m}, b: {model: m, each: a.lines}, c: {model: m, each: b.words}}",
            ", items: {a.lines: 2, b.words: 2}",
            (
                f"spec.yaml:3: services.s.pipeline.c.each: b takes items of a, {NESTED} a, "
                "or join them in a stage between"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, each: a.lines}, c: {model: m, after: [b], fan_out: 1}}",
            ", items: {a.lines: 2}",
            (
                f"spec.yaml:3: services.s.pipeline.c.fan_out: b takes items of a, {NESTED} a, "
                "or join them in a stage between"
            ),
        ),
        (
            "{a: {model: m, each: request.lines}}",
            "",
            (
                "spec.yaml:3: services.s.pipeline.a.each: want an output of a stage: "
                "nothing counts items of the request itself"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, after: [a]}, c: {model: m, each: a.lines, when: 'b.ok > 0'}}",
            "",
            (
                "spec.yaml:3: services.s.pipeline.c.when: want an output of a, which makes the items, "
                "got b.ok > 0"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, when: 'a.ok > 0', fan_out: 0.5}}",
            "",
            (
                "spec.yaml:3: services.s.pipeline.b.fan_out: goes with each; the share of rows for which "
                "a.ok > 0 holds is given by items"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, when: 'a.ok > 0'}}",
            ", items: {a.ok: 1.5}",
            (
                'spec.yaml:3: services.s.items["a.ok"]: it is the share for which a condition holds: '
                "want at most 1, got 1.5"
            ),
        ),
        (
            "{a: {model: m}, b: {model: m, when: 'a.ok > 1e999'}}",
            "",
            (
                "spec.yaml:3: services.s.pipeline.b.when: want a condition such as 'crop.legible > 0.5', "
                "got 'a.ok > 1e999'"
            ),
        ),
        (
            "{a: {model: m, fan_out: 0.5}}",
            "",
            (
                "spec.yaml:3: services.s.pipeline.a.fan_out: want an output of a stage: "
                "nothing counts items of the request itself"
            ),
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(pipeline: str, service: str, message: str) -> None:
    assert refusal(pipeline, service) == message
