"""The placement of families on devices: against enumeration, and its own rules by hand."""

import sys
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from steelyard.core.errors import SteelyardError
from steelyard.plan.linear import Program
from steelyard.plan.proteus import (
    UNSERVED,
    Family,
    Hosted,
    Key,
    ProteusProblem,
    Slot,
    assign,
    capacity_rps,
    flows_rps,
    solve,
    spread,
)

SMALL = Hosted("small", "cpu", 0.8, 10.0)
LARGE = Hosted("large", "cpu", 1.0, 4.0)


def problem(*demands_rps: float, cpus: int = 4) -> ProteusProblem:
    families = tuple(Family(f"f{i}", demand, (LARGE, SMALL)) for i, demand in enumerate(demands_rps))
    return ProteusProblem(families, {"cpu": cpus})


def test_accuracy_is_given_up_only_where_devices_do_not_suffice() -> None:
    assert solve(problem(16.0)).counts == {("f0", "large"): 4}  # 4 devices x 4 rows = 16: just enough
    # 20 rows on 4 devices: 3 large ones carry 12, the small one the other 8; two small ones are not needed
    found = solve(problem(20.0))
    assert found.counts == {("f0", "large"): 3, ("f0", "small"): 1}
    assert found.flows_rps == {("f0", "large"): 12.0, ("f0", "small"): pytest.approx(8.0)}
    assert found.accuracy == pytest.approx((12 * 1.0 + 8 * 0.8) / 20)
    assert found.unserved_rps == {}


def test_no_family_is_left_without_a_device() -> None:
    """40 rows of f0 would take all four devices; f1's 2 rows cost it one."""
    found = solve(problem(40.0, 2.0))
    assert found.counts == {("f0", "small"): 3, ("f1", "large"): 1}
    assert solve(replace(problem(40.0, 2.0), serves_all=False)).counts == {("f0", "small"): 4}
    assert set(solve(problem(40.0, 2.0, 1.0, cpus=2)).counts.values()) == {1}  # two of three: no more there


def test_what_cannot_be_served_is_said() -> None:
    found = solve(problem(50.0))  # 4 small devices carry 40
    assert found.counts == {("f0", "small"): 4}
    assert found.unserved_rps == {"f0": pytest.approx(10.0)}


def test_only_devices_with_rows_to_answer_are_taken_and_spread_uses_the_others() -> None:
    asked = problem(4.0, 2.0)
    found = solve(asked)
    assert found.counts == {("f0", "large"): 1, ("f1", "large"): 1}
    # f0 is at 4 / 4, f1 at 2 / 4: the third device goes to f0 (then 4 / 8); at 1/2 each the first named wins
    wide = spread(asked, found)
    assert sum(wide.counts.values()) == 4
    assert wide.counts["f0", "large"] >= 2
    assert wide.accuracy == found.accuracy == 1.0


def test_spread_never_lowers_accuracy() -> None:
    """The gpu that is left can host only what is less accurate than what answers the family now."""
    weak = Hosted("weak", "gpu", 0.5, 100.0)
    family = Family("f", 4.0, (LARGE, weak))
    asked = ProteusProblem((family,), {"cpu": 1, "gpu": 1})
    found = solve(asked)
    assert spread(asked, found).counts == found.counts == {("f", "large"): 1}


def test_a_fixed_placement_is_kept() -> None:
    asked = replace(problem(8.0, 8.0), placement={("cpu", "f0"): 3, ("cpu", "f1"): 1})
    found = solve(asked)
    assert found.counts == {("f0", "large"): 2, ("f1", "small"): 1}
    assert spread(asked, found).counts == {("f0", "large"): 3, ("f1", "small"): 1}


def test_a_kind_that_a_placement_does_not_name_is_not_to_be_had() -> None:
    gpu = Hosted("large@gpu", "gpu", 1.0, 50.0)
    families = tuple(Family(name, 4.0, (LARGE, gpu)) for name in ("f", "g"))
    fixed = ProteusProblem(families, {"cpu": 2, "gpu": 1}, placement={("gpu", "f"): 1, ("cpu", "g"): 2})
    assert spread(fixed, solve(fixed)).counts == {("f", "large@gpu"): 1, ("g", "large"): 2}


def test_of_equals_the_one_that_changes_least() -> None:
    """Two kinds that do the same: 3 rows fit one device of either."""
    twins = tuple(Hosted(f"v@{kind}", kind, 1.0, 4.0) for kind in ("a", "b"))
    asked = ProteusProblem((Family("f", 3.0, twins),), {"a": 1, "b": 1})
    for kind in ("a", "b"):
        found = solve(replace(asked, present={("f", f"v@{kind}"): 1}))
        assert found.counts == {("f", f"v@{kind}"): 1}


def test_a_family_at_hand_changes_its_variant_for_nothing() -> None:
    """One device, 3 rows: fine (4 a second) gains 0.001 over plain, which it hosts; a change costs 0.01."""
    variants = (Hosted("plain", "a", 0.999, 4.0), Hosted("fine", "a", 1.0, 4.0))
    asked = ProteusProblem((Family("f", 3.0, variants),), {"a": 1}, {("f", "plain"): 1})
    assert solve(asked).counts == {("f", "plain"): 1}
    assert solve(replace(asked, hosts_families=True)).counts == {("f", "fine"): 1}
    other = replace(asked, present={("g", "plain"): 1}, hosts_families=True)
    assert solve(other).counts == {("f", "fine"): 1}  # it changes anyway


def test_flows_fill_the_most_accurate_first_and_equals_evenly() -> None:
    twins = (Hosted("a", "x", 1.0, 6.0), Hosted("b", "y", 1.0, 3.0), Hosted("c", "y", 0.5, 10.0))
    family = Family("f", 6.0, twins)
    counts: dict[Key, int] = {("f", "a"): 1, ("f", "b"): 1, ("f", "c"): 1}
    assert flows_rps(family, counts) == {("f", "a"): 4.0, ("f", "b"): 2.0, ("f", "c"): 0.0}  # 6 : 3
    assert flows_rps(replace(family, demand_rps=12.0), counts)["f", "c"] == pytest.approx(3.0)


@st.composite
def tiny(draw: st.DrawFn) -> ProteusProblem:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    kinds = {"cpu": int(rng.integers(1, 4)), "gpu": int(rng.integers(0, 3))}
    families = []
    for index in range(int(rng.integers(1, 3))):
        variants = tuple(
            Hosted(f"{name}@{kind}", kind, accuracy, float(rng.integers(1, 12)))
            for name, accuracy in (("big", 1.0), ("small", float(rng.uniform(0.5, 0.95))))
            for kind in kinds
            if rng.random() < 0.8
        )
        families.append(Family(f"f{index}", float(rng.integers(1, 30)), variants))
    return ProteusProblem(tuple(families), kinds, change=0.0, serves_all=False)


def value(asked: ProteusProblem, counts: dict[Key, int]) -> float:
    """Objective of a hosting: with devices given, each family fills its most accurate ones first."""
    keyed, total = asked.keyed(), 0.0
    for family in asked.families:
        flows = flows_rps(family, counts)
        total += sum(rate * keyed[key].accuracy for key, rate in flows.items())
        total -= UNSERVED * (family.demand_rps - sum(flows.values()))
    return total


def enumerated(asked: ProteusProblem) -> float:
    """The best objective over all ways to fill the devices."""
    keyed, best = asked.keyed(), -1e9
    for numbers in product(*(range(asked.devices[one.kind] + 1) for one in keyed.values())):
        used: Counter[str] = Counter()
        for one, number in zip(keyed.values(), numbers, strict=True):
            used[one.kind] += number
        if all(used[kind] <= there for kind, there in asked.devices.items()):
            best = max(best, value(asked, dict(zip(keyed, numbers, strict=True))))
    return best


@settings(max_examples=40, deadline=None)
@given(tiny())
def test_as_good_as_enumeration(asked: ProteusProblem) -> None:
    found = solve(asked, gap=0.0)
    assert value(asked, found.counts) == pytest.approx(enumerated(asked), rel=1e-5, abs=1e-4)
    wide = spread(asked, found)
    assert value(asked, wide.counts) >= value(asked, found.counts) - 1e-6
    for counts in (found.counts, wide.counts):
        for kind, there in asked.devices.items():
            assert sum(n for key, n in counts.items() if asked.keyed()[key].kind == kind) <= there
    for family in asked.families:
        served = sum(rate for key, rate in found.flows_rps.items() if key[0] == family.name)
        assert served <= capacity_rps(asked, found.counts)[family.name] + 1e-6
        assert served + found.unserved_rps.get(family.name, 0.0) == pytest.approx(family.demand_rps)


SLOTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["cpu", "gpu"]), st.sampled_from([None, "v", "w"])),
    max_size=8,
)


@given(SLOTS, st.data())
def test_as_many_slots_as_possible_keep_what_they_host(
    drawn: list[tuple[str, str, str | None]], data: st.DataObject
) -> None:
    slots = [Slot(node, kind, (kind, present) if present else None) for node, kind, present in drawn]
    kinds = {(kind, name): kind for kind in ("cpu", "gpu") for name in ("v", "w", "x")}
    counts: dict[Key, int] = {}
    for kind in ("cpu", "gpu"):
        free = sum(slot.kind == kind for slot in slots)
        for name in ("v", "w", "x"):
            counts[kind, name] = data.draw(st.integers(0, free))
            free -= counts[kind, name]
    hosts = assign(counts, kinds, slots)
    assert Counter(host for host in hosts if host) == Counter({k: n for k, n in counts.items() if n})
    assert all(host is None or kinds[host] == slot.kind for host, slot in zip(hosts, slots, strict=True))
    present = Counter(slot.present for slot in slots)
    kept = sum(host is not None and host == slot.present for host, slot in zip(hosts, slots, strict=True))
    assert kept == sum(min(number, present[key]) for key, number in counts.items())  # no more is possible


def test_a_program_without_a_solution() -> None:
    program = Program()
    column = program.column(1.0, most=1.0)
    program.row({column: 1.0}, least=2.0)
    assert program.solve() is None


def test_without_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(SteelyardError, match=r"needs highspy: pip install '\.\[milp\]' in a clone"):
        solve(problem(1.0))
