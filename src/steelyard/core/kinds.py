"""What replicas can do, by their kinds: in best batches, and how soon.

Asked for each request, and other with each batch. Replicas of one kind can do the same, so times are looked
up once a kind, and a sum counts each kind as often as there are replicas of it. The answers are made anew
after each batch, so they are plain objects: Python is slow to make named tuples.
"""

from typing import Final, NamedTuple

from steelyard.core.estimate import Estimator, Line

NEVER: Final = float("inf")


class Kind(NamedTuple):
    """What replicas can do the same: the variants that count, and the cores they could have.

    Alone with all that is grantable, or beside the others.
    """

    variants: tuple[str, ...]
    cores_alone: float
    cores_shared: float


class Rates:
    """What replicas can do in best batches.

    Attributes:
        kinds: rows a second, and seconds for a best batch, of a replica of each kind.
        live_rps: rows a second of all replicas that are not starting.
    """

    __slots__ = ("kinds", "live_rps")

    def __init__(self, kinds: list[tuple[float, float]], live_rps: float) -> None:
        self.kinds = kinds
        self.live_rps = live_rps


class Soonest:
    """Least seconds for a batch of so many rows, or as many of them as a batch may have.

    Attributes:
        kinds: on a replica of each kind.
        live_s: on one that is not starting; inf if there is none.
        live_rps: as in `Rates`, for who asks both.
    """

    __slots__ = ("kinds", "live_rps", "live_s")

    def __init__(self, kinds: list[float], live_s: float, live_rps: float) -> None:
        self.kinds = kinds
        self.live_s = live_s
        self.live_rps = live_rps


class Kinds:
    """The kinds of one stage's possible replicas.

    Attributes:
        all: each once, in order of appearance.
        live: those with replicas that are not starting, each once.
        rows_everywhere: rows that every variant which counts may have in a batch.
    """

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self._live: dict[int, int] = {}  # how many live replicas are of each kind, by its place in `all`
        self._lines_of: dict[int, list[list[tuple[Line, Line]]]] = {}
        self._rates: dict[int, Rates] = {}
        self._soonest: dict[tuple[int, int], Soonest] = {}
        self.all: list[Kind] = []
        self.live: list[Kind] = []
        self.rows_everywhere = 0

    def adopt(self, kinds: list[Kind], of_live: list[int]) -> None:
        """Replicas or limits have changed; `of_live`: which of `kinds` each is that is not starting."""
        self.all = kinds
        self._live.clear()
        for place in of_live:
            self._live[place] = self._live.get(place, 0) + 1
        self.live = [kinds[place] for place in self._live]
        limit = self._estimator.batch_rows_max
        self.rows_everywhere = min([limit(name) for kind in kinds for name in kind.variants], default=0)
        self._lines_of.clear()
        self.forget()

    def forget(self) -> None:
        """Corrections have changed."""
        self._rates.clear()
        self._soonest.clear()

    def rates(self, bucket: int) -> Rates:
        """What each possible replica can do."""
        rates = self._rates.get(bucket)
        if rates is None:
            kinds: list[tuple[float, float]] = []
            for lines in self._lines(bucket):
                rate, best_s = 0.0, NEVER
                for line, _ in lines:
                    rows = line.rows_best
                    service_s = line.service_s(rows)
                    if rows / service_s > rate:
                        rate = rows / service_s
                    if service_s < best_s:
                        best_s = service_s
                kinds.append((rate, best_s))
            live_rps = 0.0
            for place, count in self._live.items():
                live_rps += count * kinds[place][0]
            rates = self._rates[bucket] = Rates(kinds, live_rps)
        return rates

    def soonest(self, rows: int, bucket: int) -> Soonest:
        """How soon each possible replica can do so many rows."""
        soonest = self._soonest.get((rows, bucket))
        if soonest is None:
            kinds: list[float] = []
            for lines in self._lines(bucket):
                least_s = NEVER
                for _, line in lines:
                    service_s = line.service_s(min(line.rows_max, rows))
                    if service_s < least_s:
                        least_s = service_s
                kinds.append(least_s)
            live_s = NEVER
            for place in self._live:
                if kinds[place] < live_s:
                    live_s = kinds[place]
            live_rps = self.rates(bucket).live_rps
            soonest = self._soonest[rows, bucket] = Soonest(kinds, live_s, live_rps)
        return soonest

    def _lines(self, bucket: int) -> list[list[tuple[Line, Line]]]:
        """Times of each kind's variants, on the cores that it could have beside others and alone."""
        lines = self._lines_of.get(bucket)
        if lines is None:
            line = self._estimator.line
            lines = self._lines_of[bucket] = [
                [
                    (line(name, bucket, kind.cores_shared), line(name, bucket, kind.cores_alone))
                    for name in kind.variants
                ]
                for kind in self.all
            ]
        return lines
