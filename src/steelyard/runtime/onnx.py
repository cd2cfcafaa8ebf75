"""Run ONNX models with ONNX Runtime, on as many cores as the replica has at this moment.

The number of cores is changed between batches by choosing another session or another number of lanes (see
`widths.py`): it costs microseconds and takes effect with the next batch. `run` never waits for a session to
be built.
"""

import ctypes
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import onnxruntime as ort

from steelyard.core.errors import InputError, ModelError
from steelyard.runtime.base import Array, Signature, TensorSpec, Value, VariantSpec, WidthRule, one_array
from steelyard.runtime.dtypes import oip_from_onnx
from steelyard.runtime.example import example_inputs
from steelyard.runtime.sessions import Sessions, one_line
from steelyard.runtime.widths import needs_threads, slices, thread_counts, width_cores, width_for

EAGER_S_MAX = 60.0
_ONNX_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


class OnnxRuntime:
    """One ONNX model. Calls come from one thread; lanes and session building have threads of their own.

    Args:
        spec: `target` is the file, `session_options` are ONNX Runtime's config entries.
        cores: cores the replica starts with; their session is built first.

    Raises:
        ModelError: the file is missing or corrupt, or has inputs or outputs that are not tensors.
    """

    def __init__(self, spec: VariantSpec, cores: float = 1.0) -> None:
        self._spec = spec
        self._cores = width_cores(cores)
        self._counts = thread_counts(max(spec.cores_max, self._cores))
        self._threads = first = self._threads_for(self._cores)
        self._rules: tuple[WidthRule, ...] = ()
        self._lanes: ThreadPoolExecutor | None = None
        self._sessions = Sessions(spec, first, self._warm_up)
        self.signature = signature_of(self._sessions.best(first), spec)
        self._outputs = [tensor.name for tensor in self.signature.outputs]
        self._text = any(t.dtype == "BYTES" for t in (*self.signature.inputs, *self.signature.outputs))
        self._bf16 = frozenset(t.name for t in self.signature.inputs if t.dtype == "BF16")
        self._by_value = bool(self._bf16) or any(t.dtype == "BF16" for t in self.signature.outputs)

    @property
    def sessions(self) -> Sessions:
        """The sessions behind it, for the worker to wait for and for tests to look at."""
        return self._sessions

    def set_cores(self, cores: float) -> None:
        """Run the next batch on `cores` cores, rounded up; missing sessions are built in the background."""
        self._cores = width_cores(cores)
        self._threads = self._threads_for(self._cores)
        self._want_sessions()

    def set_widths(self, rules: Sequence[WidthRule]) -> None:
        """Use lanes or threads as the profile found faster."""
        self._rules = tuple(rules)
        self._want_sessions()

    def run(self, inputs: Mapping[str, Value], rows: int) -> dict[str, Array]:
        """Run one batch; BYTES are object arrays of `bytes`, BF16 is its bits in `uint16`.

        Rows that come as one array each (`base.Value`) are stacked: ONNX models have no ragged inputs.

        Raises:
            InputError: text that is not UTF-8.
            ModelError: ONNX Runtime refused the inputs, or an output has not `rows` rows.
        """
        lanes = self._lane_count(rows)
        arrays = {name: one_array(self._spec, self.signature, name, inputs[name]) for name in inputs}
        try:
            if lanes > 1:
                outputs = self._run_lanes(arrays, slices(rows, lanes))
            else:
                outputs = self._run_one(self._session_for(rows), arrays)
        except (InputError, ModelError):
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base below Exception
            raise ModelError(f"variant {self._spec.name}: {one_line(error)}") from error
        if self.signature.batchable:
            for name, output in outputs.items():
                if output.shape[:1] != (rows,):
                    raise ModelError(
                        f"variant {self._spec.name}: output {name} has shape {list(output.shape)} "
                        f"for {rows} rows"
                    )
        return outputs

    def close(self) -> None:
        """Free sessions and threads; waits for a session that is being built."""
        if self._lanes is not None:
            self._lanes.shutdown()
        self._sessions.close()

    def _lane_count(self, rows: int) -> int:
        """How many lanes the batch runs on; 1 means one call of one session."""
        if self._cores == 1 or rows < 2 or not self.signature.batchable or self._sessions.get(1) is None:
            return 1
        if width_for(self._rules, self._cores, rows) == "lanes" or self._sessions.get(self._threads) is None:
            return min(
                self._cores, rows
            )  # lanes also bridge the time until the session of this width is built
        return 1

    def _session_for(self, rows: int) -> ort.InferenceSession:
        lanes = self._cores > 1 and width_for(self._rules, self._cores, rows) == "lanes"
        return self._sessions.best(1 if lanes else self._threads)

    def _threads_for(self, cores: int) -> int:
        """The kept thread count for so many cores: the smallest that uses them all."""
        return next((count for count in self._counts if count >= cores), self._counts[-1])

    def _want_sessions(self) -> None:
        """Present width first, then one thread (lanes need it), then upwards: growth is what is urgent."""
        order = [self._threads, 1, *self._counts]
        useful = (count for count in order if count == 1 or needs_threads(self._rules, count))
        self._sessions.want(dict.fromkeys(useful))
        if self._spec.eager:
            self._sessions.wait(EAGER_S_MAX)

    def _warm_up(self, session: ort.InferenceSession) -> None:
        """The first run of a session plans its memory: do that before a request meets it."""
        try:
            inputs = example_inputs(self._spec, self.signature, 1)
        except ModelError:
            return  # dynamic dimensions without an example: the first request will do it
        self._run_one(session, inputs)

    def _run_lanes(self, inputs: Mapping[str, Array], parts: list[slice]) -> dict[str, Array]:
        if self._lanes is None:
            self._lanes = ThreadPoolExecutor(self._counts[-1], thread_name_prefix="lane")
        session = self._sessions.best(1)
        pending: list[Future[dict[str, Array]]] = [
            self._lanes.submit(self._run_one, session, {name: array[part] for name, array in inputs.items()})
            for part in parts[1:]
        ]
        try:
            first = self._run_one(session, {name: array[parts[0]] for name, array in inputs.items()})
        finally:
            rest = [
                future.exception() for future in pending
            ]  # no lane may still be reading when the batch is answered
        for error in rest:
            if error is not None:
                raise error
        results = [first, *(future.result() for future in pending)]
        return {name: np.concatenate([result[name] for result in results]) for name in first}

    def _run_one(self, session: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._by_value:
            return self._run_by_value(session, inputs)
        if not self._text:
            return dict(zip(self._outputs, session.run(self._outputs, dict(inputs)), strict=True))
        answers = session.run(self._outputs, {name: self._decoded(array) for name, array in inputs.items()})
        return {name: _encoded(array) for name, array in zip(self._outputs, answers, strict=True)}

    def _decoded(self, array: Array) -> Array:
        """`bytes` to `str`: ONNX Runtime would take a `bytes` object's repr for the string."""
        if array.dtype != np.object_:
            return array
        try:
            texts = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
        except UnicodeDecodeError as error:
            raise InputError(f"variant {self._spec.name}: ONNX strings are UTF-8: {error}") from error
        decoded = np.empty(array.size, dtype=np.object_)
        decoded[:] = texts
        return decoded.reshape(array.shape)

    def _run_by_value(self, session: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """BF16 has no numpy type: hand its bits over by ONNX type, and read outputs' memory as bits."""
        feeds = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _ONNX_BFLOAT16)
            if name in self._bf16
            else ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
            for name, array in inputs.items()
        }
        answers = session.run_with_ort_values(self._outputs, feeds)
        return dict(zip(self._outputs, (_bits(answer) for answer in answers), strict=True))


def signature_of(session: ort.InferenceSession, spec: VariantSpec) -> Signature:
    """Inputs and outputs as OIP sees them; symbolic and unknown dimensions are -1.

    Raises:
        ModelError: an input or output is not a tensor (a sequence, a map ...) or of a type OIP does not have.
    """
    inputs = tuple(_tensor(node, "input", spec) for node in session.get_inputs())
    outputs = tuple(_tensor(node, "output", spec) for node in session.get_outputs())
    batchable = bool(inputs) and all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
    return Signature(inputs, outputs, batchable)


def _tensor(node: ort.NodeArg, role: str, spec: VariantSpec) -> TensorSpec:
    dtype = oip_from_onnx(node.type)
    if dtype is None:
        raise ModelError(
            f"variant {spec.name}: {spec.target}: {role} {node.name} is {node.type}; "
            "only tensors can be served"
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, dtype, shape)


def _encoded(array: Array) -> Array:
    if array.dtype != np.object_:
        return array
    encoded = np.empty(array.size, dtype=np.object_)
    encoded[:] = [item.encode() if isinstance(item, str) else item for item in array.ravel()]
    return encoded.reshape(array.shape)


def _bits(value: ort.OrtValue) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    shape = value.shape()
    memory = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape)))
    return np.frombuffer(memory, dtype=np.uint16).reshape(shape)
