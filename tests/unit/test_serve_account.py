"""The protocol's statistics are those of the metrics: sums over requests, read whenever somebody asks."""

import pytest

from steelyard.core.commands import Complete, Discard, Fail, Reject, Shed
from steelyard.core.snapshot import BusyCell
from steelyard.core.types import Request, RequestId
from steelyard.serve.account import Account
from steelyard.serve.statistics import BatchSums, add_batches
from steelyard.testing.builders import make_service

ID = RequestId(0, 1)


class Clock:
    """Time as it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_answers_and_refusals_add_up_and_clients_that_left_count_in_neither() -> None:
    clock = Clock()
    account = Account({"ocr": make_service(), "asr": make_service()}, clock=clock)
    request = Request(ID, "ocr", 2, "k", arrived_s=100.0, deadline_s=101.0)
    ends = (
        Complete(ID, "small", queue_s=0.002, service_s=0.04, late=False, answers={}),
        Shed(ID, "early"),
        Complete(ID, "tiny", queue_s=0.1, service_s=0.03, late=True, answers={}),
        Reject(ID, "queue_full", 0.5),
        Fail(ID, "worker_lost", "gone"),
        Discard(ID),
    )
    for end in ends:  # at 100.25, 100.5 ... 101.5
        clock.now_s += 0.25
        account.on_end(request, end)
    found = account.statistics("ocr")
    assert (found.completed, found.rows, found.refused) == (2, 4, 3)
    assert found.latency_s == pytest.approx(0.25 + 0.75)
    assert [found.queue_s, found.service_s] == pytest.approx([0.102, 0.07])
    assert found.refused_s == pytest.approx(0.5 + 1.0 + 1.25)
    assert found.last_end_s == 100.75
    assert account.statistics("asr").completed == 0
    assert account.statistics("asr").last_end_s is None


def test_batches_add_up_by_their_rows() -> None:
    sums: dict[int, BatchSums] = {}
    add_batches(sums, (BusyCell("read", "small", 4, 1.0, 2, 0.5), BusyCell("read", "tiny", 4, 1.0, 1, 0.25)))
    add_batches(sums, (BusyCell("read", "small", 1, 1.0, 3, 0.125),))
    assert sums == {4: BatchSums(3, 0.75), 1: BatchSums(3, 0.125)}
