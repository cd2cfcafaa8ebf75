"""A request as each server takes it, whole, and a row of the answer out of what comes back.

Messages are made once and sent as they are. Each server gets the most compact form that its documentation
has for arrays: raw bytes (Ray Serve), the Open Inference Protocol in binary (Steelyard over HTTP, MLServer
over gRPC, since its HTTP has no binary tensors), base64 in JSON (LitServe, BentoML).
"""

import base64
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from peers.models import Floats, Model
from steelyard.client.wire import LENGTH_HEADER, infer_body, model_path, read_outputs
from steelyard.serve.grpc.messages import INFERENCE, InferRequest, InferResponse

GRPC_METHOD = f"/{INFERENCE}/ModelInfer"
Row = NDArray[np.float64]
ROWS = 8


class Answer(NamedTuple):
    """What came back: the body, and where its JSON ends if a header says so."""

    content: bytes
    json_length: int | None


class Wire(NamedTuple):
    """How one server is spoken to.

    Attributes:
        transport: `http` (a message is a whole HTTP request) or `grpc` (a message of the protocol).
        message: a request of one row; of `ROWS` times that row, if the wire's name says so.
        read: the row that an answer holds.
        said: the same in words, for the record.
    """

    transport: str
    message: Callable[[Model, Floats], bytes]
    read: Callable[[Model, Answer], Row]
    said: str


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A whole HTTP request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _oip(model: Model, row: Floats) -> bytes:
    body = infer_body({"x": row[None]})
    return post(f"{model_path(model.name)}/infer", body.content, dict(body.headers))


def _oip_rows(model: Model, row: Floats) -> bytes:
    body = infer_body({"x": np.repeat(row[None], ROWS, axis=0)})
    return post(f"{model_path(model.name)}/infer", body.content, dict(body.headers))


def _from_oip(model: Model, answer: Answer) -> Row:
    return np.asarray(read_outputs(answer.content, answer.json_length)[model.output][0], np.float64)


def _rest_bytes(model: Model, row: Floats) -> bytes:
    data = [base64.b64encode(row.tobytes()).decode()]
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 1], "data": data}]}
    headers = {"Content-Type": "application/json"}
    return post(f"{model_path(model.name)}/infer", json.dumps(body).encode(), headers)


def _from_rest_bytes(model: Model, answer: Answer) -> Row:
    return _from_base64(model, json.loads(answer.content)["outputs"][0]["data"][0])


def _grpc_fp32(model: Model, row: Floats) -> bytes:
    return _grpc(model, "FP32", (1, *row.shape), row.tobytes())


def _grpc_bytes(model: Model, row: Floats) -> bytes:
    data = row.tobytes()
    return _grpc(model, "BYTES", (1,), len(data).to_bytes(4, "little") + data)


def _grpc(model: Model, datatype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    asked: Any = InferRequest(model_name=model.name)
    asked.inputs.add(name="x", datatype=datatype, shape=shape)
    asked.raw_input_contents.append(data)
    message: bytes = asked.SerializeToString()
    return message


def _from_grpc(model: Model, answer: Answer) -> Row:
    found = InferResponse.FromString(answer.content)
    return np.frombuffer(found.raw_output_contents[0], model.dtype).astype(np.float64)


def _from_grpc_bytes(model: Model, answer: Answer) -> Row:
    found = InferResponse.FromString(answer.content)
    return np.frombuffer(found.raw_output_contents[0][4:], model.dtype).astype(np.float64)


def _json_item(_: Model, row: Floats) -> bytes:
    return _json({"x": base64.b64encode(row.tobytes()).decode()})


def _json_list(_: Model, row: Floats) -> bytes:
    return _json({"x": [base64.b64encode(row.tobytes()).decode()]})


def _json(body: dict[str, Any]) -> bytes:
    return post("/predict", json.dumps(body).encode(), {"Content-Type": "application/json"})


def _from_json_item(model: Model, answer: Answer) -> Row:
    return _from_base64(model, json.loads(answer.content)["y"])


def _from_json_list(model: Model, answer: Answer) -> Row:
    return _from_base64(model, json.loads(answer.content)[0])


def _from_base64(model: Model, text: str) -> Row:
    return np.frombuffer(base64.b64decode(text), model.dtype).astype(np.float64)


def _raw(_: Model, row: Floats) -> bytes:
    return post("/", row.tobytes(), {"Content-Type": "application/octet-stream"})


def _from_raw(model: Model, answer: Answer) -> Row:
    return np.frombuffer(answer.content, model.dtype).astype(np.float64)


WIRES = {
    "oip": Wire("http", _oip, _from_oip, f"Open Inference Protocol, HTTP, binary tensors ({LENGTH_HEADER})"),
    "oip_rows": Wire("http", _oip_rows, _from_oip, f"Open Inference Protocol, HTTP, {ROWS} rows a request"),
    "rest_bytes": Wire(
        "http", _rest_bytes, _from_rest_bytes, "Open Inference Protocol, HTTP, one BYTES element of base64"
    ),
    "grpc": Wire("grpc", _grpc_fp32, _from_grpc, "Open Inference Protocol, gRPC, raw FP32"),
    "grpc_bytes": Wire(
        "grpc", _grpc_bytes, _from_grpc_bytes, "Open Inference Protocol, gRPC, one raw BYTES element"
    ),
    "json": Wire("http", _json_item, _from_json_item, "JSON, base64"),
    "json_list": Wire("http", _json_list, _from_json_list, "JSON, a list of base64"),
    "raw": Wire("http", _raw, _from_raw, "HTTP, raw bytes"),
}
