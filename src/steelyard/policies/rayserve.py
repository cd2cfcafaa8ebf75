"""Ray Serve's replica autoscaling on ongoing requests, with its default delays.

For each deployment (stage), with total the mean of the rows that wait or run over the last
`look_back_period` (30 s), renewed every `interval` (10 s), r running replicas and n wanted ones:
- desired = ceil(r + factor x (total / target_ongoing_requests - r)), with `upscaling_factor` or
  `downscaling_factor`, at least 1; one less than r where the factor would hold it at r for ever;
- desired > n for `upscale_delay` (30 s) without a break: n = desired; desired < n for `downscale_delay` (600
  s) without a break: n = desired. The latest `desired` counts, and each change starts the count anew.

Source: https://docs.ray.io/en/latest/serve/advanced-guides/advanced-autoscaling.html; the order of the steps
follows python/ray/serve/autoscaling_policy.py of ray-project/ray. The controller loops every 0.1 s; as its
input only changes every 10 s, once a second is enough here.

`max_ongoing_requests` (5) is the most that a replica is given at a time. What is beyond waits in the router,
and counts for `total` all the same; so here it only limits the batch.

Options: `target_ongoing_requests` (2), `max_ongoing_requests` (5), `upscale_delay` (30s), `downscale_delay`
(600s), `look_back_period` (30s), `interval` (10s), `upscaling_factor` (1), `downscaling_factor` (1), `cores`
of a replica (1), `batch`.
"""

from math import ceil, floor
from typing import NamedTuple

from steelyard.policies.base import PolicyContext
from steelyard.policies.options import duration_s, integer, number, refuse_unknown
from steelyard.policies.scaled import Group, Loop, ScaledPolicy, Seen, Wanted, groups_of
from steelyard.profile.queueing import ggc_wait_mean_s

NAME = "rayserve"
TICK_S = 1.0
REPLICAS_MAX = 100_000
"""Where the search for the first number of replicas ends."""


class RayServeSettings(NamedTuple):
    """Ray's `AutoscalingConfig`, with its defaults; times are seconds."""

    target_ongoing_requests: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    look_back_s: float = 30.0
    interval_s: float = 10.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0


class RayServeScaler:
    """One deployment's autoscaling."""

    def __init__(self, group: Group, settings: RayServeSettings) -> None:
        self._group = group
        self._settings = settings
        self._total: float | None = None
        self._push_s = float("-inf")
        self._above_since_s: float | None = None
        self._below_since_s: float | None = None

    def begin(self, rate_rps: float) -> Wanted:
        """The fewest replicas that are stable with no more ongoing than the target.

        Ongoing are rate x (wait + l(1)), with the mean wait of an M/D/n queue (Allen and Cunneen).
        """
        time_s, target = self._group.time_s(1, self._group.cores), self._settings.target_ongoing_requests
        replicas = max(1, floor(rate_rps * time_s) + 1)
        if rate_rps > 0:
            while replicas < REPLICAS_MAX:
                wait_s = ggc_wait_mean_s(rate_rps, time_s, replicas, 1.0, 0.0)
                if rate_rps * (wait_s + time_s) <= target * replicas:
                    break
                replicas += 1
        return Wanted(replicas, self._group.cores, f"target {target:g} ongoing")

    def tick(self, seen: Seen, *, now_s: float) -> Wanted:
        """The control loop, once a second."""
        if now_s >= self._push_s - 1e-6:
            self._push_s = now_s + self._settings.interval_s
            load = seen.meter.mean(self._settings.look_back_s, now_s=now_s)
            self._total = load.rows if load is not None else None
        if self._total is None or seen.ready == 0:
            return Wanted(seen.replicas, seen.cores, "no metrics of running replicas")
        desired = self._desired(seen.ready, self._total)
        why = f"{self._total:.3g} ongoing on {seen.ready} running, wants {desired}"
        due = self._delayed(desired, seen.replicas, now_s=now_s)
        return Wanted(desired if due else seen.replicas, seen.cores, why)

    def _desired(self, running: int, total: float) -> int:
        """What the ongoing requests ask for, before the delays."""
        exact = total / self._settings.target_ongoing_requests
        out = exact > running
        factor = self._settings.upscaling_factor if out else self._settings.downscaling_factor
        scaled = ceil(running + factor * (exact - running) - 1e-9)
        if ceil(exact - 1e-9) < running and scaled == running:
            scaled -= 1
        return max(1, scaled)

    def _delayed(self, desired: int, present: int, *, now_s: float) -> bool:
        """Whether `desired` has been above, or below, what is there for long enough."""
        if desired <= present:
            self._above_since_s = None
        elif self._above_since_s is None:
            self._above_since_s = now_s
        if desired >= present:
            self._below_since_s = None
        elif self._below_since_s is None:
            self._below_since_s = now_s
        up, down = self._above_since_s, self._below_since_s
        due = (up is not None and now_s - up >= self._settings.upscale_delay_s - 1e-6) or (
            down is not None and now_s - down >= self._settings.downscale_delay_s - 1e-6
        )
        if due:
            self._above_since_s = self._below_since_s = None
        return due


def make_rayserve(context: PolicyContext) -> ScaledPolicy:
    """The policy, for one service.

    Raises:
        SpecError: an option that it does not have, or out of range.
    """
    options, default = context.options, RayServeSettings()
    refuse_unknown(
        NAME,
        options,
        (
            "target_ongoing_requests",
            "max_ongoing_requests",
            "upscale_delay",
            "downscale_delay",
            "look_back_period",
            "interval",
            "upscaling_factor",
            "downscaling_factor",
            "cores",
            "batch",
        ),
    )
    settings = RayServeSettings(
        number(NAME, options, "target_ongoing_requests", default.target_ongoing_requests, least=0.01),
        duration_s(NAME, options, "upscale_delay", default.upscale_delay_s),
        duration_s(NAME, options, "downscale_delay", default.downscale_delay_s),
        duration_s(NAME, options, "look_back_period", default.look_back_s, least_s=1.0, most_s=3600.0),
        duration_s(NAME, options, "interval", default.interval_s, least_s=0.1),
        number(NAME, options, "upscaling_factor", default.upscaling_factor, least=0.01),
        number(NAME, options, "downscaling_factor", default.downscaling_factor, least=0.01),
    )
    most = integer(NAME, options, "max_ongoing_requests", 5, least=1)
    groups = groups_of(NAME, context, rows_max=most)
    loop = Loop(TICK_S, settings.look_back_s)
    return ScaledPolicy(NAME, context, groups, loop, lambda group: RayServeScaler(group, settings))
