"""What a stage could finish, and by when: the sums behind admission, shedding and the verdict "overloaded".

Two views of the same replicas. *Possible* is generous: a live replica with the cores it could be granted
now, a starting one from its expected ready time, a parked one if there are cores to wake it. A request is
refused, or given up as lost, only if even that could not save it. *Present* is strict: cores as they are.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace
from typing import NamedTuple

from steelyard.core.estimate import Estimator
from steelyard.core.kinds import NEVER, Kind, Kinds
from steelyard.core.lifecycle import Replica, ReplicaPool
from steelyard.core.mix import VariantMix
from steelyard.core.queue import Entry

FASTEST = 1 << 30
"""A place behind all variants of a mix: each replica is counted with its fastest."""

ROUNDS_MAX = 64
"""Rounds of batches that the overload check looks through one by one; longer queues in larger steps."""


class Possible(NamedTuple):
    """A replica that could answer something, and its kind: an index into `Kinds.all`."""

    replica: Replica
    kind: int

    def free_s(self, now_s: float) -> float:
        """When it could take a batch."""
        replica = self.replica
        if replica.state == "starting":
            return max(now_s, replica.expected_ready_s)
        batch = replica.batch
        return now_s if batch is None or batch.expected_s < now_s else batch.expected_s


class Outlook(NamedTuple):
    """What the possible replicas can do for a new request.

    Attributes:
        earliest_s: when a batch of it could be finished on the first replica that is free; absolute.
        full_s: when the first best batch could be finished; absolute.
        service_s_least: seconds that a batch of it takes at least.
        rows_possible: rows that can be finished until it is due, at the best batch sizes.
        rate_rps: rows a second of all of them.
    """

    earliest_s: float
    full_s: float
    service_s_least: float
    rows_possible: float
    rate_rps: float


class Capacity:
    """Answers about one stage's replicas, under the mix and the row limit of its plan."""

    def __init__(self, pool: ReplicaPool, estimator: Estimator) -> None:
        self._pool = pool
        self._estimator = estimator
        self._residuals = estimator.residuals
        self._kinds = Kinds(estimator)
        self._possible: list[Possible] = []
        self._starting: list[Possible] = []
        self._pool_version = -1
        self._times_version = -1
        self._least_s_of: dict[tuple[int, int], float] = {}
        self._fastest_of: dict[tuple[int, int, float], str] = {}
        self._mix = VariantMix(())
        self._cores_grantable = 0.0

    def adopt(self, mix: VariantMix) -> None:
        """Another plan holds; the estimator knows its limits of rows already."""
        self._mix = mix
        self._pool_version = -1

    def grant(self, cores: float) -> None:
        """So many cores could be had now, on top of those the replicas have."""
        self._cores_grantable = cores
        self._pool_version = -1

    def possible(self) -> list[Possible]:
        """Replicas that could answer something, in order of appearance."""
        self._refresh()
        return self._possible

    def _refresh(self) -> None:
        """Derive anew what has changed: who is possible with the replicas, times with the corrections."""
        if self._pool_version != self._pool.version:
            self._pool_version = self._pool.version
            self._derive()
        elif self._times_version == self._residuals.version:
            return
        self._times_version = self._residuals.version
        self._kinds.forget()
        self._least_s_of.clear()
        self._fastest_of.clear()

    def _derive(self) -> None:
        """Who is possible, and of which kinds they are."""
        left = self._cores_grantable
        kinds: dict[Kind, int] = {}
        self._possible = []
        for replica in self._pool:
            variants = self._mix.usable(replica.variants)
            if (
                replica.state == "draining"
                or not variants
                or (replica.cores <= 0 and self._cores_grantable <= 0)
            ):
                continue
            usable = self._estimator.cores_usable
            alone = max(usable(name, replica.cores, self._cores_grantable) for name in variants)
            shared = max(usable(name, replica.cores, left) for name in variants)
            left = max(left - (shared - replica.cores), 0.0)
            if shared > 0:
                index = kinds.setdefault(Kind(variants, alone, shared), len(kinds))
                self._possible.append(Possible(replica, index))
        self._starting = [entry for entry in self._possible if entry.replica.state == "starting"]
        self._kinds.adopt(
            list(kinds), [entry.kind for entry in self._possible if entry.replica.state != "starting"]
        )

    def cores_alone(self, entry: Possible) -> float:
        """Cores that a possible replica could have if all that is grantable went to it."""
        return self._kinds.all[entry.kind].cores_alone

    def latest_start_s(self, rows: int, bucket: int, *, due_s: float) -> float:
        """When a batch of `rows` can start at the latest: on the best replica, which may be busy.

        `due_s` itself if no replica is possible; -inf if only replicas are that come too late.
        """
        self._refresh()
        if not self._possible:
            return due_s
        least_s = self._least_s_of.get((rows, bucket))
        if least_s is None:
            least_s = self._least_s_of[rows, bucket] = self._least_s(rows, bucket)
        latest_s = due_s - least_s
        for replica, index in self._starting:
            for variant in self._kinds.all[index].variants:
                cores = self._kinds.all[index].cores_alone
                start_s = due_s - self._estimator.service_s(variant, bucket, rows, cores)
                if replica.expected_ready_s <= start_s:
                    latest_s = max(latest_s, start_s)
        return latest_s

    def latest_start_of_any_s(self, rows: int, bucket: int, *, due_s: float) -> float:
        """The same for a request that may run on whatever is resident, planned or not."""
        self._refresh()
        least_s = NEVER
        for entry in self._possible:
            cores = self._kinds.all[entry.kind].cores_alone
            for variant in entry.replica.variants:
                least_s = min(least_s, self._estimator.service_s(variant, bucket, rows, cores))
        return due_s - least_s if self._possible else due_s

    def _least_s(self, rows: int, bucket: int) -> float:
        """Seconds for a batch of `rows` on the best replica that is not starting; inf if there is none."""
        if rows <= self._kinds.rows_everywhere:
            return self._kinds.soonest(rows, bucket).live_s
        least_s = NEVER
        for kind in self._kinds.live:
            for variant in kind.variants:
                service_s = self._estimator.service_s(variant, bucket, rows, kind.cores_alone)
                if service_s < least_s:
                    least_s = service_s
        return least_s

    def is_ample(self, rows: int, bucket: int, *, rows_before: int, due_s: float, now_s: float) -> bool:
        """Whether `rows` behind `rows_before` are done in time even if no replica is free before all are.

        A bound on `outlook` that looks at no single replica: if this says yes, that does too.
        """
        self._refresh()
        free_s = self._pool.busy_until_s
        if free_s < now_s:
            free_s = now_s
        soonest = self._kinds.soonest(rows, bucket)
        if free_s + soonest.live_s > due_s:
            return False
        return soonest.live_rps * (due_s - free_s) >= rows_before + rows

    def outlook(self, rows: int, bucket: int, *, due_s: float, now_s: float) -> Outlook:
        """What can be done for a new request of `rows` rows by `due_s`; there must be a possible replica."""
        self._refresh()
        rates, soonest = self._kinds.rates(bucket).kinds, self._kinds.soonest(rows, bucket).kinds
        earliest_s = full_s = service_s_least = NEVER
        rows_possible = rate_total = 0.0
        for entry in self._possible:
            (rate, best_s), own_s = rates[entry.kind], soonest[entry.kind]
            free_s = entry.free_s(now_s)
            if free_s + best_s < full_s:
                full_s = free_s + best_s
            if own_s < service_s_least:
                service_s_least = own_s
            if free_s + own_s < earliest_s:
                earliest_s = free_s + own_s
            if due_s > free_s:
                rows_possible += rate * (due_s - free_s)
            rate_total += rate
        return Outlook(earliest_s, full_s, service_s_least, rows_possible, rate_total)

    def rate_rps(self, bucket: int) -> float:
        """Rows a second of all possible replicas at their best batch sizes; 0 without any."""
        total = 0.0
        for entry in self.possible():
            kind = self._kinds.all[entry.kind]
            variant = self._variant(entry.kind, bucket, kind.cores_shared, self._place)
            total += self.rate_of(variant, bucket, kind.cores_shared)
        return total

    def is_overloaded(
        self,
        entries: Sequence[Entry],
        rows: int,
        *,
        served: int,
        replica: Replica,
        busy_s: float,
        now_s: float,
    ) -> bool:
        """Whether somebody behind the first `served` of the queue would be late if those were served first.

        `late` says how that is found out.
        """
        return bool(
            self.late(
                entries,
                rows,
                served=served,
                replica=replica,
                busy_s=busy_s,
                now_s=now_s,
                count_max=1,
            )
        )

    def late(
        self,
        entries: Sequence[Entry],
        rows: int,
        *,
        served: int,
        replica: Replica,
        busy_s: float,
        now_s: float,
        place: int = FASTEST,
        room: float = 1.0,
        count_max: int = ROUNDS_MAX,
        as_they_are: bool = False,
    ) -> list[int]:
        """Who behind the first `served` of the queue would be late if those were served first: places in it.

        The rest is dealt out in its order, a best batch at a time, to the replica that is free first;
        `replica` is busy with the first ones for `busy_s`. What counts is the first, most urgent piece of
        each batch. Where shares decide which variant runs, replicas are counted with the first of theirs.

        Args:
            entries: the queue.
            rows: of the whole queue, for the mean size of a piece.
            served: entries that go first.
            replica: serves them.
            busy_s: how long that takes.
            now_s: now.
            place: where any variant may run, each replica is counted with its first at this place of the mix
                or behind it, else its fastest.
            room: share of the time until it is due within which each must be done.
            count_max: as many are enough.
            as_they_are: only `replica` is counted so, each other one with the variant that it ran last.
        """
        found: list[int] = []
        servers = self._servers(entries[0][2].bucket, replica, busy_s, now_s, place, as_they_are)
        index, count = served, len(entries)
        mean_rows = rows / count
        rounds = (count - served) * mean_rows / max(sum(best for _, _, best, _ in servers), 1)
        batches = 1 + int(rounds / ROUNDS_MAX)
        while index < count:
            free_s, order, best, service_s = servers[0]
            step = max(int(best / mean_rows), 1)
            last = min(index + (batches - 1) * step, count - 1)
            finish_s = free_s + batches * service_s
            if finish_s - now_s > room * (entries[last][2].due_s - now_s):
                found.append(last)
                if len(found) == count_max:
                    break
            heapreplace(servers, (finish_s, order, best, service_s))
            index += batches * step
        return found

    def _servers(
        self, bucket: int, replica: Replica, busy_s: float, now_s: float, place: int, as_they_are: bool
    ) -> list[tuple[float, int, int, float]]:
        """A heap of (free at, order, best rows, seconds for them), over present and starting replicas."""
        if place > self._place:
            place = self._place
        servers = []
        for order, entry in enumerate(self.possible()):
            cores = entry.replica.cores
            if cores <= 0:
                continue
            at = place
            if as_they_are and entry.replica is not replica:
                at = self._mix.place(entry.replica.last) if entry.replica.last else 0
            best, best_s = self.best(self._variant(entry.kind, bucket, cores, at), bucket, cores)
            free_s = now_s + busy_s if entry.replica is replica else entry.free_s(now_s)
            servers.append((free_s, order, best, best_s))
        heapify(servers)
        return servers

    @property
    def _place(self) -> int:
        """Where shares decide which variant runs, the first counts; where any may, the fastest."""
        return FASTEST if self._mix.is_whole else 0

    def _variant(self, kind: int, bucket: int, cores: float, place: int) -> str:
        """The variant that a replica is counted with: its first at `place` or behind, else its fastest."""
        variants = self._kinds.all[kind].variants
        if place == 0 or len(variants) == 1:
            return variants[0]
        if place < FASTEST:
            for variant in variants:
                if self._mix.place(variant) >= place:
                    return variant
        fastest = self._fastest_of.get((kind, bucket, cores))
        if fastest is None:
            fastest = max(variants, key=lambda variant: self.rate_of(variant, bucket, cores))
            self._fastest_of[kind, bucket, cores] = fastest
        return fastest

    def rate_of(self, variant: str, bucket: int, cores: float) -> float:
        """Rows a second of one replica at the best batch size of a variant."""
        best, best_s = self.best(variant, bucket, cores)
        return best / best_s

    def best(self, variant: str, bucket: int, cores: float) -> tuple[int, float]:
        """The batch size of most rows a second, and how long it takes."""
        rows_max = self._estimator.batch_rows_max(variant)
        best = self._estimator.sizes(variant, bucket, cores, rows_max)[-1]
        return best, self._estimator.service_s(variant, bucket, best, cores)
