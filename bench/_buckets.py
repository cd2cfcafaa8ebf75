"""What a simulated run served in each 10 s, over all services: accuracy, and what was not in time."""

from collections.abc import Callable
from math import floor

import numpy as np
from numpy.typing import NDArray

from steelyard.core.commands import Command, Complete, Fail, Reject, Shed
from steelyard.core.events import Event

BUCKET_S = 10.0
_ENDS = (Complete, Shed, Reject, Fail)


class Buckets:
    """Hears of every command of a run (`journal` of `simulate`).

    Args:
        accuracy_of: of an answer of a service.
        seconds: length of the trace: what ends later counts for its last bucket.
        patience_s: of somebody who takes no answer for late that came within this time, whatever its SLO.
    """

    def __init__(
        self,
        accuracy_of: Callable[[str, Complete], float],
        *,
        seconds: float,
        patience_s: float = float("inf"),
    ) -> None:
        self._accuracy_of = accuracy_of
        self._patience_s = patience_s
        count = max(1, floor(seconds / BUCKET_S + 1e-9))
        self.served = np.zeros(count)
        self.right = np.zeros(count)
        self.ended = np.zeros(count)
        self.violations = np.zeros(count)
        self.missed = 0
        """Dropped, or answered after the patience."""

    def record(self, machine: str, now_s: float, event: Event, commands: list[Command]) -> None:
        """Take one event's commands."""
        del event
        for command in commands:
            if isinstance(command, _ENDS):
                place = min(max(0, floor(now_s / BUCKET_S)), len(self.served) - 1)
                self.ended[place] += 1
                if isinstance(command, Complete):
                    self.served[place] += 1
                    self.right[place] += self._accuracy_of(machine.rpartition("/")[2], command)
                    self.violations[place] += command.late
                    self.missed += command.queue_s + command.service_s > self._patience_s
                else:
                    self.violations[place] += 1
                    self.missed += 1

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Of what each bucket served; NaN where nothing was."""
        return np.divide(self.right, self.served, out=np.full_like(self.right, np.nan), where=self.served > 0)

    def summary(self) -> dict[str, float]:
        """Accuracy, its largest drop from 1 over buckets, and violations over what ended."""
        total = float(self.served.sum())
        return {
            "requests": float(self.ended.sum()),
            "accuracy": float(self.right.sum()) / total if total else 0.0,
            "accuracy_drop_max": 1.0 - float(np.nanmin(self.accuracy)) if total else 1.0,
            "violations": float(self.violations.sum() / max(1.0, self.ended.sum())),
            "missed": self.missed / max(1.0, float(self.ended.sum())),
            "violations_max": float(np.max(self.violations / np.maximum(1.0, self.ended))),
        }
