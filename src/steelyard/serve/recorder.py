"""Writes journals beside the serving loop: a bounded buffer, a thread, and a count of what did not fit.

The loop never waits for a disk: it appends frozen records to a queue of `records_max`, and what does not fit
is dropped and counted. A gap shows in the sequence numbers, so a replay can say that it is incomplete
instead of finding a difference. Files are bounded in size. A disk that fails ends its file, not the server.
"""

import queue
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from steelyard.core.commands import Command, RecordDecision
from steelyard.core.errors import JournalError
from steelyard.core.events import Event
from steelyard.journal.codec import encode
from steelyard.journal.records import CONTROL, Header, Record

RECORDS_MAX = 50_000
BYTES_MAX = 4 << 30


class JournalFile:
    """One journal, written by a thread of its own.

    Args:
        path: created anew; its directory is made if it is missing.
        header: its first line.
        records_max: records that may wait for the disk.
        bytes_max: size at which the file ends.
        on_failure: told in one line, from the writing thread, that the disk failed and the file ends.

    Raises:
        JournalError: the file cannot be created.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        *,
        records_max: int = RECORDS_MAX,
        bytes_max: int = BYTES_MAX,
        on_failure: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.dropped = 0
        """Records that did not fit into the buffer or the file."""
        self._path = path
        first_line = encode(header) + b"\n"
        self._bytes_left = bytes_max - len(first_line)
        self._on_failure = on_failure
        self._queue: queue.Queue[Record | None] = queue.Queue(records_max)
        self._file = _begun(path, first_line)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Take a record if there is room; never blocks."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self, *, seconds_max: float = 5.0) -> None:
        """Write what waits, at most for `seconds_max`, and close the file."""
        try:
            self._queue.put(None, timeout=seconds_max)
        except queue.Full:
            return  # a disk that stands still: the thread is a daemon and ends with the process
        self._thread.join(seconds_max)

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            if self._bytes_left <= 0:
                self.dropped += 1
                continue
            try:
                self._write(record)
                if self._queue.empty():
                    self._file.flush()  # so that `explain` can follow a running server
            except OSError as error:
                self._fail(error)
        with suppress(OSError):  # what could not be written fails here again
            self._file.close()

    def _write(self, record: Record) -> None:
        encoded = encode(record) + b"\n"
        self._bytes_left -= len(encoded)
        self._file.write(encoded)

    def _fail(self, error: OSError) -> None:
        self._bytes_left = 0
        self.dropped += 1
        self._on_failure(f"{self._path} ends here: {error.strerror}")


class Recorder:
    """Routes records: everything to the journal if there is one; decisions, in any case, to their own file.

    Args:
        journal: events and commands of all machines, for replay; or None.
        decisions: `RecordDecision` commands only; or None.
    """

    def __init__(self, journal: JournalFile | None, decisions: JournalFile | None) -> None:
        self._journal = journal
        self._decisions = decisions
        self._calls: Counter[str] = Counter()

    def wants(self, machine: str) -> bool:
        """Whether anything is written of this machine."""
        return self._journal is not None or (self._decisions is not None and machine == CONTROL)

    def record(self, machine: str, now_s: float, event: Event, commands: list[Command]) -> None:
        """Take down one call of a machine; to be called before its commands are carried out."""
        sequence = self._calls[machine]
        self._calls[machine] += 1
        if self._journal is not None:
            self._journal.put(Record(machine, sequence, now_s, event, tuple(commands)))
        if self._decisions is not None and machine == CONTROL:  # nobody else decides on replicas
            decisions = tuple([command for command in commands if type(command) is RecordDecision])
            if decisions:
                self._decisions.put(Record(machine, sequence, now_s, event, decisions))

    @property
    def dropped(self) -> int:
        """Records lost to full buffers or files."""
        return sum(file.dropped for file in (self._journal, self._decisions) if file is not None)

    def close(self) -> None:
        """Write what waits."""
        for file in (self._journal, self._decisions):
            if file is not None:
                file.close()


def _begun(path: Path, first_line: bytes) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
        try:
            file.write(first_line)
            file.flush()
        except OSError:
            with suppress(OSError):  # closing tries once more what has just failed
                file.close()
            raise
    except OSError as error:
        raise JournalError(f"cannot write {path}: {error.strerror}") from None
    return file
