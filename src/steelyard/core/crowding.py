"""Stages at which requests are lost that others have worked on, and what those leave them from then on.

As a rule a request is due at a stage so early that the fastest single row behind it would still be in time
(`remaining`). That sheds nobody who could be answered, but where a stage behind is short of capacity, whoever
came at the last moment is lost there, or makes its batches small. So, by the rule `drop: early`:

- A stage at which a request is lost that came from another stage is *crowded*. Before it, requests are due
  earlier by what its plan spends there (`StagePlan.budget_s`) instead of the least; a request whose own time
  is less than the objective, by that part of it. Who cannot be there in time is shed where it is cheapest.
- It stays crowded until the service has lost or refused nobody for `CALM_S`: what the rule has cured would
  come back at once without it.
"""

from steelyard.core.stage import StageState

CALM_S = 1.0


class Crowding:
    """The crowded stages of one service."""

    def __init__(self) -> None:
        self._crowded: list[StageState] = []
        self._calm_s = 0.0

    def lost_at(self, stage: StageState, *, now_s: float) -> None:
        """A request was shed at a stage."""
        self._calm_s = now_s + CALM_S
        budget_s = stage.plan.budget_s
        if stage.sources and budget_s is not None and stage.plan.rules.drop == "early":
            stage.remaining.reserve(budget_s)
            if stage not in self._crowded:
                self._crowded.append(stage)

    def refused(self, *, now_s: float) -> bool:
        """A request could not be admitted; whether that may be for what is left to crowded stages."""
        self._calm_s = now_s + CALM_S
        return bool(self._crowded)

    def look(self, *, now_s: float) -> None:
        """Whether it is calm again."""
        if self._crowded and now_s > self._calm_s:
            for stage in self._crowded:
                stage.remaining.reserve(0.0)
            self._crowded.clear()
