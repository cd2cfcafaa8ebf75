"""What the stages of a pipeline were really given, row by row: to measure with, in place of random numbers.

A stage inside a pipeline takes what the stages before it make, and how long it takes may depend on that: a
page without ink has no lines to cut out. So examples go through the pipeline, and the first rows that each
stage is given on the way are kept: at most `ROWS_MAX`, of `BYTES_MAX` together, and one at least.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from steelyard.runtime.base import Array, Value

ROWS_MAX = 64
BYTES_MAX = 64 << 20

Row = dict[str, Array]
"""Inputs of one row by name: with a leading axis of 1; of a ragged one, the array of the row's elements."""


class Recorded(NamedTuple):
    """Rows of one stage.

    Attributes:
        rows: at least one.
        ragged: the inputs that come as one array a row.
        source: what they were made of, as `Profile.inputs` names it.
    """

    rows: tuple[Row, ...]
    ragged: frozenset[str]
    source: str

    def in_bucket(self, buckets: Mapping[str, tuple[int, tuple[int, ...]]], bucket: int) -> tuple[Row, ...]:
        """The rows of a shape bucket that can share a batch: those of its dearest shape; () without any.

        Args:
            buckets: input name -> (dimension, the leading one counted; ascending sizes).
            bucket: its index.
        """
        found: dict[object, list[Row]] = {}
        for row in self.rows:
            if _bucket(row, buckets) == bucket:
                found.setdefault(self._shape(row), []).append(row)
        dearest = max(found.values(), key=lambda alike: _elements(alike[0]), default=[])
        return tuple(dearest)

    def _shape(self, row: Row) -> tuple[object, ...]:
        """What must be equal in a batch; a ragged input's rows may have any number of elements."""
        return tuple(
            (name, array.dtype.str, array.shape[1:] if name in self.ragged else array.shape)
            for name, array in row.items()
        )


class Recorder:
    """Keeps the first rows that each stage is given."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = {}
        self._ragged: dict[str, frozenset[str]] = {}
        self._bytes: dict[str, int] = {}
        self._full: set[str] = set()

    def take(self, stage: str, inputs: Mapping[str, Value], rows: int, *, batchable: bool) -> None:
        """Copy rows of a batch, as long as there is room.

        Args:
            stage: that runs the batch.
            inputs: as its worker gathers them.
            rows: of the batch.
            batchable: whether the leading axis of an array is the batch's rows.
        """
        kept = self._rows.setdefault(stage, [])
        ragged = frozenset(name for name, value in inputs.items() if isinstance(value, list))
        if self._ragged.setdefault(stage, ragged) != ragged:
            return  # glue may give arrays once and lists another time: those of one kind share batches
        for index in range(rows):
            row = {name: _row(value, index, batchable=batchable) for name, value in inputs.items()}
            size = row_bytes(row)
            if kept and (len(kept) == ROWS_MAX or self._bytes[stage] + size > BYTES_MAX):
                self._full.add(stage)
                return
            kept.append({name: np.array(array) for name, array in row.items()})
            self._bytes[stage] = self._bytes.get(stage, 0) + size

    def is_full(self, stage: str) -> bool:
        """Whether a stage has been given more rows than are kept."""
        return stage in self._full

    def recorded(self, source: str) -> dict[str, Recorded]:
        """What was kept, by stage; a stage that no row has reached is not in it."""
        return {
            stage: Recorded(tuple(rows), self._ragged[stage], source)
            for stage, rows in self._rows.items()
            if rows
        }


def row_bytes(row: Row) -> int:
    """What a row takes in an arena."""
    return sum(map(_bytes, row.values()))


def _row(value: Value, index: int, *, batchable: bool) -> Array:
    if isinstance(value, list):
        return value[index]
    return value[index : index + 1] if batchable else value


def _bytes(array: Array) -> int:
    if array.dtype != np.object_:
        return array.nbytes
    return sum(4 + len(item) for item in array.ravel())


def _bucket(row: Row, buckets: Mapping[str, tuple[int, tuple[int, ...]]]) -> int | None:
    """The first bucket into which every input fits; None: it fits into none."""
    bucket = 0
    for name, (dimension, sizes) in buckets.items():
        if name not in row:
            continue
        size = row[name].shape[dimension]
        index = next((i for i, largest in enumerate(sizes) if size <= largest), None)
        if index is None:
            return None
        bucket = max(bucket, index)
    return bucket


def _elements(row: Row) -> int:
    return sum(array.size for array in row.values())
