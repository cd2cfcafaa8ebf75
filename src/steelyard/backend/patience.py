"""How long a batch may take before its worker counts as stuck, and is killed so that others go on.

Nobody can tell slow from stuck, so a batch is given the most of

- `BATCH_FACTOR_MAX` times what was expected of it: a slow machine is no reason to kill;
- `LONGEST_FACTOR` times the longest batch that its stage has ended: nor is a model that nobody measured;
- the `SLO_PART`-th part of its service's objective: who shared its batch, and who waits behind it, should
  have time left for another try;
- `BATCH_S_MIN`: a machine's brief standstill kills nobody. `BATCH_S_KNOWN` will do once the stage has ended
  `KNOWN_BATCHES` batches: the longest of so many says what such a standstill comes to here.
- what is given to it by itself: a request whose batch did not end once runs again, alone and after all
  others, with the time to its deadline, or half of it. Were it slow and not stuck, no try could succeed.

All but the first are at most `batch_s_max`. Until the stage has ended a first batch, which may import or
compile things, they are `batch_s_max`; so they are for a service without an objective.
"""

BATCH_FACTOR_MAX = 20.0
LONGEST_FACTOR = 4.0
SLO_PART = 4.0
BATCH_S_MIN = 1.0
BATCH_S_KNOWN = 0.25
KNOWN_BATCHES = 100


class Patience:
    """With the batches of one stage.

    Args:
        slo_s: latency objective of its service, in seconds; None without one.
        batch_s_max: seconds a batch may take of which nothing is known.
    """

    def __init__(self, slo_s: float | None, batch_s_max: float) -> None:
        self._slo_s = slo_s
        self._batch_s_max = batch_s_max
        self._usual_s = batch_s_max  # but for what is expected
        self._batches = 0
        self._longest_s = float("-inf")

    def seconds_max(self, expected_s: float, given_s: float = 0.0) -> float:
        """Of a batch that is expected to take so long, and is given so much by itself."""
        return max(self._usual_s, BATCH_FACTOR_MAX * expected_s, min(self._batch_s_max, given_s))

    def ended(self, service_s: float) -> None:
        """A batch was answered after so long."""
        self._batches += 1
        if service_s <= self._longest_s and self._batches != KNOWN_BATCHES:
            return
        self._longest_s = max(service_s, self._longest_s)
        if self._slo_s is not None:
            least_s = BATCH_S_KNOWN if self._batches >= KNOWN_BATCHES else BATCH_S_MIN
            usual_s = max(least_s, self._slo_s / SLO_PART, LONGEST_FACTOR * self._longest_s)
            self._usual_s = min(self._batch_s_max, usual_s)
