"""Short ways to make the values that tests are about; every argument has a plain default."""

from collections.abc import Iterable, Mapping

from steelyard.core.plan import ReplicaPlan, ServicePlan, StagePlan, StageRules, VariantShare
from steelyard.core.types import Input, Request, RequestId, Service, ServiceTimes, Stage, Variant

STAGE = "main"
VARIANT = "model"


class TableTimes:
    """Service times from a table of one core: seconds by rows, straight lines between and beyond.

    More cores divide the time. The 0.99 quantile is `tail` times the median.

    Args:
        seconds_by_rows: at least one entry; rows ascending.
        tail: at least 1.
        factors: by variant, what to multiply by; 1 for those not named.
    """

    def __init__(
        self, seconds_by_rows: dict[int, float], *, tail: float = 1.0, factors: dict[str, float] | None = None
    ) -> None:
        self._points = sorted(seconds_by_rows.items())
        self._tail = tail
        self._factors = factors or {}

    def service_time_s(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """Median seconds."""
        del bucket
        return self._factors.get(variant, 1.0) * self._one_core_s(rows) / cores

    def service_time_s_p99(self, variant: str, bucket: int, rows: int, cores: float) -> float:
        """`tail` times the median."""
        return self._tail * self.service_time_s(variant, bucket, rows, cores)

    def _one_core_s(self, rows: int) -> float:
        points = self._points
        if len(points) == 1:
            return points[0][1]
        index = 1
        while index < len(points) - 1 and points[index][0] < rows:
            index += 1
        (rows_low, low_s), (rows_high, high_s) = points[index - 1], points[index]
        return low_s + (high_s - low_s) * (rows - rows_low) / (rows_high - rows_low)


def make_request(
    sequence: int,
    arrived_s: float = 0.0,
    *,
    slo_s: float = 0.1,
    rows: int = 1,
    batch_key: str = "x",
    service: str = "ocr",
    bucket: int = 0,
) -> Request:
    """A request of front end 0 that is due `slo_s` after its arrival."""
    return Request(
        id=RequestId(0, sequence),
        service=service,
        rows=rows,
        batch_key=batch_key,
        arrived_s=arrived_s,
        deadline_s=arrived_s + slo_s,
        bucket=bucket,
    )


def make_service(
    *,
    name: str = "ocr",
    slo_s: float = 0.1,
    variants: Iterable[str] = (VARIANT,),
    batch_rows_max: int = 8,
    cores_max: int = 4,
    queue_rows_max: int = 4096,
    reply_s: float = 0.0,
    retries_max: int = 2,
) -> Service:
    """A service of one stage; the reply takes no time unless told."""
    return Service(
        name=name,
        slo_s=slo_s,
        stages=(
            Stage(
                STAGE,
                tuple(
                    Variant(variant, batch_rows_max=batch_rows_max, cores_max=cores_max)
                    for variant in variants
                ),
            ),
        ),
        queue_rows_max=queue_rows_max,
        reply_s=reply_s,
        retries_max=retries_max,
    )


def make_pipeline(
    after: Mapping[str, Iterable[str]],
    *,
    fan_out: Mapping[str, float] | None = None,
    items_of: Mapping[str, str] | None = None,
    inputs: Mapping[str, Iterable[Input]] | None = None,
    answers: Iterable[str] = (),
    name: str = "ocr",
    slo_s: float = 0.1,
    variants: Iterable[str] = (VARIANT,),
    batch_rows_max: int = 8,
    cores_max: int = 4,
    queue_rows_max: int = 4096,
    reply_s: float = 0.0,
    retries_max: int = 2,
) -> Service:
    """A service of several stages, equal but for their place: `after` names the sources of each, in order."""
    resident = tuple(
        Variant(variant, batch_rows_max=batch_rows_max, cores_max=cores_max) for variant in variants
    )
    fan_out, items_of, inputs = fan_out or {}, items_of or {}, inputs or {}
    return Service(
        name=name,
        slo_s=slo_s,
        stages=tuple(
            Stage(
                stage,
                resident,
                tuple(sources),
                fan_out.get(stage, 1),
                items_of=items_of.get(stage, ""),
                inputs=tuple(inputs.get(stage, ())),
            )
            for stage, sources in after.items()
        ),
        queue_rows_max=queue_rows_max,
        reply_s=reply_s,
        retries_max=retries_max,
        answers=tuple(answers),
    )


def make_plan(
    service: Service,
    *,
    batch_rows_max: int = 8,
    hold_s_max: float = 0.0,
    rules: StageRules | None = None,
    shares: dict[str, float] | None = None,
    replicas: Iterable[ReplicaPlan] = (),
) -> ServicePlan:
    """One plan for each stage of a service; all rows to its first variant unless `shares` say else."""
    mix = shares or {service.stages[0].variants[0].name: 1.0}
    plan = StagePlan(
        replicas=tuple(replicas),
        mix=tuple(VariantShare(variant, share) for variant, share in mix.items()),
        batch_rows_max=batch_rows_max,
        hold_s_max=hold_s_max,
        rules=rules or StageRules(),
    )
    return ServicePlan(service.name, {stage.name: plan for stage in service.stages})


def times_by_stage(service: Service, times: ServiceTimes) -> dict[str, ServiceTimes]:
    """The same service times for every stage of a service."""
    return {stage.name: times for stage in service.stages}
