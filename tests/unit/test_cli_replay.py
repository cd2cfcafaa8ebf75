"""Traces as the command line names them: whose they are, and what is in them that no service takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.replay import traces_of
from steelyard.core.errors import TraceError
from steelyard.testing.builders import make_service

ONE = {"ocr": make_service()}
TWO = {name: make_service(name=name) for name in ("ocr", "rank")}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("counts.txt").write_text("1\n2\n")
    Path("counts.csv").write_text("t_s,service,count\n0,ocr,3\n0,rank,5\n1,ocr,4\n1,,1\n")
    Path("exact.csv").write_text("t_s,service\n0.5,ocr\n1.5,rank\n2.5,ocr\n")


def counts(arguments: list[str], services: Mapping[str, Any], **options: Any) -> dict[str, list[int]]:
    return {name: t.counts.tolist() for name, t in traces_of(arguments, services, {}, **options).items()}


def test_a_lone_file_is_the_only_services() -> None:
    assert counts(["counts.txt"], ONE) == {"ocr": [1, 2]}


def test_a_named_file_is_that_services_lines_and_those_of_no_service() -> None:
    assert counts(["ocr=counts.txt", "rank=exact.csv"], TWO) == {"ocr": [1, 2], "rank": [0, 1, 0]}
    assert counts(["ocr=counts.csv"], TWO) == {"ocr": [3, 5]}


def test_a_file_may_name_its_services() -> None:
    assert counts(["exact.csv"], TWO) == {"ocr": [1, 0, 1], "rank": [0, 1, 0]}


def test_a_slice_comes_before_scaling_and_each_service_is_scaled_by_itself() -> None:
    # A copy goes half-way to the service's own next arrival, else to the end of its second: 0.75, 1.75.
    assert counts(["exact.csv"], TWO, cut="0:2", scale=2.0) == {"ocr": [2, 0], "rank": [0, 2]}
    # Every second of the lines in turn would be rank's alone.
    assert counts(["exact.csv"], TWO, scale=0.5) == {"ocr": [0, 0, 1], "rank": [0, 0, 0]}


def test_a_slice_in_which_nobody_arrives_is_as_long_as_it_says() -> None:
    Path("rare.csv").write_text("t_s,service\n0.5,ocr\n4.5,rank\n")
    assert counts(["rare.csv"], TWO, cut="1:4") == {"ocr": [0, 0, 0], "rank": [0, 0, 0]}
    assert counts(["rank=rare.csv"], TWO, cut="1:4") == {"rank": [0, 0, 0]}


def test_a_files_name_may_have_an_equals_sign() -> None:
    Path("rate=2.txt").write_text("7\n")
    assert counts(["rate=2.txt"], ONE) == {"ocr": [7]}
    assert counts(["ocr=rate=2.txt"], ONE) == {"ocr": [7]}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["orc=counts.txt"], "--trace: unknown service orc; did you mean ocr? (known: ocr, rank)"),
        (
            ["counts.txt"],
            "--trace: counts.txt has arrivals of no service: want SERVICE=counts.txt, one of ocr, rank",
        ),
        (["ocr=counts.txt", "exact.csv"], "--trace: two traces for service ocr; want one"),
        (["ocr="], "--trace: want a file after ocr="),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(TraceError) as raised:
        traces_of(arguments, TWO, {})
    assert str(raised.value) == line


def test_a_trace_of_other_services_is_refused() -> None:
    Path("other.csv").write_text("t_s,service\n0.5,rank\n")
    with pytest.raises(TraceError, match=r"^other.csv: no arrivals for ocr; it has rank$"):
        traces_of(["ocr=other.csv"], TWO, {})
    with pytest.raises(TraceError, match=r"^other.csv: unknown service rank \(known: ocr\)$"):
        traces_of(["other.csv"], ONE, {})


def test_classes_and_rows_are_the_services() -> None:
    Path("gold.csv").write_text("t_s,class,rows\n0.5,gold,2\n")
    assert set(traces_of(["gold.csv"], ONE, {"ocr": {"gold": 0.05}})) == {"ocr"}
    with pytest.raises(TraceError, match=r"^gold\.csv: service ocr: unknown SLO class 'gold'"):
        traces_of(["gold.csv"], ONE, {"ocr": {"silver": 0.05}})


def test_gaps_are_told() -> None:
    Path("gaps.txt").write_text("1\n\n\n4\n")
    told: list[str] = []
    assert counts(["gaps.txt"], ONE, gaps="hold", on_notice=told.append) == {"ocr": [1, 1, 1, 4]}
    assert told == ["gaps.txt: 2 seconds without data, taken as the last known count (--trace-gaps)"]
