"""From what a batch's requests hold to what its worker is fed. Pure: references in, references out.

A stage runs on rows of the request, or on items that another stage, its *maker*, makes of each of its rows.
What an input is fed with follows from whose rows the source's outputs are:

1. The stage's own (the same rows, or the same items of the same maker): row by row.
2. The maker's: an output with one element an item goes element by element, selected ones from
   `output@stage`; everything else of the request's rows is repeated for each item of its row.
3. Items, where the stage runs on the request's rows (a *join*): one array a row, of its items.
4. An output with any number of elements a row (`@output` counts them, see `worker.items`) is one array a row
   as well; so is an input of the request without a row axis, of which a request is one row.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from steelyard.core.commands import ItemRows, OutputPart, Slice
from steelyard.core.errors import ModelError, SpecError
from steelyard.core.types import Input, Request, Service, Stage, Tensor, TensorRef
from steelyard.runtime.base import Signature
from steelyard.worker.messages import WHOLE, Block, Feed, Taker


class _Rows(NamedTuple):
    """`length` rows from `start` on, each as often as `repeats` says; empty: once."""

    start: int
    length: int
    repeats: tuple[int, ...] = ()


class _Taken(NamedTuple):
    """One input of one slice: blocks, and for each row how many elements, if it is ragged."""

    blocks: list[Block]
    counts: tuple[int, ...] | None = None


class Wiring:
    """How the inputs of one stage come from the request and the stages before it.

    Args:
        service: whose stage it is.
        stage: that one; without `inputs` it takes all of the request's.
        signature: what clients send.
        gives: what the stages before it are known to give, for the type of inputs that are empty.

    Raises:
        SpecError: an input is items of another kind than the stage's own, or it joins items without coming
            after the stage that makes them.
    """

    def __init__(
        self, service: Service, stage: Stage, signature: Signature, gives: Mapping[str, Signature]
    ) -> None:
        own = tuple(Input(tensor.name, "", tensor.name) for tensor in signature.inputs)
        self.inputs = stage.inputs or own
        self._stage = stage
        self._stages = {other.name: other for other in service.stages}
        self._gives = gives
        self._has_rows = {
            tensor.name: signature.batchable or tensor.shape[:1] == (1,) for tensor in signature.inputs
        }
        for given in self.inputs:
            if given.stage:
                self._check(given, self._stages[given.stage])

    def feeds(self, slices: Sequence[Slice], requests: Sequence[Request]) -> tuple[Feed, ...]:
        """What a batch is fed with; `requests[i]` is the request of `slices[i]`.

        Raises:
            ModelError: the stages before have not given what their followers take.
        """
        rows = [self._rows(part) for part in slices]
        feeds = []
        for given in self.inputs:
            taken = [
                self._take(given, part, request, of_request)
                for part, request, of_request in zip(slices, requests, rows, strict=True)
            ]
            blocks = tuple(chain.from_iterable(one.blocks for one in taken)) or (self._nothing(given),)
            counts = [one.counts for one in taken if one.counts is not None]
            if counts and len(counts) < len(taken):
                raise ModelError(
                    f"{given.stage}.{given.tensor} is an array of rows in one batch, not in another"
                )
            feeds.append(Feed(given.name, blocks, tuple(chain.from_iterable(counts)) if counts else None))
        return tuple(feeds)

    def _check(self, given: Input, source: Stage) -> None:
        own, theirs = _kind(self._stage), _kind(source)
        where = f"stage {self._stage.name}: input {given.name} is {given.stage}.{given.tensor}"
        if theirs in (own, _ROWS) or source.name == self._stage.items_of:
            return
        if own != _ROWS:
            raise SpecError(f"{where}, whose items are others than those it takes")
        if source.items_of and source.items_of not in self._stage.after:
            raise SpecError(f"{where}, items of {source.items_of}: want it to come after that, too")

    def _rows(self, part: Slice) -> _Rows:
        """The rows of the request, or of the stage's maker, that a slice is of."""
        if self._stage.items_of:
            counts = _counts(part, self._stage)
            return _overlap(counts, part.row_start, part.rows)
        fan_out = round(self._stage.fan_out)
        if fan_out == 1:
            return _Rows(part.row_start, part.rows)
        ends = -(-(part.row_start + part.rows) // fan_out)
        return _overlap((fan_out,) * ends, part.row_start, part.rows)

    def _take(self, given: Input, part: Slice, request: Request, rows: _Rows) -> _Taken:
        if not given.stage:
            return self._take_own(given, request, rows)
        source, parts = self._stages[given.stage], part.sources.get(given.stage, ())
        own, theirs = _kind(self._stage), _kind(source)
        alike = _Rows(part.row_start, part.rows)
        if source.name == self._stage.items_of:
            elements = self._elements(given, parts)
            return _cut(given, parts, rows) if elements is None else _cut(*elements, alike)
        if theirs == own:
            return _cut(given, parts, alike)
        if theirs == _ROWS:
            return _cut(given, parts, rows)
        counts = _counts(part, source) if source.items_of else None
        before = sum(counts[: rows.start]) if counts else rows.start * round(source.fan_out)
        of_rows = (
            counts[rows.start : rows.start + rows.length]
            if counts
            else (round(source.fan_out),) * rows.length
        )
        taken = _cut(given, parts, _Rows(before, sum(of_rows)))
        if taken.counts is not None:
            raise ModelError(f"{given.stage}.{given.tensor} has several elements for each item of a row")
        return _Taken(taken.blocks, of_rows)

    def _take_own(self, given: Input, request: Request, rows: _Rows) -> _Taken:
        tensor = _named(request.tensors, given)
        if self._has_rows.get(given.tensor, True):
            return _Taken([Block(tensor, rows.start, rows.length, _useful(rows.repeats))])
        if not tensor.shape:
            tensor = tensor._replace(shape=(1,))
        times = sum(rows.repeats) or rows.length
        return _Taken([Block(tensor, 0, WHOLE)] * times, (tensor.shape[0],) * times)

    def _elements(
        self, given: Input, parts: Sequence[OutputPart]
    ) -> tuple[Input, tuple[OutputPart, ...]] | None:
        """An output of the maker as one of items, if its elements are; None if it has rows."""
        selected = f"{given.tensor}@{self._stage.name}"
        if any(output.name == selected for output in parts[0].outputs):
            given = given._replace(tensor=selected)
        elif not self._stage.each or f"@{given.tensor}" not in parts[0].items:
            return None
        places = [part.items[self._stage.name] for part in parts]
        return given, tuple(
            OutputPart(part.outputs, place.start, sum(place.counts))
            for part, place in zip(parts, places, strict=True)
        )

    def _nothing(self, given: Input) -> Block:
        """Of no elements: of the type that the source is known to give."""
        outputs = self._gives[given.stage].outputs if given.stage in self._gives else ()
        known = next((output for output in outputs if output.name == given.tensor), None)
        shape = tuple(max(size, 0) for size in known.shape[1:]) if known else ()
        dtype = known.dtype if known else "FP32"
        return Block(Tensor(given.tensor, dtype, (0, *shape), TensorRef("", 0, 0, 0)), 0, 0)


def wirings(service: Service, signature: Signature, gives: Mapping[str, Signature]) -> dict[str, Wiring]:
    """The wiring of each stage that does not simply take the request's own tensors.

    Args:
        service: its stages.
        signature: what clients send.
        gives: by stage, what its variants are known to give.

    Raises:
        SpecError: as `Wiring`.
    """
    return {
        stage.name: Wiring(service, stage, signature, gives)
        for stage in service.stages
        if stage.inputs or stage.after or len(service.stages) > 1
    }


def takers(service: Service) -> dict[str, tuple[Taker, ...]]:
    """For each stage of a service of several, the stages that take items of it; nothing for a single one."""
    if len(service.stages) == 1:
        return {}
    return {
        stage.name: tuple(
            Taker(
                taker.name,
                taker.each,
                taker.when,
                tuple(given.tensor for given in taker.inputs if given.stage == stage.name),
            )
            for taker in service.stages
            if taker.items_of == stage.name
        )
        for stage in service.stages
    }


_ROWS = ("", "", None, 1)
"""Whose rows a stage runs on, as `_kind` says it, if they are the request's."""


def _kind(stage: Stage) -> tuple[object, ...]:
    """Whose rows a stage runs on: two stages of one kind have the same rows."""
    fan_out = 1 if stage.items_of else round(stage.fan_out)
    return (stage.items_of, stage.each, stage.when, fan_out)


def _counts(part: Slice, taker: Stage) -> tuple[int, ...]:
    """How many items of each of the request's rows a stage takes."""
    parts = part.sources[taker.items_of]
    if len(parts) == 1:
        return parts[0].items[taker.name].counts
    return tuple(chain.from_iterable(made.items[taker.name].counts for made in parts))


def _overlap(counts: Sequence[int], start: int, count: int) -> _Rows:
    """The rows of which items `[start, start + count)` are, and how many are of each."""
    repeats: list[int] = []
    first = offset = 0
    for row, items in enumerate(counts):
        if offset >= start + count:
            break
        shared = min(offset + items, start + count) - max(offset, start)
        if repeats or shared > 0:
            first = first if repeats else row
            repeats.append(max(shared, 0))
        offset += items
    return _Rows(first, len(repeats), tuple(repeats))


def _cut(given: Input, parts: Sequence[OutputPart], rows: _Rows) -> _Taken:
    """Rows of an output, over the parts that a request has of it."""
    blocks: list[Block] = []
    counts: list[int] = []
    is_ragged = False
    offset = taken = 0
    for part in parts:
        first, last = max(rows.start - offset, 0), min(rows.start + rows.length - offset, part.rows)
        if first < last:
            tensor = _named(part.outputs, given)
            begin = offset + first - rows.start
            repeats = rows.repeats[begin : begin + last - first]
            place = part.items.get(f"@{given.tensor}")
            if place is None:
                blocks.append(Block(tensor, part.row_start + first, last - first, _useful(repeats)))
            else:
                is_ragged = True
                blocks_of, counts_of = _by_row(tensor, place, first, last, repeats)
                blocks += blocks_of
                counts += counts_of
            taken += last - first
        offset += part.rows
    if taken < rows.length:
        raise ModelError(f"{given.stage}.{given.tensor} has {taken} of {rows.length} rows")
    return _Taken(blocks, tuple(counts) if is_ragged else None)


def _by_row(
    tensor: Tensor, place: ItemRows, first: int, last: int, repeats: Sequence[int]
) -> tuple[list[Block], Sequence[int]]:
    """Elements of some of the rows that a part has of a ragged output, and how many each has."""
    counts = place.counts[first:last]
    start = place.start + sum(place.counts[:first])
    if not repeats:
        return [Block(tensor, start, sum(counts))], counts
    blocks: list[Block] = []
    for elements, times in zip(counts, repeats, strict=True):
        blocks += [Block(tensor, start, elements)] * times
        start += elements
    return blocks, [elements for elements, times in zip(counts, repeats, strict=True) for _ in range(times)]


def _named(tensors: Sequence[Tensor], given: Input) -> Tensor:
    for tensor in tensors:
        if tensor.name == given.tensor:
            return tensor
    whose = f"stage {given.stage}" if given.stage else "the request"
    there = ", ".join(tensor.name for tensor in tensors) or "nothing"
    raise ModelError(f"{whose} has no {given.tensor}; it has {there}")


def _useful(repeats: tuple[int, ...]) -> tuple[int, ...]:
    """No repeats where each row comes once."""
    return () if all(times == 1 for times in repeats) else repeats
