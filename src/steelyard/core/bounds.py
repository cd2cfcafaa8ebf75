"""A request's own bounds: least accuracy, most core-milliseconds, and the end that its deadline is.

1. *At arrival* a request is refused (`bounds`) if no route (`routes`) keeps to all of its bounds; the refusal
   names the nearest value of each that could be kept to, with the others as asked.
2. *Before a stage runs* a piece goes into a batch only if afterwards a route to the end is left that keeps to
   all bounds: the batch's variant is accurate enough together with the best that can follow; its rows' share
   of the batch costs no more than is left when the stages behind, run alone, cost the least. So no bound is
   overshot by choice. The expected cost counts, of what was spent as well: a batch that took longer than
   expected is no choice.
3. A request with a least accuracy is answered by one variant at each stage, so that its accuracy is that of a
   path, measured where it was.
4. If the cheapest route has become dearer than the bound since the request was admitted (the machine is
   slower than it was, or the cheap replica has gone), that bound is given up and the answer says that it was
   missed: what was spent would be lost otherwise. Accuracy is never given up: without a route that is
   accurate enough a request waits, and is shed when it is due.

Requests with bounds share batches with each other only, and only if the same variants are open to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import TYPE_CHECKING

from steelyard.core.accuracy import Accuracies
from steelyard.core.commands import NearestBounds, Reject
from steelyard.core.routes import (
    ROUNDING,
    Leg,
    Limits,
    Option,
    Route,
    Search,
    alone_core_ms,
    options_at,
    reachable,
)
from steelyard.core.types import Request, Service

if TYPE_CHECKING:
    from steelyard.core.routes import Aim
    from steelyard.core.stage import StageState
    from steelyard.core.work import OpenRequest, Piece, Visit

RETRY_S_MIN = 0.001

CACHE_MAX = 4096
"""Questions about accuracy whose answers are remembered."""

NO_VARIANT = ("",)
"""What is open to a request that no variant could answer accurately enough: nothing has that name."""


def is_bounded(request: Request) -> bool:
    """Whether a request has bounds besides its deadline."""
    return request.min_accuracy is not None or request.max_core_ms is not None


class Bounds:
    """What the requests of one service may bound, and what can be kept to now.

    Args:
        service: that one.
        stages: their states, in order.
    """

    def __init__(self, service: Service, stages: Sequence[StageState]) -> None:
        self._service = service
        self._stages = tuple(stages)
        self._any = {
            stage.name: tuple(Option(variant.name, 0.0, 0.0, 0.0) for variant in stage.variants)
            for stage in self._stages
        }
        self._open_to: dict[tuple[str, tuple[tuple[str, str], ...], float], tuple[str, ...]] = {}
        self.accuracies = Accuracies(service)

    def refusal(self, request: Request, due_s: float, *, now_s: float) -> Reject | None:
        """Refuse a new request whose bounds no route can keep to; it must be done at `due_s`."""
        asked = limits_of(request, due_s)
        legs = self._legs(request, now_s)
        search = Search(legs, self.accuracies, asked, "any", now_s=now_s)
        if search.run() is not None or search.gave_up:
            return None
        retry_after_s = None
        is_busy = any(option.free_s > now_s for leg in legs for option in leg.options)
        if (
            is_busy
            and self._search(self._legs(request, now_s, is_idle=True), asked, "any", now_s) is not None
        ):
            soonest = self._search(legs, asked._replace(due_s=inf), "latency", now_s)
            late_s = soonest.finish_s - due_s if soonest is not None else 0.0
            retry_after_s = max(late_s, RETRY_S_MIN)
        nearest = self.nearest(request, due_s, now_s=now_s)
        return Reject(request.id, "bounds", retry_after_s, nearest)

    def nearest(self, request: Request, due_s: float, *, now_s: float) -> NearestBounds:
        """Of each bound the nearest value that could be kept to now, with the others as asked.

        Where none of them alone would help, values that could be kept to together: of the accuracy no less
        than there is, and then of the time. Nobody may ask for more time than the objective. A latency is the
        client's: it counts from `elapsed_s` before the arrival.
        """
        asked, legs = limits_of(request, due_s), self._legs(request, now_s)
        began_s = request.arrived_s - request.elapsed_s
        latest_s = max(due_s, began_s + self._slo_s(request) - self._service.reply_s)
        fast = self._search(legs, asked._replace(due_s=latest_s), "latency", now_s)
        accurate = self._search(legs, asked._replace(min_accuracy=0.0), "accuracy", now_s)
        cheap = self._search(legs, asked._replace(max_core_ms=inf), "core_ms", now_s)
        is_known = self.accuracies.is_known
        if fast is None and cheap is None and (accurate is None or not is_known):
            best = self._search(legs, Limits(latest_s), "accuracy", now_s)
            if best is not None and (is_known or not asked.min_accuracy):
                accuracy = min(asked.min_accuracy, best.accuracy)
                both = self._search(legs, Limits(latest_s, accuracy), "latency", now_s)
                fast = both if both is not None and both.finish_s > due_s else None
                cheap = both if both is not None and both.core_ms > asked.max_core_ms else None
                accurate = best if accuracy < asked.min_accuracy else None
        return NearestBounds(
            None if fast is None else 1000.0 * (fast.finish_s + self._service.reply_s - began_s),
            None if accurate is None or not is_known else accurate.accuracy,
            None if cheap is None else cheap.core_ms,
        )

    def missed(self, opened: OpenRequest, accuracy: float | None, *, is_late: bool) -> tuple[str, ...]:
        """Names of a request's own bounds that its answer does not keep to."""
        request = opened.request
        if not is_late and request.min_accuracy is None and request.max_core_ms is None:
            return ()
        found = []
        if is_late and self.has_own_deadline(request):
            found.append("max_latency_ms")
        if request.min_accuracy is not None and (accuracy or 0.0) < request.min_accuracy - ROUNDING:
            found.append("min_accuracy")
        if request.max_core_ms is not None and opened.core_ms > request.max_core_ms + ROUNDING:
            found.append("max_core_ms")
        return tuple(found)

    def has_own_deadline(self, request: Request) -> bool:
        """Whether a request is due before the objective of its class, or of the service, says."""
        latency_s = request.deadline_s - request.arrived_s + request.elapsed_s
        return latency_s < self._slo_s(request) - ROUNDING

    def _slo_s(self, request: Request) -> float:
        slo_class = self._service.classes.get(request.slo_class)
        return self._service.slo_s if slo_class is None else slo_class.slo_s

    def _search(self, legs: Sequence[Leg], limits: Limits, aim: Aim, now_s: float) -> Route | None:
        return Search(legs, self.accuracies, limits, aim, now_s=now_s).run()

    def _legs(self, request: Request, now_s: float, *, is_idle: bool = False) -> list[Leg]:
        """All of a request that has not begun."""
        legs, is_planned = [], not is_bounded(request)
        for stage in self._stages:
            rows = ceil(request.rows * stage.fan_out)
            options = options_at(
                stage, rows, request.bucket, now_s=now_s, is_idle=is_idle, is_planned=is_planned
            )
            legs.append(Leg(stage, tuple(options)))
        return legs

    # Of a request that is open.

    def onward(
        self, opened: OpenRequest, ledger: Ledger, now_s: float, without: Piece | None = None
    ) -> list[Leg]:
        """What is left of an open request, but for one piece."""
        legs = []
        for stage in self._stages:
            visit = opened.visits.get(stage.name)
            rows = ceil(opened.request.rows * stage.fan_out) if visit is None else waiting_rows(visit)
            if without is not None and visit is without.visit:
                rows -= without.rows
            done = ""
            if visit is not None and visit.has_run:
                done = visit.variant or ledger.variants.get(stage.name, "")
            wanted = ledger.route.get(stage.name, "") or (done if ledger.is_accurate else "")
            options = options_at(stage, rows, opened.request.bucket, now_s=now_s) if rows > 0 else []
            if wanted:
                options = [option for option in options if option.variant == wanted] or options
            legs.append(Leg(stage, tuple(options), done, ledger.done_s.get(stage.name, 0.0)))
        return legs

    def open_to(self, stage: StageState, chosen: Mapping[str, str], min_accuracy: float) -> tuple[str, ...]:
        """Variants of a stage with which a request could still be accurate enough; () if all of them."""
        key = (stage.name, tuple(chosen.items()), min_accuracy)
        found = self._open_to.get(key)
        if found is None:
            legs = [
                Leg(s, () if s.name in chosen else self._any[s.name], chosen.get(s.name, ""))
                for s in self._stages
            ]
            found = tuple(
                variant.name
                for variant in stage.variants
                if reachable(_with(legs, stage, variant.name), self.accuracies, min_accuracy)
            )
            found = () if len(found) == len(stage.variants) else found or NO_VARIANT
            if len(self._open_to) >= CACHE_MAX:
                self._open_to.clear()
            self._open_to[key] = found
        return found


class Ledger:
    """The bounds of one open request, and what they leave.

    Args:
        bounds: of the service.
        opened: the request.

    Attributes:
        is_accurate: it has a least accuracy.
        max_core_ms: most core-milliseconds; infinite without such a bound, or when it was given up.
        variants: that answered it, or are about to, by stage.
        done_s: when what runs at a stage is expected to end.
        route: variants that it was given to be still in time (`reroutes`), by stage.
    """

    __slots__ = (
        "_bounds",
        "_opened",
        "_spent_core_ms",
        "done_s",
        "is_accurate",
        "max_core_ms",
        "route",
        "variants",
    )

    def __init__(self, bounds: Bounds, opened: OpenRequest) -> None:
        request = opened.request
        self._bounds = bounds
        self._opened = opened
        self._spent_core_ms: dict[tuple[str, int], float] = {}
        self.is_accurate = request.min_accuracy is not None
        self.max_core_ms = inf if request.max_core_ms is None else request.max_core_ms
        self.variants: dict[str, str] = {}
        self.done_s: dict[str, float] = {}
        self.route: dict[str, str] = {}

    def variants_at(self, visit: Visit) -> tuple[str, ...]:
        """Variants that may run what waits of a visit; () for any."""
        stage = visit.stage
        wanted = self.route.get(stage.name)
        if wanted:
            return (wanted,)
        min_accuracy = self._opened.request.min_accuracy
        if min_accuracy is None:
            return ()
        if visit.has_run and stage.name in self.variants:
            return (self.variants[stage.name],)
        return self.variants_behind(stage)

    def variants_behind(self, stage: StageState) -> tuple[str, ...]:
        """Variants of a stage with which the request could still be accurate enough; () for any."""
        min_accuracy = self._opened.request.min_accuracy
        if min_accuracy is None:
            return ()
        chosen = {name: variant for name, variant in self.variants.items() if name != stage.name}
        return self._bounds.open_to(stage, chosen, min_accuracy)

    def core_ms_left(
        self, piece: Piece, variant: str, cores: float, finish_s: float, *, now_s: float
    ) -> float:
        """Most core-milliseconds that a piece may cost; -inf if no way onward keeps to the bounds.

        Args:
            piece: that waits.
            variant: in a batch of this one,
            cores: on so many cores,
            finish_s: which ends then.
            now_s: now.
        """
        opened, stage = self._opened, piece.visit.stage
        legs = self._bounds.onward(opened, self, now_s, without=piece)
        beside = 0.0
        for index, leg in enumerate(legs):
            if leg.stage is stage:
                if leg.options:
                    rows = waiting_rows(piece.visit) - piece.rows
                    beside = alone_core_ms(stage, variant, piece.bucket, rows, cores)[0]
                legs[index] = Leg(stage, (), variant, max(leg.done_s, finish_s))
        limits = limits_of(opened.request, opened.due_s)._replace(
            max_core_ms=self.max_core_ms - sum(self._spent_core_ms.values(), 0.0) - beside
        )
        aim: Aim = "any" if limits.max_core_ms == inf else "core_ms"
        route = Search(legs, self._bounds.accuracies, limits, aim, now_s=now_s).run()
        return -inf if route is None else limits.max_core_ms - route.core_ms

    def reconsider(self, *, now_s: float) -> bool:
        """Give up the bound on cost if there is no way to keep to it, whenever; True if it was given up."""
        if self.max_core_ms == inf:
            return False
        left = self.max_core_ms - sum(self._spent_core_ms.values(), 0.0)
        limits = Limits(inf, self._opened.request.min_accuracy or 0.0, left)
        legs = self._bounds.onward(self._opened, self, now_s)
        search = Search(legs, self._bounds.accuracies, limits, "any", now_s=now_s)
        if search.run() is not None or search.gave_up:
            return False
        self.max_core_ms = inf
        return True

    def took(self, piece: Piece, variant: str, finish_s: float, core_ms: float) -> None:
        """A piece runs, and is expected to cost so much."""
        name = piece.visit.stage.name
        self.variants[name] = variant
        self.done_s[name] = max(finish_s, self.done_s.get(name, 0.0))
        self._spent_core_ms[name, piece.row_start] = core_ms

    def reroute(self, piece: Piece, *, now_s: float) -> bool:
        """Find the most accurate way in which a piece's request is in time, once; False if there is none.

        There must be room: at other stages the request runs behind all that waits there.
        """
        if self.route:
            return False
        legs = [
            leg if leg.stage is piece.visit.stage else _behind_others(leg, piece.bucket, now_s)
            for leg in self._bounds.onward(self._opened, self, now_s)
        ]
        limits = limits_of(self._opened.request, self._opened.due_s)
        route = Search(legs, self._bounds.accuracies, limits, "accuracy", now_s=now_s).run()
        if route is None:
            return False
        self.route = route.variants
        return True


def limits_of(request: Request, due_s: float) -> Limits:
    """A request's bounds, of the whole of it."""
    return Limits(
        due_s, request.min_accuracy or 0.0, inf if request.max_core_ms is None else request.max_core_ms
    )


def waiting_rows(visit: Visit) -> int:
    """Rows of a visit that do not run and are not done."""
    return sum(piece.rows for piece in visit.pieces if not piece.is_running)


def _with(legs: Sequence[Leg], stage: StageState, variant: str) -> list[Leg]:
    return [Leg(leg.stage, (), variant) if leg.stage is stage else leg for leg in legs]


def _behind_others(leg: Leg, bucket: int, now_s: float) -> Leg:
    """A stage's options, each behind what waits there: as long as all its replicas take for that."""
    rows, rate_rps = leg.stage.queue.rows, leg.stage.capacity.rate_rps(bucket)
    if not rows or not rate_rps:
        return leg
    later = [option._replace(free_s=max(option.free_s, now_s) + rows / rate_rps) for option in leg.options]
    return Leg(leg.stage, tuple(later), leg.done, leg.done_s)
