"""Run a user's Python class. It is imported in the worker only, never in the server.

The class, named `module:Class` or `path/to/file.py:Class`:

    class Model:
        signature = {"inputs": {"x": ("FP32", [-1, 4])}, "outputs": {"y": ("FP32", [-1])}}   # optional
        def setup(self, options): ...            # optional; once, before the first batch
        def predict(self, batch): ...            # dict of arrays in, dict of arrays out, same number of rows
        def set_cores(self, cores): ...          # optional; whole cores of the next batch
        def close(self): ...                     # optional

A plain function `predict(batch)` is taken too. Without a signature the spec's `inputs:` say what clients may
send.

In a pipeline, an output may have any number of elements for each row (*ragged*): then it is a list with one
array, or list of arrays, for each row. Where a signature declares the output, arrays with as many dimensions
as declared are the elements of a row each, and those with one less are rows to be stacked; without one, a
list of arrays is ragged. A ragged input comes as a list of arrays, one for each row.

What `predict` raises fails its request with 500. Where the request is to blame, it raises
`steelyard.InputError`, which is answered with 400 and its text.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from steelyard.core.errors import InputError, ModelError
from steelyard.runtime.base import Array, Signature, TensorSpec, Value, VariantSpec, WidthRule, one_array
from steelyard.runtime.dtypes import numpy_dtype, oip_dtype
from steelyard.runtime.widths import width_cores

PLATFORM = "python"
ERROR_CHARS_MAX = 1000
"""Of what a user's code has raised: the text goes to a client and to the log, and may be a whole tensor."""


class PythonRuntime:
    """One instance of a user's class.

    Raises:
        ModelError: the class cannot be imported, made or set up; its traceback's last line is in the message.
    """

    def __init__(self, spec: VariantSpec, cores: float = 1.0) -> None:
        self._spec = spec
        self._raised: ModelError | None = None
        target = self._call("import", lambda: load_target(spec.target))
        self._object: Any = self._call("__init__", target) if isinstance(target, type) else target
        self._predict: Any = self._object.predict if hasattr(self._object, "predict") else self._object
        if not callable(self._predict):
            raise ModelError(f"variant {spec.name}: {spec.target} has no method `predict`")
        self.set_cores(cores)
        setup = getattr(self._object, "setup", None)
        if setup is not None:
            self._call("setup", lambda: setup(dict(spec.options)))
        self.signature = _signature(spec, getattr(self._object, "signature", None))

    def set_cores(self, cores: float) -> None:
        """Tell the class, if it wants to know; what it raises is raised by the next `run`."""
        tell = getattr(self._object, "set_cores", None)
        if tell is not None:
            try:
                self._call("set_cores", lambda: tell(width_cores(cores)))
            except ModelError as error:
                self._raised = error

    def set_widths(self, rules: Sequence[WidthRule]) -> None:
        """Nothing to choose: the class spends its cores as it likes."""

    def run(self, inputs: Mapping[str, Value], rows: int) -> dict[str, Value]:
        """Call `predict`.

        Raises:
            InputError: it raised that.
            ModelError: it raised, answered with something else than a dict of arrays, or with other rows.
        """
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        batch = dict(inputs)
        if not self.signature.batchable:
            batch = {name: one_array(self._spec, self.signature, name, batch[name]) for name in batch}
        answer = self._call("predict", lambda: self._predicted(batch))
        if isinstance(answer, InputError):
            raise InputError(f"variant {self._spec.name}: {answer}") from answer
        if not isinstance(answer, Mapping):
            raise ModelError(
                f"variant {self._spec.name}: predict returned {type(answer).__name__}, not a dict of arrays"
            )
        return {name: self._checked(name, value, rows) for name, value in answer.items()}

    def _predicted(self, batch: dict[str, Any]) -> Any:
        try:
            return self._predict(batch)
        except InputError as error:  # only here is a request to blame, not the class
            return error

    def close(self) -> None:
        """Call the class's `close`, if it has one."""
        close = getattr(self._object, "close", None)
        if close is not None:
            self._call("close", close)

    def _checked(self, name: str, value: Any, rows: int) -> Value:
        if not isinstance(name, str):
            raise ModelError(f"variant {self._spec.name}: predict named an output {name!r}, want text")
        declared = {tensor.name: tensor for tensor in self.signature.outputs}
        if declared and name not in declared:
            raise ModelError(
                f"variant {self._spec.name}: predict returned {name!r}; "
                f"its signature has {', '.join(declared)}"
            )
        promised = declared.get(name)
        what = f"output {name}"
        rank = None if promised is None else len(promised.shape)
        by_row = self._call(what, lambda: _by_row(value, rank))
        if by_row is not None and self.signature.batchable:
            if len(by_row) != rows:
                raise ModelError(
                    f"variant {self._spec.name}: output {name} is a list of {len(by_row)} for {rows} rows"
                )
            model = next((array for array in by_row if array.size), by_row[0])
            return [self._call(what, partial(_kept, array, promised, model)) for array in by_row]
        array = self._call(what, lambda: _array(value))
        if self.signature.batchable and array.shape[:1] != (rows,):
            raise ModelError(
                f"variant {self._spec.name}: output {name} has shape {list(array.shape)} for {rows} rows"
            )
        kept: Array = self._call(what, partial(_kept, array, promised, array))
        return kept

    def _call(self, what: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except ModelError as error:
            raise ModelError(f"variant {self._spec.name}: {error}") from error
        except BaseException as error:  # whatever a user's code raises; signals do not reach a worker
            raise ModelError(
                f"variant {self._spec.name}: {what} of {self._spec.target}: {_last_lines(error)}"
            ) from error


def load_target(target: str, *, is_bare: bool = True) -> Any:
    """The object named by `module:attribute` or `path/to/file.py:attribute`.

    What `@steelyard.service` decorated is taken out of its wrapping, unless `is_bare` is false.

    Raises:
        ModelError: the text is not of that form, or the module has no such attribute.
        Exception: whatever importing the module raises.
    """
    module_name, colon, attribute = target.rpartition(":")
    if not colon or not module_name or not attribute:
        raise ModelError(f"want `module:Class` or `file.py:Class`, not {target!r}")
    module = (
        _load_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    )
    if not hasattr(module, attribute):
        raise ModelError(f"{module_name} has no {attribute!r}")
    found = getattr(module, attribute)
    return getattr(found, "steelyard_target", found) if is_bare else found


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"no such file: {path}")
    name = f"steelyard_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickling and dataclasses look classes up there
    spec.loader.exec_module(module)
    return module


def _last_lines(error: BaseException) -> str:
    """`ValueError: bad shape (model.py, line 12, in predict: return x @ w)`, from the innermost frame."""
    whole = "".join(traceback.format_exception_only(error))
    text = " ".join(whole[:ERROR_CHARS_MAX].split()) + (" ..." if len(whole) > ERROR_CHARS_MAX else "")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename not in (__file__, importlib.__file__)
    ]
    if not frames:
        return text
    last = frames[-1]
    source = f": {last.line}" if last.line else ""
    return f"{text} ({Path(last.filename).name}, line {last.lineno}, in {last.name}{source})"


def _signature(spec: VariantSpec, declared: object) -> Signature:
    if isinstance(declared, Signature):
        return declared
    if declared is None:
        return Signature((), (), batchable=True, platform=PLATFORM)
    try:
        inputs, outputs = (_tensors(declared[side]) for side in ("inputs", "outputs"))  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"variant {spec.name}: signature of {spec.target} is not "
            f'{{"inputs": {{name: (dtype, shape)}}, "outputs": {{...}}}}: {error}'
        ) from error
    batchable = bool(inputs) and all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
    return Signature(inputs, outputs, batchable, platform=PLATFORM)


def _tensors(declared: Mapping[str, tuple[str, Sequence[int]]]) -> tuple[TensorSpec, ...]:
    for name, (dtype, shape) in declared.items():
        numpy_dtype(dtype)
        if not all(type(size) is int and size >= -1 for size in shape):
            raise ValueError(
                f"{name}: want whole numbers as shape, -1 where it is dynamic, got {list(shape)}"
            )
    return tuple(TensorSpec(name, dtype, tuple(shape)) for name, (dtype, shape) in declared.items())


def _by_row(value: Any, rank: int | None) -> list[Array] | None:
    """The elements of each row of a ragged output; None if it is one array, or rows to be stacked to one.

    Args:
        value: what `predict` returned for the output.
        rank: dimensions declared for it, the leading axis included; None: not declared.

    Raises:
        ValueError: elements of one row have different shapes.
    """
    if not isinstance(value, list | tuple) or not value or not all(map(_is_row, value)):
        return None
    if not any(isinstance(row, np.ndarray) or any(isinstance(e, np.ndarray) for e in row) for row in value):
        return None
    arrays = [_array(row) for row in value]
    ranks = {array.ndim for array in arrays if array.size} or {array.ndim for array in arrays}
    return None if rank is not None and ranks == {rank - 1} else arrays


def _array(value: Any) -> Array:
    """As an array; texts and bytes as objects, as numpy's own types drop zeros at their end."""
    array = np.asarray(value)
    if array.dtype.kind in "SU" and array is not value:
        return np.asarray(value, dtype=np.object_)
    return array


def _is_row(value: Any) -> bool:
    """Whether it has elements: a list, or an array that is not a single number."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _kept(array: Array, promised: TensorSpec | None, model: Array) -> Array:
    """An output, or the elements of one of its rows, as the signature has promised it.

    Args:
        array: that one.
        promised: None: nothing is; it is taken as it comes.
        model: says of what type it comes, where it is empty itself.

    Raises:
        ModelError: it is of another shape, or of a type that would lose its meaning.
    """
    if promised is None:
        return _as_dtype(array, oip_dtype(model.dtype))
    wanted = promised.shape
    fits = array.ndim == len(wanted) and all(
        size in (-1, have) for size, have in zip(wanted, array.shape, strict=True)
    )
    if array.size and not fits:
        raise ModelError(f"output {promised.name} has shape {list(array.shape)}; {list(wanted)} was promised")
    if (
        array.size
        and promised.dtype != "BYTES"
        and array.dtype.kind not in _TAKES[numpy_dtype(promised.dtype).kind]
    ):
        raise ModelError(f"output {promised.name} is {array.dtype}; {promised.dtype} was promised")
    if array.size and array.dtype.kind in _WHOLE and not _holds(promised.dtype, array):
        raise ModelError(
            f"output {promised.name} has {array.min()} to {array.max()}, which {promised.dtype} cannot hold"
        )
    return _as_dtype(array, promised.dtype)


_TAKES = {"b": "biu", "i": "biu", "u": "biu", "f": "biuf"}
"""Kinds of arrays that can be given for a kind of type: text, complex numbers and objects cannot."""
_WHOLE = "iu"


def _holds(dtype: str, array: Array) -> bool:
    """Whether a type has all values of an array of whole numbers; of types of other kinds it is taken for."""
    wanted = numpy_dtype(dtype)
    if wanted.kind not in _WHOLE or np.can_cast(array.dtype, wanted):
        return True
    limits = np.iinfo(wanted)
    return limits.min <= int(array.min()) and int(array.max()) <= limits.max


def _as_dtype(array: Array, dtype: str) -> Array:
    if dtype == "BYTES":
        return _as_bytes(array)
    with np.errstate(over="ignore"):  # what is too large for the type is infinite there
        return np.ascontiguousarray(array, dtype=numpy_dtype(dtype))


def _as_bytes(array: Array) -> Array:
    flat = np.empty(array.size, dtype=np.object_)
    flat[:] = [item if isinstance(item, bytes) else _text(item).encode() for item in array.ravel()]
    return flat.reshape(array.shape)


def _text(item: object) -> str:
    """A text, or how a number is written; of anything else that would be a name of Python's.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(item, str | int | float | np.generic):
        return str(item)
    raise TypeError(f"want text or bytes, got {type(item).__name__}")
