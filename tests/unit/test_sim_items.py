"""Counts of items in a simulation: the mean that was asked for, whoever asks, and in whatever order."""

from math import exp

import pytest

from steelyard.core.commands import Command, RunBatch, Slice
from steelyard.core.events import Event
from steelyard.core.types import Items, RequestId, Service, Stage, Variant
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.items import ItemCounts, stage_items
from steelyard.sim.result import SimulatedRun
from steelyard.sim.run import simulate
from steelyard.sim.scenario import Scenario, SimulatedNode
from steelyard.testing.hash_seeds import HASH_SEEDS, printed
from steelyard.workload.trace import count_trace

VARIANTS = (Variant("v", None, 8, 4),)
REQUESTS = 20_000


def taker(items: Items | None, fan_out: float = 1.0) -> Stage:
    return Stage("read", VARIANTS, ("crop",), fan_out, items_of="crop", items=items)


def counts(items: Items, variant: str = "v", *, seed: int = 1, requests: int = REQUESTS) -> list[int]:
    """Of the first rows of so many requests."""
    drawn = ItemCounts(taker(items), "ocr", seed)
    return [drawn.count(variant, RequestId(0, sequence), 0) for sequence in range(requests)]


class TestDistributions:
    def test_a_whole_fixed_count_is_everybodys(self) -> None:
        assert set(counts(Items({"": 3}, "fixed"))) == {3}

    def test_a_fraction_of_a_fixed_count_is_carried(self) -> None:
        # 0.3: floor((n + 1) 0.3) - floor(n 0.3) is 1 at n = 3 (1.2 after 0.9), 6 (2.1 after 1.8), 9 (3.0).
        assert counts(Items({"": 0.3}, "fixed"), requests=10) == [0, 0, 0, 1, 0, 0, 1, 0, 0, 1]
        assert sum(counts(Items({"": 2.5}, "fixed"), requests=100)) == 250

    def test_rows_of_one_request_carry_it_on(self) -> None:
        drawn = ItemCounts(taker(Items({"": 1.5}, "fixed")), "ocr", 0)
        assert [drawn.count("v", RequestId(0, 0), row) for row in range(4)] == [1, 2, 1, 2]

    def test_poisson_counts_have_their_mean_and_variance_and_zeros(self) -> None:
        drawn = counts(Items({"": 2.0}, "poisson"))
        mean = sum(drawn) / REQUESTS
        variance = sum((count - mean) ** 2 for count in drawn) / REQUESTS
        # Standard errors: sqrt(2 / 20000) = 0.01, and about 2 sqrt(2.5 / 20000) = 0.02.
        assert mean == pytest.approx(2.0, abs=0.05)
        assert variance == pytest.approx(2.0, abs=0.1)
        assert drawn.count(0) / REQUESTS == pytest.approx(exp(-2.0), abs=0.01)

    def test_geometric_counts_have_their_mean_and_a_long_tail(self) -> None:
        drawn = counts(Items({"": 2.0}, "geometric"))
        # With success 1/3: P(0) = 1/3, variance (2/3) / (1/9) = 6, standard error of the mean 0.017.
        assert sum(drawn) / REQUESTS == pytest.approx(2.0, abs=0.08)
        assert drawn.count(0) / REQUESTS == pytest.approx(1 / 3, abs=0.02)

    @pytest.mark.parametrize("distribution", ["poisson", "geometric", "fixed"])
    def test_none_on_average_is_none(self, distribution: str) -> None:
        assert set(counts(Items({"": 0.0}, distribution), requests=50)) == {0}  # type: ignore[arg-type]

    def test_large_means_do_not_underflow(self) -> None:
        drawn = counts(Items({"": 2000.0}, "poisson"), requests=200)
        assert sum(drawn) / 200 == pytest.approx(2000.0, abs=16.0)  # 5 standard errors: 5 sqrt(2000 / 200)

    def test_without_items_the_fan_out_counts(self) -> None:
        drawn = ItemCounts(taker(None, 2.5), "ocr", 0)
        assert [drawn.count("v", RequestId(0, sequence), 0) for sequence in range(4)] == [2, 3, 2, 3]


class TestLuck:
    def test_a_seed_a_request_and_a_row_decide(self) -> None:
        items = Items({"": 5.0}, "poisson")
        assert counts(items, requests=50) == counts(items, requests=50)
        assert counts(items, requests=50) != counts(items, seed=2, requests=50)
        drawn = ItemCounts(taker(items), "ocr", 1)
        assert len({tuple(drawn.count("v", RequestId(0, 7), row) for row in range(20))}) == 1
        assert len({drawn.count("v", RequestId(front, 7), 0) for front in range(20)}) > 1
        assert len({drawn.count("v", RequestId(0, 7), row) for row in range(20)}) > 1

    @pytest.mark.parametrize("distribution", ["poisson", "geometric"])
    def test_the_variant_that_finds_more_finds_at_least_as_many_on_every_row(self, distribution: str) -> None:
        items = Items({"small": 6.1, "tiny": 5.2, "": 4.0}, distribution)  # type: ignore[arg-type]
        small, tiny, other = (counts(items, variant, requests=500) for variant in ("small", "tiny", "old"))
        assert all(more >= less >= least for more, less, least in zip(small, tiny, other, strict=True))
        assert small != tiny

    def test_another_hash_seed_draws_the_same(self) -> None:
        program = (
            "from steelyard.core.types import *\nfrom steelyard.sim.items import ItemCounts\n"
            "stage = Stage('read', (Variant('v'),), ('crop',), items_of='crop', items=Items({'': 3.0}))\n"
            "drawn = ItemCounts(stage, 'ocr', 5)\n"
            "print([drawn.count('v', RequestId(0, n), 0) for n in range(30)])"
        )
        assert len({printed(program, hash_seed=seed) for seed in HASH_SEEDS}) == 1


class TestStages:
    def test_a_batch_is_counted_row_by_row_for_each_that_takes_items(self) -> None:
        stages = (
            Stage("crop", VARIANTS),
            Stage("read", VARIANTS, ("crop",), items_of="crop", items=Items({"": 2.5}, "fixed")),
            Stage("turn", VARIANTS, ("crop",), items_of="crop", items=Items({"": 1}, "fixed")),
        )
        (maker,) = stage_items(Service("ocr", 0.1, stages), 0).items()
        assert maker[0] == "crop"
        batch = RunBatch(
            1, 1, "crop", "v", 3, (Slice(RequestId(0, 0), 0, 1), Slice(RequestId(0, 1), 1, 2)), 0.01
        )
        # Request 0, row 0: 2; request 1, rows 1 and 2, in places 2 and 3: 7 - 5 = 2 and 10 - 7 = 3.
        assert maker[1].of(batch) == {"read": (2, 2, 3), "turn": (1, 1, 1)}

    def test_a_pipeline_runs_every_item_of_its_requests(self) -> None:
        # Every request has one page of 2.5 lines: 30 requests a second for 4 s have 300.
        run, rows = simulated(Items({"": 2.5}, "fixed"))
        assert run.summaries[0].completed == 120
        assert rows == {"crop": 120, "read": 300, "page": 120}

    def test_a_page_without_lines_is_answered_too(self) -> None:
        run, rows = simulated(Items({"": 0.25}, "fixed"))
        assert run.summaries[0].completed == 120
        assert rows == {"crop": 120, "read": 30, "page": 120}


def simulated(items: Items) -> tuple[SimulatedRun, dict[str, int]]:
    """A chain in the middle of which items run, under no pressure; with the rows that each stage ran."""
    rows: dict[str, int] = {}

    def record(machine: str, now_s: float, event: Event, commands: list[Command]) -> None:
        del machine, now_s, event
        for command in commands:
            if isinstance(command, RunBatch):
                rows[command.stage] = rows.get(command.stage, 0) + command.rows

    stages = (
        Stage("crop", VARIANTS),
        Stage("read", VARIANTS, ("crop",), items.mean[""], items_of="crop", items=items),
        Stage("page", VARIANTS, ("crop", "read")),
    )
    latency = {"v": DeclaredLatency((1.0, 1.0, 0.0, 1.0))}
    scenario = Scenario(
        {"ocr": Service("ocr", 0.5, stages)},
        tuple(StageTimes("ocr", stage.name, (), latency) for stage in stages),
        {"ocr": count_trace([30] * 4)},
        "static",
        {"replicas": 2},
        (SimulatedNode("local", 8),),
    )
    return simulate(scenario, journal=record), rows
