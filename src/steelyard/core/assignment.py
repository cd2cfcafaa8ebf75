"""What a piece may run on, where not everything goes; decided when it begins to wait, as part of its key.

Three things can narrow it (`Terms`):

- `routing: assigned` gives it to one ready replica, in proportion to what the plan's mix makes of the
  replicas: the share of each variant, spread over the replicas that have it by their rates. It is given anew
  when that replica no longer takes batches.
- `choice: table` gives its visit one variant: by `StagePlan.paths` for the variants that answered the request
  at the stages before, else by the mix. Given anew when no replica has that variant (any more).
- Its request's own bounds leave only some variants (`bounds`).

Proportions are kept by smooth weighted round robin: in every turn each candidate earns its share of the rows,
and the one that has earned most pays for all of them. It needs no random numbers, and no candidate is ever
ahead of its share by more than one visit's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from steelyard.core.plan import ASSIGNED_FORMING, StagePlan, VariantShare

if TYPE_CHECKING:
    from steelyard.core.lifecycle import Replica
    from steelyard.core.stage import StageState
    from steelyard.core.work import Piece, Visit

ANYBODY = -1
NOBODY = -2
"""Instead of a replica's id: any may take it; none is there to be given it."""

PATHS_MAX = 1024
"""Paths whose turns are remembered; more than that begin anew."""

K = TypeVar("K")


class Terms(NamedTuple):
    """What a piece may run on.

    Attributes:
        replica_id: only this replica; `ANYBODY`, or `NOBODY` yet.
        variants: only these, the preferred one first; empty: any.
        is_bounded: its request has bounds of its own.
    """

    replica_id: int = ANYBODY
    variants: tuple[str, ...] = ()
    is_bounded: bool = False

    @property
    def key(self) -> str:
        """Pieces of other terms have another one, and so share no batch."""
        return f"\x00{self.replica_id}\x00{','.join(self.variants)}\x00{self.is_bounded}"


ANY = Terms()


class Turns(Generic[K]):
    """Smooth weighted round robin over candidates that may come and go."""

    def __init__(self) -> None:
        self._earned: dict[K, float] = {}

    def take(self, weights: Mapping[K, float], amount: float) -> K:
        """Whose turn it is, of those with weights (at least one, their sum positive); it pays `amount`."""
        total = sum(weights.values(), 0.0)
        earned = {key: self._earned.get(key, 0.0) + amount * weights[key] / total for key in weights}
        turn = max(earned, key=lambda key: earned[key])  # the first of equals
        earned[turn] -= amount
        self._earned = earned
        return turn


class Assignment:
    """Terms of what waits at one stage.

    Args:
        stage: that one.

    Attributes:
        is_asked: pieces without bounds of their own have terms as well.
        is_used: a piece has had terms.
        by_replica: each piece is given to one replica.
        news: replicas to which something was given since somebody looked.
    """

    def __init__(self, stage: StageState) -> None:
        self._stage = stage
        self._replicas: Turns[int] = Turns()
        self._variants: dict[tuple[str, ...], Turns[str]] = {}
        self._shares: dict[tuple[str, ...], dict[str, float]] = {}
        self._by_table = False
        self._before: list[StageState] | None = None
        self._version = self._weighed_version = -1
        self._weights: dict[tuple[int, tuple[str, ...]], dict[int, float]] = {}
        self.is_asked = self.is_used = self.by_replica = False
        self.news: dict[str, None] = {}

    def adopt(self, plan: StagePlan) -> None:
        """Another plan holds; all that waits must be settled again."""
        self.by_replica = plan.rules.routing == "assigned" or plan.rules.forming in ASSIGNED_FORMING
        self._by_table = plan.rules.choice == "table"
        self.is_asked = self.by_replica or self._by_table
        self._shares = {entry.path: _weights_of(entry.shares) for entry in plan.paths}
        self._version = self._weighed_version = -1

    def settle(self, piece: Piece) -> None:
        """Decide a piece's terms, just before it waits."""
        self.is_used = True
        ledger = piece.open.bounds
        variants = ledger.variants_at(piece.visit) if ledger is not None else ()
        if self._by_table and not variants:
            variants = self._by_path(piece.visit)
        replica_id = self._give(piece, variants) if self.by_replica else ANYBODY
        terms = Terms(replica_id, variants, ledger is not None)
        piece.terms = None if terms == ANY else terms
        piece.rekey(piece.alike)
        if self.by_replica:
            self.news[piece.key] = None

    def refresh(self) -> None:
        """Settle anew what its replica or its variant has left, or what nobody was there for."""
        if self._version == self._stage.pool.version:
            return
        stage = self._stage
        self._version = stage.pool.version
        for piece in [piece for piece in stage.queue if piece.terms is not None]:
            assert piece.terms is not None
            if self._is_stale(piece.terms):
                if not self._is_resident(piece.visit.wanted):
                    piece.visit.wanted = ""
                stage.queue.remove(piece)
                stage.enqueue(piece)

    def _is_stale(self, terms: Terms) -> bool:
        """Whether what a piece waits for is not there, or could be by now."""
        if self.by_replica:
            replica = self._stage.pool.get(terms.replica_id)
            if replica is None or not _takes(replica, terms.variants):
                return True
        if terms.is_bounded:
            return False  # what its bounds leave open does not depend on replicas
        return bool(terms.variants) and not self._is_resident(terms.variants[0])

    def _is_resident(self, variant: str) -> bool:
        """Whether a replica has a variant and takes batches, or is going to."""
        return any(variant in replica.variants for replica in self._stage.pool if replica.state != "draining")

    # To one variant.

    def _by_path(self, visit: Visit) -> tuple[str, ...]:
        """The visit's variant, decided when its first piece waits; () leaves it to the mix."""
        if not visit.wanted:
            if self._before is None:
                self._before = _all_before(self._stage)
            # What was skipped for want of items has no variant.
            path = tuple([visit.open.visits[stage.name].variant for stage in self._before])
            shares = self._shares.get(path) or _weights_of(self._stage.mix.shares)
            resident = {name: share for name, share in shares.items() if self._is_resident(name)}
            if not resident:
                return ()
            if path not in self._variants and len(self._variants) >= PATHS_MAX:
                self._variants.clear()
            visit.wanted = self._variants.setdefault(path, Turns()).take(resident, float(visit.rows))
        return (visit.wanted,)

    # To one replica.

    def _give(self, piece: Piece, variants: tuple[str, ...]) -> int:
        if self._weighed_version != self._stage.pool.version:
            self._weighed_version = self._stage.pool.version
            self._weights.clear()
        weights = self._weights.get((piece.bucket, variants))
        if weights is None:
            weights = self._weights[piece.bucket, variants] = self._weigh(piece.bucket, variants)
        return self._replicas.take(weights, float(piece.rows)) if weights else NOBODY

    def _weigh(self, bucket: int, variants: tuple[str, ...]) -> dict[int, float]:
        """Weights of the ready replicas; only of those that have one of `variants`, if any are named."""
        stage = self._stage
        ready = [replica for replica in stage.pool if _takes(replica, variants)]
        weights = {replica.id: 0.0 for replica in ready}
        for share in stage.mix.shares:
            rates = {
                replica.id: stage.capacity.rate_of(share.variant, bucket, replica.cores)
                for replica in ready
                if share.variant in replica.variants and (not variants or share.variant in variants)
            }
            total = sum(rates.values(), 0.0)
            for replica_id, rate in rates.items():
                weights[replica_id] += share.share * rate / total
        if any(weights.values()):
            return {replica_id: weight for replica_id, weight in weights.items() if weight > 0}
        return dict.fromkeys(weights, 1.0)  # nobody has what is planned: whoever is there, alike


def _all_before(stage: StageState) -> list[StageState]:
    """All stages that a stage comes after, in the pipeline's order."""
    found: dict[int, StageState] = {}
    wanted = list(stage.sources)
    while wanted:
        source = wanted.pop()
        found[source.place] = source
        wanted += source.sources
    return [found[place] for place in sorted(found)]


def _takes(replica: Replica, variants: tuple[str, ...]) -> bool:
    """Whether a replica takes batches of one of `variants`, or of any if none are named."""
    resident = replica.variants
    return replica.state == "ready" and any(variant in resident for variant in variants or resident)


def _weights_of(shares: Sequence[VariantShare]) -> dict[str, float]:
    return {share.variant: share.share for share in shares if share.share > 0}
