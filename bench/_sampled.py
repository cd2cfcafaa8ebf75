"""Where a server's CPU time goes, by sampling its serving thread: imported in the server's own process.

Each few milliseconds of CPU time a signal looks at the thread's stack; the innermost function of ours says
which step it was. A signal that came while the loop was in the kernel, or in its own compiled code, is seen
at the first instruction of the next callback, and counts as the loop's. SIGUSR1 starts counting, and, the
next time, ends it and writes the counts to the file that `SAMPLES` in the environment names.
"""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

PERIOD_S = 0.002
STEPS = {
    "serve/edge": "edge",
    "core": "decision",
    "serve/account": "metrics",
    "serve/statistics": "metrics",
    "metrics": "metrics",
    "serve": "driver",
    "worker/doorbell": "doorbell",
    "worker/arena": "arena",
    "backend": "backend",
    "control": "control",
    "policies": "control",
}
"""By where a function is: the first that fits."""
LOOP = "loop and sockets"
_FIRST = 4
"""Offset of the instruction at which a function that was just called looks for signals."""


def step_of(frame: FrameType | None) -> str:
    """The step that a stack stands for."""
    if frame is not None and frame.f_lasti <= _FIRST and _is_loop(frame.f_back):
        return LOOP
    while frame is not None:
        _, found, place = frame.f_code.co_filename.rpartition("/steelyard/")
        step = next((step for start, step in STEPS.items() if place.startswith(start)), None)
        if found and step is not None:
            return step
        frame = frame.f_back
    return LOOP


def _is_loop(frame: FrameType | None) -> bool:
    return frame is None or frame.f_code.co_filename.endswith(("asyncio/runners.py", "asyncio/events.py"))


def start() -> None:
    """Wait for SIGUSR1."""
    counts: Counter[str] = Counter()
    counting = False

    def look(_: int, frame: FrameType | None) -> None:
        if counting:
            counts[step_of(frame)] += 1

    def toggle(_: int, __: FrameType | None) -> None:
        nonlocal counting
        counting = not counting
        if not counting:
            target = Path(os.environ["SAMPLES"])
            part = target.with_suffix(".part")
            part.write_text(json.dumps(counts))
            part.rename(target)
            counts.clear()

    signal.signal(signal.SIGPROF, look)
    signal.signal(signal.SIGUSR1, toggle)
    signal.setitimer(signal.ITIMER_PROF, PERIOD_S, PERIOD_S)
