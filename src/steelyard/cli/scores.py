"""How right an answer is: metrics that score each example in [0, 1].

`exact` compares an output with the label: text with text, numbers with numbers; where the label is one whole
number and the output is several real ones, their largest is what is answered. `top1` is that alone. Any other
metric is a function of the user's, `module:function`, called with all outputs of some examples, as arrays of
one row each (lists of arrays where their shapes differ), and the list of their labels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.core.errors import InputError, ModelError
from steelyard.runtime.base import Array
from steelyard.runtime.python import load_target

Outputs = Mapping[str, Array]
Metric = Callable[[Sequence[Outputs], Sequence[Any]], list[float]]
BUILT_IN = ("exact", "top1")


def metric_named(name: str, output: str | None) -> Metric:
    """The metric of a name.

    Args:
        name: `exact`, `top1` or `module:function`.
        output: which output the built-in ones look at; None: the only one.

    Raises:
        InputError: there is none of that name, or its module cannot be imported.
    """
    if name in BUILT_IN:
        score = _exact if name == "exact" else _top1
        return lambda outputs, labels: [
            score(_only(of_one, output), label) for of_one, label in zip(outputs, labels, strict=True)
        ]
    if ":" not in name:
        raise InputError(f"--metric: want {', '.join(BUILT_IN)} or module:function, got {name}")
    try:
        function = load_target(name)
    except ModelError as error:
        raise InputError(f"--metric: {error}") from None
    except Exception as error:  # whatever importing a user's module raises
        raise InputError(f"--metric: cannot import {name}: {error}") from error
    return lambda outputs, labels: _checked(name, function, outputs, labels)


def _only(outputs: Outputs, name: str | None) -> Array:
    if name is None and len(outputs) != 1:
        raise InputError(f"--output: there are several: want one of {', '.join(outputs)}")
    if name is not None and name not in outputs:
        raise InputError(f"--output: want one of {', '.join(outputs)}, got {name}")
    return next(iter(outputs.values())) if name is None else outputs[name]


def _exact(answer: Array, label: Any) -> float:
    if answer.dtype == np.object_:
        texts = label if isinstance(label, list) else [label]
        return float([_text(item) for item in answer.ravel()] == [_text(item) for item in texts])
    wanted: Array = np.asarray(label)
    if wanted.dtype.kind in "iu" and wanted.ndim == 0 and answer.size > 1 and answer.dtype.kind == "f":
        return _largest("exact", answer, int(wanted))
    if wanted.dtype.kind not in "iufb":
        raise InputError(f"exact: the answers are numbers, the label is {label!r}: want numbers, or --metric")
    return float(np.array_equal(np.squeeze(answer), np.squeeze(wanted)))


def _top1(answer: Array, label: Any) -> float:
    if answer.dtype == np.object_ or isinstance(label, bool) or not isinstance(label, int):
        raise InputError(f"top1: want scores as output and their largest's index as label, got {label!r}")
    return _largest("top1", answer, label)


def _largest(metric: str, answer: Array, label: int) -> float:
    """Whether the largest score is the label's.

    Raises:
        InputError: there is no such score: labels that count from 1 would look like a bad model.
    """
    if not 0 <= label < answer.size:
        raise InputError(f"{metric}: the answer has {answer.size} scores, label {label} is none of them")
    return float(int(np.argmax(answer)) == label)


def _text(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def _checked(
    name: str, function: Callable[..., Any], outputs: Sequence[Outputs], labels: Sequence[Any]
) -> list[float]:
    """A user's scores: as many as there are labels, each in [0, 1]."""
    try:
        scores = np.asarray(function(_stacked(outputs), list(labels)), dtype=np.float64)
    except InputError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise InputError(f"--metric: {name} raised {type(error).__name__}: {error}") from error
    if scores.shape != (len(labels),):
        raise InputError(
            f"--metric: {name} gave scores of shape {list(scores.shape)} for {len(labels)} examples"
        )
    wrong = scores[~((scores >= 0) & (scores <= 1))]
    if len(wrong):
        raise InputError(f"--metric: {name} gave a score of {wrong[0]:g}; want them in [0, 1]")
    return [float(score) for score in scores]


def _stacked(outputs: Sequence[Outputs]) -> dict[str, Any]:
    """Each output of all examples: one array of their rows where they can be put together, else a list."""
    stacked: dict[str, Any] = {}
    for name in outputs[0]:
        arrays = [of_one[name] for of_one in outputs]
        is_row = all(array.shape[:1] == (1,) and array.shape == arrays[0].shape for array in arrays)
        stacked[name] = np.concatenate(arrays) if is_row else arrays
    return stacked
