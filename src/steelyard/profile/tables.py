"""Service times as a value that can be sent: to the planner's process, and into a journal's head.

`ServiceTimes` objects compute; what they compute from is plain data, and this is it.
"""

from collections.abc import Mapping

from steelyard.core.types import Frozen, ServiceTimes
from steelyard.profile.times import DeclaredTimes, ProfileTable
from steelyard.profile.types import DeclaredLatency, Profile


class StageTimes(Frozen, frozen=True):
    """What is known of one stage's variants: measured profiles, and latencies declared in the spec.

    A variant with both uses what was declared: the user said so. `bucket` is the shape bucket that is looked
    up whatever a request's is, for a stage whose inputs are not the request's; None: the request's.
    """

    service: str
    stage: str
    profiles: tuple[Profile, ...] = ()
    declared: dict[str, DeclaredLatency] = {}
    bucket: int | None = None


class OneBucket:
    """Asks for the same shape bucket, whatever the request's is."""

    def __init__(self, times: ServiceTimes, bucket: int) -> None:
        self._times = times
        self._bucket = bucket

    def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Median seconds of one batch."""
        del bucket
        return self._times.service_time_s(variant, self._bucket, rows, cores)

    def service_time_s_p99(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """0.99 quantile of the same."""
        del bucket
        return self._times.service_time_s_p99(variant, self._bucket, rows, cores)


class TimesByVariant:
    """Asks each variant's own source."""

    def __init__(self, by_variant: Mapping[str, ServiceTimes]) -> None:
        self._by_variant = dict(by_variant)

    def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Median seconds of one batch."""
        return self._by_variant[variant].service_time_s(variant, bucket, rows, cores)

    def service_time_s_p99(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """0.99 quantile of the same."""
        return self._by_variant[variant].service_time_s_p99(variant, bucket, rows, cores)


def service_times(stage: StageTimes) -> ServiceTimes:
    """The object that answers for a stage.

    Raises:
        ProfileError: a profile contradicts itself, or there is nothing to go by.
    """
    times = _times(stage)
    return times if stage.bucket is None else OneBucket(times, stage.bucket)


def _times(stage: StageTimes) -> ServiceTimes:
    measured = tuple(profile for profile in stage.profiles if profile.variant not in stage.declared)
    if not stage.declared:
        return ProfileTable(measured)
    by_variant: dict[str, ServiceTimes] = {
        name: DeclaredTimes(known) for name, known in stage.declared.items()
    }
    if measured:
        by_variant |= dict.fromkeys((profile.variant for profile in measured), ProfileTable(measured))
    return TimesByVariant(by_variant)
