"""Payloads from files. Bodies are built once, before the run, so that sending one costs no encoding."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from steelyard.client.wire import Body, infer_body
from steelyard.core.errors import InputError
from steelyard.runtime.base import Array


def load_payload(path: Path, input_names: Sequence[str]) -> Body:
    """A request from a file: `.npy` (the only input), `.npz` (inputs by name) or `.json` (a whole body).

    Raises:
        InputError: no such file, another kind of file, or its inputs are not the model's.
    """
    try:
        if path.suffix == ".json":
            content = path.read_bytes()
            json.loads(content)
            return Body(content, {"Content-Type": "application/json"})
        inputs = _arrays(path, input_names)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if sorted(inputs) != sorted(input_names):
        raise InputError(
            f"{path}: the model takes {', '.join(input_names)}; the file has {', '.join(inputs)}"
        )
    return infer_body(inputs)


def _arrays(path: Path, input_names: Sequence[str]) -> dict[str, Array]:
    if path.suffix == ".npy":
        if len(input_names) != 1:
            raise InputError(
                f"{path}: the model takes {', '.join(input_names)}; use an .npz with these names"
            )
        return {input_names[0]: np.load(path, allow_pickle=False)}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    raise InputError(f"{path}: want .npy, .npz or .json, got {path.suffix or 'no suffix'!r}")
