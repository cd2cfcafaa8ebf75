"""What of several stages' outputs is one request's answer, and what it says of itself."""

from typing import Any

import msgspec
import numpy as np
import pytest

from steelyard.core.commands import Complete, ItemRows, OutputPart
from steelyard.core.errors import ModelError
from steelyard.core.types import RequestId, Service, Stage, Tensor, TensorRef
from steelyard.runtime.base import Signature, TensorSpec
from steelyard.serve.base import ServedService
from steelyard.serve.edge.answers import HEADS_MAX, encode_answer
from steelyard.serve.edge.codec import Answer, Inference, Route
from steelyard.serve.edge.outputs import answer_parameters, request_output

BYTES: dict[TensorRef, bytes] = {}
OUTPUTS = {
    "total": ("page", "sum"), "texts": ("read", "text"),
    "boxes": ("detect", "boxes"), "size": ("detect", "size"),
}  # fmt: skip
SPECS = {
    "total": TensorSpec("total", "INT64", (-1,)),
    "texts": TensorSpec("texts", "BYTES", (-1, 2)),
    "boxes": TensorSpec("boxes", "INT64", (-1, 2)),
    "size": TensorSpec("size", "INT64", (2,)),
}


def route(*, known: bool = True) -> Route:
    stages = tuple(Stage(name, ()) for name in ("detect", "read", "page"))
    outputs = tuple(SPECS.values()) if known else ()
    signature = Signature((TensorSpec("x", "FP32", (-1,)),), outputs, batchable=True)
    return Route(ServedService(Service("ocr", 1.0, stages), signature, outputs=OUTPUTS if known else {}))


def stored(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    ref = TensorRef("replica-1", 64 * len(BYTES), array.nbytes, 1)
    if array.dtype == object:
        data = b"".join(len(item).to_bytes(4, "little") + item for item in array.ravel())
        BYTES[ref] = data
        return Tensor(name, "BYTES", array.shape, ref)
    BYTES[ref] = array.tobytes()
    return Tensor(name, "INT64", array.shape, ref)


def read(ref: TensorRef) -> memoryview:
    return memoryview(BYTES[ref])


def complete(**answers: tuple[OutputPart, ...]) -> Complete:
    return Complete(RequestId(0, 1), "join", 0.25, 0.5, False, answers)


def numbers(name: str, found: Complete) -> list[Any]:
    shape, pieces = request_output(route(), SPECS[name], found, read)
    values: list[Any] = np.frombuffer(b"".join(pieces), np.int64).reshape(shape).tolist()
    return values


def test_each_output_is_its_stages_and_only_the_requests_rows_of_it() -> None:
    batch = stored("sum", np.arange(10, 16))
    assert numbers("total", complete(page=(OutputPart((batch,), 2, 3),))) == [12, 13, 14]


def test_an_item_level_output_answers_all_items_in_order() -> None:
    texts = [stored("text", np.array([[b"a%d" % i, b""] for i in range(n)], object)) for n in (4, 2)]
    found = complete(read=(OutputPart((texts[0],), 1, 2), OutputPart((texts[1],), 0, 2)))
    shape, pieces = request_output(route(), SPECS["texts"], found, read)
    assert shape == (4, 2)
    # each element: its length, 32 bits, then its bytes
    want = [b"\x02\0\0\0a%d\0\0\0\0" % i for i in (1, 2, 0, 1)]
    assert b"".join(pieces) == b"".join(want)


def test_a_ragged_output_answers_the_elements_of_the_requests_rows() -> None:
    batch = stored("boxes", np.arange(12).reshape(6, 2))
    # Rows 1 and 2 of a batch: the first row had two elements, these have three and none.
    part = OutputPart((batch,), 1, 2, {"@boxes": ItemRows(2, (3, 0))})
    assert numbers("boxes", complete(detect=(part,))) == [[4, 5], [6, 7], [8, 9]]


def test_a_stage_without_items_answers_with_none() -> None:
    shape, pieces = request_output(route(), SPECS["texts"], complete(read=()), read)
    assert (shape, pieces) == ((0, 2), [])


def test_an_output_of_a_model_without_a_batch_axis_loses_the_axis_it_got() -> None:
    part = OutputPart((stored("size", np.array([[480, 640]])),), 0, 1)
    assert numbers("size", complete(detect=(part,))) == [480, 640]


def test_other_types_and_missing_outputs_are_errors() -> None:
    part = OutputPart((stored("text", np.arange(2)),), 0, 2)
    with pytest.raises(ModelError, match="'join', gave output 'text' as INT64; BYTES was promised"):
        request_output(route(), SPECS["texts"], complete(read=(part,)), read)
    who = "^service 'ocr', stage 'detect', variant 'join',"
    with pytest.raises(ModelError, match=f"{who} gave no output 'boxes'; it gave 'text'$"):
        request_output(route(), SPECS["boxes"], complete(detect=(part,)), read)


def test_what_nobody_declared_is_answered_as_it_was_given() -> None:
    asked = Inference("", 1, "", 0, (), (), 1.0)
    tensors = (stored("sum", np.array([7, 8])), stored("sum@read", np.array([8])))
    found = complete(page=(OutputPart(tensors, 1, 1),))
    body = msgspec.json.decode(encode_answer(route(known=False), asked, found, read)[0])
    assert body["outputs"] == [{"name": "sum", "datatype": "INT64", "shape": [1], "data": [8]}]


def test_what_nobody_declared_and_nobody_gave_is_there_and_empty() -> None:
    signature = Signature((TensorSpec("x", "FP32", (-1,)),), (), batchable=True)
    stages = tuple(Stage(name, ()) for name in ("detect", "read", "page"))
    bare = Route(ServedService(Service("ocr", 1.0, stages), signature, outputs=OUTPUTS))
    found = complete(
        detect=(OutputPart((stored("boxes", np.arange(2)), stored("size", np.arange(2))), 0, 1),), read=(),
        page=(OutputPart((stored("sum", np.array([7])),), 0, 1),),
    )  # fmt: skip
    body = msgspec.json.decode(encode_answer(bare, Inference("", 1, "", 0, (), (), 1.0), found, read)[0])
    outputs = {output["name"]: (output["shape"], output["data"]) for output in body["outputs"]}
    assert outputs == {"total": ([1], [7]), "texts": ([0], []), "boxes": ([1], [0]), "size": ([1], [0])}


def test_an_answer_says_who_gave_it_how_well_and_at_what_cost() -> None:
    assert msgspec.to_builtins(answer_parameters(complete())) == {
        "variant": "join", "queue_ms": 250.0, "service_ms": 500.0,
    }  # fmt: skip
    whole = Complete(
        RequestId(0, 1), "join", 0.25, 0.5, True, {}, {"detect": "small", "page": "join"}, 0.9, True, 12.3456,
        ("max_latency_ms", "max_core_ms"),
    )  # fmt: skip
    assert msgspec.to_builtins(answer_parameters(whole)) == {
        "variant": "join", "queue_ms": 250.0, "service_ms": 500.0, "variants": "detect:small,page:join",
        "accuracy": 0.9, "accuracy_measured": True, "core_ms": 12.346,
        "bounds_missed": "max_latency_ms,max_core_ms",
    }  # fmt: skip
    mixed = msgspec.structs.replace(whole, rows_by={"detect": {"small": 3, "tiny": 1}})
    assert answer_parameters(mixed).variant_rows == "detect:small=3,detect:tiny=1"


def test_outputs_of_several_stages_are_one_answer() -> None:
    asked = Inference("7", 1, "", 0, (), (Answer(SPECS["boxes"], True), Answer(SPECS["total"], False)), 1.0)
    boxes = stored("boxes", np.arange(4).reshape(2, 2))
    found = complete(
        detect=(OutputPart((boxes,), 0, 1, {"@boxes": ItemRows(0, (2,))}),),
        page=(OutputPart((stored("sum", np.array([5, 6])),), 0, 1),),
    )  # fmt: skip
    body, head_length = encode_answer(route(), asked, found, read)
    head = msgspec.json.decode(body[:head_length])
    assert [(out["name"], out["shape"]) for out in head["outputs"]] == [("boxes", [2, 2]), ("total", [1])]
    assert head["outputs"][1]["data"] == [5]
    assert np.frombuffer(body[head_length:], np.int64).tolist() == [0, 1, 2, 3]


def test_the_start_of_an_answer_is_kept_for_answers_of_the_same_shapes() -> None:
    """Two shapes, each asked for twice: two starts, and every answer as if none were kept."""
    wanted = (Answer(SPECS["total"], True),)
    plain = Inference("7", 1, "", 0, (), wanted, 1.0)
    asked = plain._replace(heads={})
    for values in ([5], [6], [1, 2], [3, 4]):
        rows = len(values)
        found = complete(page=(OutputPart((stored("sum", np.array(values)),), 0, rows),))
        assert encode_answer(route(), asked, found, read) == encode_answer(route(), plain, found, read)
    assert asked.heads is not None
    assert set(asked.heads) == {(((1,), 8),), (((2,), 16),)}
    for rows in range(3, 3 + 2 * HEADS_MAX):
        found = complete(page=(OutputPart((stored("sum", np.arange(rows)),), 0, rows),))
        encode_answer(route(), asked, found, read)
        assert len(asked.heads) <= HEADS_MAX


def test_parts_of_different_shapes_are_the_models_error() -> None:
    # Two batches of three rows each, with as many bytes together as some tensor would have.
    parts = [OutputPart((stored("text", np.full((3, n), b"a", object)),), 0, 3) for n in (2, 4)]
    with pytest.raises(ModelError) as caught:
        request_output(route(), SPECS["texts"], complete(read=tuple(parts)), read)
    line = "stage 'read', variant 'join', gave output 'text' as [3, 2] for some rows of the request and as "
    assert line + "[3, 4] for others" in str(caught.value)
