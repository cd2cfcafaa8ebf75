"""Batches on parts of cores: when they end, reckoned by hand."""

import pytest

from steelyard.core.snapshot import CoreShare
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.draws import Durations
from steelyard.sim.kernel import Kernel, Kind
from steelyard.sim.lending import LentCores

ONE_S = DeclaredLatency(coefficients_ms=(0.0, 1000.0, 0.0, 0.0), distribution="fixed")
"""A row takes a second on one core, and on more: 1000 b ms."""


class Day:
    """A kernel with lent cores; `ended_s` says when each replica's batches ended."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.lent = LentCores(self.kernel)
        self.durations = Durations(StageTimes("s", "a", declared={"v": ONE_S}), 0)
        self.ended_s: dict[int, list[float]] = {}

    def start(self, at_s: float, replica_id: int, *shares: CoreShare, node: str = "n") -> None:
        """Let a replica run one row from `at_s` on."""
        self.kernel.schedule(at_s, Kind.ARRIVAL, self._run, (replica_id, node, shares))

    def _run(self, what: tuple[int, str, tuple[CoreShare, ...]]) -> None:
        replica_id, node, shares = what

        def done() -> None:
            self.ended_s.setdefault(replica_id, []).append(round(self.kernel.now_s, 9))

        self.lent.run(replica_id, node, shares, self.durations, "v", 1, stretch=1.0, done=done)

    def run(self) -> dict[int, list[float]]:
        self.kernel.run()
        return self.ended_s


def part(fraction: float, core_id: int = 0) -> CoreShare:
    return CoreShare(core_id, fraction)


def test_who_is_alone_has_the_whole_core() -> None:
    day = Day()
    day.start(0.0, 1, part(0.25))
    assert day.run() == {1: [1.0]}


def test_each_has_its_part_while_all_run() -> None:
    day = Day()
    day.start(0.0, 1, part(0.75))
    day.start(0.0, 2, part(0.25))
    # The first has 3/4 and ends at 4/3 s. By then the second has done 1/3; it does the rest alone: 4/3 + 2/3.
    assert day.run() == {1: [pytest.approx(4 / 3)], 2: [2.0]}


def test_parts_that_nobody_has_are_lent_in_proportion() -> None:
    day = Day()
    day.start(0.0, 1, part(0.25))
    day.start(0.0, 2, part(0.25))
    # A quarter each, half of the core each while both run.
    assert day.run() == {1: [2.0], 2: [2.0]}


def test_one_that_comes_later_slows_the_other_from_then_on() -> None:
    day = Day()
    day.start(0.0, 1, part(0.5))
    day.start(0.5, 2, part(0.5))
    # 1 has half done at 0.5 s and needs a second more for the rest; then 2 has half left and the core.
    assert day.run() == {1: [1.5], 2: [2.0]}


def test_other_cores_and_other_nodes_are_no_neighbours() -> None:
    day = Day()
    day.start(0.0, 1, part(0.5))
    day.start(0.0, 2, part(0.5, core_id=1))
    day.start(0.0, 3, part(0.5), node="m")
    assert day.run() == {1: [1.0], 2: [1.0], 3: [1.0]}


def test_a_batch_spreads_no_further_than_its_cores_round_up_to() -> None:
    day = Day()
    # Halves of two cores make one core; alone it could have both, and one thread cannot use them.
    day.start(0.0, 1, part(0.5), part(0.5, core_id=1))
    assert day.run() == {1: [1.0]}


def test_a_lost_batch_never_ends_and_slows_nobody() -> None:
    day = Day()
    day.start(0.0, 1, part(0.5))
    day.start(0.0, 2, part(0.5))
    day.kernel.schedule(1.0, Kind.REPLICA, day.lent.drop, 2)
    # Half done at 1 s, the rest alone.
    assert day.run() == {1: [1.5]}


def test_work_is_conserved() -> None:
    day = Day()
    for replica_id, fraction in enumerate((0.1, 0.2, 0.3, 0.4)):
        day.start(0.0, replica_id, part(fraction))
    # Four seconds of work on one core that is never idle; the larger part ends first.
    ended_s = day.run()
    assert list(ended_s) == [3, 2, 1, 0]
    assert ended_s[0] == [pytest.approx(4.0)]
