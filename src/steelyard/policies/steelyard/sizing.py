"""What one stage's replicas can do with one of its variants.

All times are the profile's. Callers multiply them with the ratio of what is observed to what was profiled,
which takes in what no profile knows: neighbours, throttling, the mix of shape buckets.
"""

from math import ceil

from steelyard.core.types import ServiceTimes, Stage

GAIN_MIN = 1.02
"""A further step of cores must give a replica this much more throughput."""
EXACT = 1e-9


class StageSizing:
    """One variant of a stage: times, costs and rates by rows and cores, remembered.

    Args:
        stage: which.
        times: of its variants.
        variant: name of the variant; empty for the first, the one that its owner prefers.

    Attributes:
        stage: which.
        variant: of it.
        rows_max: largest batch that may be chosen.
        step: the unit in which a replica's cores grow.
        fan_out: rows that the stage is given for each row of a request: counted where it takes items.
    """

    def __init__(self, stage: Stage, times: ServiceTimes, variant: str = "") -> None:
        self.stage = stage
        self.variant = stage.variants[0]
        for other in stage.variants:
            if other.name == variant:
                self.variant = other
        self.rows_max = self.variant.batch_rows_max
        self.step = 1.0
        self.fan_out = float(stage.fan_out)
        self._times = times
        self._rows = self.rows_max
        self._whole = 0.0
        self._service_s = float("inf")
        self._rates: dict[float, float] = {}
        self._most: dict[tuple[float, float], float] = {}

    def reckon_by(self, rows: int, cores: float, service_s: float) -> None:
        """Reckon rates by batches of at most `rows`; on less than `cores`, by those that take `service_s`."""
        self._rows, self._whole, self._service_s = rows, cores, service_s
        self._rates.clear()
        self._most.clear()

    def sizes(self, cores: float) -> list[float]:
        """Cores, up to these, that a replica may have in calm times: whole ones, or parts of the only one."""
        step = 1.0 if cores >= 1.0 - EXACT else self.step
        return [step * i for i in range(1, int(cores / step + EXACT) + 1)] or [step]

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
        """Rows a second of one replica that is never idle, with the best batch that is reckoned with."""
        if cores <= 0:
            return 0.0
        rate = self._rates.get(cores)
        if rate is None:
            bound_s = self._service_s if cores < self._whole else float("inf")
            usable = [b for b in range(1, self._rows + 1) if b == 1 or self.tail_s(b, cores) <= bound_s]
            rate = self._rates[cores] = max(rows / self.median_s(rows, cores) for rows in usable)
        return rate

    def cores_most(self, base: float, limit: float) -> float:
        """Cores up to which each further step gains throughput, from `base` on and up to `limit`."""
        key = (base, limit)
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

    def spread(
        self, need_rps: float, replicas: int, *, least: float, base: float, most: float
    ) -> list[float]:
        """The fewest cores with which `replicas` carry `need_rps`, largest first; 0 parks one.

        First as many as it takes become active with `base` cores, since these are the cheapest, or with
        parts of them, from `least` on; then all of them grow evenly, up to `most`. One is active at least.
        """
        if replicas <= 0:
            return []
        active = min(replicas, max(1, ceil(need_rps / self.rate_rps(base) - EXACT)))
        smaller = larger = least
        while active * self.rate_rps(larger) < need_rps - EXACT and larger + self.step <= most + EXACT:
            smaller, larger = larger, larger + self.step
        grown = active
        if larger > smaller:
            gain = self.rate_rps(larger) - self.rate_rps(smaller)
            missing = need_rps - active * self.rate_rps(smaller)
            grown = min(active, max(1, ceil(missing / gain - EXACT)))
        return [larger] * grown + [smaller] * (active - grown) + [0.0] * (replicas - active)
