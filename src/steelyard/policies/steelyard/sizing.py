"""What one stage's replicas can do, on the first of its variants: the one that its owner prefers.

All times are the profile's. Callers multiply them with the ratio of what is observed to what was profiled,
which takes in what no profile knows: neighbours, throttling, the mix of shape buckets.
"""

from math import ceil

from steelyard.core.types import ServiceTimes, Stage

GAIN_MIN = 1.02
"""A further step of cores must give a replica this much more throughput."""
EXACT = 1e-9


class StageSizing:
    """One stage of a service: times, costs and rates by rows and cores, remembered.

    Attributes:
        stage: which.
        variant: its first.
        rows: largest batch by which rates are reckoned; set by whoever shares out the latency.
        rows_max: largest batch that may be chosen.
        step: the unit in which a replica's cores grow.
    """

    def __init__(self, stage: Stage, times: ServiceTimes) -> None:
        self.stage = stage
        self.variant = stage.variants[0]
        self.rows = self.rows_max = self.variant.batch_rows_max
        self.step = 1.0
        self._times = times
        self._rates: dict[tuple[int, float], float] = {}
        self._most: dict[tuple[int, float, float], float] = {}

    def median_s(self, rows: int, cores: float) -> float:
        """Median seconds of a batch."""
        return self._times.service_time_s(self.variant.name, 0, rows, cores)

    def tail_s(self, rows: int, cores: float) -> float:
        """0.99 quantile of the same."""
        return self._times.service_time_s_p99(self.variant.name, 0, rows, cores)

    def core_s(self, rows: int, cores: float) -> float:
        """Core-seconds a row: c l(b, c) / b."""
        return cores * self.median_s(rows, cores) / rows

    def rate_rps(self, cores: float) -> float:
        """Rows a second of one replica that is never idle, with the best batch of at most `rows`."""
        if cores <= 0:
            return 0.0
        key = (self.rows, cores)
        rate = self._rates.get(key)
        if rate is None:
            rate = max(rows / self.median_s(rows, cores) for rows in range(1, self.rows + 1))
            self._rates[key] = rate
        return rate

    def cores_most(self, base: float, limit: float) -> float:
        """Cores up to which each further step gains throughput, from `base` on and up to `limit`."""
        key = (self.rows, base, limit)
        most = self._most.get(key)
        if most is None:
            most = base
            top = min(limit, float(self.variant.cores_max))
            while most + self.step <= top + EXACT and self.rate_rps(
                most + self.step
            ) > GAIN_MIN * self.rate_rps(most):
                most += self.step
            self._most[key] = most
        return most

    def spread(self, need_rps: float, replicas: int, base: float, most: float) -> list[float]:
        """The fewest cores with which `replicas` carry `need_rps`, largest first; 0 parks one.

        First as many as it takes become active with `base` cores, since these are the cheapest; then all of
        them grow evenly, up to `most`. One is active at least.
        """
        if replicas <= 0:
            return []
        active = min(replicas, max(1, ceil(need_rps / self.rate_rps(base) - EXACT)))
        smaller, larger = base, base
        while active * self.rate_rps(larger) < need_rps - EXACT and larger + self.step <= most + EXACT:
            smaller, larger = larger, larger + self.step
        grown = active
        if larger > smaller:
            gain = self.rate_rps(larger) - self.rate_rps(smaller)
            missing = need_rps - active * self.rate_rps(smaller)
            grown = min(active, max(1, ceil(missing / gain - EXACT)))
        return [larger] * grown + [smaller] * (active - grown) + [0.0] * (replicas - active)
