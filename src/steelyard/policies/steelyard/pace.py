"""What the reaction remembers of one stage, and what it makes of one window: cores, and replicas to start.

Growth follows the need of the window at once. Cores are given up when the needs of the last `HOLD_S` (longer
where a resize takes long) allow it: a need that jumps to and fro would otherwise resize replicas all the
time. And they are given up at most so often: for each core `YIELDS_RPM` times a minute, `YIELDS_SAVED_S`
seconds' worth at a time. A small stage at a load between two sizes would change every few windows; a
large one hardly notices the limit.
"""

from collections import deque
from math import ceil
from typing import NamedTuple

from steelyard.core.snapshot import ReplicaView, StageWindow
from steelyard.policies.steelyard.demand import RESIZE_LAG_SERVICES, needed_rps
from steelyard.policies.steelyard.knob import Knob
from steelyard.policies.steelyard.reserve import URGENT_SHARE, Crew, crew, start_price
from steelyard.policies.steelyard.sizing import EXACT, StageSizing
from steelyard.policies.steelyard.targets import StageTarget

HOLD_S = 0.2
HOLD_RESIZES = 4.0
YIELDS_RPM = 30.0
YIELDS_SAVED_S = 10.0
SMOOTH_S = 2.0
CANCEL_S = 2.0
"""Starts are given up when no window of the last seconds wanted them."""


class Wish(NamedTuple):
    """What a stage asks for at the end of a window.

    Attributes:
        pace: of the stage.
        replicas: live ones, those with most cores first.
        cores: for each of them; empty: as they are.
        starts: replicas to start.
        cancels: replicas that start and are not needed any more.
        need: rows a second, in the profile's units.
    """

    pace: "StagePace"
    replicas: list[ReplicaView]
    cores: list[float]
    starts: int
    cancels: list[ReplicaView]
    need: float


class StagePace:
    """One stage on its targets.

    Args:
        sizing: what its replicas can do.
        knob: of the policy.
        window_s: sensing window.
        without: ingredients left out.

    Attributes:
        sizing: what its replicas can do.
        target: what it aims at.
        resident: variants of replicas that it starts.
        capacity_rps: of its live replicas with the cores they are to have, in real units.
        queue_rows: that wait.
        flow: rows a second that come with what arrives at the service, in the profile's units.
        smooth: the same with what waits, a mean of the last windows.
    """

    def __init__(
        self,
        sizing: StageSizing,
        *,
        knob: Knob,
        window_s: float,
        without: frozenset[str] = frozenset(),
    ) -> None:
        variant = sizing.variant
        self.sizing = sizing
        self.capacity_rps = 0.0
        self.queue_rows = 0
        self.flow = self.smooth = 0.0
        self._parks = "parking" not in without
        self._reserves = "reserve" not in without
        self._window_s = window_s
        self._knob = knob
        hold_s = max(HOLD_S, HOLD_RESIZES * variant.resize_s) * knob.patience
        self._needs: deque[float] = deque(maxlen=max(1, round(hold_s / window_s)))
        self._wanted: deque[int] = deque(maxlen=max(1, round(CANCEL_S / window_s)))
        self._premium = 0.0
        self._yields = 0.0
        self._is_new = True
        self._is_plain = False
        self._live: list[ReplicaView] = []
        self._cores_now = 0.0
        self._carried_rps = -1.0
        self._reckoned: tuple[float, int, float] | None = None

    def aim(
        self,
        target: StageTarget,
        most: float,
        limit: int,
        *,
        sizing: StageSizing | None = None,
        resident: tuple[str, ...] = (),
    ) -> None:
        """Work by these targets.

        Args:
            target: what the stage aims at.
            most: cores that are of use to a replica.
            limit: replicas that fit the cluster.
            sizing: of the variant that is reckoned with from now on, if it is another one.
            resident: variants of replicas that are started; empty: that one.
        """
        if sizing is not None:
            self.sizing = sizing
        self.resident = resident or (self.sizing.variant.name,)
        self.target = target
        self.most = most
        self.limit = limit
        self.lag_s = self._window_s + self.sizing.variant.resize_s + RESIZE_LAG_SERVICES * target.service_s
        self._base_rps = self.sizing.rate_rps(target.cores)
        self._most_rps = self.sizing.rate_rps(most)
        self._is_plain = self._parks and target.least >= target.cores
        self._carried_rps = -1.0
        self._reckoned = None

    def look(
        self,
        seen: StageWindow,
        arriving_rps: float,
        entry_rps: float,
        live: list[ReplicaView],
        starting: list[ReplicaView],
    ) -> Wish:
        """The wish at the end of a window.

        Args:
            seen: the stage at its end.
            arriving_rps: rows a second that come to the stage, from the stages before it as well.
            entry_rps: rows a second that come to the service, as rows of this stage: the growth that replicas
                are kept in reserve for is that of the traffic.
            live: replicas that are ready or parked; the same list as long as none of them has changed.
            starting: replicas that are not ready yet.
        """
        ratio = seen.service_ratio
        self.queue_rows = seen.queue_rows
        self.flow = ratio * entry_rps
        need = ratio * needed_rps(
            seen.queue_rows, arriving_rps, self.target, seen.head_slack_s, self._knob, lag_s=self.lag_s
        )
        self._needs.append(need)
        self.smooth += (need - self.smooth) * (1.0 if self._is_new else self._window_s / SMOOTH_S)
        self._is_new = False
        if live is not self._live:
            self._live, self._carried_rps = live, -1.0
            self._cores_now = sum([r.cores_desired for r in live], 0.0)
        now, count = self._cores_now, len(live)
        cores = self._cores(need, now, count)
        if cores:
            live = sorted(live, key=lambda r: (-r.cores_desired, r.replica_id))
            now = sum(cores)
            self._reckoned = (now, count, ratio)
            self.capacity_rps = self._carried(cores) / ratio
        elif (now, count, ratio) != self._reckoned:
            self._reckoned = (now, count, ratio)
            if self._carried_rps < 0:
                self._carried_rps = self._carried([r.cores_desired for r in live])
            self.capacity_rps = self._carried_rps / ratio
        wanted = crew(
            self.smooth,
            entry_rps * ratio if self._reserves else 0.0,
            self._base_rps,
            self._most_rps,
            self.limit,
            self._knob,
        )
        most, there = wanted.wanted, count + len(starting)
        self._wanted.append(most)
        starts = 0
        if most > there:
            starts = self._starts(wanted, most - there, need, now, count)
        else:
            self._premium = 0.0
        cancels = self._cancels(count, starting) if starting and not starts else []
        return Wish(self, live, cores, starts, cancels, need)

    def _carried(self, cores: list[float]) -> float:
        """Rows a second of replicas with these cores, in the profile's units."""
        rate_rps = self.sizing.rate_rps
        return sum([rate_rps(of_one) for of_one in cores], 0.0)

    def spread(self, need: float, replicas: int) -> list[float]:
        """Cores for each of `replicas`, most first."""
        target = self.target
        cores = self.sizing.spread(need, replicas, least=target.least, base=target.cores, most=self.most)
        return cores if self._parks else [c or target.least for c in cores]

    def _cores(self, need: float, now: float, replicas: int) -> list[float]:
        """New cores, or [] to leave them."""
        saved = YIELDS_RPM / 60.0 * now
        self._yields = min(max(1.0, saved * YIELDS_SAVED_S), self._yields + saved * self._window_s)
        if self._total(need, replicas) > now + EXACT:
            return self.spread(need, replicas)
        most = max(self._needs)
        if self._yields < 1.0 or self._total(most, replicas) >= now - EXACT:
            return []
        self._yields -= 1.0
        return self.spread(most, replicas)

    def _total(self, need: float, replicas: int) -> float:
        """What `spread` adds up to: in most windows that is all there is to know."""
        if need > replicas * self._base_rps or not self._is_plain:
            return sum(self.spread(need, replicas))
        return self.target.cores * max(1, ceil(need / self._base_rps - EXACT)) if replicas else 0.0

    def _starts(self, wanted: Crew, lacking: int, need: float, cores: float, live: int) -> int:
        """Replicas to start now, of those that are lacking; see `reserve`."""
        base = self.target.cores
        self._premium += self._window_s * max(0.0, cores - wanted.efficient * base)
        urgent = need > URGENT_SHARE * live * self._most_rps
        price = start_price(lacking, base, self.sizing.variant.cold_start_s, self._knob.patience)
        is_unready = wanted.reserve > wanted.wanted - lacking
        if urgent or is_unready or self._premium >= price:
            self._premium = 0.0
            return lacking
        return 0

    def _cancels(self, live: int, starting: list[ReplicaView]) -> list[ReplicaView]:
        """Starting replicas that nothing has wanted lately, the youngest first; one stays in any case."""
        if not live:
            return []
        excess = min(len(starting), live + len(starting) - max(self._wanted))
        if excess <= 0:
            return []
        return sorted(starting, key=lambda r: (r.started_s, r.replica_id), reverse=True)[:excess]


def replicas_at_most(cores: float, base: float) -> int:
    """Replicas of `base` cores that `cores` can keep active."""
    return max(1, int(cores / base + 1e-9))
