"""Measured accuracies on disk: one JSON file beside the profiles, `accuracy.json`.

An accuracy holds for a whole pipeline: for the content of the models that answered, as a profile's key has
it, and for how they are wired. It does not depend on the machine.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from steelyard.core.errors import ProfileError
from steelyard.core.types import Frozen
from steelyard.profiler.store import write_whole

FILE = "accuracy.json"
FORMAT = 1
Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


class Accuracy(Frozen, frozen=True):
    """How well a service answers with one variant a stage.

    Attributes:
        service: its name in the spec.
        variants: by stage; Python glue is left out.
        accuracy: mean score over the examples, in [0, 1].
        accuracy_low: of the 95 % interval.
        accuracy_high: of the same.
        examples: how many were answered.
        metric: what scored them.
    """

    service: str
    variants: dict[str, str]
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    examples: int
    metric: str


class Measurement(Frozen, frozen=True):
    """An accuracy with what it holds for: the wiring of the pipeline, and each stage's content, as hashes."""

    wiring: str
    contents: dict[str, str]
    accuracy: Accuracy


class _Stored(Frozen, frozen=True):
    format: int
    measurements: list[Measurement]


class AccuracyStore:
    """The file in a directory of profiles; made when something is saved."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE

    def load(self) -> list[Measurement]:
        """All that was measured, the latest last.

        Raises:
            ProfileError: the file is there, but it is not a store of accuracies; one line that names it.
        """
        try:
            stored = msgspec.json.decode(self.path.read_bytes(), type=_Stored)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ProfileError(f"{self.path}: cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise ProfileError(f"{self.path}: not measured accuracies: {error}") from error
        if stored.format != FORMAT:
            raise ProfileError(f"{self.path}: format {stored.format}, this version reads {FORMAT}")
        for known in stored.measurements:
            if not 0 <= known.accuracy.accuracy <= 1:
                raise ProfileError(f"{self.path}: accuracy {known.accuracy.accuracy:g} is not in [0, 1]")
        return stored.measurements

    def save(self, found: Sequence[Measurement]) -> Path:
        """Add measurements, in place of those of the same content and wiring.

        Raises:
            ProfileError: the file cannot be read or written.
        """
        known = {_key(each): each for each in (*self.load(), *found)}
        stored = _Stored(FORMAT, list(known.values()))
        write_whole(self.path, msgspec.json.format(msgspec.json.encode(stored), indent=1) + b"\n")
        return self.path


def wilson_95(mean: float, examples: int) -> tuple[float, float]:
    """The 95 % interval of a share of `examples`; of other scores in [0, 1] it is rather too wide.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927. Scores
    between 0 and 1 vary at most as much as a coin of the same mean.
    """
    squared = Z_95 * Z_95
    scale = 1.0 + squared / examples
    middle = (mean + squared / (2 * examples)) / scale
    half = Z_95 / scale * math.sqrt(mean * (1 - mean) / examples + squared / (4 * examples * examples))
    return max(0.0, middle - half), min(1.0, middle + half)


def _key(measured: Measurement) -> tuple[str, tuple[tuple[str, str], ...]]:
    return measured.wiring, contents_key(measured.contents)


def contents_key(contents: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Contents by stage, to compare and to look up."""
    return tuple(sorted(contents.items()))
