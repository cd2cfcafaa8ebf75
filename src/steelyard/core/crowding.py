"""Stages at which requests are lost that others have worked on, and what those leave them from then on.

As a rule a request is due at a stage so early that the fastest single row behind it would still be in time
(`remaining`). That sheds nobody who could be answered, but where a stage behind is short of capacity, whoever
came at the last moment is lost there, or makes its batches small. So, by the rule `drop: early`:

- A stage is *crowded* that has lost more than `LOST_SHARE` of the requests which came to it from others,
  within `LOOK_S`. Before it, requests are due earlier by what its plan spends there
  (`StagePlan.budget_s`) instead of the least; a request whose own time is less than the objective, by that
  part of it. Who cannot be there in time is shed where it is cheapest.
- It stays crowded until the service has lost or refused nobody for `CALM_S`: what the rule has cured would
  come back at once without it.

A few losses, as at the onset of a surge, are no reason: there it would shed some who could be answered.
"""

from collections.abc import Iterable

from steelyard.core.stage import StageState

LOST_SHARE = 0.1
LOOK_S = 1.0
CALM_S = 1.0


class Crowding:
    """The crowded stages of one service.

    Args:
        stages: its stages.
    """

    def __init__(self, stages: Iterable[StageState]) -> None:
        self._watched = {stage.place: stage for stage in stages if stage.sources}
        self._crowded: list[StageState] = []
        self._ran = dict.fromkeys(self._watched, 0)
        self._lost = dict.fromkeys(self._watched, 0)
        self._look_s = self._calm_s = float("-inf")

    def ran(self, stage: StageState, pieces: int) -> None:
        """A batch of so many pieces begins at a stage."""
        if stage.place in self._ran:
            self._ran[stage.place] += pieces

    def lost(self, stage: StageState, *, now_s: float) -> None:
        """A request was shed at a stage."""
        self._calm_s = now_s + CALM_S
        if stage.place in self._lost:
            self._lost[stage.place] += 1

    def refused(self, *, now_s: float) -> bool:
        """A request could not be admitted; whether that may be for what is left to crowded stages."""
        self._calm_s = now_s + CALM_S
        return bool(self._crowded)

    def look(self, *, now_s: float) -> None:
        """Which stages are crowded now? At each window's end."""
        if now_s >= self._look_s:
            self._look_s = now_s + LOOK_S
            for place, stage in self._watched.items():
                lost, self._lost[place] = self._lost[place], 0
                ran, self._ran[place] = self._ran[place], 0
                if lost > LOST_SHARE * (lost + ran):
                    self._crowd(stage)
        if self._crowded and now_s > self._calm_s:
            for stage in self._crowded:
                stage.remaining.reserve(0.0)
            self._crowded.clear()

    def _crowd(self, stage: StageState) -> None:
        budget_s = stage.plan.budget_s
        if budget_s is not None and stage.plan.rules.drop == "early":
            stage.remaining.reserve(budget_s)
            if stage not in self._crowded:
                self._crowded.append(stage)
