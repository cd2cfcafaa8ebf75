"""Journals: every value comes back equal, and broken files are named by line."""

import pytest
from hypothesis import given, settings

from steelyard.core.commands import Command, Release, WakeAt
from steelyard.core.errors import JournalError
from steelyard.core.events import Event, Woken
from steelyard.core.types import RequestId
from steelyard.journal.codec import decode_command, decode_event, encode, read
from steelyard.journal.records import VERSION, Header, Record
from steelyard.testing.builders import make_plan, make_request, make_service
from steelyard.testing.strategies import commands, events, values_of

HEADER = Header(version=VERSION, services={"ocr": make_service()}, plans={"ocr": make_plan(make_service())})
RECORD = Record("service/ocr", 0, 1.5, Woken(), (WakeAt(2.0), Release(RequestId(0, 1))))


@settings(max_examples=60)
@given(events())
def test_every_event_comes_back(event: Event) -> None:
    assert decode_event(encode(event)) == event
    assert encode(decode_event(encode(event))) == encode(event)


@settings(max_examples=60)
@given(commands())
def test_every_command_comes_back(command: Command) -> None:
    assert decode_command(encode(command)) == command
    assert encode(decode_command(encode(command))) == encode(command)


@settings(max_examples=20, deadline=None)
@given(values_of(Header), values_of(Record))
def test_every_record_comes_back_and_fits_a_line(header: Header, record: Record) -> None:
    header = Header(VERSION, header.services, header.plans, header.service_times)
    lines = [encode(header), encode(record)]
    assert all(b"\n" not in line for line in lines)
    assert list(read(lines)) == [header, record]


def test_a_journal_is_read_from_bytes_or_text_with_or_without_line_ends() -> None:
    expected = [HEADER, RECORD]
    lines = [encode(HEADER), encode(RECORD)]
    assert list(read(lines)) == expected
    assert list(read([line + b"\n" for line in lines])) == expected
    assert list(read([*(line.decode() + "\n" for line in lines), "\n"])) == expected


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "run.journal: empty, want a header and records"),
        ([encode(RECORD)], "run.journal:1: want a header here"),
        ([encode(HEADER), encode(HEADER)], "run.journal:2: want a record here"),
        ([encode(HEADER), encode(RECORD)[:-9]], "run.journal:2: not a journal record: "),
        ([encode(HEADER), b"\xff\xfe"], "run.journal:2: not a journal record: "),
        ([encode(HEADER), b"{}"], "run.journal:2: not a journal record: "),
        (
            [encode(HEADER), encode(RECORD).replace(b"woken", b"wokken")],
            "run.journal:2: not a journal record: ",
        ),
        ([encode(Header(VERSION + 1, {}))], f"run.journal:1: format version {VERSION + 1}, "),
    ],
)
def test_what_is_no_journal_is_refused_by_line(lines: list[bytes], message: str) -> None:
    with pytest.raises(JournalError) as error:
        list(read(lines, name="run.journal"))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_records_before_a_cut_are_still_read() -> None:
    reader = read([encode(HEADER), encode(RECORD), encode(RECORD)[:20]])
    assert [next(reader), next(reader)] == [HEADER, RECORD]
    with pytest.raises(JournalError):
        next(reader)


def test_an_event_is_no_command() -> None:
    with pytest.raises(JournalError, match="not a command"):
        decode_command(encode(Woken()))
    with pytest.raises(JournalError, match="not an event"):
        decode_event(encode(Release(make_request(1).id)))
