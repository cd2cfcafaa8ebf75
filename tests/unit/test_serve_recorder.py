"""Journals beside the loop: a disk that fails ends its file, is told once, and costs nothing else."""

import os
import threading
from pathlib import Path

import pytest

from steelyard.core.errors import JournalError
from steelyard.core.events import Woken
from steelyard.journal.codec import read
from steelyard.journal.records import CONTROL, VERSION, Header, Record
from steelyard.serve.recorder import JournalFile, Recorder

HEADER = Header(
    version=VERSION, services={}, service_times={}, policy="static", policy_options={}, window_s=0.1,
    software="test", started_at="2026-01-01T00:00:00+00:00",
)  # fmt: skip


def record(sequence: int) -> Record:
    return Record("control", sequence, 0.0, Woken(), ())


def test_what_was_put_is_in_the_file_after_closing(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path / "deep" / "journal", HEADER)
    for sequence in range(3):
        journal.put(record(sequence))
    journal.close()
    lines = (tmp_path / "deep" / "journal").read_bytes().splitlines()
    assert list(read(lines)) == [HEADER, record(0), record(1), record(2)]
    assert journal.dropped == 0


def test_a_full_file_counts_what_it_drops(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path / "journal", HEADER, bytes_max=1)  # the header is always written
    for sequence in range(3):
        journal.put(record(sequence))
    journal.close()
    assert journal.dropped == 3
    assert len((tmp_path / "journal").read_bytes().splitlines()) == 1


@pytest.mark.parametrize("place", ["/dev/full", "/proc/journal", "/dev/null/journal"])
def test_a_file_that_cannot_be_begun_is_one_line(place: str) -> None:
    with pytest.raises(JournalError, match=f"^cannot write {place}: "):
        JournalFile(Path(place), HEADER)


def test_a_disk_that_fails_later_is_told_once_and_the_rest_is_counted(tmp_path: Path) -> None:
    told: list[str] = []
    failed = threading.Event()

    def on_failure(text: str) -> None:
        told.append(text)
        failed.set()

    journal = JournalFile(tmp_path / "journal", HEADER, on_failure=on_failure)
    with Path("/dev/full").open("wb", buffering=0) as full:
        os.dup2(full.fileno(), journal._file.fileno())  # from now on, every write finds the disk full
    journal.put(record(0))
    assert failed.wait(10)
    journal.put(record(1))
    journal.close()
    assert told == [f"{tmp_path / 'journal'} ends here: No space left on device"]
    assert journal.dropped == 2


def test_only_what_is_written_somewhere_is_wanted(tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "journal", HEADER)
    wanted = {
        kept: [Recorder(*files).wants(machine) for machine in (CONTROL, "service/ocr")]
        for kept, files in {"all": (file, None), "decisions": (None, file), "nothing": (None, None)}.items()
    }
    file.close()
    assert wanted == {"all": [True, True], "decisions": [True, False], "nothing": [False, False]}
