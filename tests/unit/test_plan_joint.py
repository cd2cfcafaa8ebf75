import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from steelyard.plan import joint, tight, vertical
from steelyard.plan.check import violations
from steelyard.plan.problem import Infeasible, PlannedService, PlanProblem, PlanStage, Prices, Table, tabulate


def table(alpha: float, beta: float, gamma: float, zeta: float, most: int = 8) -> Table:
    return tabulate(lambda b, c: (alpha * b / c + beta * b + gamma / c + zeta) / 1000, most, most)


YOLO = PlanStage("detect", table(148.8, 37.5, 5.4, -15.5))
RESNET = PlanStage("classify", table(34.7, 2.06, 19.5, 14.3), after=("detect",))
VIDEO = PlanProblem("video", (YOLO, RESNET), 20.0, 0.78, wait="fill")


def feasible(plan: PlannedService | Infeasible) -> PlannedService:
    assert isinstance(plan, PlannedService)
    return plan


def sizes(plan: PlannedService | Infeasible) -> list[tuple[int, int, int]]:
    return [(stage.replicas, stage.cores, stage.rows) for stage in feasible(plan).stages]


def test_more_cores_a_replica_are_for_tight_objectives() -> None:
    # YOLOv5n: 4 of one core or 2 of two (l(1, 2) = 99.1 ms, 10.09/s) cost the same, and two are faster.
    # ResNet18: one core carries 20/s with batches of 3, in 144 ms and 100 ms to fill.
    assert sizes(joint.solve(VIDEO)) == [(2, 2, 1), (1, 1, 3)]
    # Within 140 ms two are not enough beside ResNet18's 43.5 ms on two cores (23/s): 99.1 + 43.5 = 142.6.
    # On three cores l = 35.2 ms: 134.3.
    assert sizes(joint.solve(replace(VIDEO, slo_s=0.14))) == [(2, 2, 1), (1, 3, 1)]


def test_replicas_go_to_nodes() -> None:
    plan = feasible(joint.solve(replace(VIDEO, nodes=(3, 2))))
    assert [stage.nodes for stage in plan.stages] == [(0, 1), (0,)]
    assert plan.gap == 0.0


def test_a_plan_that_does_not_fit_the_nodes_is_made_to() -> None:
    # One replica at 10/s: one core is too slow for 100 ms (120), two (60) fit no node of one core ... and nor
    # does anything else; with a node of two it does, whatever else is there.
    stage = PlanStage("a", tabulate(lambda b, c: 0.12 * b / c, 1, 4))
    problem = PlanProblem("s", (stage, replace(stage, name="b")), 8.0, 0.1, wait="fill")
    assert sizes(joint.solve(replace(problem, nodes=(2, 2)))) == [(1, 2, 1), (1, 2, 1)]
    lost = joint.solve(replace(problem, nodes=(2, 1, 1)))
    assert isinstance(lost, Infeasible)
    assert (
        lost.binding
        == "cores: 1 replica of 2 cores for a, 1 replica of 2 cores for b do not fit nodes with 2, 1, 1 free"
    )
    assert lost.nearest_cores == 5.0  # there are 4, but not where they are needed


def test_cores_that_are_too_few_are_named() -> None:
    short = joint.solve(replace(VIDEO, nodes=(4,)))
    assert isinstance(short, Infeasible)
    assert (short.nearest_cores, short.nearest_slo_s) == (5.0, None)
    assert isinstance(joint.solve(replace(VIDEO, nodes=(5,))), PlannedService)


def test_nodes_smaller_than_the_objective_needs() -> None:
    slow = joint.solve(replace(VIDEO, slo_s=0.234, nodes=(1,) * 20))
    assert isinstance(slow, Infeasible)
    # what one core can do at best, 176.2 + 70.56 ms, and what it takes without limits
    assert slow.nearest_slo_s == pytest.approx(0.24676)
    sizes = "2 replicas of 2 cores for detect, 1 replica of 2 cores for classify"
    assert slow.binding == f"cores: {sizes} do not fit nodes with at most 1 free"
    nothing = joint.solve(replace(VIDEO, nodes=(0, 0)))
    assert isinstance(nothing, Infeasible)
    sizes = "2 replicas of 2 cores for detect, 1 replica of 1 core for classify"
    assert nothing.binding == f"cores: {sizes} do not fit nodes with at most 0 free"
    assert nothing.nearest_cores == 5.0


def test_an_slo_that_nothing_meets_is_not_blamed_on_the_nodes() -> None:
    assert joint.solve(replace(VIDEO, slo_s=0.01, nodes=(16,))) == joint.solve(replace(VIDEO, slo_s=0.01))


def test_a_stage_that_cannot_carry_its_rate_is_named() -> None:
    few = replace(VIDEO, stages=(replace(YOLO, replicas_max=2), RESNET), arrival_rate_rps=100.0)
    answer = joint.solve(few)
    assert isinstance(answer, Infeasible)
    # Two replicas at the best of their operating points, b / l(b, c), by a wait model that uses them fully.
    table = YOLO.service_time_s
    best = max(b / time_s for b, line in enumerate(table, start=1) for time_s in line)
    most = float(answer.binding.removesuffix(" with at most 2 replicas").rpartition(" ")[2])
    assert most == pytest.approx(2 * best, rel=1e-3)
    assert answer.binding.startswith("stage detect: 100 requests a second, at most ")
    # What it names goes, and no more.
    slow = replace(few, slo_s=60.0)
    assert isinstance(joint.solve(replace(slow, arrival_rate_rps=most)), PlannedService)
    assert isinstance(joint.solve(replace(slow, arrival_rate_rps=most * 1.002)), Infeasible)


def test_the_replicas_that_there_are_are_the_limit_of_the_vertical_program() -> None:
    # One replica of 0.04 s / 2 on two cores gives 50 rows a second, which are 25 requests of two rows.
    stage = PlanStage("a", tabulate(lambda b, c: 0.04 / c, 1, 2), fan_out=2.0)
    answer = vertical.solve(PlanProblem("s", (stage,), 30.0, 1.0, wait="none"), (1,))
    assert isinstance(answer, Infeasible)
    assert answer.binding == "stage a: 30 requests a second, at most 25 with at most 1 replica"


def test_what_is_there_stays_if_changing_it_costs_more_than_it_gains() -> None:
    # 4 of one core and 2 of two cost the same, and two are faster; but four are there, and a resize has its
    # price.
    there = replace(VIDEO, stages=(replace(YOLO, present=(1, 1, 1, 1)),))
    assert sizes(joint.solve(there)) == [(2, 2, 1)]
    dear = joint.solve(replace(there, prices=Prices(resize=0.1)))
    assert sizes(dear) == [(4, 1, 1)]
    assert feasible(dear).cost == 4.0


def test_vertical_charges_every_replica() -> None:
    # Two stages alike, one with five replicas: what one core less saves there is five times as much.
    stage = PlanStage("a", tabulate(lambda b, c: 0.04 / c, 1, 2))
    problem = PlanProblem("s", (stage, replace(stage, name="b", after=("a",))), 20.0, 0.06, wait="fill")
    plan = vertical.solve(problem, (5, 1))
    assert sizes(plan) == [(5, 1, 1), (1, 2, 1)]
    assert feasible(plan).cost == 7.0
    assert isinstance(vertical.solve(replace(problem, arrival_rate_rps=60.0), (5, 1)), Infeasible)


def test_nearest_objective_is_one_that_can_be_met() -> None:
    answer = joint.solve(replace(VIDEO, slo_s=0.01))
    assert isinstance(answer, Infeasible)
    assert answer.nearest_slo_s is not None
    feasible(joint.solve(replace(VIDEO, slo_s=answer.nearest_slo_s)))


def test_counting_the_loss_once_is_cheaper_and_keeps_the_objective() -> None:
    three = tuple(
        PlanStage(name, table(40.0, 4.0, 6.0, 2.0), after=after)
        for name, after in (("a", ()), ("b", ("a",)), ("c", ("b",)))
    )
    problem = PlanProblem("s", three, 60.0, 0.25)
    safe, once = feasible(joint.solve(problem)), feasible(tight.solve(problem))
    assert once.cost < safe.cost
    assert tight.late_ratio(problem, safe) < tight.late_ratio(problem, once) <= 0.01
    assert tight.solve(replace(problem, wait="gamma")) == joint.solve(replace(problem, wait="gamma"))


coefficients = st.tuples(
    st.floats(5.0, 80.0), st.floats(0.0, 10.0), st.floats(0.0, 40.0), st.floats(0.0, 20.0)
)


@st.composite
def problems(draw: st.DrawFn) -> PlanProblem:
    count = draw(st.integers(1, 4))
    stages = []
    for index in range(count):
        a, b, c, d = draw(coefficients)
        after = tuple(f"s{need}" for need in range(index) if draw(st.booleans()))
        fan_out = draw(st.sampled_from((1.0, 1.0, 2.0)))
        stages.append(PlanStage(f"s{index}", table(a, b, c, d, most=4), after=after, fan_out=fan_out))
    wait = draw(st.sampled_from(("none", "fill", "gamma", "exponential", "tail")))
    return PlanProblem("s", tuple(stages), draw(st.floats(1.0, 60.0)), draw(st.floats(0.05, 2.0)), wait=wait)


@given(problems(), st.lists(st.integers(1, 12), max_size=4))
def test_every_plan_passes_the_checker(problem: PlanProblem, nodes: list[int]) -> None:
    plan = joint.solve(replace(problem, nodes=tuple(nodes)))
    if isinstance(plan, PlannedService):
        assert violations(replace(problem, nodes=tuple(nodes)), plan) == []
    elif plan.nearest_slo_s is not None:
        assert plan.nearest_slo_s > problem.slo_s
        eased = joint.solve(replace(problem, slo_s=plan.nearest_slo_s))
        assert isinstance(eased, PlannedService)


@given(problems(), st.floats(1.0, 3.0))
def test_a_tighter_objective_is_never_cheaper(problem: PlanProblem, factor: float) -> None:
    loose, strict = joint.solve(replace(problem, slo_s=problem.slo_s * factor)), joint.solve(problem)
    if isinstance(strict, PlannedService):
        assert feasible(loose).cost <= strict.cost + 1e-9


@given(problems(), st.floats(1.0, 3.0))
def test_a_higher_rate_is_never_cheaper(problem: PlanProblem, factor: float) -> None:
    # `tail` and `none` alone: for rows that come faster, batches fill faster, so the others may even gain.
    # How many replicas are looked at is counted from the fewest: without a limit there, cost can only rise.
    problem = replace(problem, wait="tail" if problem.wait == "tail" else "none", extra_replicas_max=40)
    less, more = (
        joint.solve(problem),
        joint.solve(replace(problem, arrival_rate_rps=problem.arrival_rate_rps * factor)),
    )
    if isinstance(more, PlannedService):
        assert feasible(less).cost <= more.cost + 1e-9


@given(problems())
def test_names_change_nothing(problem: PlanProblem) -> None:
    def renamed(name: str) -> str:
        return f"stage {ord(name[-1])}"

    other = replace(
        problem,
        stages=tuple(
            replace(stage, name=renamed(stage.name), after=tuple(map(renamed, stage.after)))
            for stage in problem.stages
        ),
    )
    one, two = joint.solve(problem), joint.solve(other)
    if isinstance(one, PlannedService):
        assert sizes(one) == sizes(two)
