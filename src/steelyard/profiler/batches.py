"""Batches to measure with, in an arena as the front end's: one request a row, numbers fixed by a seed.

A row a request, because that is what a loaded server sees: the worker gathers them, and that costs time too.
Rows are recorded ones where there are any in a shape bucket, else random.
"""

from collections.abc import Mapping, Sequence
from itertools import count, cycle, islice
from math import prod

import numpy as np

from steelyard.core.errors import ProfileError
from steelyard.core.types import Request, RequestId
from steelyard.profiler.recorded import Recorded, Row, row_bytes
from steelyard.profiler.station import SERVICE, Batch
from steelyard.profiler.subject import Subject
from steelyard.runtime.base import Array, Signature
from steelyard.runtime.dtypes import numpy_dtype
from steelyard.runtime.example import example_inputs, tensor_shape
from steelyard.worker.arena import Arena
from steelyard.worker.tensors import store

ARENA_BYTES_MIN = 1 << 20
_SLOT_BYTES = 256
_SLOT_FACTOR = 4
"""Slots are powers of two with a header, and two batches may lie there at a time."""


class BatchMaker:
    """Makes batches of a subject, and the arena they lie in.

    Args:
        subject: what takes them.
        rng: of random rows.
        recorded: real rows of its stage; None: there are none.

    Raises:
        ModelError: an input has dynamic dimensions, and the spec gives no example for them.
        ProfileError: the variant has no known inputs (a Python class without a signature).
    """

    def __init__(self, subject: Subject, rng: np.random.Generator, recorded: Recorded | None = None) -> None:
        if not subject.signature.inputs and recorded is None:
            raise ProfileError(
                f"variant {subject.spec.name}: its inputs are not known; "
                f"give {subject.spec.target} a `signature`"
            )
        self._subject = subject
        self._rng = rng
        self._sequence = count(1)
        self._words = Signature((), subject.signature.inputs, batchable=subject.signature.batchable)
        self._ragged = recorded.ragged if recorded else frozenset[str]()
        self._recorded = [
            recorded.in_bucket(subject.buckets, bucket) if recorded else ()
            for bucket in range(subject.bucket_count)
        ]
        needed = (self._bytes(bucket, rows) for bucket, rows in enumerate(self._recorded))
        self.arena = Arena("profiler", max(ARENA_BYTES_MIN, _SLOT_FACTOR * max(needed)))

    def make(self, bucket: int, rows: int) -> Batch:
        """A batch of `rows` rows: recorded ones in turn, or random ones of the bucket's largest shapes."""
        recorded = self._recorded[bucket]
        if recorded:
            count = max(rows, len(recorded))
            requests = tuple(self._stored(row, 1, bucket) for row in islice(cycle(recorded), count))
            return Batch(rows, requests, self._ragged)
        if not self._subject.signature.batchable:
            return Batch(rows, (self._request(bucket, rows),))
        return Batch(rows, tuple(self._request(bucket, 1) for _ in range(rows)))

    def free(self, batch: Batch) -> None:
        """Give a batch's memory back."""
        for request in batch.requests:
            for tensor in request.tensors:
                self.arena.free(tensor.ref)

    def _request(self, bucket: int, rows: int) -> Request:
        inputs = example_inputs(self._subject.in_bucket(bucket), self._subject.signature, rows)
        return self._stored({name: self._filled(array) for name, array in inputs.items()}, rows, bucket)

    def _stored(self, inputs: Mapping[str, Array], rows: int, bucket: int) -> Request:
        tensors = store(inputs, self._words, self.arena)
        number = RequestId(0, next(self._sequence))
        return Request(number, SERVICE, rows, "", 0.0, 0.0, bucket, tensors=tensors)

    def _bytes(self, bucket: int, recorded: Sequence[Row]) -> int:
        """What the largest batch of a bucket takes."""
        rows = self._subject.batch_rows_max
        if not recorded:
            return rows * _row_bytes(self._subject, bucket)
        return max(rows, len(recorded)) * max(_SLOT_BYTES + row_bytes(row) for row in recorded)

    def _filled(self, array: Array) -> Array:
        """Random where the type is a real number; indices, flags and texts stay 0 and empty: always valid."""
        return self._rng.random(array.shape).astype(array.dtype) if array.dtype.kind == "f" else array


def _row_bytes(subject: Subject, bucket: int) -> int:
    spec = subject.in_bucket(bucket)
    return sum(
        _SLOT_BYTES
        + prod(tensor_shape(spec, subject.signature, tensor, 1)) * numpy_dtype(tensor.dtype).itemsize
        for tensor in subject.signature.inputs
    )
