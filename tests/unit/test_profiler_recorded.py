"""What stages were given: how much of it is kept, and what batches are made of it."""

import numpy as np
import pytest

from steelyard.core.commands import Slice
from steelyard.core.errors import ProfileError
from steelyard.profiler.batches import BatchMaker
from steelyard.profiler.recorded import BYTES_MAX, ROWS_MAX, Recorded, Recorder
from steelyard.profiler.subject import Subject
from steelyard.runtime.base import Signature, TensorSpec, VariantSpec
from steelyard.worker.tensors import Gatherer

UNKNOWN = Signature((), (), batchable=True)
WIDE = Signature((TensorSpec("line", "FP32", (-1, -1)),), (), batchable=True)
SPEC = VariantSpec("v", "python", "a:B", batch_rows_max=4)


def kept(recorder: Recorder, stage: str = "s") -> Recorded:
    return recorder.recorded("examples 12")[stage]


def lines(*widths: int) -> Recorded:
    """A row a width, filled with it."""
    rows = tuple({"line": np.full((1, width), width, np.float32)} for width in widths)
    return Recorded(rows, frozenset(), "examples 12")


def test_rows_are_copied_one_by_one() -> None:
    recorder, batch = Recorder(), np.arange(6, dtype=np.float32).reshape(3, 2)
    recorder.take("s", {"x": batch}, 3, batchable=True)
    batch[:] = 0  # the worker's buffer is used again
    found = kept(recorder)
    assert [row["x"].tolist() for row in found.rows] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert (found.ragged, found.source) == (frozenset(), "examples 12")


def test_a_ragged_input_is_the_array_of_its_row() -> None:
    recorder = Recorder()
    codes = [np.array([1, 2]), np.array([], np.int64)]
    recorder.take("s", {"codes": codes, "size": np.array([7, 8])}, 2, batchable=True)
    found = kept(recorder)
    assert [(row["codes"].tolist(), row["size"].tolist()) for row in found.rows] == [([1, 2], [7]), ([], [8])]
    assert found.ragged == {"codes"}
    recorder.take("s", {"codes": np.array([[1]]), "size": np.array([1])}, 1, batchable=True)
    assert len(kept(recorder).rows) == 2  # an array, once: not of one kind with the others


def test_a_model_of_one_row_is_given_its_inputs_whole() -> None:
    recorder = Recorder()
    recorder.take("s", {"page": np.zeros((5, 2))}, 1, batchable=False)
    (row,) = kept(recorder).rows
    assert row["page"].shape == (5, 2)


def test_rows_and_bytes_have_a_limit_but_one_row_is_kept_always() -> None:
    recorder = Recorder()
    recorder.take("s", {"x": np.zeros((ROWS_MAX, 1))}, ROWS_MAX, batchable=True)
    assert not recorder.is_full("s")
    recorder.take("s", {"x": np.zeros((1, 1))}, 1, batchable=True)
    assert recorder.is_full("s")
    assert len(kept(recorder).rows) == ROWS_MAX

    # Half of the bytes a row: the third one is too many. More than all of them: the first one is there still.
    for size, rows in ((BYTES_MAX // 2, 2), (BYTES_MAX + 1, 1)):
        recorder = Recorder()
        recorder.take("s", {"x": np.zeros((3, size), np.uint8)}, 3, batchable=True)
        assert len(kept(recorder).rows) == rows
    assert not recorder.is_full("other")


def test_a_stage_that_nothing_reaches_is_not_there() -> None:
    recorder = Recorder()
    recorder.take("s", {"x": np.zeros((0, 2))}, 0, batchable=True)
    assert recorder.recorded("examples 12") == {}


def test_a_bucket_has_the_rows_of_its_dearest_shape() -> None:
    recorded = lines(3, 8, 5, 8, 12, 99)
    buckets = {"line": (1, (4, 10, 20))}
    widths = [
        [row["line"].shape[1] for row in recorded.in_bucket(buckets, bucket)]
        for bucket in range(len(buckets) + 2)
    ]
    assert widths == [[3], [8, 8], [12]]  # 99 fits into none
    assert [row["line"].shape[1] for row in recorded.in_bucket({}, 0)] == [99]


def test_batches_are_made_of_recorded_rows_in_turn() -> None:
    subject = Subject("m", SPEC, WIDE, 4)
    maker = BatchMaker(subject, np.random.default_rng(1), lines(2, 2, 2))
    try:
        pair = maker.make(0, 2)
        assert len(pair.requests) == 3
        # Runs 0, 1, 2 begin at 0, 2, 4 mod 3 = 1.
        taken = [[request.id.sequence for request in pair.turn(number)] for number in range(3)]
        assert taken == [[1, 2], [3, 1], [2, 3]]
        assert len(maker.make(0, 4).turn(7)) == 4  # the first row once more
    finally:
        maker.arena.close()


def test_random_rows_are_those_of_every_run() -> None:
    spec = VariantSpec("v", "onnx", "m.onnx", batch_rows_max=4, example={"line": (3,)})
    maker = BatchMaker(Subject("m", spec, WIDE, 4), np.random.default_rng(1))
    try:
        batch = maker.make(0, 2)
        assert batch.turn(0) == batch.turn(5) == batch.requests
    finally:
        maker.arena.close()


def test_without_a_signature_recorded_rows_are_what_is_known() -> None:
    subject = Subject("m", SPEC, UNKNOWN, 4)
    with pytest.raises(ProfileError, match="its inputs are not known"):
        BatchMaker(subject, np.random.default_rng(1))
    words = np.array([b"a", b"bc"], dtype=np.object_)
    rows = (
        {"codes": np.array([[1], [2]]), "words": words},
        {"codes": np.array([[3]]), "words": words[:1]},
    )
    recorded = Recorded(rows, frozenset({"codes"}), "examples 12")
    maker = BatchMaker(subject, np.random.default_rng(1), Recorded(rows, frozenset({"codes", "words"}), "e"))
    try:
        batch = maker.make(0, 2)
        slices = [Slice(request.id, 0, 1) for request in batch.requests]
        inputs = Gatherer().gather(batch.feeds(slices, batch.requests), maker.arena.view)
        assert [array.tolist() for array in inputs["codes"]] == [[[1], [2]], [[3]]]
        assert [array.tolist() for array in inputs["words"]] == [[b"a", b"bc"], [b"a"]]
        maker.free(batch)
        assert maker.arena.bytes_used == 0
    finally:
        maker.arena.close()
    assert recorded.in_bucket({}, 0) == rows[:1]  # of words, an array, the two are other shapes
