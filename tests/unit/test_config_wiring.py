"""Pipelines of several stages: where inputs come from, what clients see, and what does not fit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from steelyard.config.load import read_spec
from steelyard.config.resolve import resolve
from steelyard.core.errors import SpecError
from steelyard.core.types import Condition, Input, Items
from steelyard.runtime.base import Signature, TensorSpec, VariantSpec
from steelyard.serve.base import DeployedService, Deployment

Tensors = Mapping[str, tuple[str, Sequence[int]]]


def signature(takes: Tensors, gives: Tensors, *, batchable: bool = True) -> Signature:
    def tensors(given: Tensors) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, dtype, tuple(shape)) for name, (dtype, shape) in given.items())

    return Signature(tensors(takes), tensors(gives), batchable)


UNKNOWN = signature({}, {})
DETECT = signature({"page": ("UINT8", [-1, 480, 640, 3])}, {"mask": ("UINT8", [-1, 480, 640])})
READ = signature(
    {"line": ("UINT8", [-1, 48, 320, 3])}, {"codes": ("INT32", [-1, 40]), "sure": ("FP32", [-1])}
)
MODELS = {"detect.onnx": DETECT, "read.onnx": READ}
SPEC = """models:
  detector: {variants: {det: {onnx: detect.onnx}}}
  reader: {variants: {rec: {onnx: read.onnx}}}
services:
  pages:
    slo: {latency: 1s}
    pipeline:
      detect: {model: detector}
      crop: {python: "glue:crop", inputs: {mask: detect.mask, page: request.page}}
      read: {model: reader, each: crop.lines, when: "crop.legible > 0.5"}
      text: {python: "glue:join", inputs: {codes: read.codes, boxes: crop.boxes}}
    outputs: {text: text.text, mask: detect.mask}
    items: {crop.lines: 6.1}
policy: static
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("detect.onnx", "read.onnx", "other.onnx"):
        (tmp_path / name).touch()
    return tmp_path


def resolved(text: str, folder: Path, signatures: Mapping[str, Signature] = MODELS) -> Deployment:
    def ask(specs: Sequence[VariantSpec]) -> list[Signature | str]:
        return [signatures.get(Path(made.target).name, UNKNOWN) for made in specs]

    return resolve(read_spec(text, "spec.yaml", folder), cores_available=8, ask=ask)


def pages(folder: Path, *changes: tuple[str, str], **signatures: Signature) -> DeployedService:
    text = SPEC
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    known = {**MODELS, **{f"{name}.onnx": found for name, found in signatures.items()}}
    known.update({f"glue:{name}": found for name, found in signatures.items()})
    return resolved(text, folder, known).services["pages"]


def refusal(folder: Path, *changes: tuple[str, str], **signatures: Signature) -> str:
    with pytest.raises(SpecError) as raised:
        pages(folder, *changes, **signatures)
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix("spec.yaml:")


def test_a_pipeline_becomes_stages_with_wires_and_items(folder: Path) -> None:
    found = pages(folder)
    stages = {stage.name: stage for stage in found.served.service.stages}
    assert list(stages) == list(found.stages) == ["detect", "crop", "read", "text"]
    assert stages["detect"].inputs == (Input("page", "", "page"),)
    assert stages["crop"].inputs == (Input("mask", "detect", "mask"), Input("page", "", "page"))
    read = stages["read"]
    assert (read.items_of, read.each, read.when) == ("crop", "lines", Condition("crop", "legible", ">", 0.5))
    assert (read.fan_out, read.items) == (6.1, Items({"": 6.1}, "fixed"))
    assert read.inputs == (Input("line", "crop", "lines"),)
    assert stages["text"].after == ("read", "crop")
    assert (stages["text"].items_of, stages["text"].fan_out) == ("", 1.0)


def test_clients_see_one_model(folder: Path) -> None:
    found = pages(folder)
    assert found.outputs == {"text": ("text", "text"), "mask": ("detect", "mask")}
    assert found.served.service.answers == ("detect", "text")
    # The request's input is the detector's; what the Python stage answers is known when it does.
    assert found.served.signature.inputs == (TensorSpec("page", "UINT8", (-1, 480, 640, 3)),)
    assert found.served.signature.outputs == ()
    known = pages(folder, (", mask: detect.mask}", "}"), join=signature({}, {"text": ("BYTES", [-1])}))
    assert known.served.signature.outputs == (TensorSpec("text", "BYTES", (-1,)),)
    # The last stage alone answers: nothing to say.
    assert known.served.service.answers == ()


def test_without_outputs_those_of_the_stage_that_ends_the_pipeline_answer(folder: Path) -> None:
    change = ("    outputs: {text: text.text, mask: detect.mask}\n", "")
    assert pages(folder, change).outputs == {}
    join = signature({}, {"text": ("BYTES", [-1])})
    assert pages(folder, change, join=join).outputs == {"text": ("text", "text")}
    assert refusal(folder, change, ("inputs: {codes: read.codes, boxes: crop.boxes}", "after: [detect]")) == (
        "7: services.pages.pipeline: read, text all end it: say what makes the answer: "
        "outputs: {NAME: read.OUTPUT}"
    )


def test_a_stage_after_others_takes_their_first_outputs(folder: Path) -> None:
    chain = ("inputs: {codes: read.codes, boxes: crop.boxes}", "after: [detect]")
    found = pages(folder, chain, ("outputs: {text: text.text, mask: detect.mask}", "outputs: {t: text.t}"))
    inputs = {stage.name: stage.inputs for stage in found.served.service.stages}
    assert inputs["text"] == (Input("mask", "detect", "mask"),)
    assert refusal(folder, ("inputs: {codes: read.codes, boxes: crop.boxes}", "after: [crop]")) == (
        "11: services.pages.pipeline.text.after: crop does not say what it gives: "
        "give inputs: {...: crop.OUTPUT}"
    )


def test_stages_that_take_the_same_items_take_them_from_each_other(folder: Path) -> None:
    orient = signature({"line": ("UINT8", [-1, 48, 320, 3])}, {"angle": ("INT64", [-1])})
    read = signature(
        {"line": ("UINT8", [-1, 48, 320, 3]), "angle": ("INT64", [-1])}, {"codes": ("INT32", [-1, 40])}
    )
    change = (
        'read: {model: reader, each: crop.lines, when: "crop.legible > 0.5"}',
        (
            "orient: {python: 'glue:orient', each: crop.lines}\n"
            "      read: {model: reader, each: crop.lines, inputs: {angle: orient.angle}}"
        ),
    )
    found = pages(folder, change, orient=orient, read=read)
    stages = {stage.name: stage for stage in found.served.service.stages}
    assert stages["orient"].inputs == (Input("line", "crop", "lines"),)
    assert stages["read"].inputs == (Input("line", "crop", "lines"), Input("angle", "orient", "angle"))
    some = ("each: crop.lines, inputs: {angle", "each: crop.lines, when: 'crop.ok > 0', inputs: {angle")
    assert refusal(folder, change, some, orient=orient, read=read) == (
        "11: services.pages.pipeline.read.inputs.angle: "
        "the items of orient.angle are not those that read takes"
    )


def test_a_single_stage_may_rename_what_clients_send_and_get(folder: Path) -> None:
    text = (
        "models: {m: {variants: {v: {onnx: read.onnx, buckets: {line: {dim: 2, sizes: [160, 320]}}}}}}\n"
        "services: {s: {slo: {latency: 1s}, pipeline: {a: {model: m, inputs: {line: request.image}}},\n"
        "  outputs: {text: a.codes}}}\n"
        "policy: static\n"
    )
    found = resolved(text, folder).services["s"]
    assert found.served.signature.inputs == (TensorSpec("image", "UINT8", (-1, 48, 320, 3)),)
    assert found.served.signature.outputs == (TensorSpec("text", "INT32", (-1, 40)),)
    assert found.outputs == {"text": ("a", "codes")}
    assert found.served.service.stages[0].inputs == (Input("line", "", "image"),)
    # Clients' sizes go by their name, the profile's by the model's.
    assert (found.served.buckets, found.stages["a"].buckets) == (
        {"image": (2, (160, 320))},
        {"line": (2, (160, 320))},
    )


def test_inner_stages_do_not_sort_requests(folder: Path) -> None:
    found = pages(folder, ("{onnx: read.onnx}", "{onnx: read.onnx, buckets: {line: {dim: 2, sizes: [320]}}}"))
    assert (found.served.buckets, found.stages["read"].buckets) == ({}, {"line": (2, (320,))})


def test_a_model_of_one_row_makes_the_service_one_of_one_row(folder: Path) -> None:
    one = signature(
        {"page": ("UINT8", [1, 480, 640, 3])}, {"mask": ("UINT8", [1, 480, 640])}, batchable=False
    )
    served = pages(folder, detect=one).served
    assert not served.signature.batchable
    assert served.signature.inputs == (TensorSpec("page", "UINT8", (1, 480, 640, 3)),)
    assert served.service.stages[0].variants[0].batch_rows_max == 1
    assert served.service.stages[2].variants[0].batch_rows_max > 1


def test_glue_says_what_a_variant_says(folder: Path) -> None:
    change = ('"glue:crop"', '"glue:crop", batch_max: 3, cores_max: 2, options: {a: 1}, cold_start: 2s')
    found = pages(folder, change)
    (variant,) = found.served.service.stages[1].variants
    assert (variant.name, variant.batch_rows_max, variant.cores_max, variant.cold_start_s) == (
        "crop",
        3,
        2,
        2.0,
    )
    assert found.stages["crop"].specs[0].options == {"a": 1}


AT = "services.pages.pipeline"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "read.codes",
            "read.code",
            f"11: {AT}.text.inputs.codes: not an output of read: code; did you mean codes?",
        ),
        (
            "model: reader, each",
            "model: reader, inputs: {lin: crop.lines}, each",
            f"10: {AT}.read.inputs.lin: not an input of the model; did you mean line? (known: line)",
        ),
        (
            "model: detector}",
            "model: detector, inputs: {page: crop.page}}",
            "7: services.pages.pipeline: the stages form a cycle: ",
        ),
        (
            'read: {model: reader, each: crop.lines, when: "crop.legible > 0.5"}',
            "read: {model: reader, inputs: {line: detect.mask}}",
            (
                f"10: {AT}.read.inputs.line: takes UINT8 [-1, 48, 320, 3], "
                "but detect.mask is UINT8 [-1, 480, 640]"
            ),
        ),
        (
            'read: {model: reader, each: crop.lines, when: "crop.legible > 0.5"}',
            (
                "orient: {model: reader, each: crop.lines}\n"
                "      read: {model: reader, inputs: {line: orient.codes}}"
            ),
            (
                f"11: {AT}.read.inputs.line: orient.codes has a list of items for each row, which a model "
                "cannot take: put a Python stage between, or take them with each"
            ),
        ),
        (
            "outputs: {text: text.text",
            "outputs: {text: request.page",
            "12: services.pages.outputs.text: want an output of a stage: clients have what they sent",
        ),
        (
            "mask: detect.mask}\n    items",
            "mask: detect.msk}\n    items",
            "12: services.pages.outputs.mask: not an output of detect: msk; did you mean mask?",
        ),
        (
            "model: detector}",
            "model: detector, batch_max: 4}",
            f"8: {AT}.detect.batch_max: goes with python; say it of the variants of detector",
        ),
        (
            "inputs: {codes: read.codes, boxes: crop.boxes}",
            "after: [detect], fan_out: 2",
            f"11: {AT}.text.fan_out: goes with each: without, nobody knows what the rows are",
        ),
        (
            "mask: detect.mask, page: request.page",
            "mask: detect.mask, page: request.pag",
            f"9: {AT}.crop: nothing says what request.pag is: give inputs: {{pag: {{dtype, shape}}}}",
        ),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, before: str, after: str, message: str) -> None:
    found = refusal(folder, (before, after))
    assert found.startswith(message), found


def test_what_clients_send_must_fit_every_stage_that_takes_it(folder: Path) -> None:
    sends = ("    items:", "    inputs: {page: {dtype: FP32, shape: [-1, 480, 640, 3]}}\n    items:")
    assert (
        refusal(folder, sends) == "13: services.pages.inputs.page.dtype: want UINT8 as detect has, got FP32"
    )
    sends = ("    items:", "    inputs: {page: {dtype: UINT8, shape: [-1, 48]}}\n    items:")
    assert refusal(folder, sends).startswith(
        "13: services.pages.inputs.page.shape: want a shape that fits detect's"
    )
    both = (
        "inputs: {codes: read.codes, boxes: crop.boxes}",
        "inputs: {codes: read.codes, page: request.page}",
    )
    join = signature(
        {"codes": ("INT32", [-1, 40]), "page": ("UINT8", [-1, 9, 9, 3])}, {"text": ("BYTES", [-1])}
    )
    assert refusal(folder, both, join=join) == (
        "11: services.pages.pipeline.text: takes request.page as UINT8 [-1, 9, 9, 3], "
        "detect as UINT8 [-1, 480, 640, 3]"
    )


def test_a_batch_model_cannot_make_items(folder: Path) -> None:
    message = refusal(folder, ('each: crop.lines, when: "crop.legible > 0.5"', "each: detect.mask"))
    assert message == (
        "10: services.pages.pipeline.read.each: detector runs several rows a batch, so nobody can tell "
        "whose items are whose: want a model of one row, or a Python stage"
    )


def test_what_is_taken_or_looked_at_must_be_there(folder: Path) -> None:
    crop = signature(
        {"mask": ("UINT8", [-1, 480, 640]), "page": ("UINT8", [-1, 480, 640, 3])},
        {"lines": ("UINT8", [-1, 48, 320, 3]), "legible": ("FP32", [-1, 1]), "boxes": ("FP32", [-1, 4])},
    )
    pages(folder, crop=crop)
    assert refusal(
        folder, ("each: crop.lines", "each: crop.line"), ("{crop.lines:", "{crop.line:"), crop=crop
    ) == (
        f"10: {AT}.read.each: not an output of crop: line; did you mean lines? (known: lines, legible, boxes)"
    )
    assert refusal(folder, ("crop.legible", "crop.boxed"), crop=crop) == (
        f"10: {AT}.read.when: not an output of crop: boxed; did you mean boxes? "
        "(known: lines, legible, boxes)"
    )
    assert refusal(folder, ("crop.legible", "crop.boxes"), crop=crop) == (
        f"10: {AT}.read.when: want one number a row, or an item: crop.boxes is FP32 [-1, 4]"
    )
    legible = TensorSpec("legible", "BYTES", (-1,))
    text = Signature(crop.inputs, (crop.outputs[0], legible, crop.outputs[2]), batchable=True)
    assert refusal(folder, crop=text) == (
        f"10: {AT}.read.when: want one number a row, or an item: crop.legible is BYTES [-1]"
    )


def test_what_every_variant_gives_must_fit_who_takes_it(folder: Path) -> None:
    two = ("{det: {onnx: detect.onnx}}", "{det: {onnx: detect.onnx}, low: {onnx: other.onnx}}")
    low = signature({"page": ("UINT8", [-1, 480, 640, 3])}, {"mask": ("UINT8", [-1, 240, 320])})
    assert pages(folder, two, other=low).served.signature.outputs == ()  # crop takes either
    crop = signature(
        {"mask": ("UINT8", [-1, 480, 640]), "page": ("UINT8", [-1, 480, 640, 3])},
        {"lines": ("UINT8", [-1, 48, 320, 3]), "legible": ("FP32", [-1]), "boxes": ("FP32", [-1, 4])},
    )
    assert refusal(folder, two, other=low, crop=crop).endswith(
        "crop.inputs.mask: takes UINT8 [-1, 480, 640], but detect.mask is UINT8 [-1, 240, 320]"
    )
