"""The one codec: every event, command, record and header as one line of JSON (`docs/adr/0002-one-codec.md`).

Equal values give equal bytes: fields come in the order of their definition, and floats in their shortest form
that reads back as the same float. Numbers must be finite: JSON has no other.
"""

from collections.abc import Iterable, Iterator

import msgspec

from steelyard.core.commands import Command
from steelyard.core.errors import JournalError
from steelyard.core.events import Event
from steelyard.journal.records import VERSION, Header, Record

Line = Header | Record

_encoder = msgspec.json.Encoder()
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_command_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_line_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def encode(value: Event | Command | Line) -> bytes:
    """One line of JSON, without the line's end."""
    return _encoder.encode(value)


def decode_event(data: bytes | str) -> Event:
    """An event from `encode`.

    Raises:
        JournalError: it is not one.
    """
    try:
        return _event_decoder.decode(data)
    except msgspec.DecodeError as error:
        raise JournalError(f"not an event: {error}") from error


def decode_command(data: bytes | str) -> Command:
    """A command from `encode`.

    Raises:
        JournalError: it is not one.
    """
    try:
        return _command_decoder.decode(data)
    except msgspec.DecodeError as error:
        raise JournalError(f"not a command: {error}") from error


def read(lines: Iterable[bytes | str], *, name: str = "journal") -> Iterator[Line]:
    """The header and the records of a journal's lines, one by one; empty lines are passed over.

    Args:
        lines: with or without their ends.
        name: of the file, for messages.

    Raises:
        JournalError: a line is cut off or is no record, the first is no header, or the version is not known.
    """
    is_first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = _line_decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise JournalError(f"{name}:{number}: not a journal record: {error}") from error
        if is_first != isinstance(value, Header):
            raise JournalError(f"{name}:{number}: want {'a header' if is_first else 'a record'} here")
        if isinstance(value, Header) and value.version != VERSION:
            raise JournalError(
                f"{name}:{number}: format version {value.version}, this reader knows {VERSION}"
            )
        is_first = False
        yield value
    if is_first:
        raise JournalError(f"{name}: empty, want a header and records")
