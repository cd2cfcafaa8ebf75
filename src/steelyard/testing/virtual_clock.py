"""An asyncio loop on virtual time: waiting costs nothing, and a run is the same every time.

The loop's selector never sleeps. When nothing is ready, the clock jumps to the next timer; when none is left
either, waiting would be for ever, and that is an error. Real sockets may be polled, but not waited for.
"""

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):
    """Polls, and instead of waiting moves the clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("virtual time stands still: no timer is set and nothing is ready")
        self.now_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Run with `asyncio.Runner(loop_factory=VirtualTimeLoop)`; `loop.time()` starts at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now_s

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's; the clock lands on `when` exactly, so that both drivers stamp the same time."""
        return super().call_at(when, self._arrive, when, callback, args, context=context)

    def _arrive(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._jumping.now_s = max(self._jumping.now_s, when)
        callback(*args)
