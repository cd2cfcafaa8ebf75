"""What clients see of a pipeline: one model, with the request's inputs and the outputs that the spec names.

What the spec does not say is taken from the models: the inputs that stages take of the request, and the
outputs of the stage that ends the pipeline. What a Python class without a signature takes must be said; what
it gives is known when it answers.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from steelyard.config.pipeline import REQUEST, tensor_of, upstream
from steelyard.config.schema import ServiceSpec
from steelyard.config.source import Path, Source, nearest
from steelyard.config.wiring import Wires
from steelyard.core.types import Input
from steelyard.runtime.base import Signature, TensorSpec

PLATFORM = "ensemble"
"""Of a pipeline, as Triton calls its own."""

Outputs = Mapping[str, tuple[str, str]]
Buckets = dict[str, tuple[int, tuple[int, ...]]]


class _Taker(NamedTuple):
    """What a stage takes of an input of the request; nothing where its model does not say."""

    stage: str
    batchable: bool
    takes: TensorSpec | None


def client_outputs(
    service: ServiceSpec, wires: Wires, source: Source, path: Path
) -> dict[str, tuple[str, str]]:
    """(stage, tensor) by what clients call it; empty where only the answer itself will tell.

    Raises:
        SpecError: an output does not exist, or several stages end the pipeline and none is said to answer.
    """
    given = {name: tensor_of(reference) for name, reference in service.outputs.items()}
    for name, reference in given.items():
        at: Path = (*path, "outputs", name)
        if reference[0] == REQUEST:
            raise source.error(at, "want an output of a stage: clients have what they sent")
        wires.output(reference, at)
    if given:
        return given
    followed = {before for stage in service.pipeline.values() for before in upstream(stage)}
    last = [name for name in service.pipeline if name not in followed]
    if len(last) > 1:
        message = (
            f"{', '.join(last)} all end it: say what makes the answer: outputs: {{NAME: {last[0]}.OUTPUT}}"
        )
        raise source.error((*path, "pipeline"), message)
    return {tensor.name: (last[0], tensor.name) for tensor in wires.signature(last[0]).outputs}


def client_signature(
    service: ServiceSpec,
    wires: Wires,
    inputs: Mapping[str, Sequence[Input]],
    outputs: Outputs,
    source: Source,
    path: Path,
) -> Signature:
    """What clients send and get: what the models say, with the inputs that the spec declares in its place.

    Args:
        service: its references are known to be right.
        wires: of the service.
        inputs: of each stage.
        outputs: (stage, tensor) by what clients call it.
        source: for errors.
        path: the service's path in the spec.

    Raises:
        SpecError: a declared input is not taken, contradicts what is, is missing, or nothing says what it is.
    """
    takers = _takers(wires, inputs)
    batchable = all(taker.batchable for listed in takers.values() for taker in listed)
    if not takers and any(not listed for listed in inputs.values()):  # takes whatever is declared
        batchable = all(wires.signature(stage).batchable for stage, listed in inputs.items() if not listed)
    if service.inputs:
        sent = _declared(service, takers, source, path)
    else:
        sent = tuple(_merged(name, listed, source, path) for name, listed in takers.items())
        if not sent:
            message = "the model does not say what it takes: give inputs: {name: {dtype, shape}}"
            raise source.error(path, message)
    known = {name: wires.output(reference, path) for name, reference in outputs.items()}
    return Signature(
        inputs=sent if batchable else tuple(_one_row(tensor, takers.get(tensor.name, ())) for tensor in sent),
        outputs=tuple(
            TensorSpec(name, tensor.dtype, tensor.shape)
            for name, tensor in known.items()
            if tensor is not None
        )
        if None not in known.values()
        else (),
        batchable=batchable,
        platform=wires.signature(next(iter(inputs))).platform if len(inputs) == 1 else PLATFORM,
    )


def request_buckets(
    inputs: Mapping[str, Sequence[Input]], buckets: Mapping[str, Buckets], source: Source, path: Path
) -> Buckets:
    """The shape buckets by which requests are told apart: those of stages, on inputs that are the request's.

    Raises:
        SpecError: two stages divide one input of the request differently.
    """
    found: Buckets = {}
    for stage, of_stage in buckets.items():
        asked = {wire.name: wire.tensor for wire in inputs[stage] if not wire.stage}
        for tensor, given in of_stage.items():
            name = tensor if not inputs[stage] else asked.get(tensor)
            if name is not None and found.setdefault(name, given) != given:
                message = f"stages divide request.{name} into different buckets: want the same for all"
                raise source.error((*path, "pipeline", stage), message)
    return found


def _takers(wires: Wires, inputs: Mapping[str, Sequence[Input]]) -> dict[str, list[_Taker]]:
    """Who takes what of the request, by the input's name there."""
    found: dict[str, list[_Taker]] = {}
    for stage, listed in inputs.items():
        signature = wires.signature(stage)
        takes = {tensor.name: tensor for tensor in signature.inputs}
        for wire in listed:
            if not wire.stage:
                taker = _Taker(stage, signature.batchable, takes.get(wire.name))
                found.setdefault(wire.tensor, []).append(taker)
    return found


def _declared(
    service: ServiceSpec, takers: Mapping[str, Sequence[_Taker]], source: Source, path: Path
) -> tuple[TensorSpec, ...]:
    """The inputs that the spec declares, which must fit who takes them."""
    what = "the model" if len(service.pipeline) == 1 else "the pipeline"
    is_known = takers and all(taker.takes is not None for listed in takers.values() for taker in listed)
    for name, declared in service.inputs.items():
        at: Path = (*path, "inputs", name)
        if is_known and name not in takers:
            raise source.error(at, f"not an input of {what}{nearest(name, tuple(takers))}")
        for stage, _, takes in takers.get(name, ()):
            whose = "the model" if len(service.pipeline) == 1 else stage
            if takes is not None and declared.dtype != takes.dtype:
                message = f"want {takes.dtype} as {whose} has, got {declared.dtype}"
                raise source.error((*at, "dtype"), message)
            if takes is not None and not _fits(declared.shape, takes.shape):
                message = f"want a shape that fits {whose}'s {list(takes.shape)}, got {list(declared.shape)}"
                raise source.error((*at, "shape"), message)
    missing = [name for name in takers if name not in service.inputs]
    if missing:
        raise source.error((*path, "inputs"), f"{what} also takes {', '.join(missing)}")
    return tuple(TensorSpec(name, given.dtype, given.shape) for name, given in service.inputs.items())


def _merged(name: str, takers: Sequence[_Taker], source: Source, path: Path) -> TensorSpec:
    """An input of the request as all who take it have it."""
    known = [(taker.stage, taker.takes) for taker in takers if taker.takes is not None]
    if not known:
        message = f"nothing says what request.{name} is: give inputs: {{{name}: {{dtype, shape}}}}"
        raise source.error((*path, "pipeline", takers[0].stage), message)
    (first, found), *others = known
    for stage, takes in others:
        if takes.dtype != found.dtype or not _fits(takes.shape, found.shape):
            message = (
                f"takes request.{name} as {takes.dtype} {list(takes.shape)}, "
                f"{first} as {found.dtype} {list(found.shape)}"
            )
            raise source.error((*path, "pipeline", stage), message)
        shape = tuple(max(sizes) for sizes in zip(found.shape, takes.shape, strict=True))
        found = TensorSpec(name, found.dtype, shape)
    return TensorSpec(name, found.dtype, found.shape)


def _one_row(tensor: TensorSpec, takers: Sequence[_Taker]) -> TensorSpec:
    """An input of a service that takes one row a request, as a stage that takes several a batch has it."""
    if tensor.shape and any(taker.batchable for taker in takers):
        return TensorSpec(tensor.name, tensor.dtype, (1, *tensor.shape[1:]))
    return tensor


def _fits(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether sizes are equal, or open in either."""
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))
