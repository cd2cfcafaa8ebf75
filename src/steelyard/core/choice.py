"""Which resident variant runs the next batch: the `choice` rules of a plan.

`mix`    the one that lags behind its planned share; a stage with one variant a replica has no choice.
`fit`    the first of the mix, in its order (most accurate first), with which nothing comes too late, else
         the fastest: accuracy is lowered before anything is dropped, and rises again by itself.
`table`  each visit has its variant from when it begins to wait (`assignment`); a replica takes what is
         assigned to its variants. What has none is treated as by `mix`.

A variant *fits* if
1. its batch of what waits (at most the best size) ends by when the head is due, at its 0.99 quantile; and
2. everything behind that batch, dealt out in its order, a best batch at a time, to the replica that is free
   first, ends within `room` of the time that it has: `finish - now <= room * (due - now)`. The replica that
   asks is counted with the first of its variants that is not before this one in the mix, or else its fastest;
   each other one with what it ran last.

So a replica changes its variant only where that changes who is in time, whatever the others do: of many only
as many are lowered as the backlog needs, the last of them for a part of the time.

`room` is `ROOM_KEPT` for the variant that the replica is at and those after, and the smaller `ROOM_TO_RISE`
for those before: a replica that has lowered its accuracy rises when about half of the backlog's time is free
again, so a load at the threshold moves it once in the time that the backlog takes to grow and shrink between
the two, not with every batch. There is no timer, and no memory but what a replica ran last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steelyard.core.lifecycle import Replica
    from steelyard.core.queue import Entry
    from steelyard.core.stage import StageState

ROOM_KEPT = 0.9
"""Share of its time that the backlog may take without lowering accuracy; the rest is for the unforeseen."""

ROOM_TO_RISE = 0.5
"""Share of its time that the backlog may take with a more accurate variant before that one is taken again."""


class Choice:
    """`mix` and `table`: shares decide.

    Args:
        stage: whose variants; its mix is looked up when it is asked.
    """

    def __init__(self, stage: StageState) -> None:
        self._stage = stage

    def ranked(self, bucket: list[Entry], replica: Replica, now_s: float) -> tuple[str, ...]:
        """Resident variants to try on pieces of one key, the preferred one first; at least one."""
        del bucket, now_s
        return self._stage.mix.ranked(replica.variants)

    def took(self, replica: Replica, variant: str) -> None:
        """A batch started on a replica, with this variant."""


class FitChoice(Choice):
    """`fit`: the first variant with which nothing comes too late."""

    def ranked(self, bucket: list[Entry], replica: Replica, now_s: float) -> tuple[str, ...]:
        """The first that fits, then the others; without one that fits, the fastest first."""
        stage = self._stage
        usable = stage.mix.usable(replica.variants)
        if len(usable) == 1:
            return usable
        fastest_first = self._by_rate(usable, bucket, replica)
        present = stage.mix.place(replica.last) if replica.last else 0
        for variant in usable:
            place = stage.mix.place(variant)
            room = ROOM_TO_RISE if place < present else ROOM_KEPT
            if self._fits(variant, place, room, bucket, replica, now_s):
                return (variant, *[other for other in fastest_first if other != variant])
        return fastest_first

    def took(self, replica: Replica, variant: str) -> None:
        """The replica is at this variant now."""
        replica.last = variant

    def _by_rate(self, variants: tuple[str, ...], bucket: list[Entry], replica: Replica) -> tuple[str, ...]:
        """Variants by rows a second at their best batch sizes, the fastest first; ties as planned."""
        capacity, shape = self._stage.capacity, bucket[0][2].bucket
        rates = {variant: capacity.rate_of(variant, shape, replica.cores) for variant in variants}
        return tuple(sorted(variants, key=lambda variant: -rates[variant]))

    def _fits(
        self, variant: str, place: int, room: float, bucket: list[Entry], replica: Replica, now_s: float
    ) -> bool:
        """Whether nothing comes too late with this variant (rules 1 and 2)."""
        stage, head = self._stage, bucket[0][2]
        best, _ = stage.capacity.best(variant, head.bucket, replica.cores)
        rows = served = 0
        for _, _, piece in bucket:
            if rows and rows + piece.rows > best:
                break
            rows += piece.rows
            served += 1
        service_s = stage.estimator.service_s(variant, head.bucket, rows, replica.cores)
        margin_s = stage.estimator.margin_s(variant, head.bucket, rows, replica.cores)
        if now_s + service_s + margin_s > head.due_s:
            return False
        entries = stage.queue.entries
        if served >= len(entries):
            return True
        return not stage.capacity.late(
            entries,
            stage.queue.rows,
            served=served,
            replica=replica,
            busy_s=service_s,
            now_s=now_s,
            place=place,
            room=room,
            count_max=1,
            as_they_are=True,
        )


def make_choice(stage: StageState, present: Choice) -> Choice:
    """The choice that the stage's plan asks for; the present one if it is of that kind."""
    kind = FitChoice if stage.plan.rules.choice == "fit" else Choice
    return present if type(present) is kind else kind(stage)
