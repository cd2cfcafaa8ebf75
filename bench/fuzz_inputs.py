"""Inputs for fuzzing the HTTP edge: good requests broken in a few places; what `fuzz.py` tries.

Each is made from a generator of random numbers alone, so an input that fails can be made again.
"""

import json
import math
import re
import urllib.parse
from typing import Any, NamedTuple

import numpy as np

from steelyard.serve.edge.compression import compress
from steelyard.testing.intake import served

TENSORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "x": ("FP32", (-1, -1)),
    "i": ("INT64", (-1, 2)),
    "s": ("BYTES", (-1,)),
    "h": ("FP16", (-1, 1)),
}
SERVICES = {
    "echo": served("echo", TENSORS, TENSORS, classes={"gold": 0.5}),
    "one/x": served("one/x", {"x": TENSORS["x"]}, {"x": TENSORS["x"]}),
}
WORDS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 2**31, 2**53 + 1, -(2**63), 2**64, 10**40, 0.5, -0.0, 1e308, 1e-320,
    math.nan, math.inf, "", "x", "FP32", "BYTES", "FP33", "\x00", "\ud800", "ä" * 50, "1" * 400, [], {}, [[]],
    [1, [2]], {"a": {}}, ["true", "x"],
)  # fmt: skip
"""Values that a client may put where something else belongs."""
NASTY = (
    b"\x00",
    b"\xff",
    b"{",
    b"[",
    b'"',
    b"\\u",
    b"-",
    b"1e999",
    b"NaN",
    b"\r\n",
    b"\r\n\r\n",
    b"%ff",
    b"..",
)
HEADERS = (
    "inference-header-content-length", "content-encoding", "accept-encoding", "content-length",
    "x-request-id",
    "steelyard-max-latency-ms", "steelyard-elapsed-ms", "steelyard-min-accuracy", "steelyard-max-core-ms",
    "steelyard-slo-class", "transfer-encoding", "expect", "connection",
)  # fmt: skip
PATHS = (
    "/v2", "/v2/health/ready", "/v2/models", "/v2/models/stats", "/v2/models/echo", "/v2/models/echo/config",
    "/v2/models/echo/versions/1/stats", "/v2/models/one/x/ready", "/v2/repository/index",
    "/v2/repository/models/one/x/unload", "/v2/repository/models/one/x/load", "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/region/r/register", "/v2/systemsharedmemory/region/r/unregister",
    "/v2/systemsharedmemory/region/r/status", "/v2/cudasharedmemory/region/r/register", "/v2/trace/setting",
    "/v2/models/echo/trace/setting", "/v2/logging", "/v2/models/echo/generate",
)  # fmt: skip


class Message(NamedTuple):
    """A request before it is sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def good_arrays(rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of `echo`, 1 to 3 rows."""
    rows, width = int(rng.integers(1, 4)), int(rng.integers(0, 4))
    words = np.empty(rows, dtype=object)
    words[:] = [rng.bytes(int(rng.integers(0, 5))) for _ in range(rows)]
    return {
        "x": rng.standard_normal((rows, width)).astype(np.float32),
        "i": rng.integers(-(2**63), 2**63 - 1, size=(rows, 2)),
        "s": words,
        "h": rng.standard_normal((rows, 1)).astype(np.float16),
    }


def binary_form(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype == object:
        return b"".join(len(word).to_bytes(4, "little") + word for word in array.ravel().tolist())
    return array.tobytes()


def good_tree(rng: np.random.Generator) -> tuple[dict[str, Any], bytes]:
    """The JSON of a good request to `echo`, and the binary data after it."""
    inputs, data = [], b""
    for name, array in good_arrays(rng).items():
        entry: dict[str, Any] = {"name": name, "datatype": TENSORS[name][0], "shape": list(array.shape)}
        if name == "h" or rng.random() < 0.5:
            packed = binary_form(array)
            entry["parameters"] = {"binary_data_size": len(packed)}
            data += packed
        elif name == "s":
            entry["data"] = ["text"] * len(array)
        else:
            entry["data"] = array.tolist() if rng.random() < 0.5 else array.ravel().tolist()
        inputs.append(entry)
    tree: dict[str, Any] = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    if rng.random() < 0.5:
        tree["id"] = "q"
        tree["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in ("h", "s", "x")]
        tree["parameters"] |= {"timeout": 400_000, "min_accuracy": 0.5, "slo_class": "gold"}
    return tree, data


def spoil(tree: Any, rng: np.random.Generator) -> Any:
    """The same tree with one value, somewhere, that is another, missing, or there twice."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        return WORDS[rng.integers(len(WORDS))]
    if isinstance(tree, list):
        at = int(rng.integers(len(tree)))
        if rng.random() < 0.2:
            return tree[:at] + tree[at + 1 :] if rng.random() < 0.5 else [*tree, tree[at]]
        return [*tree[:at], spoil(tree[at], rng), *tree[at + 1 :]]
    key = list(tree)[rng.integers(len(tree))]
    if rng.random() < 0.2:
        return {name: value for name, value in tree.items() if name != key}
    return {**tree, key: spoil(tree[key], rng)}


def scratch(data: bytes, rng: np.random.Generator) -> bytes:
    """The same bytes with one or a few of them flipped, cut out, doubled, or something nasty between them."""
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(data) + 1))
        end = min(len(data), at + int(rng.integers(0, 9)))
        match rng.integers(5):
            case 0:
                data = data[:at] + data[end:]
            case 1:
                data = data[:end] + data[at:]
            case 2:
                data = data[:at] + rng.bytes(end - at) + data[end:]
            case 3:
                data = data[:at] + NASTY[rng.integers(len(NASTY))] + data[at:]
            case _:
                data = data[:at]
    return data


def infer_message(rng: np.random.Generator) -> Message:
    """An inference request that is more or less one."""
    if rng.random() < 0.1:
        body, length = rng.bytes(int(rng.integers(0, 300))), int(rng.integers(0, 300))
    else:
        tree, data = good_tree(rng)
        for _ in range(int(rng.integers(0, 3))):
            tree = spoil(tree, rng)
        head = json.dumps(tree).encode("utf-8", "surrogatepass")
        body, length = head + data, len(head)
        if rng.random() < 0.3:
            body = scratch(body, rng)
        if rng.random() < 0.1:
            length += int(rng.integers(-3, 4))
    headers = {"inference-header-content-length": str(length)}
    if rng.random() < 0.1:
        headers.pop("inference-header-content-length")
    if rng.random() < 0.15:
        coding = "gzip" if rng.random() < 0.5 else "deflate"
        headers["content-encoding"] = coding
        body = compress(body, coding)  # type: ignore[arg-type]
        body = scratch(body, rng) if rng.random() < 0.3 else body
    if rng.random() < 0.2:
        headers["accept-encoding"] = ("gzip", "deflate", "br;q=x", "gzip;q=nan")[rng.integers(4)]
    if rng.random() < 0.2:
        headers[HEADERS[rng.integers(len(HEADERS))]] = nonsense(rng)
    service = "echo" if rng.random() < 0.9 else "one/x"
    return Message("POST", f"/v2/models/{service}/infer", headers, body)


def placed_message(rng: np.random.Generator) -> Message:
    """An inference request whose tensor has a place before it comes, more or less one."""
    rows = int(rng.integers(1, 4))
    data = rng.standard_normal((rows, 3), dtype=np.float32).tobytes()
    given = {
        "name": "x",
        "datatype": "FP32",
        "shape": [rows, 3],
        "parameters": {"binary_data_size": len(data)},
    }
    tree: Any = {"id": "7", "inputs": [given], "parameters": {"binary_data_output": bool(rng.random() < 0.8)}}
    for _ in range(int(rng.integers(0, 2))):
        tree = spoil(tree, rng)
    head = json.dumps(tree).encode("utf-8", "surrogatepass")
    length = len(head) + (int(rng.integers(-3, 4)) if rng.random() < 0.1 else 0)
    body = scratch(head + data, rng) if rng.random() < 0.1 else head + data
    return Message("POST", "/v2/models/one%2Fx/infer", {"inference-header-content-length": str(length)}, body)


def nonsense(rng: np.random.Generator) -> str:
    """A header's value: a word, or bytes without a line's end."""
    if rng.random() < 0.5:
        return str(WORDS[rng.integers(20)])[:200].encode("latin-1", "replace").decode("latin-1")
    return re.sub(r"[\x00-\x1f\x7f]", "?", rng.bytes(int(rng.integers(0, 20))).decode("latin-1"))


def page_message(rng: np.random.Generator) -> Message:
    """A request for something else, with a path, verb or body that may be wrong."""
    path = PATHS[rng.integers(len(PATHS))]
    if rng.random() < 0.3:
        path = "/" + scratch(path.encode(), rng).decode("latin-1").lstrip("/")
    body: Any = {
        "key": "/no-such-shared-memory", "byte_size": 64, "offset": 0, "parameters": {"config": "{}"},
        "ready": True, "trace_level": ["OFF"], "log_info": True,
    }  # fmt: skip
    for _ in range(int(rng.integers(0, 3))):
        body = spoil(body, rng)
    data = json.dumps(body).encode("utf-8", "surrogatepass") if rng.random() < 0.8 else b""
    data = scratch(data, rng) if rng.random() < 0.3 else data
    method = ("GET", "POST", "POST", "PUT", "DELETE", "HEAD")[rng.integers(6)]
    return Message(method, path, {"content-length": nonsense(rng)} if rng.random() < 0.1 else {}, data)


def chunks_of(body: bytes, rng: np.random.Generator) -> list[bytes]:
    """The body in one to four pieces."""
    cuts = sorted(int(rng.integers(len(body) + 1)) for _ in range(int(rng.integers(0, 4))))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def wire_form(message: Message, rng: np.random.Generator | None) -> bytes:
    """A request as it goes over a socket, chunked now and then; its length is always said as it is."""
    path = urllib.parse.quote(message.path.encode("utf-8", "surrogatepass"), safe="/%") or "/"
    lines = [f"{message.method} {path} HTTP/1.1", "Host: a"]
    lines += [f"{name}: {value}" for name, value in message.headers.items() if name != "content-length"]
    if rng is not None and rng.random() < 0.2:
        lines.append("Transfer-Encoding: chunked")
        pieces = [piece for piece in chunks_of(message.body, rng) if piece]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(message.body)}")
        body = message.body
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
