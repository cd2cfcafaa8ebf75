"""How a service's latency is shared out: what each stage may spend on serving a batch and on waiting.

Each stage chooses the largest batch and the cores of a replica in calm times; together they are the cheapest
ones (core-seconds a request, `c l(b, c) / b`) of which the longest path through the pipeline takes at most
`service_share` of the latency. What is left is for waiting: half of it in equal parts, half in proportion
to the service times, since a stage that serves for longer changes its mind more slowly.

Calm times are reckoned in whole cores, the cheapest there are. Where a node enforces parts of one, an active
replica may have less: as long as a single row takes no longer than was planned for the batch.

Batches are limits, not wishes: the data plane is work-conserving, and a batch grows only as far as rows
wait. So a stage whose batches gain nothing (most convolutional models) takes single rows, and one whose
batches gain much lets its queue fill them. Beyond the batch that it is reckoned by, a larger one may be
formed only if it is cheaper by `LIMIT_GAIN`: all in it wait for the last of it, and whoever comes next too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from steelyard.core.types import Service
from steelyard.plan.graph import StageOptions, longest_path_s, solve
from steelyard.policies.steelyard.knob import SERVICE_SHARE
from steelyard.policies.steelyard.sizing import EXACT, StageSizing

WAIT_S_MIN = 0.002
LIMIT_WAITS = 1.0
LIMIT_GAIN = 1.1
GRAIN = 0.1
"""A core more in a replica counts as this much more costs."""
GAIN_MIN = 1.02
"""A larger batch must be cheaper by this factor: smaller ones answer sooner."""


class StageTarget(NamedTuple):
    """What one stage aims at.

    Attributes:
        rows: the batch by which its capacity is reckoned.
        cores: of an active replica in calm times.
        service_s: 0.99 quantile of such a batch on such a replica.
        wait_s: that rows may wait, if all goes as planned.
        limit: the largest batch that may be formed, if nobody in it waits for long: one that takes the time
            to serve and a part of the time to wait, and is worth it.
        least: fewest cores of an active replica; less than `cores` only in parts of one core.
    """

    rows: int
    cores: float
    service_s: float
    wait_s: float
    limit: int
    least: float


def share_latency(
    service: Service,
    sizings: Sequence[StageSizing],
    cores: float,
    ratios: Sequence[float],
    *,
    service_share: float = SERVICE_SHARE,
) -> tuple[StageTarget, ...]:
    """A target for each stage, in the service's order.

    Where even the fastest choices take more than their share of the latency, they are taken: cores are then
    what buys the time.

    Args:
        service: its SLO and its pipeline.
        sizings: of its stages.
        cores: that one replica may have at most.
        ratios: observed over profiled service times, by stage.
        service_share: of the latency that may be spent on serving.
    """
    names = {stage.name: index for index, stage in enumerate(service.stages)}
    after = tuple(tuple(names[source] for source in stage.after) for stage in service.stages)
    choices = [_choices(sizing, cores, ratio) for sizing, ratio in zip(sizings, ratios, strict=True)]
    options = [
        StageOptions(
            np.array([c.service_s for c in of_stage]),
            np.array([s.fan_out * _price(s, c) for c in of_stage]),
        )
        for of_stage, s in zip(choices, sizings, strict=True)
    ]
    available_s = service.slo_s - service.reply_s
    solution = solve(after, options, service_share * available_s)
    if solution is not None:
        chosen = [of_stage[i] for of_stage, i in zip(choices, solution.choices, strict=True)]
    else:
        chosen = [min(of_stage, key=lambda c: (c.service_s, c.cores)) for of_stage in choices]
    path_s = longest_path_s(after, [c.service_s for c in chosen])
    depth = longest_path_s(after, [1.0] * len(chosen))
    spare_s = max(0.0, available_s - path_s)
    targets = []
    followed = {source for stage in service.stages for source in stage.after}
    for sizing, choice, ratio in zip(sizings, chosen, ratios, strict=True):
        wait_s = max(WAIT_S_MIN, spare_s * (choice.service_s / path_s + 1.0 / depth) / 2)
        is_last = sizing.stage.name not in followed
        most_s = (choice.service_s + LIMIT_WAITS * wait_s * is_last) / ratio
        limit = rows_within(sizing, choice.cores, most_s, choice.rows)
        least = _least(sizing, choice, ratio)
        targets.append(choice._replace(wait_s=wait_s, limit=limit, least=least))
    return tuple(targets)


def fitted(
    targets: Sequence[StageTarget], sizings: Sequence[StageSizing], ratios: Sequence[float], room: float
) -> tuple[StageTarget, ...]:
    """The same where there is `room` for one active replica of every stage, all together.

    Where it is too small for the least of all, it is shared out, whole or in parts, so that a request is
    served soonest. A step goes where it takes most off the sum of work over cores, which is convex: step by
    step is optimal. From there any stage may give up all but one step, as others need it more. As they are,
    where there are fewer steps than stages: nothing can be done.
    """
    if sum([target.least for target in targets], 0.0) <= room + EXACT:
        return tuple(targets)
    step = max(sizing.step for sizing in sizings)
    steps = int(room / step + EXACT)
    if steps < len(targets):
        return tuple(targets)
    work = [
        sizing.fan_out * sizing.core_s(target.rows, target.cores) * ratio
        for sizing, target, ratio in zip(sizings, targets, ratios, strict=True)
    ]
    given = [1] * len(targets)
    for _ in range(steps - len(targets)):
        open_ = [i for i, target in enumerate(targets) if (given[i] + 1) * step <= target.cores + EXACT]
        if not open_:
            break
        given[max(open_, key=lambda i: work[i] / given[i] - work[i] / (given[i] + 1))] += 1
    return tuple(
        target._replace(
            cores=count * step, least=step, service_s=sizing.tail_s(target.rows, count * step) * ratio
        )
        for target, sizing, count, ratio in zip(targets, sizings, given, ratios, strict=True)
    )


def rows_within(sizing: StageSizing, cores: float, most_s: float, least: int = 1) -> int:
    """The largest batch worth forming whose 0.99 quantile is at most `most_s`; `least` rows if none is.

    Worth it is what costs `LIMIT_GAIN` times less a row than `least` rows do.
    """
    worth_s = sizing.core_s(least, cores) / LIMIT_GAIN
    found = rows = least
    while rows < sizing.rows_max and sizing.tail_s(rows + 1, cores) <= most_s:
        rows += 1
        if sizing.core_s(rows, cores) <= worth_s:
            found = rows
    return found


def _price(sizing: StageSizing, choice: StageTarget) -> float:
    """Core-seconds a row, dearer for larger replicas: with those, less can be given and taken at a time."""
    return sizing.core_s(choice.rows, choice.cores) * (1.0 + GRAIN * max(0.0, choice.cores - 1.0))


def _choices(sizing: StageSizing, cores_most: float, ratio: float) -> list[StageTarget]:
    """Every batch and size of which no smaller batch is as cheap."""
    found: list[StageTarget] = []
    for cores in sizing.sizes(min(cores_most, sizing.variant.cores_max)):
        cheapest = float("inf")
        for rows in range(1, sizing.rows_max + 1):
            core_s = sizing.core_s(rows, cores)
            if core_s * GAIN_MIN < cheapest:
                cheapest = core_s
                found.append(StageTarget(rows, cores, sizing.tail_s(rows, cores) * ratio, 0.0, rows, cores))
    return found


def _least(sizing: StageSizing, choice: StageTarget, ratio: float) -> float:
    """The fewest cores on which one row takes no longer than the chosen batch does."""
    if choice.cores > 1.0:
        return choice.cores
    parts = (i * sizing.step for i in range(1, round(choice.cores / sizing.step)))
    return next((c for c in parts if sizing.tail_s(1, c) * ratio <= choice.service_s), choice.cores)
