import pytest
from msgspec.structs import replace

from steelyard.plan import joint
from steelyard.plan.check import violations
from steelyard.plan.problem import PlannedService, PlanProblem, PlanStage, Prices, tabulate

STAGE = PlanStage("a", tabulate(lambda rows, cores: 0.05 * (1 + rows) / cores, 2, 2), present=(1,))
PROBLEM = PlanProblem(
    "s",
    (STAGE, replace(STAGE, name="b", after=("a",))),
    30.0,
    0.25,
    wait="fill",
    nodes=(4, 3),
    prices=Prices(start=0.5, resize=0.1),
)


@pytest.fixture
def plan() -> PlannedService:
    solved = joint.solve(PROBLEM)
    assert isinstance(solved, PlannedService)
    return solved


def changed(plan: PlannedService, **values: object) -> PlannedService:
    return replace(plan, stages=(replace(plan.stages[0], **values), *plan.stages[1:]))


def test_a_plan_that_holds(plan: PlannedService) -> None:
    # three replicas of one core each: 3 x 10 rows a second, 100 + 100 ms; of each stage one is there already
    assert [(stage.replicas, stage.cores) for stage in plan.stages] == [(3, 1), (3, 1)]
    assert plan.cost == pytest.approx(6 + 4 * 0.5)
    assert violations(PROBLEM, plan) == []


def test_names(plan: PlannedService) -> None:
    assert violations(PROBLEM, changed(plan, name="c")) == ["the plan has the stages c, b, the problem a, b"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 0}, "stage a: 0 replicas, want 1 to 1000"),
        ({"cores": 3}, "stage a: 3 cores, want 1 to 2"),
        ({"rows": 3}, "stage a: 3 rows, want 1 to 2"),
    ],
)
def test_sizes(plan: PlannedService, values: dict[str, object], said: str) -> None:
    assert violations(PROBLEM, changed(plan, **values)) == [said]


def test_capacity(plan: PlannedService) -> None:
    assert "stage a: carries 20 rows a second of 30" in violations(PROBLEM, changed(plan, replicas=2))


def test_stated_time(plan: PlannedService) -> None:
    found = violations(PROBLEM, changed(plan, time_s=0.09))
    assert "stage a: takes 100 ms, not 90 ms" in found
    assert "the longest path takes 190 ms, not 200 ms" in found


def test_latency(plan: PlannedService) -> None:
    found = violations(replace(PROBLEM, slo_s=0.19), plan)
    assert found == ["b ends after 200 ms, the SLO is 190 ms"]


def test_placement(plan: PlannedService) -> None:
    assert violations(PROBLEM, changed(plan, nodes=(0, 0))) == ["stage a: 2 of 3 replicas have a node"]
    assert violations(PROBLEM, changed(plan, nodes=(0, 0, 7))) == ["node 7: there are 2"]
    crowded = replace(plan, stages=tuple(replace(stage, nodes=(0, 0, 0)) for stage in plan.stages))
    assert violations(PROBLEM, crowded) == ["node 0: 6 cores in use, it has 4"]


def test_stated_cost(plan: PlannedService) -> None:
    assert violations(PROBLEM, replace(plan, cost=6.0, cost_bound=6.0)) == ["the plan costs 8, not 6"]
    assert violations(PROBLEM, replace(plan, cost_bound=9.0)) == ["the plan costs 8, below its bound of 9"]
