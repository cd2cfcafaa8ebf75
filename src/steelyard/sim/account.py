"""The account of one service: how and when each request ended, and what its replicas cost.

Requests are numbered from 0 in the order of their arrival, and three compact arrays know of each of them when
it arrived, when it ended and how: 17 bytes a request, so a day of 100 requests a second takes 150 MB (and
about twice that again for a moment, when sums and quantiles are taken from them at the end, exactly).
"""

from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steelyard.core.commands import Command, Complete, Discard, Fail, Reject, Shed
from steelyard.core.tally import Counts
from steelyard.metrics.sums import AccuracyMean, CoreSeconds
from steelyard.sim.kernel import Kernel

OPEN, COMPLETED, LATE, SHED, REJECTED, FAILED, CANCELLED = range(7)
_CODES: dict[type[Command], int] = {Shed: SHED, Reject: REJECTED, Fail: FAILED, Discard: CANCELLED}


class Ends(NamedTuple):
    """All requests of a service in the order of arrival; arrays of shape (requests,).

    Attributes:
        arrived_s: absolute.
        ended_s: absolute, NaN for a request that has not ended.
        codes: `COMPLETED`, `LATE` (completed too), `SHED`, `REJECTED`, `FAILED`, `CANCELLED`, or `OPEN`.
    """

    arrived_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    codes: NDArray[np.uint8]

    @property
    def completed(self) -> NDArray[np.bool_]:
        """Which of them were answered, in time or late."""
        mask: NDArray[np.bool_] = (self.codes == COMPLETED) | (self.codes == LATE)
        return mask

    @property
    def violated(self) -> NDArray[np.bool_]:
        """Which of them did not get what the SLO promises."""
        mask: NDArray[np.bool_] = (self.codes >= LATE) & (self.codes <= FAILED)
        return mask

    def counts(self, rows: int) -> Counts:
        """The accounting; `rows` are those of all arrivals."""
        by_code = np.bincount(self.codes, minlength=7).tolist()
        completed = by_code[COMPLETED] + by_code[LATE]
        ends = (by_code[SHED], by_code[REJECTED], by_code[FAILED], by_code[CANCELLED])
        return Counts(len(self.codes), rows, completed, by_code[LATE], *ends)


class Account:
    """Hears of every arrival and every end of one service's requests.

    Args:
        kernel: the clock.

    Attributes:
        accuracy: estimated for completed requests.
        accuracy_by_second: the same, by second of arrival; seconds of which nothing is known are not in it.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._arrived_s = array("d")
        self._ended_s = array("d")
        self._codes = bytearray()
        self._expected = 0
        self.accuracy = AccuracyMean()
        self.accuracy_by_second: dict[int, AccuracyMean] = {}
        self.actions: dict[type[Command], Callable[[Any], None]] = {
            Complete: self._complete,
            **dict.fromkeys(_CODES, self._end),
        }

    def expect(self, times_s: NDArray[np.float64]) -> int:
        """Further requests will arrive at these times; returns the number of the first of them."""
        first = len(self._codes)
        self._arrived_s.frombytes(times_s.tobytes())
        self._ended_s.frombytes(np.full(len(times_s), np.nan).tobytes())
        self._codes.extend(bytes(len(times_s)))
        return first

    def give_up(self) -> int:
        """Count all that is open as failed, now; returns how many those were."""
        codes = np.frombuffer(self._codes, np.uint8)
        still_open: list[int] = np.flatnonzero(codes == OPEN).tolist()
        for number in still_open:
            self._codes[number] = FAILED
            self._ended_s[number] = self._kernel.now_s
        return len(still_open)

    def ends(self) -> Ends:
        """What is known, without a copy: nothing more may be expected while somebody holds it."""
        return Ends(
            np.frombuffer(self._arrived_s, np.float64),
            np.frombuffer(self._ended_s, np.float64),
            np.frombuffer(self._codes, np.uint8),
        )

    def _complete(self, command: Complete) -> None:
        number = command.request_id[1]
        codes = self._codes
        assert not codes[number], f"{command.request_id} ended twice"
        codes[number] = LATE if command.late else COMPLETED
        self._ended_s[number] = self._kernel.now_s
        self.accuracy.add(command.accuracy)
        if command.accuracy is not None:
            second = int(self._arrived_s[number])
            if second not in self.accuracy_by_second:
                self.accuracy_by_second[second] = AccuracyMean()
            self.accuracy_by_second[second].add(command.accuracy)

    def _end(self, command: Shed | Reject | Fail | Discard) -> None:
        number = command.request_id[1]
        assert not self._codes[number], f"{command.request_id} ended twice"
        self._codes[number] = _CODES[type(command)]
        self._ended_s[number] = self._kernel.now_s


class Costs:
    """Cores and replicas of one service over time, from time 0 to `close`.

    Attributes:
        cores: reserved now.
        replicas: alive now, starting ones included.
        cold_starts: replicas that were started and had to start up.
        resizes: changes of a live replica's cores.
        switches: batches on another variant than the batch before them on the same replica.
        cores_by_second: reserved at the end of each second.
        replicas_by_second: alive at the end of each second.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._core_seconds = CoreSeconds(now_s=0.0)
        self._is_closed = False
        self.cores = 0.0
        self.replicas = 0
        self.cold_starts = self.resizes = self.switches = 0
        self.cores_by_second = array("d")
        self.replicas_by_second = array("l")

    @property
    def core_seconds(self) -> float:
        """Cores reserved, over time, up to now or to `close`."""
        return self._core_seconds.total(now_s=self._kernel.now_s)

    def start(self, cores: float, *, is_cold: bool) -> None:
        """A replica was started."""
        self.replicas += 1
        self.cold_starts += is_cold and not self._is_closed
        self.change(cores)

    def change(self, cores: float) -> None:
        """So many cores more are reserved, or fewer if negative."""
        self.cores += cores
        if not self._is_closed:
            self._core_seconds.set(self.cores, now_s=self._kernel.now_s)

    def resized(self) -> None:
        """The cores of a live replica have changed."""
        self.resizes += not self._is_closed

    def end(self, cores: float) -> None:
        """A replica is gone, and with it its cores."""
        self.replicas -= 1
        self.change(-cores)

    def mark_second(self) -> None:
        """A whole second has ended."""
        if not self._is_closed:
            self.cores_by_second.append(self.cores)
            self.replicas_by_second.append(self.replicas)

    def close(self) -> None:
        """The trace has ended: nothing counts any more."""
        self._core_seconds.set(0.0, now_s=self._kernel.now_s)
        self._is_closed = True
