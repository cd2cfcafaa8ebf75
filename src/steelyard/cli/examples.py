"""Examples from a file: `.npz` (inputs by name and `label`, one row each) or `.jsonl` (one a line).

An example is one row of every input, without the leading dimension where the service takes rows. In `.jsonl`
an input is written out, or is the path of an `.npy` or image file, relative to the file's folder; for BYTES
it is the text itself.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steelyard.config.source import nearest
from steelyard.core.errors import InputError
from steelyard.runtime.base import Array, Signature, TensorSpec
from steelyard.runtime.dtypes import numpy_dtype, oip_dtype

LABEL = "label"
IMAGES = (".png", ".jpg", ".jpeg")


class Example(NamedTuple):
    """One request's inputs, with their leading dimension, and what is right."""

    inputs: dict[str, Array]
    label: Any


def read_examples(
    file: Path, signature: Signature, *, option: str = "--labels", labelled: bool = True
) -> list[Example]:
    """All examples of a file.

    Args:
        file: `.npz` or `.jsonl`.
        signature: what the service takes.
        option: by which it was named, for messages.
        labelled: each needs a label, and not all of them may be NaN; otherwise labels may be there or not.

    Raises:
        InputError: one line that names file, line and input.
    """
    try:
        return _read(file, signature, labelled=labelled)
    except InputError as error:
        raise InputError(f"{option}: {error}") from None


def _read(file: Path, signature: Signature, *, labelled: bool) -> list[Example]:
    if file.suffix not in (".npz", ".jsonl"):
        raise InputError(f"{file}: want .npz or .jsonl, got {file.suffix or 'no suffix'!r}")
    read = _npz if file.suffix == ".npz" else _jsonl
    try:
        found = list(read(file, signature, labelled=labelled))
    except OSError as error:
        named = error.filename or file
        raise InputError(f"cannot read {named}: {error.strerror or error}") from None
    except (ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: {' '.join(str(error).split())}") from None
    if not found:
        raise InputError(f"{file}: no examples")
    if labelled and all(is_nan(example.label) for example in found):
        raise InputError(f"{file}: every {LABEL} is NaN: no answer equals that")
    return found


def is_nan(value: Any) -> bool:
    """Whether it is numbers, and all of them are NaN; there is one at least."""
    array: Array = np.asarray(value)
    return array.dtype.kind == "f" and array.size > 0 and bool(np.isnan(array).all())


def _npz(file: Path, signature: Signature, *, labelled: bool) -> Iterator[Example]:
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    labels = arrays.pop(LABEL, None)
    if labels is None and labelled:
        raise InputError(f"{file}: no array {LABEL!r}{nearest(LABEL, tuple(arrays))}")
    _check_names(arrays, signature, str(file))
    counted, first = (LABEL, labels) if labels is not None else next(iter(arrays.items()))
    count = len(first) if first.ndim else 0
    for name, array in arrays.items():
        if not array.ndim or len(array) != count:
            entries = len(array) if array.ndim else 1
            raise InputError(f"{file}: {counted} has {count} entries, {name} has {entries}")
    for index, label in enumerate([None] * count if labels is None else labels.tolist()):
        rows = {
            tensor.name: _fitted(arrays[tensor.name][index], tensor, signature, f"{file}: example {index}")
            for tensor in signature.inputs
        }
        yield Example(rows, label)


def _jsonl(file: Path, signature: Signature, *, labelled: bool) -> Iterator[Example]:
    with file.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            where = f"{file}:{number}"
            try:
                given = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: not JSON: {error.msg}") from None
            if not isinstance(given, dict) or (labelled and LABEL not in given):
                label_too = f" and {LABEL!r}" if labelled else ""
                raise InputError(f"{where}: want an object with the inputs{label_too}")
            label = given.pop(LABEL, None)
            _check_names(given, signature, where)
            rows = {
                tensor.name: _fitted(
                    _value(given[tensor.name], tensor, file.parent, where), tensor, signature, where
                )
                for tensor in signature.inputs
            }
            yield Example(rows, label)


def _check_names(given: dict[str, Any], signature: Signature, where: str) -> None:
    known = tuple(tensor.name for tensor in signature.inputs)
    for name in given:
        if name not in known:
            raise InputError(f"{where}: unknown input {name}{nearest(name, known)}")
    for name in known:
        if name not in given:
            raise InputError(f"{where}: input {name} is missing")


def _value(given: Any, tensor: TensorSpec, folder: Path, where: str) -> Array:
    """One input as it was written, or from the file that was named."""
    if not isinstance(given, str) or tensor.dtype == "BYTES":
        return np.asarray(given, dtype=np.object_ if tensor.dtype == "BYTES" else None)
    path = folder / given
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if path.suffix.lower() in IMAGES:
        try:
            from PIL import Image
        except ImportError:
            raise InputError(f"{where}: reading {given} takes Pillow: pip install pillow") from None
        with Image.open(path) as image:
            return np.asarray(image)
    kinds = ", ".join((".npy", *IMAGES))
    raise InputError(f"{where}: {tensor.name}: want numbers or a file ({kinds}), got {given!r}")


def _fitted(array: Array, tensor: TensorSpec, signature: Signature, where: str) -> Array:
    """The input as a request has it: of the type that is taken, with its leading dimension."""
    wanted = tensor.shape[1:] if signature.batchable else tensor.shape
    is_text = tensor.dtype == "BYTES"
    given = "BYTES" if array.dtype == np.object_ else oip_dtype(array.dtype) or str(array.dtype)
    fits = array.ndim == len(wanted) and all(
        want in (-1, have) for want, have in zip(wanted, array.shape, strict=True)
    )
    if not fits or is_text != (given == "BYTES"):
        message = f"want {tensor.dtype} {list(wanted)}, got {given} {list(array.shape)}"
        raise InputError(f"{where}: {tensor.name}: {message}")
    typed = _text(array) if is_text else _number(array, tensor, where)
    return typed[np.newaxis] if signature.batchable else typed


def _number(array: Array, tensor: TensorSpec, where: str) -> Array:
    """Of the type that is taken; whole numbers may be given for reals, but nothing may be lost."""
    dtype = numpy_dtype(tensor.dtype)
    typed = array.astype(dtype, copy=False)
    if dtype.kind in "iub" and not np.array_equal(typed, array):
        raise InputError(f"{where}: {tensor.name}: not all values are {tensor.dtype}")
    return typed


def _text(array: Array) -> Array:
    texts = np.empty(array.shape, dtype=np.object_)
    for place, text in np.ndenumerate(array):
        texts[place] = text if isinstance(text, bytes) else str(text).encode()
    return texts
