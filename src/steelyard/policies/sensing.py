"""What policies read off a snapshot: rates over the latest windows, and the replicas that are wanted."""

from steelyard.core.plan import ReplicaPlan, StagePlan
from steelyard.core.snapshot import ReplicaView, ServiceView, StageWindow
from steelyard.core.types import Stage


def rows_in_last(view: ServiceView, seconds: float, *, now_s: float) -> tuple[int, float]:
    """Rows that arrived in windows which began within the last `seconds`, and the seconds they cover."""
    since_s = now_s - seconds - 1e-6
    rows, covered_s = 0, 0.0
    for window in reversed(view.windows):
        if window.from_s < since_s:
            break
        rows += window.arrival_rows
        covered_s += window.to_s - window.from_s
    return rows, covered_s


def rate_over(view: ServiceView, seconds: float, *, now_s: float) -> float:
    """Rows a second over the last `seconds`; without windows, the last whole second's count, else 0.

    If the latest window alone is longer (the server stood still meanwhile), the rate of that window.
    """
    rows, covered_s = rows_in_last(view, seconds, now_s=now_s)
    if covered_s <= 0 and view.windows:
        last = view.windows[-1]
        rows, covered_s = last.arrival_rows, last.to_s - last.from_s
    if covered_s > 0:
        return rows / covered_s
    return float(view.arrival_rows_by_second[-1]) if view.arrival_rows_by_second else 0.0


def latest_stage(view: ServiceView, stage: str) -> StageWindow | None:
    """The stage at the end of the latest window, or None before the first."""
    if not view.windows:
        return None
    return next((s for s in view.windows[-1].stages if s.stage == stage), None)


def counted_fan_out(view: ServiceView, stage: Stage) -> float:
    """Rows that a stage is given for each row of a request: counted if it takes items, else as planned.

    What is planned may be a guess, or nothing at all where a spec does not say; what is counted is 8 rows of
    the plan and then the latest 256 or so (`core.item_mean`).
    """
    latest = latest_stage(view, stage.name)
    return stage.fan_out if latest is None or latest.fan_out is None else latest.fan_out


def live_replicas(view: ServiceView, stage: str) -> list[ReplicaView]:
    """Replicas of a stage that are not on their way out."""
    return [r for r in view.replicas if r.stage == stage and r.state != "draining"]


def wanted_replicas(view: ServiceView, stage: str) -> tuple[ReplicaPlan, ...]:
    """Replicas that the present plan wants; none before the first plan."""
    if view.desired is None:
        return ()
    plan: StagePlan | None = view.desired.stages.get(stage)
    return plan.replicas if plan is not None else ()
