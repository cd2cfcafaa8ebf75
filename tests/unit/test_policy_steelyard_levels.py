"""The third axis of the default policy: what accuracy costs, which level a plan is at, what stays resident.

Service times are so many ms a row on one core, whatever the batch.
"""

import msgspec
import pytest

from steelyard.core.accuracy import Accuracies
from steelyard.core.snapshot import BusyCell, NodeView, ServiceView, ServiceWindow
from steelyard.core.types import Objective, PathAccuracy, Service, Stage, Variant
from steelyard.policies.steelyard.aim import RISE, TURN_S, Aim
from steelyard.policies.steelyard.levels import BUSY_MAX, Level, front_of, menus_of
from steelyard.policies.steelyard.residents import replicas_at_most, resident, room_bytes
from steelyard.policies.steelyard.sizing import StageSizing
from steelyard.profile.tables import StageTimes, service_times
from steelyard.profile.types import DeclaredLatency

Of = dict[str, tuple[float, float | None]]
"""(ms a row, accuracy) by variant."""
LARGE_TINY: Of = {"large": (10.0, 0.95), "tiny": (2.0, 0.85)}


def service(*stages: Of, slo_s: float = 0.2, **fields: object) -> Service:
    made = []
    for index, of in enumerate(stages):
        variants = tuple(Variant(name, accuracy, 4, 1) for name, (_, accuracy) in of.items())
        made.append(Stage(f"s{index}", variants, (f"s{index - 1}",) if index else ()))
    return Service("a", slo_s, tuple(made), reply_s=0.0, **fields)  # type: ignore[arg-type]


def levels(*stages: Of, of: Service | None = None) -> list[Level]:
    of = of or service(*stages)
    sizings = {}
    for stage, costs in zip(of.stages, stages, strict=True):
        declared = {
            name: DeclaredLatency((0.0, ms, 0.0, 0.0), distribution="fixed", spread=0.0)
            for name, (ms, _) in costs.items()
        }
        times = service_times(StageTimes("a", stage.name, (), declared))
        sizings[stage.name] = {name: StageSizing(stage, times, name) for name in costs}
    known = Accuracies(of)
    return front_of(of, menus_of(of, sizings, known), known, 4.0, [1.0] * len(stages))


def view(*windows: ServiceWindow) -> ServiceView:
    return ServiceView("a", windows, (), None, ())


def window(at_s: float, **rows: int) -> ServiceWindow:
    """A second in which the only stage answered so many rows by each variant."""
    busy = tuple(BusyCell("s0", name, 1, 1.0, count, 0.01) for name, count in rows.items())
    total = sum(rows.values())
    return ServiceWindow("a", at_s - 1.0, at_s, total, total, total, 0, 0, 0, 0, 0, (), busy)


class TestFront:
    def test_the_most_accurate_comes_first_with_its_cost(self) -> None:
        large, tiny = levels(LARGE_TINY)
        assert (large.variants, large.accuracy) == (("large",), 0.95)
        assert large.core_s == pytest.approx((0.010,))
        assert tiny.core_s == pytest.approx((0.002,))

    def test_what_a_mixture_of_others_beats_does_not_count(self) -> None:
        # half large, half tiny: 0.90 at 6 ms; so 0.89 at 6 ms is not worth it, and 0.91 is
        assert len(levels({**LARGE_TINY, "middle": (6.0, 0.89)})) == 2
        assert len(levels({**LARGE_TINY, "middle": (6.0, 0.91)})) == 3

    def test_dearer_and_less_accurate_never_counts(self) -> None:
        assert [one.variants[0] for one in levels({**LARGE_TINY, "worse": (12.0, 0.94)})] == ["large", "tiny"]

    def test_the_stage_that_loses_least_for_a_core_second_is_lowered_first(self) -> None:
        # first: 0.9 -> 0.8 saves 2 ms; second: 0.95 -> 0.85 saves 8 ms
        found = levels({"a": (4.0, 0.9), "b": (2.0, 0.8)}, LARGE_TINY)
        assert [one.variants for one in found] == [("a", "large"), ("a", "tiny"), ("b", "tiny")]
        assert found[1].accuracy == pytest.approx(0.9 * 0.85)

    def test_a_measured_path_counts_more_than_a_product(self) -> None:
        path = PathAccuracy({"s0": "large"}, 0.5)
        of = service(LARGE_TINY, path_accuracies=(path,))
        assert [one.variants for one in levels(LARGE_TINY, of=of)] == [("tiny",)]

    def test_measured_paths_are_enough(self) -> None:
        unmeasured: Of = {"large": (10.0, None), "tiny": (2.0, None)}
        paths = (PathAccuracy({"s0": "large"}, 0.8), PathAccuracy({"s0": "tiny"}, 0.6))
        found = levels(unmeasured, of=service(unmeasured, path_accuracies=paths))
        assert [(one.variants, one.accuracy) for one in found] == [(("large",), 0.8), (("tiny",), 0.6)]

    def test_a_variant_that_cannot_meet_the_slo_does_not_count(self) -> None:
        of = service(LARGE_TINY, slo_s=0.009)  # a row of the large one takes 10 ms
        assert [one.variants for one in levels(LARGE_TINY, of=of)] == [("tiny",)]

    def test_without_any_that_meets_it_the_fastest_counts(self) -> None:
        assert [one.variants for one in levels(LARGE_TINY, of=service(LARGE_TINY, slo_s=0.001))] == [
            ("tiny",)
        ]

    def test_the_first_variants_are_the_only_level_where_an_accuracy_is_not_known(self) -> None:
        (only,) = levels({"a": (4.0, 0.9), "b": (2.0, None)}, LARGE_TINY)
        assert only.variants == ("a", "large")
        assert only.accuracy == pytest.approx(0.9 * 0.95)

    def test_a_stage_without_a_choice_counts_as_given(self) -> None:
        glue: Of = {"glue": (1.0, None)}
        assert [one.accuracy for one in levels(glue, LARGE_TINY)] == [0.95, 0.85]

    def test_many_stages_are_lowered_one_by_one(self) -> None:
        """4^6 choices are not looked at one by one; ends and order of the front are the same."""
        family: Of = {"a": (10.0, 0.95), "b": (6.0, 0.93), "c": (3.0, 0.9), "d": (1.0, 0.8)}
        found = levels(*[family] * 6, of=service(*[family] * 6, slo_s=2.0))
        assert found[0].variants == ("a",) * 6
        assert found[-1].variants == ("d",) * 6
        costs = [sum(one.core_s) for one in found]
        assert costs == sorted(costs, reverse=True)


class TestAim:
    LARGE = Level(("large",), 0.95, (0.010,))
    TINY = Level(("tiny",), 0.85, (0.002,))

    def choose(
        self, aim: Aim, rate_rps: float, cores: float, *, now_s: float = 0.0, seen: ServiceView | None = None
    ) -> str:
        front = [self.LARGE, self.TINY]
        chosen = aim.choose(front, seen or view(), rate_rps, cores, ratios=(1.0,), step=1.0, now_s=now_s)
        return chosen.variants[0]

    def test_cores_of_a_level_are_whole_steps_below_full(self) -> None:
        # 100 rows/s of 10 ms: 1 core; at 90 % busy 1.11, so 2
        assert self.LARGE.cores(100.0, (1.0,), 1.0) == 2.0
        assert self.LARGE.cores(100.0, (1.0,), 0.25) == 1.25
        assert self.LARGE.cores(100.0 * BUSY_MAX, (2.0,), 1.0) == 2.0  # twice as slow as profiled

    def test_with_cores_for_it_the_most_accurate_level(self) -> None:
        assert self.choose(Aim(service(LARGE_TINY)), 90.0, 1.0) == "large"

    def test_without_them_the_data_plane_mixes_from_the_level_that_lacks_them(self) -> None:
        assert self.choose(Aim(service(LARGE_TINY)), 400.0, 1.0) == "large"  # tiny: 0.89 cores
        assert self.choose(Aim(service(LARGE_TINY)), 500.0, 1.0) == "tiny"  # 1.1 cores: too dear as well

    def test_weights_choose_the_largest_sum(self) -> None:
        # 180 rows/s: 2 cores, or 1; 0.95 - 2 w against 0.85 - w: equal at w = 0.1
        for weight, expected in ((0.09, "large"), (0.11, "tiny")):
            aim = Aim(service(LARGE_TINY, objective=Objective(weights=(1.0, weight, 0.0))))
            assert self.choose(aim, 180.0, 8.0) == expected

    def test_a_more_accurate_level_is_reckoned_at_a_higher_rate(self) -> None:
        aim = Aim(service(LARGE_TINY, objective=Objective(weights=(1.0, 0.11, 0.0))))
        assert self.choose(aim, 180.0, 8.0) == "tiny"
        # at 90 rows/s both take one core, and the large one is better; at 90 * RISE it would take two
        assert self.choose(aim, 90.0, 8.0) == "tiny"
        assert self.choose(aim, 90.0 / RISE, 8.0) == "large"
        assert self.choose(aim, 90.0, 8.0) == "large"

    def test_a_floor_takes_turns_around_it(self) -> None:
        """0.90 is half way: turns of the tiny one are paid for by those of the large one."""
        aim = Aim(service(LARGE_TINY, objective=Objective(accuracy_floor=0.90)))
        now_s, chosen, last = 0.0, [], "large"
        for _ in range(40):
            windows = tuple(window(now_s - TURN_S + i + 1.0, **{last: 300}) for i in range(int(TURN_S)))
            last = self.choose(aim, 300.0, 8.0, now_s=now_s, seen=view(*windows))
            chosen.append(last)
            now_s += TURN_S
        mean = sum(0.95 if name == "large" else 0.85 for name in chosen) / len(chosen)
        assert 0.90 <= mean <= 0.92
        assert "tiny" in chosen

    def test_a_turn_holds(self) -> None:
        aim = Aim(service(LARGE_TINY, objective=Objective(accuracy_floor=0.90)))
        assert self.choose(aim, 300.0, 8.0) == "large"
        rich = view(*(window(at_s + 1.0, large=3000) for at_s in range(9)))
        assert self.choose(aim, 300.0, 8.0, now_s=TURN_S - 1.0, seen=rich) == "large"
        assert self.choose(aim, 300.0, 8.0, now_s=TURN_S, seen=rich) == "tiny"

    def test_a_lower_turn_ends_when_it_has_spent_what_there_was(self) -> None:
        """9 s of 3,000 rows at 0.95 leave 27,000 x 0.048 = 1,296; a second of 20,000 at 0.85 takes 1,040."""
        aim = Aim(service(LARGE_TINY, objective=Objective(accuracy_floor=0.90)))
        rich = view(*(window(at_s + 1.0, large=3000) for at_s in range(9)))
        assert self.choose(aim, 300.0, 8.0, now_s=TURN_S, seen=rich) == "tiny"
        surge = [window(TURN_S + 1.0 + i, tiny=20_000) for i in range(2)]
        assert self.choose(aim, 300.0, 8.0, now_s=TURN_S + 1.0, seen=view(surge[0])) == "tiny"
        assert self.choose(aim, 300.0, 8.0, now_s=TURN_S + 2.0, seen=view(*surge)) == "large"

    def test_a_floor_that_all_reach_takes_the_cheapest_and_one_that_none_reaches_the_best(self) -> None:
        low = Aim(service(LARGE_TINY, objective=Objective(accuracy_floor=0.5)))
        assert self.choose(low, 300.0, 8.0) == "tiny"
        high = Aim(service(LARGE_TINY, objective=Objective(accuracy_floor=0.99)))
        assert self.choose(high, 300.0, 8.0) == "large"


class TestResidents:
    ORDER = ("a", "b", "c", "d", "e")
    FREE = dict.fromkeys(ORDER, 0)

    def test_planned_fastest_most_accurate_and_what_is_below(self) -> None:
        assert resident(self.ORDER, "b", self.FREE, 0) == ("a", "b", "c", "e")
        assert resident(self.ORDER[:2], "b", self.FREE, 0) == ("a", "b")

    def test_memory_leaves_out_what_is_needed_least(self) -> None:
        sizes = dict.fromkeys(self.ORDER, 10)
        assert resident(self.ORDER, "b", sizes, 20) == ("b", "e")
        assert resident(self.ORDER, "b", sizes, 5) == ("b",)

    def test_room_is_known_only_if_every_node_says(self) -> None:
        services = {"a": service(LARGE_TINY, LARGE_TINY)}
        node = NodeView("n", 4.0, 4.0, memory_bytes=100)
        assert room_bytes([node], services) == 50
        assert room_bytes([node, msgspec.structs.replace(node, memory_bytes=0)], services) == 0

    def test_replicas_fit_the_room(self) -> None:
        assert replicas_at_most(20, 50, 8) == 2
        assert replicas_at_most(0, 50, 8) == replicas_at_most(20, 0, 8) == 8
        assert replicas_at_most(60, 50, 8) == 1
