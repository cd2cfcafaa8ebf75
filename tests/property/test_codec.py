"""Tensors of every type and rank survive both encodings bit for bit; no body makes the edge fail."""

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from steelyard.core.errors import InputError
from steelyard.serve.edge import EdgeSettings, make_app
from steelyard.serve.edge.body import Body
from steelyard.serve.edge.codec import Route
from steelyard.serve.edge.inputs import store
from steelyard.serve.edge.tensors import KINDS, from_json, pack_bytes, to_json
from steelyard.testing.http import ask_app
from steelyard.testing.intake import ComputingIntake, served
from steelyard.worker.arena import Arena

JSON_DTYPES = [dtype for dtype, kind in KINDS.items() if kind.element is not None]
Tensor = tuple[str, tuple[int, ...], bytes]


def canonical(dtype: str, data: bytes) -> bytes:
    """JSON keeps neither a NaN's payload nor its sign; everything else it does."""
    if dtype not in ("FP32", "FP64"):
        return data
    values = np.frombuffer(data, KINDS[dtype].numpy).copy()
    values[np.isnan(values)] = np.nan
    return values.tobytes()


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[str], *, text: bool) -> Tensor:
    """dtype, shape of rank 0 to 5, and the binary form; BYTES are UTF-8 if `text`."""
    dtype = draw(st.sampled_from(dtypes))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=5)))
    count = math.prod(shape)
    if dtype == "BYTES":
        element = st.text(max_size=5).map(str.encode) if text else st.binary(max_size=5)
        return dtype, shape, pack_bytes(draw(st.lists(element, min_size=count, max_size=count)))
    if dtype == "BOOL":
        return dtype, shape, bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    size = count * KINDS[dtype].item_bytes
    return dtype, shape, draw(st.binary(min_size=size, max_size=size))


def nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    """The flat values as nested lists."""
    if not shape:
        return flat[0]
    step = len(flat) // shape[0] if shape[0] else 0
    return [nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


@given(tensors(JSON_DTYPES, text=True))
@example(("FP32", (3,), struct.pack("<3f", math.nan, math.inf, -math.inf)))
@example(("FP64", (2,), struct.pack("<2d", -0.0, 5e-324)))
@example(("UINT64", (1,), b"\xff" * 8))
@example(("INT64", (), b"\x00" * 7 + b"\x80"))
def test_a_tensor_survives_json_flat_and_nested(tensor: Tensor) -> None:
    dtype, shape, data = tensor
    count = math.prod(shape)
    flat = to_json("x", dtype, count, data)
    values = json.loads(flat)
    assert len(values) == count
    assert from_json("x", dtype, shape, flat) == canonical(dtype, data)
    assert from_json("x", dtype, shape, json.dumps(nested(values, shape)).encode()) == canonical(dtype, data)


@given(st.lists(tensors(list(KINDS), text=False), min_size=1, max_size=3), st.integers(1, 40))
def test_binary_tensors_reach_the_arena_unchanged_in_any_chunks(
    given_tensors: list[Tensor], chunk_bytes: int
) -> None:
    names = [f"x{i}" for i in range(len(given_tensors))]
    specs = {name: (dtype, shape) for name, (dtype, shape, _) in zip(names, given_tensors, strict=True)}
    route = Route(served("s", specs, {"y": ("FP32", (1,))}, batchable=False))
    inputs = [
        {"name": name, "datatype": dtype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, (dtype, shape, data) in zip(names, given_tensors, strict=True)
    ]
    head = json.dumps({"inputs": inputs}).encode()
    body = head + b"".join(data for _, _, data in given_tensors)
    chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
    asked = route.parse(Body(chunks), len(head))
    arena = Arena("a", 1 << 16)
    stored = store(asked.inputs, arena)
    assert stored is not None
    for tensor, (dtype, shape, data) in zip(stored, given_tensors, strict=True):
        assert (tensor.dtype, tensor.shape, bytes(arena.view(tensor.ref))) == (dtype, shape, data)
    del tensor
    arena.close()


ECHO = served(
    "echo", {"x": ("FP32", (-1, -1)), "s": ("BYTES", (-1,))}, {"x": ("FP32", (-1, -1)), "s": ("BYTES", (-1,))}
)


def echo_app(intake: ComputingIntake) -> Any:
    return make_app(intake, settings=EdgeSettings(body_bytes_max=1 << 16))


def head_of(**changes: Any) -> dict[str, Any]:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
        {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["t"]},
    ]
    return {"inputs": inputs, **changes}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
shapes = st.lists(st.integers(-2, 3) | st.integers(), max_size=3)
some_inputs = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["x", "s", "z"])},
        optional={
            "datatype": st.sampled_from([*KINDS, "FP33"]),
            "shape": shapes | scalars,
            "data": trees,
            "parameters": st.fixed_dictionaries(
                {}, optional={"binary_data_size": st.integers(-1, 40) | scalars}
            ),
        },
    ),
    max_size=3,
)
heads = st.fixed_dictionaries(
    {},
    optional={
        "inputs": some_inputs | trees,
        "id": scalars,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["x", "s", "q"])}), max_size=3)
        | trees,
        "parameters": st.dictionaries(
            st.sampled_from(["timeout", "binary_data_output", "slo_class", "max_latency_ms", "min_accuracy"]),
            scalars,
        )
        | trees,
    },
)
bodies = st.one_of(
    st.binary(max_size=200),
    st.tuples(heads, st.binary(max_size=40)).map(lambda pair: json.dumps(pair[0]).encode() + pair[1]),
    st.tuples(some_inputs, st.binary(max_size=40)).map(
        lambda pair: json.dumps(head_of(inputs=pair[0])).encode() + pair[1]
    ),
)
lengths = st.none() | st.integers(-1, 400).map(str) | st.text("0123456789+-. _", max_size=4)


@given(bodies, lengths, st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@example(b"[" * 5000, None, True)
@example(b'{"inputs":' + b"[" * 5000, None, True)
@example(
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
    None,
    True,
)
@example(json.dumps(head_of(id="\ud800")).encode(), None, True)
@example(b'{"inputs":[],"parameters":{"timeout":' + b"9" * 5000 + b"}}", None, True)
@example(
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[NaN' + b"[" * 5000 + b"]}]}", None, True
)
def test_no_body_makes_the_edge_fail(body: bytes, length: str | None, keep_length: bool) -> None:
    """Any bytes: 200 if they happen to be a request, else a refusal in one line; and nothing stays behind."""
    intake = ComputingIntake({"echo": ECHO}, lambda arrays: arrays, arena_bytes=1 << 16)
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    if length is None and keep_length and b"}]" in body:
        headers = {"Inference-Header-Content-Length": str(body.rindex(b"}") + 1)}
    answer = ask_app(echo_app(intake), "POST", "/v2/models/echo/infer", body, headers)
    assert answer.status in (200, 400, 413), answer
    if answer.status != 200:
        assert "\n" not in answer.json()["error"]
    assert intake.arena.bytes_used == 0
    intake.close()


@given(st.text(max_size=20))
def test_no_path_makes_the_edge_fail(tail: str) -> None:
    intake = ComputingIntake({"echo": ECHO}, lambda arrays: arrays, arena_bytes=1 << 16)
    for path in (f"/v2/{tail}", f"/v2/models/{tail}", f"/v2/models/echo/{tail}", tail):
        for method in ("GET", "POST"):
            assert ask_app(echo_app(intake), method, path).status in (200, 404, 405, 501, 400)
    intake.close()


@pytest.mark.parametrize("dtype", ["FP16", "BF16"])
def test_half_precision_has_no_json_form(dtype: str) -> None:
    with pytest.raises(InputError, match="which JSON cannot carry"):
        from_json("x", dtype, (1,), b"[1.0]")
    with pytest.raises(InputError, match="which JSON cannot carry"):
        to_json("y", dtype, 1, b"\0\0")
