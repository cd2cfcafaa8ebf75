"""How long a batch may take before its worker counts as stuck, and is killed so that others go on.

Nobody can tell slow from stuck, so a batch is given the most of

- `BATCH_FACTOR_MAX` times what was expected of it: a slow machine is no reason to kill;
- `LONGEST_FACTOR` times the longest batch that its stage has ended: nor is a model that nobody measured;
- the `SLO_PART`-th part of its service's objective: who shared its batch, and who waits behind it, should
  have time left for another try;
- `BATCH_S_MIN`: a machine's brief standstill kills nobody. `BATCH_S_KNOWN` will do once the stage has ended
  `KNOWN_BATCHES` batches: the longest of so many says what such a standstill comes to here.

All but the first are at most `batch_s_max`. Until the stage has ended a first batch, which may import or
compile things, they are `batch_s_max`; so they are for a service without an objective.
"""

from collections.abc import Mapping

BATCH_FACTOR_MAX = 20.0
LONGEST_FACTOR = 4.0
SLO_PART = 4.0
BATCH_S_MIN = 1.0
BATCH_S_KNOWN = 0.25
KNOWN_BATCHES = 100


class Patience:
    """With the batches of one backend.

    Args:
        slo_s: latency objective by service, in seconds.
        batch_s_max: seconds a batch may take of which nothing is known.
    """

    def __init__(self, slo_s: Mapping[str, float], batch_s_max: float) -> None:
        self._slo_s = dict(slo_s)
        self._batch_s_max = batch_s_max
        self._ended: dict[tuple[str, str], _Ended] = {}

    def seconds_max(self, service: str, stage: str, expected_s: float) -> float:
        """Of a batch that is expected to take so long."""
        known_s, ended = BATCH_FACTOR_MAX * expected_s, self._ended.get((service, stage))
        slo_s = self._slo_s.get(service)
        if ended is None or slo_s is None:
            return max(self._batch_s_max, known_s)
        least_s = BATCH_S_KNOWN if ended.batches >= KNOWN_BATCHES else BATCH_S_MIN
        usual_s = max(least_s, slo_s / SLO_PART, LONGEST_FACTOR * ended.longest_s)
        return max(min(self._batch_s_max, usual_s), known_s)

    def ended(self, service: str, stage: str, service_s: float) -> None:
        """A batch was answered after so long."""
        ended = self._ended.get((service, stage))
        if ended is None:
            ended = self._ended[service, stage] = _Ended()
        ended.batches += 1
        if service_s > ended.longest_s:
            ended.longest_s = service_s


class _Ended:
    """Batches that a stage has ended: how many, and how long the longest took."""

    __slots__ = ("batches", "longest_s")

    def __init__(self) -> None:
        self.batches = 0
        self.longest_s = 0.0
