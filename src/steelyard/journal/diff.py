"""Differences between what was recorded and what came out, in words and line by line."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from steelyard.core.commands import Command
from steelyard.journal.codec import encode
from steelyard.journal.records import Record
from steelyard.journal.replay import Difference


def describe(difference: Difference) -> Iterator[str]:
    """Lines for a person: which record, which event, and the commands as recorded (-) and as now (+)."""
    record = difference.record
    event = encode(record.event).decode()
    yield f"{record.machine}, record {record.sequence} at {record.now_s:.6f} s: {event}"
    yield from diff_commands(record.commands, difference.commands)


def diff_commands(recorded: Sequence[Command], now: Sequence[Command]) -> Iterator[str]:
    """Commands side by side, in order: equal ones after two blanks, others after `- ` and `+ `."""
    for old, new in zip_longest(recorded, now):
        old_line = None if old is None else encode(old).decode()
        new_line = None if new is None else encode(new).decode()
        if old_line == new_line:
            yield f"  {old_line}"
            continue
        if old_line is not None:
            yield f"- {old_line}"
        if new_line is not None:
            yield f"+ {new_line}"


def first_difference(
    left: Iterable[Record], right: Iterable[Record]
) -> tuple[Record | None, Record | None] | None:
    """Where two journals part: the first pair of records that is not equal byte for byte, or None.

    One of the pair is None where one journal ends before the other.
    """
    for ours, theirs in zip_longest(left, right):
        if ours is None or theirs is None or encode(ours) != encode(theirs):
            return ours, theirs
    return None
