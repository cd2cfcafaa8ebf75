"""Replay and differences: the first decision that changed is named, and gaps are refused."""

import pytest

from steelyard.core.commands import Command, ServiceDrained, WakeAt
from steelyard.core.errors import JournalError
from steelyard.core.events import Event, WindowClosed, Woken
from steelyard.journal.diff import describe, diff_commands, first_difference
from steelyard.journal.records import Record, machine_name
from steelyard.journal.replay import replay


class Metronome:
    """Answers every event with a wish to be woken `period_s` later."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s

    def handle(self, event: Event, *, now_s: float) -> list[Command]:
        return [WakeAt(now_s + self.period_s)]


def journal(count: int, *, machine: str = "service/ocr") -> list[Record]:
    return [
        Record(machine, number, float(number), Woken(), (WakeAt(number + 1.0),)) for number in range(count)
    ]


def test_the_same_machine_gives_the_same_commands() -> None:
    assert replay(journal(5), {"service/ocr": Metronome(1.0)}) is None


def test_the_first_difference_is_returned_with_what_came_instead() -> None:
    records = journal(5)
    records[3] = Record("service/ocr", 3, 3.0, WindowClosed(), (ServiceDrained(), WakeAt(4.0)))
    difference = replay(records, {"service/ocr": Metronome(1.0)})
    assert difference is not None
    assert difference.record.sequence == 3
    assert difference.commands == (WakeAt(4.0),)
    assert list(describe(difference)) == [
        'service/ocr, record 3 at 3.000000 s: {"type":"window_closed"}',
        '- {"type":"service_drained"}',
        '+ {"type":"wake_at","at_s":4.0}',
        '- {"type":"wake_at","at_s":4.0}',
    ]


def test_records_of_other_machines_are_passed_over() -> None:
    records = [*journal(2, machine="control"), *journal(2)]
    assert replay(records, {"service/ocr": Metronome(1.0)}) is None


def test_a_journal_with_gaps_is_refused() -> None:
    records = journal(5)
    del records[2]
    with pytest.raises(JournalError, match="record 3 of service/ocr follows 1"):
        replay(records, {"service/ocr": Metronome(1.0)})


def test_equal_commands_are_shown_as_context() -> None:
    assert list(diff_commands((WakeAt(1.0),), (WakeAt(1.0),))) == ['  {"type":"wake_at","at_s":1.0}']


def test_two_journals_part_at_the_first_unequal_record() -> None:
    ours, theirs = journal(3), journal(4)
    assert first_difference(ours, ours) is None
    assert first_difference(ours, theirs) == (None, theirs[3])
    theirs[1] = Record("service/ocr", 1, 1.25, Woken(), ())
    assert first_difference(ours, theirs) == (ours[1], theirs[1])


def test_a_services_machine_is_named_after_it() -> None:
    assert machine_name("ocr") == "service/ocr"
