"""The mixed-integer program and the others, on the same seeded problems: equal, or the gap is told."""

import sys

import numpy as np
import pytest
from msgspec.structs import replace

from steelyard.core.errors import SteelyardError
from steelyard.plan import joint, milp
from steelyard.plan.check import violations
from steelyard.plan.options import choices
from steelyard.plan.problem import Infeasible, PlannedService, PlanProblem, PlanStage, Prices, Table, tabulate


def random_table(rng: np.random.Generator) -> Table:
    a, b, c, d = rng.uniform((5, 0, 0, 0), (60, 8, 40, 20)).tolist()
    return tabulate(lambda rows, cores: (a * rows / cores + b * rows + c / cores + d) / 1000, 4, 4)


def random_problem(rng: np.random.Generator) -> PlanProblem:
    """A feasible problem of 2 to 4 stages with prices for switching; no nodes yet."""
    stages = [
        PlanStage(
            f"s{index}",
            random_table(rng),
            after=tuple(f"s{need}" for need in range(index) if rng.random() < 0.5),
            present=tuple(int(cores) for cores in rng.integers(1, 5, rng.integers(0, 3))),
        )
        for index in range(int(rng.integers(2, 5)))
    ]
    problem = PlanProblem(
        "s", tuple(stages), float(rng.uniform(5, 40)), 100.0, extra_replicas_max=2, prices=Prices(start=0.5)
    )
    least_s = joint.solve(replace(problem, slo_s=1e-6))
    assert isinstance(least_s, Infeasible)
    assert least_s.nearest_slo_s is not None
    return replace(problem, slo_s=least_s.nearest_slo_s * float(rng.uniform(1.0, 2.0)))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_as_cheap_as_the_mixed_integer_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_problem(rng)
    free = joint.solve(problem)
    assert isinstance(free, PlannedService)
    split = sorted(rng.integers(0, free.cores + 3, 2).tolist())
    nodes = tuple(cores for cores in (split[0], split[1] - split[0], free.cores + 2 - split[1]) if cores > 0)
    for setting in (problem, replace(problem, nodes=nodes)):
        ours, exact = joint.solve(setting), milp.solve(setting)
        if isinstance(exact, Infeasible):
            assert isinstance(ours, Infeasible)
            continue
        assert isinstance(ours, PlannedService)
        assert violations(setting, exact) == violations(setting, ours) == []
        assert ours.cost_bound <= exact.cost + 1e-6 <= ours.cost + 2e-6
        assert ours.cost == pytest.approx(exact.cost)


def test_the_same_obstacles_as_the_others() -> None:
    stage = PlanStage("a", ((0.1,),))
    late = PlanProblem("s", (stage,), 5.0, 0.05, wait="none")
    assert milp.solve(late) == joint.solve(late)
    few = replace(late, slo_s=1.0, arrival_rate_rps=25.0, nodes=(2,))
    answer = milp.solve(few)
    assert isinstance(answer, Infeasible)
    assert answer.binding == "cores: no plan fits nodes with 2 free"
    assert len(choices(few)[0].cost) == 1


def test_a_missing_solver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    problem = PlanProblem("s", (PlanStage("a", ((0.1,),)),), 5.0, 1.0, wait="none")
    with pytest.raises(SteelyardError, match=r"needs highspy: pip install '\.\[milp\]' in a clone"):
        milp.solve(problem)
