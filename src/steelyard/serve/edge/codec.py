"""From the bytes of an inference request to checked inputs, by reference to those bytes. Pure: no I/O.

The rule of this file: everything that can be known before the first request is worked out once a service
(`Route`), everything about a request is checked before a byte of it is stored, and every error is one line
that names the input and says what was expected.

A request is JSON, then the binary tensors in the order of the inputs that carry `binary_data_size`. A header
length of 0 means a *raw* request: the whole body is the bytes of the only input, one row of it.
Sources: Open Inference Protocol v2 (REST), Triton's binary tensor data extension.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from steelyard.core.errors import InputError
from steelyard.runtime.base import Signature, TensorSpec
from steelyard.serve.base import ServedService
from steelyard.serve.edge.body import Body
from steelyard.serve.edge.bounds import UNBOUNDED, Bounds, parameter_bounds, stricter
from steelyard.serve.edge.head import Head, HeadOutput, OutputParameters, parse_head
from steelyard.serve.edge.inputs import Input, check_input, raw_input, shared_span
from steelyard.serve.edge.shared_memory import Regions, Span
from steelyard.serve.edge.shown import quoted, shown
from steelyard.serve.edge.tensors import KINDS


class Answer(NamedTuple):
    """One output that the client wants: as binary data or JSON, or written to `span`."""

    spec: TensorSpec
    binary: bool
    span: Span | None = None

    @property
    def follows(self) -> bool:
        """Its bytes come after the JSON."""
        return self.binary and self.span is None


class Inference(NamedTuple):
    """A checked inference request, its tensors still where they arrived.

    Attributes:
        client_id: the client's `id`, empty if it gave none.
        inputs: in the order of the service's signature.
        answers: the outputs wanted, in the order asked for.
        bound_s: seconds from arrival to the deadline: the smallest of the SLO and the request's own bounds,
            less what had passed before; not positive if nothing is left.
        elapsed_s: seconds that had passed before, as the client says.
        heads: starts of answers, all binary, to requests like this by what makes them differ;
            None: none is kept.
    """

    client_id: str
    rows: int
    batch_key: str
    bucket: int
    inputs: tuple[Input, ...]
    answers: tuple[Answer, ...]
    bound_s: float
    slo_class: str = ""
    min_accuracy: float | None = None
    max_core_ms: float | None = None
    elapsed_s: float = 0.0
    heads: dict[tuple[Any, ...], bytes] | None = None

    def without_inputs(self) -> "Inference":
        """All that an answer needs: the inputs would keep the whole body in memory."""
        return self._replace(inputs=())


class Route:
    """One service as the codec sees it: names, limits and everything precomputed from them."""

    def __init__(self, served: ServedService) -> None:
        service, signature = served.service, served.signature
        self.name = service.name
        self.signature = signature
        self.batchable = signature.batchable
        self.slo_s = service.slo_s
        self.classes: Mapping[str, float] = {
            **{name: found.slo_s for name, found in service.classes.items()},
            **served.classes,
        }
        self.rows_max = service.request_rows_max
        self.inputs = {spec.name: spec for spec in signature.inputs}
        self.outputs = {spec.name: spec for spec in signature.outputs}
        self.sources = served.outputs
        self.is_single = len(service.stages) == 1
        self.is_whole = self.is_single and not signature.batchable
        """A batch is one request's row, and all of its outputs are the answer."""
        self.buckets = served.buckets
        self.is_fixed = all(KINDS[spec.dtype].item_bytes for spec in signature.inputs)
        """A shape says how many bytes an input has."""
        self._static_key = _static_batch_key(signature)
        self._all_json = tuple(Answer(spec, False) for spec in signature.outputs)
        self._all_binary = tuple(Answer(spec, True) for spec in signature.outputs)
        self._binary_only = next((s for s in signature.outputs if KINDS[s.dtype].element is None), None)

    def parse(
        self,
        body: Body,
        head_length: int | None,
        bounds: Bounds = UNBOUNDED,
        regions: Regions | None = None,
    ) -> Inference:
        """Check one request.

        Args:
            body: the whole body, decompressed.
            head_length: bytes of its JSON head; None: all of it; 0: a raw request.
            bounds: what the headers state.
            regions: shared memory; None: not for this client.

        Raises:
            InputError: anything about the request is not what the service takes.
        """
        if head_length == 0:
            only = raw_input(self.name, self.signature, body)
            return self._inference(Head([]), (only,), self._all_binary, bounds)
        size = body.left if head_length is None else head_length
        if size > body.left:
            raise InputError(f"Inference-Header-Content-Length is {size}, but the body has {body.left} bytes")
        return self.check(parse_head(body.take(size)), body, bounds, regions)

    def check(
        self, head: Head, body: Body, bounds: Bounds = UNBOUNDED, regions: Regions | None = None
    ) -> Inference:
        """Check a request whose head is known: `body` has its binary tensors, in the order of its inputs.

        Raises:
            InputError: anything about the request is not what the service takes.
        """
        found: dict[str, Input] = {}
        for given in head.inputs:
            if given.name in found:
                raise InputError(f"input '{given.name}' is given twice")
            found[given.name] = check_input(self._spec(given.name), given, body, regions)
        if body.left:
            raise InputError(f"the body has {body.left} bytes more than its inputs take")
        lacking = next((name for name in self.inputs if name not in found), None)
        if lacking is not None:
            raise InputError(
                f"input '{lacking}' is missing: service '{self.name}' takes {quoted(self.inputs)}"
            )
        binary = head.parameters is not None and bool(head.parameters.binary_data_output)
        answers = self._answers(head.outputs, binary, regions)
        return self._inference(head, tuple(found[name] for name in self.inputs), answers, bounds)

    def _inference(
        self, head: Head, inputs: tuple[Input, ...], answers: tuple[Answer, ...], bounds: Bounds
    ) -> Inference:
        if head.parameters is not None:
            bounds = stricter(bounds, parameter_bounds(head.parameters))
        return Inference(
            client_id=head.id or "",
            rows=self._rows(inputs),
            batch_key=self._static_key or _batch_key(inputs, self.batchable),
            bucket=self._bucket(inputs) if self.buckets else 0,
            inputs=inputs,
            answers=answers,
            bound_s=self._bound_s(bounds),
            slo_class=bounds.slo_class,
            min_accuracy=bounds.min_accuracy,
            max_core_ms=bounds.max_core_ms,
            elapsed_s=bounds.elapsed_s,
        )

    def _spec(self, name: str) -> TensorSpec:
        spec = self.inputs.get(name)
        if spec is None:
            raise InputError(
                f"unknown input {shown(name)}: service '{self.name}' takes {quoted(self.inputs)}"
            )
        return spec

    def _answers(
        self, asked: Sequence[HeadOutput] | None, binary_default: bool, regions: Regions | None
    ) -> tuple[Answer, ...]:
        if not asked:
            if not binary_default and self._binary_only is not None:
                raise InputError(_json_refused(self._binary_only))
            return self._all_binary if binary_default else self._all_json
        answers: dict[str, Answer] = {}
        for output in asked:
            spec = self.outputs.get(output.name)
            if spec is None:
                raise InputError(
                    f"unknown output {shown(output.name)}: service '{self.name}' gives {quoted(self.outputs)}"
                )
            if output.name in answers:
                raise InputError(f"output '{output.name}' is asked for twice")
            answers[output.name] = _answer(spec, output.parameters, binary_default, regions)
        return tuple(answers.values())

    def _rows(self, inputs: tuple[Input, ...]) -> int:
        if not self.batchable:
            return 1
        rows = inputs[0].shape[0]
        for other in inputs:
            if other.shape[0] != rows:
                raise InputError(
                    f"input '{other.name}' has {other.shape[0]} rows, input '{inputs[0].name}' has {rows}; "
                    "they must agree"
                )
        if not 1 <= rows <= self.rows_max:
            raise InputError(
                f"input '{inputs[0].name}' has {rows} rows; "
                f"service '{self.name}' takes 1 to {self.rows_max} in one request"
            )
        return rows

    def _bucket(self, inputs: tuple[Input, ...]) -> int:
        """The first bucket into which every input fits."""
        bucket = 0
        for given in inputs:
            if given.name not in self.buckets:
                continue
            axis, sizes = self.buckets[given.name]
            size = given.shape[axis]
            index = next((i for i, largest in enumerate(sizes) if size <= largest), None)
            if index is None:
                raise InputError(
                    f"input '{given.name}' has {size} in dimension {axis}; "
                    f"service '{self.name}' takes at most {sizes[-1]}"
                )
            bucket = max(bucket, index)
        return bucket

    def _bound_s(self, bounds: Bounds) -> float:
        slo_s = self.slo_s
        if bounds.slo_class:
            if bounds.slo_class not in self.classes:
                known = f"its classes are {quoted(self.classes)}" if self.classes else "it has no classes"
                raise InputError(f"service '{self.name}' has no slo_class {shown(bounds.slo_class)}: {known}")
            slo_s = self.classes[bounds.slo_class]
        return min(slo_s, bounds.latency_s) - bounds.elapsed_s


def _answer(
    spec: TensorSpec, parameters: OutputParameters | None, binary: bool, regions: Regions | None
) -> Answer:
    """How one output is wanted; `binary` unless its own parameters say otherwise."""
    if parameters is not None:
        if parameters.classification:
            raise InputError(f"output '{spec.name}': classification is not served")
        if parameters.shared_memory_region is not None:
            place = parameters.shared_memory_offset or 0, parameters.shared_memory_byte_size
            span = shared_span(f"output '{spec.name}'", parameters.shared_memory_region, *place, regions)
            return Answer(spec, True, span)
        if parameters.binary_data is not None:
            binary = parameters.binary_data
    if not binary and KINDS[spec.dtype].element is None:
        raise InputError(_json_refused(spec))
    return Answer(spec, binary)


def header_length(value: bytes | None) -> int | None:
    """The value of `Inference-Header-Content-Length`; None without the header.

    Raises:
        InputError: it is not a whole number >= 0.
    """
    if value is None:
        return None
    value = value.strip()  # the HTTP parser leaves what follows a value
    if not value.isdigit() or len(value) > 15:
        raise InputError(
            f"Inference-Header-Content-Length must be a whole number of bytes, not {shown(value)}"
        )
    return int(value)


def _static_batch_key(signature: Signature) -> str:
    """The batch key of every request, if no dimension but the leading one varies; else empty."""
    skip = 1 if signature.batchable else 0
    if any(size < 0 for spec in signature.inputs for size in spec.shape[skip:]):
        return ""
    return _key((spec.name, spec.dtype, spec.shape[skip:]) for spec in signature.inputs)


def _batch_key(inputs: Sequence[Input], batchable: bool) -> str:
    skip = 1 if batchable else 0
    return _key((given.name, given.dtype, given.shape[skip:]) for given in inputs)


def _key(parts: Iterable[tuple[str, str, Sequence[int]]]) -> str:
    return ";".join(f"{name}:{dtype}[{','.join(map(str, dims))}]" for name, dtype, dims in parts)


def _json_refused(spec: TensorSpec) -> str:
    return f"output '{spec.name}' is {spec.dtype}, which JSON cannot carry: ask for it with binary_data true"
