"""A linear program with whole numbers in it, solved by HiGHS (the extra `milp`).

    maximise    sum of gain(j) x(j)
    subject to  least(i) <= sum of a(i, j) x(j) <= most(i)   for every row
                0 <= x(j) <= most(j), some of them whole     for every column

The search is limited by the nodes of its tree and by its gap, never by time: a problem has the same answer on
any machine.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from steelyard.core.errors import SteelyardError, how_to_install

TREE_NODES_MAX = 2_000
GAP = 1e-4
INFINITY = float("inf")


class Optimum(NamedTuple):
    """A solution: the value of each column, its gain, and what no solution gains more than."""

    values: tuple[float, ...]
    gain: float
    bound: float


def solver() -> Any:
    """The module `highspy`; imported only where it is asked for: it is optional, and takes 60 ms.

    Raises:
        SteelyardError: it is not installed.
    """
    try:
        import highspy
    except ImportError as error:
        message = f"the mixed-integer program needs highspy: {how_to_install('milp')}"
        raise SteelyardError(message) from error
    return highspy


class Program:
    """A program, written down column by column and row by row; more may be added after it was solved."""

    def __init__(self) -> None:
        self._gains: list[float] = []
        self._most: list[float] = []
        self._is_whole: list[bool] = []
        self._starts = [0]
        self._columns: list[int] = []
        self._factors: list[float] = []
        self._bounds: list[tuple[float, float]] = []

    def column(self, gain: float = 0.0, *, most: float = INFINITY, whole: bool = False) -> int:
        """Add a variable; its index."""
        self._gains.append(gain)
        self._most.append(most)
        self._is_whole.append(whole)
        return len(self._gains) - 1

    def row(self, terms: Mapping[int, float], *, least: float = -INFINITY, most: float = INFINITY) -> None:
        """Add a constraint on the sum of factor x column."""
        self._columns += terms
        self._factors += terms.values()
        self._starts.append(len(self._columns))
        self._bounds.append((least, most))

    def solve(self, *, tree_nodes_max: int = TREE_NODES_MAX, gap: float = GAP) -> Optimum | None:
        """The best found; None if there is no solution.

        Args:
            tree_nodes_max: most nodes of the search tree.
            gap: relative, at which the search ends.

        Raises:
            SteelyardError: highspy is not installed, or the search ended without a solution.
        """
        highspy = solver()
        model = highspy.Highs()
        model.silent()
        for option, value in (
            ("threads", 1),
            ("mip_max_nodes", tree_nodes_max),
            ("mip_rel_gap", gap),
        ):
            model.setOptionValue(option, value)
        model.passModel(self._lp(highspy))
        model.run()
        status, statuses = model.getModelStatus(), highspy.HighsModelStatus
        if status in {statuses.kInfeasible, statuses.kUnboundedOrInfeasible}:
            return None
        info = model.getInfo()
        found = info.primal_solution_status == highspy.kSolutionStatusFeasible
        if status not in {statuses.kOptimal, statuses.kSolutionLimit} or not found:
            said = model.modelStatusToString(status)
            raise SteelyardError(f"the mixed-integer program ended without an answer: {said}")
        gained = float(info.objective_function_value)
        bound = float(info.mip_dual_bound) if any(self._is_whole) else gained
        return Optimum(tuple(model.getSolution().col_value), gained, bound)

    def _lp(self, highspy: Any) -> Any:
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self._gains), len(self._bounds)
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_cost_ = np.array(self._gains)
        lp.col_lower_ = np.zeros(len(self._gains))
        lp.col_upper_ = np.array(self._most)
        lp.row_lower_ = np.array([least for least, _ in self._bounds])
        lp.row_upper_ = np.array([most for _, most in self._bounds])
        kinds = highspy.HighsVarType
        lp.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in self._is_whole]
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.array(self._starts, dtype=np.int32)
        lp.a_matrix_.index_ = np.array(self._columns, dtype=np.int32)
        lp.a_matrix_.value_ = np.array(self._factors, dtype=np.float64)
        return lp
