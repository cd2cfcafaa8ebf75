"""What the HTTP edge does with good requests, called straight as an ASGI application."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

from steelyard.serve.edge import EdgeSettings, make_app
from steelyard.testing.http import HttpAnswer, ask_app, call_app
from steelyard.testing.intake import ComputingIntake, served

HEADER = "Inference-Header-Content-Length"
SERVICES = {
    "mlp": served(
        "mlp",
        {"x": ("FP32", (-1, 4))},
        {"y": ("FP32", (-1, 4))},
        slo_s=0.5,
        classes={"gold": 0.2, "slow": 2.0},
    ),
    "mix": served(
        "mix",
        {"a": ("INT64", (-1, -1)), "b": ("BYTES", (-1, 2))},
        {"a2": ("INT64", (-1, -1)), "b2": ("BYTES", (-1, 2)), "h": ("FP16", (-1, 3))},
    ),
    "page": served(
        "page", {"p": ("UINT8", (-1, 3, -1))}, {"n": ("INT64", (-1, 1))}, buckets={"p": (2, (4, 8, 16))}
    ),
    "text": served("text", {"t": ("BYTES", (-1, 1))}, {"u": ("BYTES", (-1, 1))}),
    "fixed": served("fixed", {"s": ("FP64", (2, 2))}, {"t": ("FP64", (3,))}, batchable=False),
}
X4 = [1.5, -2.0, 0.25, 3e-9]


def model(arrays: Any) -> Any:
    """Doubles what it gets; rows in, rows out."""
    if "x" in arrays:
        return {"y": arrays["x"] * np.float32(2)}
    if "a" in arrays:
        rows = len(arrays["a"])
        halves = np.arange(rows * 3, dtype=np.float16).reshape(rows, 3)
        return {"a2": arrays["a"] * 2, "b2": arrays["b"] + arrays["b"], "h": halves}
    if "p" in arrays:
        return {"n": arrays["p"].astype(np.int64).sum(axis=(1, 2))[:, None]}
    if "t" in arrays:
        return {"u": arrays["t"] + arrays["t"]}
    return {"t": np.array([1.0, 2.0, 3.0])}


@pytest.fixture(name="intake")
def _intake() -> Any:
    intake = ComputingIntake(SERVICES, model)
    yield intake
    assert intake.arena.bytes_used == 0
    intake.close()


def x(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": X4, **changes}


def infer(
    intake: ComputingIntake, service: str, body: Any, headers: dict[str, str] | None = None
) -> HttpAnswer:
    answer = ask_app(make_app(intake), "POST", f"/v2/models/{service}/infer", body, headers)
    assert answer.status == 200, answer.body
    return answer


def with_binary(head: dict[str, Any], data: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return text + data, {HEADER: str(len(text))}


def split(answer: HttpAnswer) -> tuple[Any, bytes]:
    """The JSON head and the binary data of an answer."""
    size = int(answer.headers[HEADER.lower()])
    return json.loads(answer.body[:size]), answer.body[size:]


def test_the_whole_answer_to_a_small_json_request(intake: ComputingIntake) -> None:
    answer = infer(intake, "mlp", {"id": "q1", "inputs": [x()]})
    assert answer.json() == {
        "model_name": "mlp",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [3.0, -4.0, 0.5, y4()]}],
        "parameters": {"variant": "only", "queue_ms": 1.0, "service_ms": 2.0},
        "id": "q1",
    }
    assert answer.headers["content-type"] == "application/json"
    assert HEADER.lower() not in answer.headers


def y4() -> float:
    return float(np.float32(3e-9) * np.float32(2))


def test_null_is_as_good_as_nothing(intake: ComputingIntake) -> None:
    parameters = {"binary_data_output": None, "slo_class": None, "timeout": None}
    inputs = [x(parameters={"binary_data_size": None, "shared_memory_offset": None})]
    outputs = [{"name": "y", "parameters": {"classification": None, "binary_data": None}}]
    plain = infer(intake, "mlp", {"inputs": [x()], "outputs": [{"name": "y"}]})
    asked = {"id": None, "inputs": inputs, "outputs": outputs, "parameters": parameters}
    assert infer(intake, "mlp", asked).body == plain.body


def test_nested_and_flat_data_are_the_same(intake: ComputingIntake) -> None:
    rows = [X4, [0.0, 1.0, 2.0, 3.0]]
    nested = infer(intake, "mlp", {"inputs": [x(shape=[2, 4], data=rows)]})
    flat = infer(intake, "mlp", {"inputs": [x(shape=[2, 4], data=rows[0] + rows[1])]})
    assert nested.body == flat.body
    assert nested.json()["outputs"][0]["shape"] == [2, 4]


def test_the_version_and_a_name_with_a_slash_are_part_of_the_path() -> None:
    services = {"a/b": served("a/b", {"x": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 4))})}
    intake = ComputingIntake(services, model)
    for path in ("/v2/models/a/b/infer", "/v2/models/a/b/versions/1/infer"):
        assert ask_app(make_app(intake), "POST", path, {"inputs": [x()]}).json()["model_name"] == "a/b"
    assert ask_app(make_app(intake), "GET", "/v2/models/a/b/ready").json() == {"name": "a/b", "ready": True}
    intake.close()


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
def test_mixed_json_and_binary_tensors_in_any_chunks(intake: ComputingIntake, chunk_bytes: int) -> None:
    a = np.array([[1, 2, 3], [4, 5, -(2**63)]], dtype=np.int64)
    head = {
        "inputs": [
            {"name": "b", "datatype": "BYTES", "shape": [2, 2], "data": [["p", "q"], ["ä", ""]]},
            {"name": "a", "datatype": "INT64", "shape": [2, 3], "parameters": {"binary_data_size": 48}},
        ],
        # per output beats per request
        "parameters": {"binary_data_output": True},
        "outputs": [
            {"name": "h"},
            {"name": "b2", "parameters": {"binary_data": False}},
            {"name": "a2", "parameters": {"binary_data": True}},
        ],
    }
    body, headers = with_binary(head, a.tobytes())
    chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
    answer = asyncio.run(call_app(make_app(intake), "POST", "/v2/models/mix/infer", chunks, headers))
    assert answer is not None
    result, data = split(answer)
    assert [output["name"] for output in result["outputs"]] == ["h", "b2", "a2"]
    assert result["outputs"][1]["data"] == ["pp", "qq", "ää", ""]
    # FP16 [2, 3] is 12 bytes, INT64 [2, 3] is 48
    assert [o.get("parameters", {}).get("binary_data_size") for o in result["outputs"]] == [12, None, 48]
    assert (np.frombuffer(data[:12], np.float16) == np.arange(6)).all()
    assert (np.frombuffer(data[12:], np.int64) == (a * 2).ravel()).all()
    assert [t.name for t in intake.requests[-1].tensors] == ["a", "b"], "tensors follow the signature"


def test_zero_size_tensors_both_ways(intake: ComputingIntake) -> None:
    head = {
        "inputs": [
            {"name": "a", "datatype": "INT64", "shape": [1, 0], "parameters": {"binary_data_size": 0}},
            {"name": "b", "datatype": "BYTES", "shape": [1, 2], "data": ["", ""]},
        ],
        "outputs": [{"name": "a2", "parameters": {"binary_data": True}}, {"name": "b2"}],
    }
    body, headers = with_binary(head, b"")
    result, data = split(infer(intake, "mix", body, headers))
    assert result["outputs"][0] == {
        "name": "a2",
        "datatype": "INT64",
        "shape": [1, 0],
        "parameters": {"binary_data_size": 0},
    }
    assert (data, result["outputs"][1]["data"]) == (b"", ["", ""])
    head["outputs"] = [{"name": "a2"}]
    assert infer(intake, "mix", *with_binary(head, b"")).json()["outputs"][0]["data"] == []


@pytest.mark.parametrize(
    ("service", "body", "shape", "data"),
    [
        # one row of [-1, 4]
        ("mlp", np.array(X4, "<f4").tobytes(), [1, 4], np.array(X4, "<f4").tobytes()),
        # [-1, 3, -1]: 12 bytes for one row are 3 x 4
        ("page", bytes(range(12)), [1, 3, 4], bytes(range(12))),
        # BYTES: the body is one element, its length is not in it
        ("text", b"\xff\x00", [1, 1], b"\x02\x00\x00\x00\xff\x00"),
        ("text", b"", [1, 1], b"\x00\x00\x00\x00"),
        # no batch dimension: the whole shape
        ("fixed", bytes(32), [2, 2], bytes(32)),
    ],
)
def test_a_raw_request_is_one_row_of_the_only_input(
    intake: ComputingIntake, service: str, body: bytes, shape: list[int], data: bytes
) -> None:
    seen: list[bytes] = []
    take = intake.submit

    def submit(request: Any, on_end: Any) -> None:
        seen.append(bytes(intake.arena.view(request.tensors[0].ref)))
        take(request, on_end)

    intake.submit = submit  # type: ignore[method-assign]
    result, answer = split(infer(intake, service, body, {HEADER: "0"}))
    assert (list(intake.requests[-1].tensors[0].shape), seen) == (shape, [data])
    assert sum(output["parameters"]["binary_data_size"] for output in result["outputs"]) == len(answer)


def test_parts_of_a_split_request_are_put_together_in_order() -> None:
    # 5 rows in parts of 2: rows 0-1, 2-3, 4 of outputs of fixed and of variable element size
    intake = ComputingIntake(SERVICES, model, rows_a_part=2)
    a = np.arange(10).reshape(5, 2)
    texts = [f"{'s' * i}" for i in range(10)]
    inputs = [
        {"name": "a", "datatype": "INT64", "shape": [5, 2], "data": a.ravel().tolist()},
        {"name": "b", "datatype": "BYTES", "shape": [5, 2], "data": texts},
    ]
    body = {"inputs": inputs, "outputs": [{"name": "a2"}, {"name": "b2"}]}
    outputs = infer(intake, "mix", body).json()["outputs"]
    assert (outputs[0]["shape"], outputs[0]["data"]) == ([5, 2], (a * 2).ravel().tolist())
    assert (outputs[1]["shape"], outputs[1]["data"]) == ([5, 2], [text * 2 for text in texts])
    intake.close()


def test_an_output_without_rows_is_answered_whole(intake: ComputingIntake) -> None:
    given = {"name": "s", "datatype": "FP64", "shape": [2, 2], "data": [[1, 2], [3, 4]]}
    output = infer(intake, "fixed", {"inputs": [given]}).json()["outputs"][0]
    assert (output["shape"], output["data"], intake.requests[-1].rows) == ([3], [1.0, 2.0, 3.0], 1)


@pytest.mark.parametrize(
    ("parameters", "headers", "bound_s"),
    [
        ({}, {}, 0.5),
        ({"timeout": 100_000}, {}, 0.1),
        ({"timeout": 900_000}, {}, 0.5),
        ({"max_latency_ms": 40}, {}, 0.04),
        ({"max_latency_ms": 40, "timeout": 30_000}, {"Steelyard-Max-Latency-Ms": "35"}, 0.03),
        ({"max_latency_ms": 40}, {"Steelyard-Max-Latency-Ms": "12.5"}, 0.0125),
        ({"slo_class": "gold"}, {}, 0.2),
        ({"slo_class": "slow"}, {}, 2.0),
        ({"slo_class": "slow", "timeout": 1_000_000}, {}, 1.0),
        ({"timeout": 0}, {}, 0.5),  # Triton's word for none
        ({}, {"Steelyard-Slo-Class": "gold"}, 0.2),
        # what had passed before the request came is taken off whatever bounds it
        ({"elapsed_ms": 120}, {}, 0.38),
        ({"elapsed_ms": 120}, {"Steelyard-Elapsed-Ms": "200"}, 0.3),
        ({"max_latency_ms": 90}, {"Steelyard-Elapsed-Ms": "50"}, 0.04),
        ({"slo_class": "gold"}, {"Steelyard-Elapsed-Ms": "250"}, -0.05),
    ],
)
def test_the_smallest_bound_is_the_deadline(
    intake: ComputingIntake, parameters: dict[str, Any], headers: dict[str, str], bound_s: float
) -> None:
    infer(intake, "mlp", {"inputs": [x()], "parameters": parameters}, headers)
    request = intake.requests[-1]
    assert request.deadline_s - request.arrived_s == pytest.approx(bound_s)
    assert request.slo_class == parameters.get("slo_class", headers.get("Steelyard-Slo-Class", ""))


@pytest.mark.parametrize(
    ("parameters", "headers", "bounds"),
    [
        ({"min_accuracy": 0.9, "max_core_ms": 7, "other": "x"}, {}, (0.9, 7)),
        ({}, {"Steelyard-Min-Accuracy": "0.9", "Steelyard-Max-Core-Ms": "7"}, (0.9, 7)),
        # the stricter of both: the higher accuracy, the lower cost
        ({"min_accuracy": 0.9, "max_core_ms": 7}, {"Steelyard-Min-Accuracy": "0.8"}, (0.9, 7)),
        ({"min_accuracy": 0.9, "max_core_ms": 7}, {"Steelyard-Max-Core-Ms": "5.5"}, (0.9, 5.5)),
        ({}, {}, (None, None)),
    ],
)
def test_bounds_on_accuracy_and_cores_are_passed_on(
    intake: ComputingIntake,
    parameters: dict[str, Any],
    headers: dict[str, str],
    bounds: tuple[float | None, float | None],
) -> None:
    infer(intake, "mlp", {"inputs": [x()], "parameters": parameters}, headers)
    assert (intake.requests[-1].min_accuracy, intake.requests[-1].max_core_ms) == bounds


def test_batch_keys_and_buckets(intake: ComputingIntake) -> None:
    def page(width: int) -> tuple[str, int]:
        given = {"name": "p", "datatype": "UINT8", "shape": [1, 3, width], "data": [0] * 3 * width}
        infer(intake, "page", {"inputs": [given]})
        return intake.requests[-1].batch_key, intake.requests[-1].bucket

    # buckets end at 4, 8 and 16; the leading dimension is not part of the key
    assert page(4) == ("p:UINT8[3,4]", 0)
    assert page(5) == ("p:UINT8[3,5]", 1)
    assert page(16) == ("p:UINT8[3,16]", 2)
    infer(intake, "mlp", {"inputs": [x(shape=[2, 4], data=X4 + X4)]})
    assert (intake.requests[-1].batch_key, intake.requests[-1].rows) == ("x:FP32[4]", 2)


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compression_both_ways(intake: ComputingIntake, coding: str, pack: Any) -> None:
    head = {"inputs": [x(parameters={"binary_data_size": 16})], "parameters": {"binary_data_output": True}}
    del head["inputs"][0]["data"]  # type: ignore[index]
    body, headers = with_binary(head, np.array(X4, "<f4").tobytes())
    headers |= {"Content-Encoding": coding, "Accept-Encoding": coding}
    answer = infer(intake, "mlp", pack(body), headers)
    assert answer.headers["content-encoding"] == coding
    plain = HttpAnswer(200, answer.headers, zlib.decompress(answer.body, 47))  # 47: either wrapper
    result, data = split(plain)
    assert result["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert (np.frombuffer(data, "<f4") == np.array(X4, "<f4") * 2).all()


def test_a_body_that_unpacks_over_the_limit_is_413(intake: ComputingIntake) -> None:
    app = make_app(intake, settings=EdgeSettings(body_bytes_max=10_000))
    bomb = gzip.compress(bytes(1 << 22))
    assert len(bomb) < 10_000
    answer = ask_app(app, "POST", "/v2/models/mlp/infer", bomb, {"Content-Encoding": "gzip"})
    assert (answer.status, answer.json()["error"]) == (413, "the body is over the limit of 10000 bytes")


def test_what_is_not_finite_is_written_as_triton_does_in_json_and_kept_in_binary(
    intake: ComputingIntake,
) -> None:
    # The model doubles: 3e38 is twice too large for FP32.
    data = (
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [NaN, 3e38, -3e38, -0.0]}]'
    )
    with np.errstate(over="ignore"):
        answer = ask_app(make_app(intake), "POST", "/v2/models/mlp/infer", data + b"}")
        binary = data + b', "parameters": {"binary_data_output": true}}'
        exact = ask_app(make_app(intake), "POST", "/v2/models/mlp/infer", binary)
    assert answer.status == exact.status == 200
    assert b'"data":[NaN,Infinity,-Infinity,-0.0]' in answer.body
    bits = np.frombuffer(exact.body[-16:], "<u4").tolist()
    assert bits == [0x7FC00000, 0x7F800000, 0xFF800000, 0x80000000]


def test_large_outputs_need_binary_data() -> None:
    tensors = {"x": ("UINT8", (-1, -1))}
    services = {"echo": served("echo", tensors, tensors)}
    intake = ComputingIntake(services, lambda arrays: arrays)
    for size, status in ((1 << 19, 200), ((1 << 19) + 1, 400)):
        given = {"name": "x", "datatype": "UINT8", "shape": [1, size]}
        head = {"inputs": [given | {"parameters": {"binary_data_size": size}}]}
        body, headers = with_binary(head, bytes(size))
        answer = ask_app(make_app(intake), "POST", "/v2/models/echo/infer", body, headers)
        assert answer.status == status
    line = "output 'x' has 524289 values; at most 524288 are written as JSON: ask for binary data"
    assert answer.json()["error"] == line
    intake.close()


def test_strings_that_are_not_text_need_binary_data(intake: ComputingIntake) -> None:
    head = {
        "inputs": [{"name": "t", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 5}}]
    }
    body, headers = with_binary(head, b"\x01\x00\x00\x00\xff")
    answer = ask_app(make_app(intake), "POST", "/v2/models/text/infer", body, headers)
    line = "output 'u' is not UTF-8, which JSON needs: ask for binary data"
    assert (answer.status, answer.json()["error"]) == (400, line)


def test_an_empty_tensor_may_come_with_both_no_data_and_no_bytes(intake: ComputingIntake) -> None:
    """As the KServe SDK sends it; where there is any, both are one too many (test_edge_errors)."""
    empty = {
        "name": "a",
        "datatype": "INT64",
        "shape": [1, 0],
        "data": [],
        "parameters": {"binary_data_size": 0},
    }
    text = {"name": "b", "datatype": "BYTES", "shape": [1, 2], "data": ["p", "q"]}
    outputs = [{"name": "a2"}]
    assert infer(intake, "mix", {"inputs": [empty, text], "outputs": outputs}).status == 200
