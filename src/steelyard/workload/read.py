"""Read a trace from text: one count a second a line, or CSV with a time column.

Text: line n is the number of requests in second n - 1; a blank line is a second without data, blank lines at
the end are nothing.
CSV: the first line names the columns. `t_s` (seconds from the start of the trace) or `timestamp` (ISO 8601 or
seconds since the epoch; the trace starts with the earliest one's whole second) is required. With `count` a
line is that many requests in its second, without it a line is one request at its exact time. `service`,
`class`, `latency_ms` (the request's own budget) and `rows` are optional; other columns are ignored.

A second without data is a gap: it is listed in the trace, and by the caller's choice is silent or holds the
last known counts. Lines come from the caller, who opens and unpacks files; `name` is only for messages. Every
error is one line that names file, line and value.
"""

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, zip_longest
from math import floor, inf, isfinite
from typing import Literal, NamedTuple

import numpy as np

from steelyard.core.errors import TraceError
from steelyard.workload.trace import (
    COUNT_MAX,
    SECONDS_MAX,
    Arrival,
    Counts,
    CountTrace,
    Mark,
    Trace,
    arrival_trace,
)

Gaps = Literal["hold", "silence"]

CELLS_MAX = 100_000_000
"""Most seconds times kinds of request of a count trace, 0.8 GB."""

EPOCH_S_MAX = 1e11
"""Seconds since 1970 that no trace has: the year 5138, or milliseconds of 1973."""

SHOWN_MAX = 60
"""Characters of a value that an error shows."""

_TIME_COLUMNS = ("t_s", "timestamp")


class _Row(NamedTuple):
    """One line: `requests` is None where it is a single arrival."""

    time_s: float
    requests: int | None
    mark: Mark


def read_trace(lines: Iterable[str], *, name: str, gaps: Gaps = "silence") -> Trace:
    """Read either format; a first line that names a time column makes it CSV.

    Raises:
        TraceError: nothing to read, or a line with a bad value.
    """
    remaining = iter(lines)
    first = next(remaining, None)
    if first is None:
        raise TraceError(f"{name}: the trace is empty")
    first = first.removeprefix("\ufeff")  # some editors and spreadsheets begin a file with it
    columns = [column.strip().lower() for column in next(_cells([first.strip()], name, 1), [])]
    if any(column in _TIME_COLUMNS for column in columns):
        twice = next((column for column in columns if columns.count(column) > 1), None)
        if twice is not None:
            raise TraceError(f"{name}:1: column {twice} is there twice")
        return _read_csv(columns, remaining, name, gaps)
    if len(columns) > 1:
        raise TraceError(f"{name}:1: want a column t_s or timestamp, got {_shown(first.strip())}")
    return _read_text(chain([first], remaining), name, gaps)


def _read_text(lines: Iterable[str], name: str, gaps: Gaps) -> Trace:
    known: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        if number > SECONDS_MAX:
            raise TraceError(f"{name}:{number}: longer than {SECONDS_MAX} seconds")
        if line.strip():
            known[number - 1] = _count(line.strip(), f"{name}:{number}")
    if not known:
        raise TraceError(f"{name}: the trace is empty")
    return _counted([_Row(second, count, Mark()) for second, count in known.items()], name, gaps)


def _read_csv(columns: list[str], lines: Iterator[str], name: str, gaps: Gaps) -> Trace:
    stamped = "t_s" not in columns
    rows = []
    for number, values in enumerate(_cells(lines, name, 2), start=2):
        if len(values) > len(columns):
            raise TraceError(f"{name}:{number}: want {len(columns)} columns, got {len(values)}")
        if values:
            rows.append(_row(dict(zip_longest(columns, values, fillvalue="")), stamped, f"{name}:{number}"))
    if not rows:
        raise TraceError(f"{name}: the trace has columns but no line")
    if stamped:
        origin_s = floor(min(row.time_s for row in rows))
        rows = [row._replace(time_s=row.time_s - origin_s) for row in rows]
    latest_s = max(row.time_s for row in rows)
    if latest_s >= SECONDS_MAX:
        raise TraceError(
            f"{name}: longer than {SECONDS_MAX} seconds (t_s reaches {latest_s:g}; dates go in timestamp)"
        )
    if "count" in columns:
        return _counted(rows, name, gaps)
    return arrival_trace([Arrival(row.time_s, row.mark) for row in rows])


def _cells(lines: Iterable[str], name: str, start: int) -> Iterator[list[str]]:
    """The cells of each line, the first of which has the number `start` in its file.

    Raises:
        TraceError: a cell has no end: the file is something else.
    """
    reader = csv.reader(lines)
    try:
        yield from reader
    except csv.Error as error:
        raise TraceError(f"{name}:{start + reader.line_num - 1}: not a trace: {error}") from None


def _row(cells: dict[str, str], stamped: bool, where: str) -> _Row:
    cells = {column: value.strip() for column, value in cells.items()}
    time_s = _timestamp(cells.get("timestamp", ""), where) if stamped else _number(cells, "t_s", where)
    latency_s = _number(cells, "latency_ms", where) / 1000 if cells.get("latency_ms") else None
    if latency_s == 0:
        raise TraceError(f"{where}: latency_ms: want a positive number, got {_shown(cells['latency_ms'])}")
    rows = _count(cells["rows"], f"{where}: rows") if cells.get("rows") else 1
    if rows == 0:
        raise TraceError(f"{where}: rows: want 1 or more, got '0'")
    count = _count(cells["count"], f"{where}: count") if "count" in cells else None
    return _Row(time_s, count, Mark(cells.get("service", ""), cells.get("class", ""), latency_s, rows))


def _counted(rows: list[_Row], name: str, gaps: Gaps) -> CountTrace:
    """Sum the lines of each second; a second no line names is a gap."""
    seconds = floor(max(row.time_s for row in rows)) + 1
    kinds = len({row.mark for row in rows})
    if kinds * seconds > CELLS_MAX:
        raise TraceError(
            f"{name}: {kinds} kinds of request over {seconds} seconds are too many; leave out count"
        )
    by_mark: dict[Mark, Counts] = {}
    seen = np.zeros(seconds, dtype=np.bool_)
    for row in rows:
        second = floor(row.time_s)
        seen[second] = True
        if row.mark not in by_mark:
            by_mark[row.mark] = np.zeros(seconds, dtype=np.int64)
        by_mark[row.mark][second] += row.requests or 0
    if gaps == "hold":
        # The latest known second at or before each one; before the first there is nothing to hold.
        latest = np.maximum.accumulate(np.where(seen, np.arange(seconds), -1))
        by_mark = {mark: np.where(latest >= 0, counts[latest], 0) for mark, counts in by_mark.items()}
    return CountTrace(by_mark, tuple(np.flatnonzero(~seen).tolist()))


def _count(text: str, where: str) -> int:
    """A whole number of 0 or more; `12.0` counts as whole."""
    try:
        value = float(text)
    except ValueError:
        raise TraceError(f"{where}: want a count of 0 or more, got {_shown(text)}") from None
    if not (isfinite(value) and value >= 0 and value == floor(value)):
        raise TraceError(f"{where}: want a whole count of 0 or more, got {_shown(text)}")
    if value > COUNT_MAX:
        raise TraceError(f"{where}: want a count of at most {COUNT_MAX}, got {_shown(text)}")
    return int(value)


def _number(cells: dict[str, str], column: str, where: str) -> float:
    text = cells.get(column, "")
    try:
        value = float(text)
    except ValueError:
        raise TraceError(f"{where}: {column}: want a number, got {_shown(text)}") from None
    if not (isfinite(value) and value >= 0):
        raise TraceError(f"{where}: {column}: want a number of 0 or more, got {_shown(text)}")
    return value


def _timestamp(text: str, where: str) -> float:
    """Seconds since the epoch; a date without a zone is taken as UTC."""
    try:
        value = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise TraceError(f"{where}: timestamp: want ISO 8601 or seconds, got {_shown(text)}") from None
        value = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    else:
        if EPOCH_S_MAX <= value < inf:
            raise TraceError(
                f"{where}: timestamp: want ISO 8601 or seconds, got {_shown(text)}: milliseconds, perhaps"
            )
    if not (isfinite(value) and value >= 0):
        raise TraceError(f"{where}: timestamp: want a finite time after 1970, got {_shown(text)}")
    return value


def _shown(text: str) -> str:
    """A value in an error: the file may be anything."""
    return repr(text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "...")
