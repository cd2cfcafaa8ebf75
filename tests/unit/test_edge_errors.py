"""Every line that a wrong inference request gets, as golden text."""

import json
from typing import Any

import numpy as np
import pytest

from steelyard.core.errors import InputError
from steelyard.serve.edge import make_app
from steelyard.serve.edge.bounds import header_bounds
from steelyard.serve.edge.head import NON_FINITE_BYTES_MAX
from steelyard.serve.edge.headers import by_name
from steelyard.testing.http import HttpAnswer, ask_app
from steelyard.testing.intake import ComputingIntake, served

SERVICES = {
    "mlp": served(
        "mlp",
        {"x": ("FP32", (-1, 4))},
        {"y": ("FP32", (-1, 2))},
        rows_max=8,
        classes={"gold": 0.2, "silver": 0.4},
    ),
    "pair": served("pair", {"a": ("INT8", (-1, 2)), "b": ("BYTES", (-1, 1))}, {"c": ("FP16", (-1, 2))}),
    "page": served(
        "page", {"image": ("UINT8", (-1, 3, -1))}, {"y": ("FP32", (-1, 1))}, buckets={"image": (2, (4, 8))}
    ),
    "grid": served("grid", {"g": ("FP32", (-1, -1, -1))}, {"y": ("FP32", (-1, 1))}),
    "fixed": served("fixed", {"s": ("FP64", (2, 2))}, {"t": ("FP64", (2,))}, batchable=False),
}
NOT_A_REQUEST = "the body is not an inference request: "
HEADER = "Inference-Header-Content-Length"


def model(arrays: Any) -> Any:
    return {"y": np.zeros((len(next(iter(arrays.values()))), 2), np.float32)}


def infer(body: Any, headers: dict[str, str] | None = None, service: str = "mlp") -> HttpAnswer:
    """Ask one service; whatever it answers, nothing stays in the arena."""
    intake = ComputingIntake(SERVICES, model, arena_bytes=1 << 16)
    try:
        answer = ask_app(make_app(intake), "POST", f"/v2/models/{service}/infer", body, headers)
        assert intake.arena.bytes_used == 0
        return answer
    finally:
        intake.close()


def x(**changes: Any) -> dict[str, Any]:
    """A good input of `mlp`, changed."""
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}


def binary(size: int, shape: list[int] | None = None) -> dict[str, Any]:
    """A binary input of `mlp`."""
    given = x(parameters={"binary_data_size": size}, shape=shape or [1, 4])
    del given["data"]
    return given


def with_binary(head: dict[str, Any], data: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return text + data, {HEADER: str(len(text))}


BAD_JSON = [
    ({"inputs": []}, "input 'x' is missing: service 'mlp' takes 'x'"),
    ({"inputs": [x(name="z")]}, "unknown input 'z': service 'mlp' takes 'x'"),
    ({"inputs": [x(), x()]}, "input 'x' is given twice"),
    ({"inputs": [x(datatype="FP64")]}, "input 'x' is FP64; FP32 was expected"),
    ({"inputs": [x(shape=[1, 5])]}, "input 'x' has shape [1, 5]; [-1, 4] was expected"),
    ({"inputs": [x(shape=[4])]}, "input 'x' has shape [4]; [-1, 4] was expected"),
    ({"inputs": [x(shape=[-1, 4])]}, "input 'x' has shape [-1, 4]; [-1, 4] was expected"),
    ({"inputs": [x(data=[1, 2, 3])]}, "input 'x' of shape [1, 4] takes 4 values; data has 3"),
    ({"inputs": [x(data=[[1, 2], [3, 4]])]}, "input 'x': data is nested unlike shape [1, 4]"),
    ({"inputs": [x(data=[[[1, 2, 3, 4]]])]}, "input 'x': data is nested unlike shape [1, 4]"),
    (
        {"inputs": [x(data=[1, 2, "3", 4])]},
        "input 'x': data is not FP32: Expected `float`, got `str` - at `$[2]`",
    ),
    (
        {"inputs": [x(data=[1, 2, 1e39, 4])]},
        "input 'x': data has a value out of range for FP32",
    ),
    ({"inputs": [x(data=None)]}, "input 'x' has neither data nor binary_data_size"),
    (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4]}]},
        "input 'x' has neither data nor binary_data_size",
    ),
    (
        {"inputs": [x(shape=[0, 4], data=[])]},
        "input 'x' has 0 rows; service 'mlp' takes 1 to 8 in one request",
    ),
    (
        {"inputs": [x(shape=[9, 4], data=[0] * 36)]},
        "input 'x' has 9 rows; service 'mlp' takes 1 to 8 in one request",
    ),
    (
        {"inputs": [x(parameters={"binary_data_size": 16})]},
        "input 'x' has both data and binary_data_size",
    ),
    (
        {"inputs": [binary(16)]},
        "input 'x': binary_data_size is 16, but 0 bytes are left in the body",
    ),
    (
        {"inputs": [x(parameters={"shared_memory_region": "r"})]},
        "input 'x' is in shared memory and has data, too",
    ),
    (
        {"inputs": [x()], "outputs": [{"name": "q"}]},
        "unknown output 'q': service 'mlp' gives 'y'",
    ),
    (
        {"inputs": [x()], "outputs": [{"name": "y"}, {"name": "y"}]},
        "output 'y' is asked for twice",
    ),
    (
        {"inputs": [x()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        "output 'y': classification is not served",
    ),
    (
        {"inputs": [x()], "parameters": {"max_latency_ms": 0}},
        "parameter 'max_latency_ms' must be a number > 0, not 0",
    ),
    (
        {"inputs": [x()], "parameters": {"elapsed_ms": -1}},
        "parameter 'elapsed_ms' must be a number >= 0, not -1",
    ),
    ({"inputs": [x()], "parameters": {"timeout": -5}}, "parameter 'timeout' must be a number > 0, not -5"),
    (
        {"inputs": [x()], "parameters": {"max_latency_ms": float("nan")}},
        "parameter 'max_latency_ms' must be a number > 0, not nan",
    ),
    (
        {"inputs": [x()], "parameters": {"max_latency_ms": float("inf")}},
        "parameter 'max_latency_ms' must be a number > 0, not inf",
    ),
    (
        {"inputs": [x()], "parameters": {"timeout": "soon"}},
        NOT_A_REQUEST + "Expected `int | float | null`, got `str` - at `$.parameters.timeout`",
    ),
    (
        {"inputs": [x()], "parameters": {"min_accuracy": 1.5}},
        "parameter 'min_accuracy' must lie in [0, 1], not 1.5",
    ),
    (
        {"inputs": [x()], "parameters": {"max_core_ms": 0}},
        "parameter 'max_core_ms' must be a number > 0, not 0",
    ),
    (
        {"inputs": [x()], "parameters": {"timeout": 10**400}},
        "parameter 'timeout' must be a number > 0, not " + "1" + "0" * 39,
    ),
    (
        {"inputs": [x()], "parameters": {"slo_class": "lead"}},
        "service 'mlp' has no slo_class 'lead': its classes are 'gold', 'silver'",
    ),
    ([], "the body is not an inference request: Expected `object`, got `array`"),
    ({}, "the body is not an inference request: Object missing required field `inputs`"),
    (
        {"inputs": [{"name": "x", "shape": [1, 4]}]},
        "the body is not an inference request: Object missing required field `datatype` - at `$.inputs[0]`",
    ),
    (
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [NaN]}], "id": "\\ud800"}',
        "the body's JSON cannot be read: JSON is malformed: invalid character (byte 72)",
    ),
    (b"", "the body's JSON cannot be read: Input data was truncated"),
    (b"hello", "the body's JSON cannot be read: JSON is malformed: invalid character (byte 0)"),
]


def test_words_that_json_does_not_have_are_taken_in_small_bodies_only() -> None:
    """Python's parser takes 30 times as long as ours: a whole second for a body of the usual limit."""
    given = json.dumps({"inputs": [x(data=[float("nan")] * 4)]}).encode()
    assert infer(given + b" " * (NON_FINITE_BYTES_MAX - len(given))).status == 200
    answer = infer(given + b" " * (NON_FINITE_BYTES_MAX + 1 - len(given)))
    line = (
        "the body's JSON has NaN or Infinity, and 1048577 bytes; at most 1048576 are taken with them: "
        "send large tensors as binary data"
    )
    assert (answer.status, answer.json()["error"]) == (400, line)


@pytest.mark.parametrize(("body", "line"), BAD_JSON, ids=[line for _, line in BAD_JSON])
def test_a_wrong_request_is_400_with_one_clear_line(body: Any, line: str) -> None:
    answer = infer(body)
    assert (answer.status, answer.json()) == (400, {"error": line})
    assert answer.headers["content-type"] == "application/json"


WRONG_ELSEWHERE = [
    (
        "pair",
        [{"name": "a", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]}],
        "input 'b' is missing: service 'pair' takes 'a', 'b'",
    ),
    (
        "pair",
        [
            {"name": "a", "datatype": "INT8", "shape": [1, 2], "data": [1, 200]},
            {"name": "b", "datatype": "BYTES", "shape": [1, 1], "data": ["t"]},
        ],
        "input 'a': data is not INT8: Expected `int` <= 127 - at `$[1]`",
    ),
    (
        "pair",
        [
            {"name": "b", "datatype": "BYTES", "shape": [1, 1], "data": ["t"]},
            {"name": "a", "datatype": "INT8", "shape": [2, 2], "data": [1, 2, 3, 4]},
        ],
        "output 'c' is FP16, which JSON cannot carry: ask for it with binary_data true",
    ),
    (
        "page",
        [{"name": "image", "datatype": "UINT8", "shape": [1, 3, 9], "data": [0] * 27}],
        "input 'image' has 9 in dimension 2; service 'page' takes at most 8",
    ),
    (
        "page",
        [{"name": "image", "datatype": "UINT8", "shape": [0, 3, 1 << 60], "data": []}],
        "input 'image' has shape [0, 3, 1152921504606846976], over 1099511627776 elements",
    ),
    (
        "fixed",
        [{"name": "s", "datatype": "FP64", "shape": [1, 4], "data": [0] * 4}],
        "input 's' has shape [1, 4]; [2, 2] was expected",
    ),
]


@pytest.mark.parametrize(
    ("service", "inputs", "line"), WRONG_ELSEWHERE, ids=[line for _, _, line in WRONG_ELSEWHERE]
)
def test_errors_of_other_signatures(service: str, inputs: Any, line: str) -> None:
    answer = infer({"inputs": inputs}, service=service)
    assert (answer.status, answer.json()["error"]) == (400, line)


def test_rows_of_all_inputs_must_agree() -> None:
    inputs = [
        {"name": "b", "datatype": "BYTES", "shape": [1, 1], "data": ["t"]},
        {"name": "a", "datatype": "INT8", "shape": [2, 2], "data": [1, 2, 3, 4]},
    ]
    answer = infer({"inputs": inputs, "parameters": {"binary_data_output": True}}, service="pair")
    assert answer.json()["error"] == "input 'b' has 1 rows, input 'a' has 2; they must agree"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("-1", "Inference-Header-Content-Length must be a whole number of bytes, not '-1'"),
        ("ten", "Inference-Header-Content-Length must be a whole number of bytes, not 'ten'"),
        ("1.5", "Inference-Header-Content-Length must be a whole number of bytes, not '1.5'"),
        ("9" * 20, f"Inference-Header-Content-Length must be a whole number of bytes, not '{'9' * 20}'"),
        ("17", "Inference-Header-Content-Length is 17, but the body has 16 bytes"),
        ("2", "the body is not an inference request: Object missing required field `inputs`"),
    ],
)
def test_a_bad_header_length(value: str, line: str) -> None:
    answer = infer(b"{}" + bytes(14), {HEADER: value})
    assert (answer.status, answer.json()["error"]) == (400, line)


@pytest.mark.parametrize(
    ("size", "data", "line"),
    [
        (
            12,
            bytes(12),
            "input 'x' of shape [1, 4] and type FP32 takes 16 bytes; binary_data_size is 12",
        ),
        (16, bytes(10), "input 'x': binary_data_size is 16, but 10 bytes are left in the body"),
        (16, bytes(20), "the body has 4 bytes more than its inputs take"),
        (-16, bytes(16), "input 'x' of shape [1, 4] and type FP32 takes 16 bytes; binary_data_size is -16"),
    ],
)
def test_a_bad_binary_size(size: int, data: bytes, line: str) -> None:
    body, headers = with_binary({"inputs": [binary(size)]}, data)
    answer = infer(body, headers)
    assert (answer.status, answer.json()["error"]) == (400, line)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"\x01\x00\x00", "input 'b' of shape [1, 1]: 1 elements were expected; the data ends after 0"),
        (
            b"\x09\x00\x00\x00ab",
            "input 'b' of shape [1, 1]: element 0 is longer than what is left of the data",
        ),
        (b"\x01\x00\x00\x00abc", "input 'b' of shape [1, 1]: 1 elements take 5 bytes; the data has 7"),
    ],
)
def test_bad_binary_strings(data: bytes, line: str) -> None:
    text = {"name": "b", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(data)}}
    body, headers = with_binary({"inputs": [text]}, data)
    answer = infer(body, headers, "pair")
    assert (answer.status, answer.json()["error"]) == (400, line)


@pytest.mark.parametrize(
    ("service", "size", "line"),
    [
        ("mlp", 15, "a raw body of 15 bytes is not one row of input 'x', FP32 of shape [-1, 4]"),
        ("page", 7, "a raw body of 7 bytes is not one row of input 'image', UINT8 of shape [-1, 3, -1]"),
        ("pair", 1, "a raw request needs a service with one input; 'pair' takes 'a', 'b'"),
        ("grid", 4, "a raw request needs at most one unknown dimension; 'g' is [-1, -1, -1]"),
    ],
)
def test_a_bad_raw_request(service: str, size: int, line: str) -> None:
    answer = infer(bytes(size), {HEADER: "0"}, service)
    assert (answer.status, answer.json()["error"]) == (400, line)


BAD_HEADERS = [
    *(
        ("Steelyard-Max-Latency-Ms", value, "be a number > 0")
        for value in ("0", "-3", "nan", "inf", "soon", "", "5_0", "0x32", "5 0")
    ),
    ("Steelyard-Max-Core-Ms", "0", "be a number > 0"),
    ("Steelyard-Elapsed-Ms", "-0.1", "be a number >= 0"),
    ("Steelyard-Elapsed-Ms", "inf", "be a number >= 0"),
    ("Steelyard-Elapsed-Ms", "1_0", "be a number >= 0"),
    ("Steelyard-Min-Accuracy", "95%", "lie in [0, 1]"),
    ("Steelyard-Min-Accuracy", "0.9_5", "lie in [0, 1]"),
    ("Steelyard-Min-Accuracy", "1.01", "lie in [0, 1]"),
]


@pytest.mark.parametrize(("header", "value", "line"), BAD_HEADERS)
def test_a_bad_bound_in_a_header(header: str, value: str, line: str) -> None:
    answer = infer({"inputs": [x()]}, {header: value})
    assert (answer.status, answer.json()["error"]) == (400, f"{header} must {line}, not '{value}'")


@pytest.mark.parametrize("value", ["50", "+50", "50.", "5e1", "0.5E+2", "  50\t"])
def test_a_plain_decimal_number_in_a_header(value: str) -> None:
    assert header_bounds({b"steelyard-max-core-ms": value.encode()}).max_core_ms == 50.0


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (
            "Steelyard-Max-Latncy-Ms",
            "unknown header 'Steelyard-Max-Latncy-Ms'; did you mean Steelyard-Max-Latency-Ms?",
        ),
        (
            "steelyard-max_latency_ms",
            "unknown header 'Steelyard-Max_Latency_Ms'; did you mean Steelyard-Max-Latency-Ms?",
        ),
        ("Steelyard-Class", "unknown header 'Steelyard-Class'; did you mean Steelyard-Slo-Class?"),
        (
            "Steelyard-X",
            (
                "unknown header 'Steelyard-X'; known are Steelyard-Elapsed-Ms, Steelyard-Max-Core-Ms, "
                "Steelyard-Max-Latency-Ms, Steelyard-Min-Accuracy, Steelyard-Slo-Class"
            ),
        ),
    ],
)
def test_a_header_of_ours_that_there_is_not(header: str, line: str) -> None:
    answer = infer({"inputs": [x()]}, {header: "50", "Steelyard-Elapsed-Ms": "0"})
    assert (answer.status, answer.json()["error"]) == (400, line)


def test_two_classes_are_one_too_many() -> None:
    answer = infer({"inputs": [x()], "parameters": {"slo_class": "gold"}}, {"Steelyard-Slo-Class": "silver"})
    line = "the headers say slo_class 'silver', the parameters 'gold'"
    assert (answer.status, answer.json()["error"]) == (400, line)


def test_a_bound_that_is_stated_twice_is_none() -> None:
    stated = [(b"steelyard-min-accuracy", b"0.99"), (b"steelyard-min-accuracy", b"0.1"), (b"accept", b"a")]
    headers = by_name(stated)
    assert headers == {b"steelyard-min-accuracy": b"0.99, 0.1", b"accept": b"a"}
    with pytest.raises(InputError, match=r"^Steelyard-Min-Accuracy must lie in \[0, 1\], not '0.99, 0.1'$"):
        header_bounds(headers)
