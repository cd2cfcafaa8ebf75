"""Files that hold a request's tensors, and files that do not."""

from pathlib import Path

import numpy as np
import pytest

from steelyard.client.wire import infer_body
from steelyard.core.errors import InputError
from steelyard.load.payload import load_payload


def test_payloads_from_files(tmp_path: Path) -> None:
    x = np.ones((2, 3), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "both.npz", x=x, y=x)
    (tmp_path / "body.json").write_text('{"inputs": []}')
    assert load_payload(tmp_path / "x.npy", ["x"]) == infer_body({"x": x})
    assert load_payload(tmp_path / "both.npz", ["x", "y"]) == infer_body({"x": x, "y": x})
    assert load_payload(tmp_path / "body.json", ["x"]).content == b'{"inputs": []}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", None, "no such file"),
        ("x.npy", b"rubbish", "cannot be read"),
        ("x.npz", b"rubbish", "cannot be read"),
        ("x.json", b"{", "cannot be read"),
        ("x.bin", b"", "want [.]npy, [.]npz or [.]json, got '[.]bin'"),
    ],
)
def test_a_file_that_is_no_payload_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_payload(tmp_path / name, ["x"])


def test_inputs_that_are_not_the_models_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.ones(1))
    with pytest.raises(InputError, match="the model takes image; the file has images"):
        load_payload(tmp_path / "x.npz", ["image"])
    np.save(tmp_path / "x.npy", np.ones(1))
    with pytest.raises(InputError, match=r"use an [.]npz with these names"):
        load_payload(tmp_path / "x.npy", ["a", "b"])
