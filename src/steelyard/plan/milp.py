"""The planning problem as a mixed-integer program: what the other programs are measured against.

Every option o of a stage s is a binary x(s, o), every stage ends at e(s), in units of the SLO, and where
there are nodes z(s, c, k) replicas of c cores of s are on node k:

    minimise    sum of cost(o) x(s, o)
    subject to  sum over o of x(s, o) = 1                                     one option a stage
                e(s) >= e(u) + sum of time(o) x(s, o), u before s;  e(s) <= 1   every path within the SLO
                sum over k of z(s, c, k) = sum over o of size c of n(o) x(s, o)   every replica on a node
                sum over s, c of c z(s, c, k) <= cores of k                     every node within its cores

Solved by HiGHS (the extra `milp`), which is limited by the nodes of its search tree and by its
gap, never by time: a problem has the same answer on any machine.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from steelyard.core.errors import SteelyardError
from steelyard.plan.answer import obstacle, planned
from steelyard.plan.graph import Solution, longest_path_s
from steelyard.plan.linear import solver
from steelyard.plan.options import StageChoices, choices
from steelyard.plan.problem import Infeasible, PlannedService, PlanProblem

TREE_NODES_MAX = 20_000
GAP = 1e-6
_FEASIBILITY = 1e-9


def solve(
    problem: PlanProblem, *, tree_nodes_max: int = TREE_NODES_MAX, gap: float = GAP
) -> PlannedService | Infeasible:
    """The cheapest plan, with the solver's bound.

    Args:
        problem: may have nodes.
        tree_nodes_max: most nodes of the search tree.
        gap: relative, at which the search ends.

    Raises:
        SteelyardError: highspy is not installed, or the search ended without a plan.
        SpecError: the stages' names or order are wrong, or there is no such wait model.
    """
    every = choices(problem)
    hindrance = obstacle(problem, every)
    if hindrance is not None:
        return hindrance
    return _Model(problem, every).solve(tree_nodes_max, gap)


class _Model:
    """One problem as HiGHS sees it."""

    def __init__(self, problem: PlanProblem, every: Sequence[StageChoices]) -> None:
        self._highspy = solver()
        self._solver = self._highspy.Highs()
        self._solver.silent()
        self._problem = problem
        self._every = every
        self._taken = [
            list(self._solver.addVariables(len(among.cost), type=self._integer, ub=1)) for among in every
        ]
        self._placed: list[dict[tuple[int, int], Any]] = [{} for _ in every]
        for taken in self._taken:
            self._solver.addConstr(self._sum(taken) == 1)
        self._keep_paths_within_slo()
        if problem.nodes:
            self._keep_replicas_within_nodes()

    def solve(self, tree_nodes_max: int, gap: float) -> PlannedService | Infeasible:
        """Run, and read the answer back."""
        for option, value in (
            ("threads", 1),
            ("mip_max_nodes", tree_nodes_max),
            ("mip_rel_gap", gap),
            ("mip_feasibility_tolerance", _FEASIBILITY),
            ("primal_feasibility_tolerance", _FEASIBILITY),
        ):
            self._solver.setOptionValue(option, value)
        self._solver.minimize(
            self._sum(
                float(cost) * variable
                for among, taken in zip(self._every, self._taken, strict=True)
                for cost, variable in zip(among.cost, taken, strict=True)
            )
        )
        status = self._solver.getModelStatus()
        statuses = self._highspy.HighsModelStatus
        if status == statuses.kInfeasible:
            nodes = ", ".join(map(str, self._problem.nodes))
            return Infeasible(self._problem.service, f"cores: no plan fits nodes with {nodes} free")
        if status not in {statuses.kOptimal, statuses.kSolutionLimit} or not self._found():
            said = self._solver.modelStatusToString(status)
            raise SteelyardError(f"the mixed-integer program ended without a plan: {said}")
        return self._answer()

    def _keep_paths_within_slo(self) -> None:
        """End(s) >= end(u) + time(s) for every u before s; end(s) <= 1, in units of the SLO."""
        ends = self._solver.addVariables(len(self._every), lb=0, ub=1 + _FEASIBILITY)
        for stage, needs in enumerate(self._problem.after()):
            took = self._sum(
                float(time_s / self._problem.slo_s) * variable
                for time_s, variable in zip(self._every[stage].time_s, self._taken[stage], strict=True)
            )
            for need in needs:
                self._solver.addConstr(ends[stage] - ends[need] - took >= 0)
            if not needs:
                self._solver.addConstr(ends[stage] - took >= 0)

    def _keep_replicas_within_nodes(self) -> None:
        """Every replica on a node, every node within its cores."""
        used: list[list[Any]] = [[] for _ in self._problem.nodes]
        for among, taken, placed in zip(self._every, self._taken, self._placed, strict=True):
            for size in map(int, np.unique(among.cores)):
                for node in range(len(self._problem.nodes)):
                    placed[size, node] = self._solver.addVariable(lb=0, type=self._integer)
                    used[node].append(size * placed[size, node])
                here = self._sum(placed[size, node] for node in range(len(self._problem.nodes)))
                wanted = self._sum(
                    int(among.replicas[option]) * taken[option]
                    for option in map(int, np.flatnonzero(among.cores == size))
                )
                self._solver.addConstr(here - wanted == 0)
        for cores, terms in zip(self._problem.nodes, used, strict=True):
            self._solver.addConstr(self._sum(terms) <= cores)

    def _answer(self) -> PlannedService:
        picked = tuple(int(np.argmax(self._values(taken))) for taken in self._taken)
        times = [float(among.time_s[o]) for among, o in zip(self._every, picked, strict=True)]
        cost = sum(float(among.cost[o]) for among, o in zip(self._every, picked, strict=True))
        bound = min(cost, float(self._solver.getInfo().mip_dual_bound))
        longest_s = longest_path_s(self._problem.after(), times)
        plan = planned(self._problem, self._every, Solution(picked, longest_s, cost, bound))
        if not self._problem.nodes:
            return plan
        stages = [
            replace(stage, nodes=self._nodes_of(placed, stage.cores))
            for stage, placed in zip(plan.stages, self._placed, strict=True)
        ]
        return replace(plan, stages=tuple(stages))

    def _nodes_of(self, placed: dict[tuple[int, int], Any], cores: int) -> tuple[int, ...]:
        counts = [round(self._solver.val(placed[cores, node])) for node in range(len(self._problem.nodes))]
        return tuple(node for node, count in enumerate(counts) for _ in range(count))

    def _values(self, taken: list[Any]) -> list[float]:
        return [self._solver.val(variable) for variable in taken]

    def _found(self) -> bool:
        return bool(self._solver.getInfo().primal_solution_status == self._highspy.kSolutionStatusFeasible)

    def _sum(self, terms: Any) -> Any:
        return self._highspy.Highs.qsum(terms)

    @property
    def _integer(self) -> Any:
        return self._highspy.HighsVarType.kInteger
