"""What a stage's outputs mean to the stages behind it: rows, elements of rows, and items that are taken.

Rules of this file:
- In a pipeline, every output that leaves a worker either has the batch's rows as its leading axis, or is
  *ragged*: the elements of all rows, one row's behind the other's, and `@output` counts them for each row.
  Ragged are lists of arrays, one array a row, and outputs of a model without a batch axis whose leading
  dimension is dynamic. Such a model's other outputs belong to its one row: they get an axis for it.
- A stage that takes items of each element of an output (`each`) takes as many a row as that output has; those
  of its other inputs that are ragged, too, must agree. One that takes rows (`when` alone) takes 0 or 1.
- Where a condition selects, the selected elements are an output of their own, `output@stage`, and the counts
  are those of what was selected. A NaN is selected by `!=` alone.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from steelyard.core.errors import ModelError
from steelyard.core.types import Comparison
from steelyard.runtime.base import Array, Signature, Value
from steelyard.worker.messages import Taker

Counts = tuple[int, ...]

_COMPARE: dict[Comparison, Callable[[Array, float], Array]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


class Made(NamedTuple):
    """What a batch made: outputs, arrays or one array a row, and the counts of `Done.items`."""

    outputs: Mapping[str, Value]
    items: dict[str, Counts]


def settle(
    outputs: Mapping[str, Value], rows: int, signature: Signature, takers: Sequence[Taker] | None
) -> Made:
    """Check a runtime's promise, once for all runtimes, and count and select what the next stages take.

    Args:
        outputs: by name, as the runtime gave them.
        rows: of the batch.
        signature: of the variant that ran.
        takers: the stages that take items; None in a service of one stage, whose clients take all as it is.

    Raises:
        ModelError: something is not an array, has another number of rows, or does not count what it should.
    """
    made: dict[str, Value] = {}
    items: dict[str, Counts] = {}
    for name, output in outputs.items():
        if isinstance(output, list):
            made[name] = _checked_list(name, output, rows)
            items[f"@{name}"] = tuple([len(array) for array in output])
            continue
        if not isinstance(output, np.ndarray):
            raise ModelError(f"output {name} is {type(output).__name__}, no array")
        if signature.batchable and output.shape[:1] != (rows,):
            raise ModelError(f"output {name} has shape {list(output.shape)} for {rows} rows")
        made[name] = output
        if takers is None:
            continue
        if signature.batchable:
            if output.shape == (rows, 0):  # what empty lists become
                made[name] = list(output)
                items[f"@{name}"] = (0,) * rows
            continue
        if _is_elements(name, output, signature):
            items[f"@{name}"] = (len(output),)
        elif output.shape[:1] != (1,):
            made[name] = output[np.newaxis]
    for taker in takers or ():
        _take(taker, made, items, rows)
    return Made(made, items)


def _checked_list(name: str, output: list[Array], rows: int) -> list[Array]:
    """One array a row, of one type and shape of an element; empty ones take those of the others."""
    if len(output) != rows:
        raise ModelError(f"output {name} is a list of {len(output)} arrays for {rows} rows")
    model = next((array for array in output if array.size), output[0] if output else np.empty(0))
    for array in output:
        if array.size and (array.dtype != model.dtype or array.shape[1:] != model.shape[1:]):
            raise ModelError(
                f"output {name} mixes elements of {model.dtype} {list(model.shape[1:])} "
                f"and {array.dtype} {list(array.shape[1:])}"
            )
    none = model[:0]
    return [array if array.size else none for array in output]


def _is_elements(name: str, output: Array, signature: Signature) -> bool:
    """Whether the leading axis of an output of a model without a batch axis is elements of its one row."""
    return output.ndim > 0 and any(
        tensor.name == name and tensor.shape[:1] == (-1,) for tensor in signature.outputs
    )


def _take(taker: Taker, made: dict[str, Value], items: dict[str, Counts], rows: int) -> None:
    """Count what one stage takes, and add what it selects to the outputs."""
    for name in filter(None, (taker.each, *taker.outputs, taker.when.tensor if taker.when else "")):
        if name not in made:
            raise ModelError(f"stage {taker.stage} takes output {name}; there are {', '.join(made)}")
    counts = _elements(taker, items) if taker.each else (1,) * rows
    if taker.when is None:
        items[taker.stage] = counts
        return
    selected = _selected(taker, made[taker.when.tensor], f"@{taker.when.tensor}" in items, counts)
    items[taker.stage] = tuple([int(np.count_nonzero(chosen)) for chosen in selected])
    # Elements are selected among elements, rows among rows; whatever else it takes, the counts say how often.
    for name in taker.outputs:
        if bool(taker.each) == (f"@{name}" in items):
            by_row = _by_row(made[name], counts)
            made[f"{name}@{taker.stage}"] = [
                array[chosen] for array, chosen in zip(by_row, selected, strict=True)
            ]


def _elements(taker: Taker, items: Mapping[str, Counts]) -> Counts:
    """How many elements of `each` there are in each row."""
    if f"@{taker.each}" not in items:
        raise ModelError(
            f"stage {taker.stage} takes each element of output {taker.each}, which is one array for all "
            "rows: want a list of arrays, one a row, or a model without a batch axis"
        )
    counts = items[f"@{taker.each}"]
    for name in taker.outputs:
        if items.get(f"@{name}", counts) != counts:
            raise ModelError(
                f"output {name} has {list(items[f'@{name}'])} elements a row, {taker.each} has "
                f"{list(counts)}: stage {taker.stage} takes both, element by element"
            )
    return counts


def _selected(taker: Taker, output: Value, is_ragged: bool, counts: Counts) -> list[Array]:
    """For each row, of which of its elements the condition holds; one number a row decides on all of them."""
    assert taker.when is not None
    _, name, comparison, value = taker.when
    wanted = counts if is_ragged else (1,) * len(counts)
    numbers = _by_row(output, wanted)
    for array, count in zip(numbers, wanted, strict=True):
        if array.size != count or array.dtype.kind not in "biuf":
            raise ModelError(
                f"stage {taker.stage} runs when {name} {comparison} {value:g}: want {count} numbers of a "
                f"row, got {array.size} of {array.dtype}"
            )
    held = [_COMPARE[comparison](array.reshape(-1), value) for array in numbers]
    return [
        np.broadcast_to(mask, count) if not is_ragged else mask
        for mask, count in zip(held, counts, strict=True)
    ]


def _by_row(output: Value, counts: Counts) -> Sequence[Array]:
    """Each row's elements; of an array, they lie one behind the other."""
    if isinstance(output, list):
        return output
    ends = np.cumsum(counts)
    return [output[end - count : end] for end, count in zip(ends, counts, strict=True)]
