"""What the spec's names refer to: models, stages, tensors; and the order in which a pipeline's stages run.

A reference is `stage.output` or `request.input`; a stage depends on every stage it refers to in `inputs`,
`each`, `when` and `after`. Cycles and unknown names are errors that name the nearest known one.
"""

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from math import isinf
from typing import cast

from steelyard.config.schema import ServiceSpec, Spec, StageSpec
from steelyard.config.source import Path, Source, nearest
from steelyard.config.units import shown
from steelyard.core.types import Comparison, Condition

REQUEST = "request"
_REFERENCE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*)\.(\S+)")
_CONDITION = re.compile(r"(\S+?)\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


def check_references(spec: Spec, source: Source) -> None:
    """Check every name that refers to something else in the file.

    Raises:
        SpecError: an unknown model, stage, input or variant, a malformed reference, or a cycle.
    """
    for name, service in spec.services.items():
        path: Path = ("services", name)
        for stage_name, stage in service.pipeline.items():
            at = (*path, "pipeline", stage_name)
            if stage_name == REQUEST or "." in stage_name:
                raise source.error(
                    at, "a stage's name is neither 'request' nor has a dot: references would be ambiguous"
                )
            if stage.model is not None and stage.model not in spec.models:
                raise source.error((*at, "model"), _unknown("model", stage.model, spec.models))
        for where, reference in _references(service):
            _check_reference(service, reference, source, (*path, *where))
        stage_order(service, source, path)
        _check_items(spec, service, source, path)


def stage_order(service: ServiceSpec, source: Source, path: Path) -> tuple[str, ...]:
    """The stages in topological order; ties keep the file's order.

    Raises:
        SpecError: the stages form a cycle.
    """
    sorter = TopologicalSorter({name: upstream(stage) for name, stage in service.pipeline.items()})
    try:
        return tuple(sorter.static_order())
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise source.error((*path, "pipeline"), f"the stages form a cycle: {cycle}") from None


def tensor_of(reference: str) -> tuple[str, str]:
    """(stage or "request", tensor) of a checked reference."""
    stage, _, tensor = reference.partition(".")
    return stage, tensor


def condition_of(text: str) -> Condition:
    """A condition that has been checked."""
    found = _CONDITION.fullmatch(text)
    assert found is not None, f"checked when the spec was read: {text}"
    reference, comparison, value = found.groups()
    return Condition(*tensor_of(reference), cast(Comparison, comparison), float(value))


def upstream(stage: StageSpec) -> list[str]:
    """The stages that a stage waits for."""
    stages = [tensor_of(reference)[0] for reference in stage.inputs.values()]
    if stage.each:
        stages.append(tensor_of(stage.each)[0])
    if stage.when:
        stages.append(condition_of(stage.when).stage)
    return [name for name in dict.fromkeys([*stages, *stage.after]) if name != REQUEST]


def _references(service: ServiceSpec) -> Iterator[tuple[Path, str]]:
    """Every reference of a service, with its path in the service; `after`'s stages as their first output."""
    for name, stage in service.pipeline.items():
        at: Path = ("pipeline", name)
        for tensor, reference in stage.inputs.items():
            yield (*at, "inputs", tensor), reference
        if stage.each is not None:
            yield (*at, "each"), stage.each
        if stage.when is not None:
            yield (*at, "when"), stage.when
        for index, before in enumerate(stage.after):
            yield (*at, "after", index), f"{before}.0"
    for tensor, reference in service.outputs.items():
        yield ("outputs", tensor), reference
    for reference in service.items:
        yield ("items", reference), reference


def _check_reference(service: ServiceSpec, reference: str, source: Source, path: Path) -> None:
    if path[4:] == ("when",):
        condition = _CONDITION.fullmatch(reference)
        if condition is None or isinf(float(condition[3])):
            raise source.error(path, f"want a condition such as 'crop.legible > 0.5', got {shown(reference)}")
        reference = condition[1]
    if _REFERENCE.fullmatch(reference) is None:
        raise source.error(path, f"want 'stage.output' or 'request.input', got {shown(reference)}")
    stage, tensor = tensor_of(reference)
    if stage == REQUEST:
        if service.inputs and tensor not in service.inputs:
            raise source.error(path, _unknown("input of the request", tensor, service.inputs))
    elif stage not in service.pipeline:
        raise source.error(path, _unknown("stage", stage, {**service.pipeline, REQUEST: None}))


def _check_items(spec: Spec, service: ServiceSpec, source: Source, path: Path) -> None:
    """The means of `items` are by variants of the stage that makes them, or of a stage before it."""
    for reference, items in service.items.items():
        before, known = [tensor_of(reference)[0]], dict[str, object]()
        for stage_name in before:  # grows while it is walked
            stage = service.pipeline.get(stage_name, StageSpec(model=""))
            known.update(spec.models[stage.model].variants if stage.model else {})
            before += [name for name in upstream(stage) if name not in before]
        for variant in items.mean:
            if variant and variant not in known:
                at = (*path, "items", reference, "mean", variant)
                raise source.error(
                    at, _unknown(f"variant of {before[0]} or a stage before it:", variant, known)
                )


def _unknown(what: str, word: str, known: Mapping[str, object]) -> str:
    return f"unknown {what} {shown(word)}{nearest(word, tuple(known))}"
