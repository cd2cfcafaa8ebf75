"""Where each input of each stage comes from, and whether what comes fits.

What a spec leaves out is filled in here: a stage without `inputs`, `each` or `after` takes the request's; one
with `each` alone takes the item as its only input; one with `after` alone takes the first output of each of
those stages, in their order. Of a Python class without a signature nobody knows what it takes and gives: what
is written is taken as it is, and a mistake shows when it runs.

A tensor comes in one of two forms: *rows*, one element for each row, and *items*, one for each item. Where a
stage on the request's rows takes items it is given a list of arrays, one a row, which only Python can take.
"""

from collections.abc import Mapping
from typing import NamedTuple

from steelyard.config.items import Taken, taken_items
from steelyard.config.pipeline import REQUEST, tensor_of
from steelyard.config.schema import ServiceSpec, StageSpec
from steelyard.config.source import Path, Source, nearest
from steelyard.core.types import Input
from steelyard.runtime.base import Signature, TensorSpec

_NOT_NUMBERS = ("BYTES", "BF16")
"""Types that numpy does not compare with a number: text, and bits that it takes for integers."""


class Answerer(NamedTuple):
    """What is known of a stage's model: its runtime, and what it takes and gives (nothing: not known).

    `variants` are the signatures of each, where there are several: what they give may differ in sizes.
    """

    kind: str
    signature: Signature
    variants: tuple[Signature, ...] = ()


class Wires:
    """The wires of one service.

    Args:
        service: its references and items are known to be right.
        answerers: by stage, in topological order.
        source: for errors.
        path: the service's path in the spec.
    """

    def __init__(
        self, service: ServiceSpec, answerers: Mapping[str, Answerer], source: Source, path: Path
    ) -> None:
        self._service = service
        self._answerers = answerers
        self._source = source
        self._path = path
        self._taken = {name: taken_items(service, name) for name in answerers}
        self._items = {(taken.of, taken.each) for taken in self._taken.values() if taken and taken.each}

    def signature(self, name: str) -> Signature:
        """What a stage's variants take and give."""
        return self._answerers[name].signature

    def inputs(self, name: str) -> tuple[Input, ...]:
        """Where each input of a stage comes from; empty where that is the request's, whatever it is.

        Raises:
            SpecError: an input is not the model's, is missing, or is given something that does not fit.
        """
        stage, takes = self._service.pipeline[name], self._answerers[name].signature.inputs
        known = tuple(tensor.name for tensor in takes)
        for tensor in stage.inputs:
            if known and tensor not in known:
                message = f"not an input of the model{nearest(tensor, known)}"
                raise self._source.error((*self._at(name), "inputs", tensor), message)
        given = {tensor: tensor_of(reference) for tensor, reference in stage.inputs.items()}
        given = {**given, **self._implied(name, stage, [each for each in known if each not in given])}
        if not given:
            return ()
        order = known or tuple(given)
        wires = tuple(Input(each, *given[each]) for each in order)
        for wire in wires:
            self._check(name, wire)
        return tuple(wire._replace(stage="" if wire.stage == REQUEST else wire.stage) for wire in wires)

    def output(self, reference: tuple[str, str], at: Path) -> TensorSpec | None:
        """What is known of a stage's output.

        Raises:
            SpecError: the stage has no such output.
        """
        stage, tensor = reference
        gives = self._answerers[stage].signature.outputs
        found = next((known for known in gives if known.name == tensor), None)
        if gives and found is None:
            names = tuple(known.name for known in gives)
            raise self._source.error(at, f"not an output of {stage}: {tensor}{nearest(tensor, names)}")
        return found

    def check_taken(self, name: str) -> None:
        """What a stage's `each` and `when` look at is there, and a condition has one number to look at.

        Raises:
            SpecError: it is not, as far as is known before it runs.
        """
        each, taken = self._service.pipeline[name].each, self._taken[name]
        if each is not None:
            self.output(tensor_of(each), (*self._at(name), "each"))
        if taken is None or taken.when is None:
            return
        at, when = (*self._at(name), "when"), taken.when
        found = self.output((when.stage, when.tensor), at)
        if found is not None and (
            found.dtype in _NOT_NUMBERS or any(n not in (-1, 1) for n in found.shape[1:])
        ):
            message = f"want one number a row, or an item: {when.stage}.{when.tensor} is {found.dtype}"
            raise self._source.error(at, f"{message} {list(found.shape)}")

    def is_items(self, reference: tuple[str, str]) -> bool:
        """Whether an output has one element for each item, not for each row of the request."""
        return reference in self._items or self._taken.get(reference[0]) is not None

    def _implied(self, name: str, stage: StageSpec, rest: list[str]) -> dict[str, tuple[str, str]]:
        """What the inputs take that the spec does not mention."""
        is_bare = not stage.inputs
        has_signature = bool(self._answerers[name].signature.inputs)
        if is_bare and stage.each is None and not stage.after:
            return {tensor: (REQUEST, tensor) for tensor in rest}
        sources: list[tuple[str, str]] = []
        if stage.each is not None and (rest or is_bare):
            sources = [tensor_of(stage.each)]
        elif is_bare:
            sources = [(before, self._first_output(before, name)) for before in stage.after]
        if not has_signature:
            return {tensor: (before, tensor) for before, tensor in sources}
        if len(rest) != len(sources):
            message = (
                f"the model also takes {', '.join(rest)}"
                if rest
                else "the model takes less than `after` gives"
            )
            if is_bare:
                message = f"the model takes {', '.join(rest)}: say where each comes from"
            raise self._source.error((*self._at(name), "inputs"), message)
        return dict(zip(rest, sources, strict=True))

    def _first_output(self, before: str, name: str) -> str:
        gives = self._answerers[before].signature.outputs
        if not gives:
            message = f"{before} does not say what it gives: give inputs: {{...: {before}.OUTPUT}}"
            raise self._source.error((*self._at(name), "after"), message)
        return gives[0].name

    def _check(self, name: str, wire: Input) -> None:
        """What comes over a wire exists, in a form and type that the stage takes."""
        at = (*self._at(name), "inputs", wire.name)
        if wire.stage == REQUEST:
            return
        given = self.output((wire.stage, wire.tensor), at)
        is_ragged = self._check_form(name, wire, at)
        takes = {tensor.name: tensor for tensor in self._answerers[name].signature.inputs}.get(wire.name)
        if given is None or takes is None:
            return
        for known in (given, *self._of_variants(wire)):
            if known.dtype != takes.dtype or not (is_ragged or agree(known.shape, takes.shape)):
                raise self._source.error(
                    at,
                    f"takes {takes.dtype} {list(takes.shape)}, "
                    f"but {wire.stage}.{wire.tensor} is {known.dtype} {list(known.shape)}",
                )

    def _of_variants(self, wire: Input) -> list[TensorSpec]:
        """What each variant of the stage before gives."""
        found = [tensor for each in self._answerers[wire.stage].variants for tensor in each.outputs]
        return [tensor for tensor in found if tensor.name == wire.tensor]

    def _check_form(self, name: str, wire: Input, at: Path) -> bool:
        """Whether a list of arrays comes, one a row.

        Raises:
            SpecError: a model cannot take that, or the items are not those of this stage.
        """
        own, reference = self._taken[name], f"{wire.stage}.{wire.tensor}"
        if not self.is_items((wire.stage, wire.tensor)):
            return False
        if own is None:
            if self._answerers[name].kind == "onnx":
                message = f"{reference} has a list of items for each row, which a model cannot take"
                raise self._source.error(at, f"{message}: put a Python stage between, or take them with each")
            return True
        theirs = self._taken[wire.stage]
        if not _same_items(own, theirs, wire):
            raise self._source.error(at, f"the items of {reference} are not those that {name} takes")
        return False

    def _at(self, name: str) -> Path:
        return (*self._path, "pipeline", name)


def agree(given: tuple[int, ...], takes: tuple[int, ...]) -> bool:
    """Whether a tensor's shape fits an input's: the same rank, and equal sizes where both are known.

    The leading dimension is not compared: it counts rows, or items.
    """
    return len(given) == len(takes) and all(
        -1 in (have, want) or have == want for have, want in zip(given[1:], takes[1:], strict=True)
    )


def _same_items(own: Taken, theirs: Taken | None, wire: Input) -> bool:
    """Whether a stage that takes `own` items can take those of a wire element by element."""
    if theirs is None:  # the stage that makes them gives them
        return wire.stage == own.of
    return theirs == own
