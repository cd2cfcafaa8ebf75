"""Loki's program and its routing: against enumeration, and their rules by hand."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.core.types import PathAccuracy
from steelyard.plan.loki import (
    LokiPlan,
    LokiProblem,
    Option,
    Task,
    accuracy_of,
    accurate,
    loads_rps,
    published,
    rates_rps,
    solve,
    spread,
)
from steelyard.plan.loki_routing import mix_of, most_accurate_first


def option(name: str, accuracy: float, rate_rps: float) -> Option:
    """Single rows only."""
    return Option(name, accuracy, ((1, 1.0 / rate_rps),))


DETECT = Task("detect", (option("x", 1.0, 10.0), option("n", 0.5, 50.0)))
CARS = Task("cars", (option("big", 1.0, 20.0), option("tiny", 0.8, 100.0)), "detect", {"x": 4.0, "": 1.0})


def problem(
    demand_rps: float, servers: int = 6, *, price: float = 0.01, headroom: float = 1.0
) -> LokiProblem:
    return LokiProblem((DETECT, CARS), demand_rps, 10.0, servers, headroom, price)


def test_the_most_accurate_on_the_fewest_servers_while_they_suffice() -> None:
    # 10 requests: 10 / 10 = 1 server of x; 10 x 4 items / 20 = 2 servers of big
    plan = solve(problem(10.0))
    assert plan.servers == {("detect", "x"): 1, ("cars", "big"): 2}
    assert plan.accuracy == pytest.approx(1.0)
    assert plan == published(problem(10.0))
    assert plan.shares == {
        (("detect", "x"),): pytest.approx(1.0),
        (("detect", "x"), ("cars", "big")): pytest.approx(1.0),
    }
    assert loads_rps(problem(10.0), plan) == {("detect", "x"): 10.0, ("cars", "big"): pytest.approx(40.0)}


def test_a_weaker_detector_costs_less_behind_it() -> None:
    """100 requests on 6 servers. Through n they become 100 items: 2 of n, and 5 of big or 1 of tiny.

    Through x alone they would be 400 items, and 10 servers of x already. So nearly all go through n, and what
    is left of the servers goes to x and to what is behind.
    """
    plan = published(problem(100.0))
    assert plan.unserved == 0.0
    assert plan.servers_used == 6
    assert 0.4 < plan.accuracy < 0.6
    hardware = solve(accurate(problem(100.0)))  # x and big: 0.1 + 0.2 servers a request: 20 on 6 servers
    assert hardware.unserved == pytest.approx(0.8)


def test_a_price_buys_less_accuracy_with_fewer_servers() -> None:
    dear = solve(problem(10.0, price=3.0))  # a server costs 0.5
    assert dear.servers_used == 2
    assert dear.servers == {("detect", "n"): 1, ("cars", "big"): 1} or dear.accuracy < 1.0


def test_of_nearly_equal_plans_the_one_that_changes_least() -> None:
    """Two variants that do the same: 15 rows fit two servers of either; what runs already stays."""
    twins = (option("a", 1.0, 10.0), option("b", 1.0, 10.0))
    asked = LokiProblem((Task("t", twins),), 15.0, 1.0, 3)
    for name in ("a", "b"):
        assert solve(replace(asked, present={("t", name): 2})).servers == {("t", name): 2}


def test_headroom_multiplies_at_every_task() -> None:
    plan = solve(problem(9.0, headroom=1.1))
    # detect 9 x 1.1 = 9.9 of 10; cars 9 x 4 x 1.21 = 43.56: 3 servers of 20
    assert plan.servers == {("detect", "x"): 1, ("cars", "big"): 3}


def test_paths_longer_than_half_the_slo_are_left_out() -> None:
    """X then big take 0.1 + 0.05 s; with an SLO of 0.25 s only 0.125 s may be taken: n then big, 0.07 s."""
    plan = solve(replace(problem(10.0), slo_s=0.25))
    assert {name for name, _ in plan.shares.items() if len(name) == 2} == {
        (("detect", "x"), ("cars", "tiny"))
    }
    with pytest.raises(SpecError, match=r"half of the SLO is 10 ms, the fastest variants .* take 30 ms"):
        solve(replace(problem(10.0), slo_s=0.02))


def test_batches_where_they_pay_and_one_size_a_variant() -> None:
    """Batches of 4 answer 16 rows a second, single rows 10; 30 rows need 2 servers, not 3."""
    task = Task("t", (Option("v", 1.0, ((1, 0.1), (2, 0.2), (4, 0.25))),))
    asked = LokiProblem((task,), 30.0, 1.0, 3)
    plan = solve(asked)
    assert (plan.servers, plan.rows) == ({("t", "v"): 2}, {("t", "v"): 4})
    assert rates_rps(asked, plan) == {("t", "v"): 16.0}


def test_one_size_is_asked_for_where_two_would_be_cheaper() -> None:
    """A long first variant leaves time for single rows behind it only, a short one for batches of 8.

    slow takes 0.3 of 0.5 s, fast 0.1; `read` single rows 0.1 s (10 a second), 8 rows 0.35 s (23 a second).
    """
    first = Task("first", (Option("slow", 1.0, ((1, 0.3),)), Option("fast", 0.9, ((1, 0.1),))))
    second = Task("read", (Option("v", 1.0, ((1, 0.1), (8, 0.35))),), "first")
    asked = LokiProblem((first, second), 12.0, 1.0, 4, price=0.0)
    plan = solve(asked, gap=0.0)
    assert plan.unserved == 0.0
    sizes = {name: rows for name, rows in plan.rows.items() if name[0] == "read"}
    assert len(sizes) == 1  # by name there is one; and its servers carry its rows at that size:
    loads, rates = loads_rps(asked, plan), rates_rps(asked, plan)
    assert all(loads[name] <= count * rates[name] * (1 + 1e-4) for name, count in plan.servers.items())


def test_measured_accuracies_of_paths_come_first() -> None:
    measured = (PathAccuracy({"detect": "x", "cars": "big"}, 0.3),)
    asked = replace(problem(10.0), accuracies=measured)
    assert accuracy_of(asked, (("detect", "x"), ("cars", "big"))) == 0.3
    assert accuracy_of(asked, (("detect", "n"), ("cars", "tiny"))) == pytest.approx(0.4)
    assert ("cars", "tiny") in solve(asked).servers  # 0.8 by the product


def test_spread_uses_every_server_where_it_is_most_needed() -> None:
    asked = problem(10.0)
    plan = spread(asked, solve(asked))
    # x is at 10/10 and big at 40/40; then x at 10/20 and big at 40/60; the last to big: 40/80
    assert plan.servers == {("detect", "x"): 2, ("cars", "big"): 4}


def best_by_vertices(asked: LokiProblem, x: dict[tuple[str, str], int]) -> float:
    """The optimum over the shares of the four paths, servers given: the best feasible vertex."""
    paths = [(a, b) for a in DETECT.options for b in CARS.options]
    rows, bounds = [np.ones(4)], [1.0]
    for task in asked.tasks:
        for one in task.options:
            own = [
                asked.demand_rps * (CARS.items_of(a.name) if task is CARS else 1.0) * (one in (a, b))
                for a, b in paths
            ]
            rows.append(np.array(own))
            bounds.append(x[task.name, one.name] / one.time_s[0][1])
    a_matrix = np.vstack([*rows, -np.eye(4)])
    limits = np.array([*bounds, *np.zeros(4)])
    gain = np.array([100.0 + a.accuracy * b.accuracy for a, b in paths])
    best = 0.0
    for chosen in combinations(range(len(limits)), 4):
        square = a_matrix[list(chosen)]
        if abs(np.linalg.det(square)) > 1e-9:
            point = np.linalg.solve(square, limits[list(chosen)])
            if np.all(a_matrix @ point <= limits + 1e-7):
                best = max(best, float(gain @ point))
    return best


@pytest.mark.long
@settings(max_examples=8, deadline=None)
@given(st.integers(5, 200), st.integers(2, 3))
def test_as_good_as_enumeration(demand_rps: int, servers: int) -> None:
    asked = problem(float(demand_rps), servers, price=0.0)
    names = [(task.name, one.name) for task in asked.tasks for one in task.options]
    exact = max(
        best_by_vertices(asked, dict(zip(names, counts, strict=True)))
        for counts in product(range(servers + 1), repeat=4)
        if sum(counts) == servers
    )
    plan = solve(asked, gap=0.0)
    served = 1.0 - plan.unserved
    assert served * (100.0 + plan.accuracy) == pytest.approx(exact, rel=1e-4)
    assert plan.servers_used <= servers


# Routing


def planned(asked: LokiProblem, **servers: int) -> LokiPlan:
    names = {"x": "detect", "n": "detect", "big": "cars", "tiny": "cars"}
    counts = {(names[variant], variant): count for variant, count in servers.items()}
    return LokiPlan(counts, dict.fromkeys(counts, 1), {}, 1.0, 0.0)


def test_accurate_servers_are_filled_first() -> None:
    """15 requests: x has room for 10, n takes 5. Items: 40 by x, 5 by n; big has room for 20: all for x's."""
    asked = problem(15.0)
    plan = planned(asked, x=1, n=1, big=1, tiny=1)
    tables = most_accurate_first(asked, plan)
    assert tables["detect"] == {(): {"x": pytest.approx(2 / 3), "n": pytest.approx(1 / 3)}}
    assert tables["cars"] == {
        ("x",): {"big": pytest.approx(0.5), "tiny": pytest.approx(0.5)},
        ("n",): {"tiny": pytest.approx(1.0)},
    }
    # 20 rows by big, 20 + 5 by tiny
    assert mix_of(asked, tables, "cars") == {"big": pytest.approx(20 / 45), "tiny": pytest.approx(25 / 45)}


def test_below_plan_accuracy_is_above_it() -> None:
    asked = problem(5.0)
    tables = most_accurate_first(asked, planned(asked, x=1, n=1, big=1, tiny=1))
    assert tables["detect"] == {(): {"x": 1.0}}
    assert tables["cars"] == {("x",): {"big": 1.0}}


def test_what_has_no_room_is_divided_by_servers() -> None:
    """140 requests: x has room for 10 and n for 100; the other 30 are 10 for each of the three servers."""
    asked = problem(140.0)
    shares = most_accurate_first(asked, planned(asked, x=1, n=2, big=1))["detect"][()]
    assert shares == {"x": pytest.approx(20 / 140), "n": pytest.approx(120 / 140)}


def test_a_task_without_servers_has_no_table() -> None:
    asked = problem(5.0)
    tables = most_accurate_first(asked, planned(asked, x=1))
    assert tables["cars"] == {}
    assert mix_of(asked, tables, "cars") == {}


@given(st.floats(1.0, 500.0), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_shares_of_every_path_sum_to_one(demand_rps: float, x: int, n: int, big: int, tiny: int) -> None:
    asked = problem(demand_rps)
    counts = {k: v for k, v in {"x": x, "n": n, "big": big, "tiny": tiny}.items() if v}
    tables = most_accurate_first(asked, planned(asked, **counts))
    for table in tables.values():
        for shares in table.values():
            assert sum(shares.values()) == pytest.approx(1.0)
            assert min(shares.values()) >= 0.0
    mix = mix_of(asked, tables, "detect")
    assert not mix or sum(mix.values()) == pytest.approx(1.0)
