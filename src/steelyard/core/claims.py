"""Claims: a request that must be answered sooner than others keeps the stages before it free in time.

A request is admitted if a route is free for it when it arrives. While it is on its way, replicas of the
stages behind are work-conserving and would begin batches of others, which end too late for it. So a request
whose latency is tighter than the objective leaves a claim at each of those stages: from when on it can be
there, by when it must be done, and by which variants. A batch of others begins only if all claims can be kept
that could be kept without it, or if its own requests could not wait for as long.

Claims are checked with every replica free when its batch is expected to end, each claim on the replica that
has done it first, the most urgent claim first; batches that claims might share are not reckoned with. A claim
ends when its request comes to the stage or ends, and binds nobody once it can be kept no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from steelyard.core.types import RequestId

if TYPE_CHECKING:
    from steelyard.core.lifecycle import Replica
    from steelyard.core.stage import StageState
    from steelyard.core.work import Batch, OpenRequest

CLAIMS_MAX = 64
"""Of one stage: who comes when there are as many has none."""

_due_s = attrgetter("due_s")


class Claim(NamedTuple):
    """Rows that come to a stage at `from_s` at the soonest, and are to be done there at `due_s`.

    `variants` may answer them; () for any.
    """

    due_s: float
    from_s: float
    bucket: int
    rows: int
    variants: tuple[str, ...]


class Claims:
    """Of the requests on their way to one stage.

    Args:
        stage: that one.

    Attributes:
        by_id: by their requests.
    """

    def __init__(self, stage: StageState) -> None:
        self._stage = stage
        self.by_id: dict[RequestId, Claim] = {}

    def add(self, opened: OpenRequest, *, now_s: float) -> None:
        """A request begins its way to this stage."""
        if len(self.by_id) < CLAIMS_MAX:
            request, stage = opened.request, self._stage
            rows = min(max(1, round(request.rows * stage.fan_out)), stage.piece_rows_least)
            due_s = stage.due_s(opened.due_s, request)
            self.by_id[request.id] = Claim(due_s, now_s, request.bucket, rows, self._variants(opened))

    def foresee(self, opened: OpenRequest, at_s: float) -> None:
        """A request runs at a stage before, and cannot be here sooner than at `at_s`."""
        claim = self.by_id.get(opened.request.id)
        if claim is not None:
            from_s = max(claim.from_s, at_s)
            self.by_id[opened.request.id] = claim._replace(from_s=from_s, variants=self._variants(opened))

    def drop(self, request_id: RequestId) -> None:
        """A request has come, or has ended."""
        self.by_id.pop(request_id, None)

    def hold_until_s(self, batch: Batch, *, now_s: float) -> float | None:
        """When to ask again about a batch that must not begin; None if it may."""
        claims = [claim for claim in sorted(self.by_id.values(), key=_due_s) if claim.due_s > now_s]
        if not claims or min([p.due_s for p in batch.pieces]) < claims[-1].due_s + batch.service_s:
            return None
        replicas = [replica for replica in self._stage.pool if replica.state == "ready"]
        free_s = [
            now_s if replica.batch is None else max(now_s, replica.batch.expected_s) for replica in replicas
        ]
        takes_s = [[self._takes_s(claim, replica) for replica in replicas] for claim in claims]
        kept = _kept(claims, takes_s, free_s)
        free_s[replicas.index(batch.replica)] = now_s + batch.service_s
        if _kept(claims, takes_s, free_s) >= kept:
            return None
        latest_s = [claim.due_s - min(each_s) for claim, each_s in zip(claims, takes_s, strict=True)]
        return min([at_s for at_s in latest_s if at_s >= now_s], default=claims[0].due_s)

    def _takes_s(self, claim: Claim, replica: Replica) -> float:
        """Seconds with the fastest variant that may answer; infinite if none is there."""
        service_s = self._stage.estimator.service_s
        allowed = claim.variants or replica.variants
        return min(
            [
                service_s(variant, claim.bucket, claim.rows, replica.cores)
                for variant in replica.variants
                if variant in allowed
            ],
            default=inf,
        )

    def _variants(self, opened: OpenRequest) -> tuple[str, ...]:
        return () if opened.bounds is None else opened.bounds.variants_behind(self._stage)


def _kept(claims: Sequence[Claim], takes_s: Sequence[Sequence[float]], free_s: Sequence[float]) -> int:
    """How many claims can be kept by replicas that are free then and take so long for each."""
    free = list(free_s)
    kept = 0
    for claim, each_s in zip(claims, takes_s, strict=True):
        done_s, place = min(
            [(max(free[place], claim.from_s) + took_s, place) for place, took_s in enumerate(each_s)]
        )
        if done_s <= claim.due_s:
            free[place] = done_s
            kept += 1
    return kept
