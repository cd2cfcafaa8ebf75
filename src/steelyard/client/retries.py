"""When another try is worth it: settings, and the decision.

The rules of this file:
- Never when the deadline would be over before the server takes another try, and never before the server's
  `Retry-After`.
- Jittered: clients refused together do not come back together. Source: "full jitter", Brooker, Exponential
  Backoff and Jitter, AWS Architecture Blog, 2015.
- Bounded, by call and over all calls: retries are at most a share of the requests, so that clients do not
  multiply an overload. Source: retry budgets, Beyer et al., Site Reliability Engineering, 2016, chapter 21.
"""

import random
import threading

from steelyard.client.errors import ClientError
from steelyard.core.errors import InputError
from steelyard.core.types import Frozen


class Retries(Frozen, frozen=True):
    """How a client retries.

    Attributes:
        attempts_max: requests sent for one call, the first included, >= 1; 1 never retries.
        backoff_s: bound of the random wait before the second attempt, seconds; it doubles with each.
        backoff_s_max: what it grows to.
        share_max: retries over all calls, as a share of the calls; some (`SPARE`) are free.
    """

    attempts_max: int = 3
    backoff_s: float = 0.02
    backoff_s_max: float = 1.0
    share_max: float = 0.2


SPARE = 10.0
"""Retries that a client may make before it has made calls to take a share of, and can save up."""


class RetryBudget:
    """Decides on retries for all calls of a client; used by several threads at a time.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(self, settings: Retries, rng: random.Random) -> None:
        if settings.attempts_max < 1:
            raise InputError(f"attempts_max: want at least 1, got {settings.attempts_max}")
        for name in ("backoff_s", "backoff_s_max", "share_max"):
            if not getattr(settings, name) >= 0:
                raise InputError(f"{name}: want a number >= 0, got {getattr(settings, name)}")
        self._settings = settings
        self._rng = rng
        self._left = SPARE
        self._lock = threading.Lock()

    def begin(self) -> None:
        """A call begins: its share of a retry is saved."""
        with self._lock:
            self._left = min(SPARE, self._left + self._settings.share_max)

    def wait_s(self, failure: ClientError, attempts: int, left_s: float) -> float | None:
        """Seconds to wait before another attempt, less than `left_s`; None: give up.

        Args:
            failure: of the last attempt.
            attempts: made so far.
            left_s: until the call's deadline; infinite if it has none.
        """
        settings = self._settings
        earliest_s = failure.retry_after_s or 0.0
        if not failure.is_temporary or attempts >= settings.attempts_max or earliest_s >= left_s:
            return None
        bound_s = min(settings.backoff_s_max, settings.backoff_s * 2.0 ** (attempts - 1))
        with self._lock:
            if self._left < 1.0:
                return None
            self._left -= 1.0
            # Half of what is left at most: the request needs time as well.
            return earliest_s + self._rng.random() * min(bound_s, (left_s - earliest_s) / 2)
