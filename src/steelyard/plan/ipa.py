"""IPA: for each stage of a chain a variant, a batch and so many replicas; the whole (accuracy, cost) front.

    maximise    alpha PAS - beta sum of R_m r - delta sum of b         over one (m, b, r) a stage
    subject to  r h_m(b) >= rate,    sum of l_m(b) + q(b) <= SLO

PAS is the product of the stages' accuracies, R_m the cores that a replica of variant m always has, h = b / l,
q = (b - 1) / rate the time until a batch has filled. The published program is bilinear and needs its weights
tuned for every pipeline and load. Here the latency is rounded *up* to SLO / 500, so that a plan keeps the SLO
whatever is rounded, and on that grid the front is found whole and exactly (`plan.ipa_front`): weights, an
accuracy floor or a cap of cores only point at it (`plan.accuracy.pick`).

    front(problem) -> IpaFront         (`points`, and `plan(point)` for the one that is chosen)

- Of the released model the queue term is not copied: it takes a binary for the batch size, so that waiting
  *relaxes* the SLO.
- `wait` may be any model of `plan.waits`: `fill` is IPA's; `tail` reckons with busy replicas, and then up to
  `extra_replicas_max` more replicas than the rate needs are options as well.
- PAS is a product. Where combinations of variants were measured, `front` takes their accuracies instead
  (`plan.ipa_paths`).
- delta only breaks ties: of equal points the one with smaller batches is taken.
- Stages that branch are taken as if they came one after another, which is safe.

Source: Ghafouri et al., "IPA: Inference Pipeline Adaptation to Achieve High Accuracy and Cost-Efficiency",
Journal of Systems Research 4, 2024 (arXiv 2308.12871).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from steelyard.core.errors import SpecError
from steelyard.core.types import Frozen
from steelyard.plan.ipa_front import TICKS, Front, Options
from steelyard.plan.ipa_paths import Combination, PathFront
from steelyard.plan.tails import RHO_MAX
from steelyard.plan.waits import Load, wait_model

AccuracyOf = Callable[[Mapping[str, str]], float]
"""Accuracy of an answer, by the variant of each stage."""

REPLICAS_MAX = 100
_ROUNDING = 1e-9


class IpaVariant(Frozen, frozen=True):
    """A variant with the size its replicas always have.

    Attributes:
        name: unique in its stage.
        accuracy: in (0, 1].
        cores: R of one replica, >= 1.
        service_s: seconds a batch takes, by the stage's `rows`, as far as the variant takes such batches;
            capacity is reckoned by it.
        latency_s: a high quantile of the same; empty: `service_s`.
    """

    name: str
    accuracy: float
    cores: int
    service_s: tuple[float, ...]
    latency_s: tuple[float, ...] = ()


class IpaStage(Frozen, frozen=True):
    """A stage.

    Attributes:
        name: unique in the problem.
        variants: in any order.
        rows: batch sizes that may be chosen, ascending.
        fan_out: rows for each row of a request.
        replicas: if not None, exactly so many (RIM); otherwise as few as carry the rate.
    """

    name: str
    variants: tuple[IpaVariant, ...]
    rows: tuple[int, ...]
    fan_out: float = 1.0
    replicas: int | None = None


class IpaProblem(Frozen, frozen=True):
    """One pipeline at one rate.

    Attributes:
        service: its name, for messages.
        stages: in order.
        rate_rps: rows of requests a second.
        slo_s: of the whole pipeline.
        quantile: share of requests that must meet it, for wait models that know one.
        cores_max: dearer plans are left out; None: no limit.
        wait: name of the wait model.
        extra_replicas_max: for wait models that count busy replicas.
    """

    service: str
    stages: tuple[IpaStage, ...]
    rate_rps: float
    slo_s: float
    quantile: float = 0.99
    cores_max: int | None = None
    wait: str = "fill"
    extra_replicas_max: int = 4


class IpaPlanned(NamedTuple):
    """What a stage is to have; `time_s` is its queueing delay plus its service time."""

    stage: str
    variant: str
    rows: int
    replicas: int
    cores: int
    time_s: float
    accuracy: float


class IpaPoint(NamedTuple):
    """A point of the front: PAS and cores of all replicas; who knows what runs now fills `switches` in."""

    place: int
    accuracy: float
    cores: int
    switches: int = 0


class _StageOptions(NamedTuple):
    """A stage's options as the front sees them, and what each of them stands for."""

    options: Options
    planned: tuple[IpaPlanned, ...]


class IpaFront:
    """All undominated plans; empty if none keeps the SLO.

    Attributes:
        points: cores and accuracy both rise.
    """

    def __init__(
        self, stages: Sequence[_StageOptions], cores_max: int | None, accuracy_of: AccuracyOf | None
    ) -> None:
        self._stages = stages
        options = [stage.options for stage in stages]
        self._front: Front | PathFront
        if accuracy_of is None:
            self._front = Front(options, cost_max=cores_max)
        else:
            self._front = _of_paths(stages, cores_max, accuracy_of)
        pairs = zip(self._front.accuracy.tolist(), self._front.cost.tolist(), strict=True)
        self.points = tuple(IpaPoint(place, *pair) for place, pair in enumerate(pairs))

    def plan(self, point: IpaPoint) -> tuple[IpaPlanned, ...]:
        """What the point stands for, stage by stage."""
        chosen = self._front.choices(point.place)
        return tuple(stage.planned[option] for stage, option in zip(self._stages, chosen, strict=True))


def front(problem: IpaProblem, *, accuracy_of: AccuracyOf | None = None) -> IpaFront:
    """The front of a problem.

    Args:
        problem: what is to be served.
        accuracy_of: of a combination of variants, by stage; None: the product of the stages' accuracies.

    Raises:
        SpecError: no stage, no variant, a table of another length than the batch sizes, a value out of range,
            no such wait model, or too many combinations to go through.
    """
    if not problem.stages or not problem.slo_s > 0 or not 0 <= problem.rate_rps < float("inf"):
        raise SpecError(f"{problem.service}: want stages, an SLO and a rate, got {problem}")
    options = [_options(problem, stage) for stage in problem.stages]
    return IpaFront(options, problem.cores_max, accuracy_of)


def _of_paths(stages: Sequence[_StageOptions], cores_max: int | None, accuracy_of: AccuracyOf) -> PathFront:
    """The front by combinations; variants are numbered as they come."""
    names = [list(dict.fromkeys(each.variant for each in stage.planned)) for stage in stages]
    numbers = [
        [known.index(each.variant) for each in stage.planned]
        for stage, known in zip(stages, names, strict=True)
    ]

    def accuracy(chosen: Combination) -> float:
        picked = zip(stages, names, chosen, strict=True)
        return accuracy_of({stage.planned[0].stage: known[number] for stage, known, number in picked})

    options = [stage.options for stage in stages]
    return PathFront(options, numbers, accuracy, cost_max=cores_max)


def _options(problem: IpaProblem, stage: IpaStage) -> _StageOptions:
    """All (variant, batch, replicas) of a stage that carry its rate: smaller batches first."""
    _check(stage)
    loss = (1 - problem.quantile) / len(problem.stages)
    model = wait_model(problem.wait)
    rate = problem.rate_rps * stage.fan_out
    found: list[tuple[int, int, IpaVariant, float, float]] = []
    for place, rows in enumerate(stage.rows):
        for variant in stage.variants:
            if place >= len(variant.service_s):
                continue
            service_s = variant.service_s[place]
            latency_s = variant.latency_s[place] if variant.latency_s else service_s
            offered = rate * service_s / rows
            counts = _replicas(problem, stage, offered, busy=model.busy)
            found += [(rows, replicas, variant, service_s, latency_s) for replicas in counts]
    if not found:
        none = np.empty(0, np.int64)
        return _StageOptions(Options(none, none, np.empty(0)), ())
    rows_of = np.array([rows for rows, *_ in found], dtype=np.int64)
    waits_s = model.wait_s(
        Load(
            rate_rps=np.full(len(found), float(rate)),
            rows=rows_of,
            service_s=np.array([each[3] for each in found]),
            single_s=np.array([each[2].service_s[0] for each in found]),
            replicas=np.array([each[1] for each in found], dtype=np.int64),
            loss=np.full(len(found), loss if model.busy else 1 - problem.quantile),
            burst=np.full(len(found), float(max(1, round(stage.fan_out)))),
        )
    )
    times_s = waits_s + np.array([each[4] for each in found])
    cost = np.array([each[1] * each[2].cores for each in found], dtype=np.int64)
    accuracy = np.array([each[2].accuracy for each in found])
    share = np.minimum(times_s / problem.slo_s, 2.0)  # infinite ones are beyond the bound
    ticks = np.ceil(share * TICKS - _ROUNDING).astype(np.int64)
    planned = tuple(
        IpaPlanned(stage.name, variant.name, rows, replicas, variant.cores, time_s, variant.accuracy)
        for (rows, replicas, variant, _, _), time_s in zip(found, times_s.tolist(), strict=True)
    )
    return _StageOptions(Options(ticks, cost, accuracy), planned)


def _replicas(problem: IpaProblem, stage: IpaStage, offered: float, *, busy: bool) -> range:
    """How many replicas are looked at for so many busy ones; none if too few are allowed."""
    least = max(1, int(np.ceil(offered / (RHO_MAX if busy else 1.0) - _ROUNDING)))
    if stage.replicas is not None:
        return range(stage.replicas, stage.replicas + (least <= stage.replicas))
    return range(least, min(REPLICAS_MAX, least + (problem.extra_replicas_max if busy else 0)) + 1)


def _check(stage: IpaStage) -> None:
    if not stage.variants or not stage.rows:
        raise SpecError(f"stage {stage.name}: want variants and batch sizes")
    for variant in stage.variants:
        named = f"stage {stage.name}, variant {variant.name}"
        times_s, tails_s = variant.service_s, variant.latency_s or variant.service_s
        if not 0 < len(times_s) <= len(stage.rows) or len(tails_s) != len(times_s):
            raise SpecError(f"{named}: {len(times_s)} times, {len(tails_s)} tails, {len(stage.rows)} batches")
        if not all(0 < time_s < float("inf") for time_s in (*times_s, *tails_s)):
            raise SpecError(f"{named}: want times > 0, got {times_s} and {tails_s}")
        if not 0 < variant.accuracy <= 1 or variant.cores < 1:
            raise SpecError(f"{named}: accuracy {variant.accuracy}, {variant.cores} cores")
