"""A progress bar on a terminal for what takes longer than two seconds; nothing elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

AFTER_S = 2.0

OnProgress = Callable[[float, float, str], None]
"""Told how much is done, of how much, and what is being done."""


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """A bar on standard error, from the first step after `AFTER_S` on; it is gone in the end."""
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} % {task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("", total=None)
    began_s = time.monotonic()

    def show(done: float, total: float, label: str) -> None:
        progress.update(task, completed=done, total=total, description=label)
        if time.monotonic() - began_s >= AFTER_S:
            progress.start()  # of no effect once it has

    try:
        yield show
    finally:
        progress.stop()
