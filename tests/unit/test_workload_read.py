"""Reading traces: both formats, gaps, and one clear line for everything that is wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from steelyard.core.errors import TraceError
from steelyard.workload.read import read_trace
from steelyard.workload.trace import Arrival, ArrivalTrace, CountTrace, Mark

WANT_COUNT = "want a count of 0 or more"


def read(text: str, **options: str) -> CountTrace | ArrivalTrace:
    return read_trace(text.splitlines(keepends=True), name="t.txt", **options)  # type: ignore[arg-type]


def test_text_is_one_count_a_second_a_line() -> None:
    trace = read("3\n0\n 5 \n12.0\n")
    assert trace.counts.tolist() == [3, 0, 5, 12]
    assert trace.gaps == ()


def test_a_file_packed_with_gzip_reads_through_the_callers_handle(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt.gz"
    path.write_bytes(gzip.compress(b"1\n2\n"))
    with gzip.open(path, "rt") as lines:
        assert read_trace(lines, name=path.name).counts.tolist() == [1, 2]


def test_a_blank_line_is_a_gap_that_is_silent_or_holds() -> None:
    text = "\n4\n\n\n6\n\n"
    # Seconds 0, 2 and 3 are unknown; blank lines after the last count are no seconds at all.
    assert read(text).counts.tolist() == [0, 4, 0, 0, 6]
    assert read(text, gaps="hold").counts.tolist() == [0, 4, 4, 4, 6]
    assert read(text, gaps="hold").gaps == (0, 2, 3)


def test_csv_of_counts_sums_lines_of_a_second_and_finds_gaps() -> None:
    trace = read("t_s,count\n0,2\n0,1\n3,7\n")
    assert trace.counts.tolist() == [3, 0, 0, 7]
    assert trace.gaps == (1, 2)
    assert read("t_s,count\n0,2\n0,1\n3,7\n", gaps="hold").counts.tolist() == [3, 3, 3, 7]


def test_csv_of_counts_keeps_kinds_of_request_apart() -> None:
    trace = read("t_s,service,class,count,latency_ms,rows\n0,ocr,gold,2,250,3\n1,ocr,,5,,\n")
    assert isinstance(trace, CountTrace)
    assert {mark: counts.tolist() for mark, counts in trace.by_mark.items()} == {
        Mark("ocr", "gold", 0.25, 3): [2, 0],
        Mark("ocr"): [0, 5],
    }


def test_csv_without_counts_is_exact_arrivals_in_any_order() -> None:
    trace = read("latency_ms,t_s,rows\n,2.5,\n80,0.125,2\n")
    assert isinstance(trace, ArrivalTrace)
    assert trace.requests == (Arrival(0.125, Mark(latency_s=0.08, rows=2)), Arrival(2.5))


@pytest.mark.parametrize(
    "lines",
    [
        "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03.9799600,4808\n2023-11-16 18:17:05.5,3180\n",
        "timestamp\n2023-11-16T18:17:03.97996Z\n2023-11-16T19:17:05.5+01:00\n",
        "timestamp,x\n1700158623.97996,a\n1700158625.5,b\n",
    ],
)
def test_timestamps_start_at_the_first_whole_second(lines: str) -> None:
    trace = read(lines)
    assert isinstance(trace, ArrivalTrace)
    # 18:17:03.97996 lies 0.97996 s after 18:17:03; the other one 2.5 s after it.
    assert np.allclose([a.at_s for a in trace.requests], [0.97996, 2.5], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.txt: the trace is empty"),
        ("\n\n", "t.txt: the trace is empty"),
        ("3\n-1\n", f"t.txt:2: {WANT_COUNT.replace('a count', 'a whole count')}, got '-1'"),
        ("3\nnan\n", f"t.txt:2: {WANT_COUNT.replace('a count', 'a whole count')}, got 'nan'"),
        ("1.5\n", f"t.txt:1: {WANT_COUNT.replace('a count', 'a whole count')}, got '1.5'"),
        ("3\nmany\n", f"t.txt:2: {WANT_COUNT}, got 'many'"),
        ("3\n" + 99 * "x", f"t.txt:2: {WANT_COUNT}, got '{57 * 'x'}...'"),
        (200_000 * "x", "t.txt:1: not a trace: field larger than field limit (131072)"),
        ("t_s\n1\n" + 200_000 * "x", "t.txt:3: not a trace: field larger than field limit (131072)"),
        ("1e9\n", "t.txt:1: want a count of at most 10000000, got '1e9'"),
        ("a,b\n1,2\n", "t.txt:1: want a column t_s or timestamp, got 'a,b'"),
        ("t_s,count\n", "t.txt: the trace has columns but no line"),
        ("t_s,count\n0,\n", f"t.txt:2: count: {WANT_COUNT}, got ''"),
        ("t_s\n0\nx\n", "t.txt:3: t_s: want a number, got 'x'"),
        ("t_s\n-0.5\n", "t.txt:2: t_s: want a number of 0 or more, got '-0.5'"),
        ("t_s\nnan\n", "t.txt:2: t_s: want a number of 0 or more, got 'nan'"),
        ("t_s,latency_ms\n0,0\n", "t.txt:2: latency_ms: want a positive number, got '0'"),
        ("t_s,rows\n0,0\n", "t.txt:2: rows: want 1 or more, got '0'"),
        ("timestamp\nyesterday\n", "t.txt:2: timestamp: want ISO 8601 or seconds, got 'yesterday'"),
        (
            "timestamp\n1700158625000\n",
            "t.txt:2: timestamp: want ISO 8601 or seconds, got '1700158625000': milliseconds, perhaps",
        ),
        (
            "t_s\n1700158625\n",
            "t.txt: longer than 10000000 seconds (t_s reaches 1.70016e+09; dates go in timestamp)",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_file_line_and_value(text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        read(text)
    assert str(caught.value) == message


def test_what_spreadsheets_and_editors_add_is_not_in_the_way() -> None:
    assert read("\ufeff5\n6\n").counts.tolist() == [5, 6]
    assert read('\ufeff"t_s","count"\n"0","5"\n').counts.tolist() == [5]
