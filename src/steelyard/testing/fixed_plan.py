"""A policy that wants one given plan for ever: for tests and theory, where the rules are what is studied."""

from collections.abc import Callable

from steelyard.core.plan import Decision, Grants, Plan, ServicePlan
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.policies.base import PolicyContext

RECHECK_S = 3600.0


class FixedPlan:
    """Decides on the same plan whenever it is asked, and never reacts."""

    name = "fixed"
    solve_s = 0.0
    reacts = False

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing, ever."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """The plan."""
        return Decision(self._plan, snapshot.now_s + RECHECK_S, "fixed")


def fixed(*plans: ServicePlan) -> Callable[[PolicyContext], FixedPlan]:
    """A factory of policies that want these plans."""
    return lambda _: FixedPlan(Plan({plan.service: plan for plan in plans}))
