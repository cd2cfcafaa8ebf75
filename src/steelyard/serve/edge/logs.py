"""Structured logs: one JSON object a line, on standard error.

The rule of this file: a log line never costs a request more than its formatting. Lines go through a bounded
buffer to a thread that writes them, so a stalled reader of our standard error cannot stall the serving loop;
request lines are limited to a rate. What is left out is counted, and the next line says how much.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections import deque
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec

Level = Literal["info", "warning", "error"]

PENDING_LINES_MAX = 4096
REQUEST_LINES_PER_S_MAX = 200
CLOSE_S_MAX = 1.0


class EventLog:
    """Writes events from any thread.

    Args:
        stream: where lines go; standard error if None.
        request_lines_per_s_max: rate of lines about requests and bugs, with a burst of one second's worth.
    """

    def __init__(
        self, stream: TextIO | None = None, *, request_lines_per_s_max: float = REQUEST_LINES_PER_S_MAX
    ) -> None:
        self._stream = stream or sys.stderr
        self._rate = self._tokens = float(request_lines_per_s_max)
        self._refilled_s = time.monotonic()
        self._pending: deque[bytes] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self.suppressed = 0
        """Lines left out since the last one that was written."""
        self._writer = threading.Thread(target=self._write_lines, name="event-log", daemon=True)
        self._writer.start()

    def event(self, event: str, *, level: Level = "info", **fields: object) -> None:
        """Log something that happened to the server; not limited in rate, only by the buffer."""
        self._add(event, level, fields)

    def request(self, status: int, *, request_id: str, service: str, **fields: object) -> None:
        """Log the end of a request: an error from 500 on, a warning from 400, unless the rate is used up."""
        if self._has_room():
            level: Level = "error" if status == 500 else "warning" if status >= 400 else "info"
            self._add("request", level, {"id": request_id, "service": service, "status": status, **fields})

    def loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what went wrong on a loop, and where; it is to be the loop's exception handler."""
        error = context.get("exception")
        where = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        if self._has_room():  # a bug that every request meets must not fill a disk
            self.event(
                "internal_error",
                level="error",
                text=context["message"],
                error="" if error is None else repr(error),
                where="".join(f"{frame.filename}:{frame.lineno}" for frame in where),
            )

    def _has_room(self) -> bool:
        """Whether one more of the lines that are limited in rate may be written now."""
        now_s = time.monotonic()
        self._tokens = min(self._rate, self._tokens + (now_s - self._refilled_s) * self._rate)
        self._refilled_s = now_s
        if self._tokens < 1:
            self.suppressed += 1
            return False
        self._tokens -= 1
        return True

    def close(self) -> None:
        """Write what is pending, waiting a second at most; later lines are dropped."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._writer.join(CLOSE_S_MAX)

    def _add(self, event: str, level: Level, fields: dict[str, object]) -> None:
        with self._wake:
            if self._closed or len(self._pending) >= PENDING_LINES_MAX:
                self.suppressed += 1
                return
            line: dict[str, object] = {"ts": datetime.now(UTC).isoformat(), "level": level, "event": event}
            line.update(fields)
            if self.suppressed:
                line["suppressed"], self.suppressed = self.suppressed, 0
            self._pending.append(msgspec.json.encode(line, enc_hook=str))
            self._wake.notify()

    def _write_lines(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._closed)
                lines, self._pending = self._pending, deque()
                closed = self._closed
            try:
                self._stream.write("".join(line.decode() + "\n" for line in lines))
                self._stream.flush()
            except (OSError, ValueError):
                return  # nobody can read us any more, and there is nowhere left to say so
            if closed:
                return


class ServerLogHandler(logging.Handler):
    """Carries warnings of the HTTP server's own logger over into an `EventLog`."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record as an event, with its exception's text if it has one."""
        error = repr(record.exc_info[1]) if record.exc_info else ""
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        self._log.event("http_server", level=level, text=record.getMessage().strip(), error=error)
