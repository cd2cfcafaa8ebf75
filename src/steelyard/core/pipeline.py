"""How requests move through the stages of a service, and what runs again when outputs are lost.

A request visits each stage once, as soon as all stages that come before it there are done. Between two stages
it takes nothing but the outputs of the first, which stay with the replicas that made them:

1. A stage's outputs are needed by a request until every stage that follows has done its part of it. Those of
   a stage that nothing follows belong to the answer and are needed until the request ends.
2. A batch in flight has taken its inputs. So outputs that are lost are made again only if a stage that
   follows has not begun with all of its pieces; what waits there is held up meanwhile.
3. What runs again needs its own inputs: stages before it whose outputs are gone run again first.
"""

from collections.abc import Mapping

from steelyard.core.errors import SpecError
from steelyard.core.plan import ServicePlan
from steelyard.core.stage import StageState
from steelyard.core.types import Service, ServiceTimes
from steelyard.core.work import OpenRequest, Piece, Visit


def make_stages(
    service: Service, service_times: Mapping[str, ServiceTimes], plan: ServicePlan | None
) -> dict[str, StageState]:
    """The stages of a service, linked, in its order.

    Raises:
        SpecError: there is no stage; two have one name; one has no service times or comes after a stage that
            is unknown or not before it.
    """
    if not service.stages:
        raise SpecError(f"service {service.name}: want at least one stage")
    known = {stage.name for stage in service.stages}
    stages: dict[str, StageState] = {}
    for stage in service.stages:
        where = f"service {service.name}: stage {stage.name}"
        if stage.name in stages:
            raise SpecError(f"{where} is there twice")
        if stage.name not in service_times:
            raise SpecError(f"{where} has no service times")
        if stage.fan_out < 1:
            raise SpecError(f"{where} has a fan-out of {stage.fan_out}, want at least 1")
        planned = plan.stages.get(stage.name) if plan else None
        state = StageState(stage, service_times[stage.name], planned, queue_rows_max=service.queue_rows_max)
        for source in dict.fromkeys(stage.after):
            if source not in known:
                raise SpecError(
                    f"{where} is after {source}, which is unknown; known: {', '.join(sorted(known))}"
                )
            if source not in stages:
                raise SpecError(
                    f"{where} is after {source}, which does not come before it: want another order"
                )
            stages[source].followers.append(state)
            state.sources.append(stages[source])
        stages[stage.name] = state
    for state in reversed(stages.values()):
        for follower in state.followers:
            state.remaining.precede(follower.remaining)
    return stages


def enter(opened: OpenRequest, stages: list[StageState]) -> None:
    """Let a new request wait in the stages that take its own inputs."""
    for stage in stages:
        _begin(Visit(opened, stage, opened.request.arrived_s))


def advance(visit: Visit, finished_s: float, *, queue_s: float, service_s: float) -> None:
    """A visit is done: let the request wait in the stages that had only this one to wait for.

    Args:
        visit: done.
        finished_s: when its last piece was done.
        queue_s: seconds the request has waited until then, on the path of what was done last.
        service_s: seconds it was served, on the same path.
    """
    visits = visit.open.visits
    for stage in visit.stage.followers:
        follower = visits.get(stage.name)
        if follower is not None:
            for piece in [piece for piece in follower.pieces if piece.is_held_up]:
                wait(piece)
        elif all(source.name in visits and visits[source.name].is_done for source in stage.sources):
            _begin(Visit(visit.open, stage, finished_s, queue_s=queue_s, service_s=service_s))


def _begin(visit: Visit) -> None:
    stage = visit.stage
    visit.open.visits[stage.name] = visit
    piece = stage.whole(visit)
    visit.pieces.append(piece)
    stage.enqueue(piece)


def wait(piece: Piece) -> None:
    """Let a piece wait again; what it needs of the stages before it and is gone is made again first."""
    opened, stage = piece.open, piece.visit.stage
    piece.is_held_up = False
    for source in stage.sources:
        visit = opened.visits[source.name]
        if visit.is_done and not visit.has_outputs:
            make_again(visit)
        if not visit.is_done:
            piece.is_held_up = True
    if not piece.is_held_up:
        stage.enqueue(piece)


def make_again(visit: Visit) -> None:
    """Let those pieces of a visit wait again whose outputs are lost, or all if none are kept.

    What waits for the outputs in the stages that follow is held up until they are there again.
    """
    pieces, visit.lost = visit.lost or [visit.stage.whole(visit)], []
    if visit.is_done:
        visit.is_done = False
        visit.open.stages_left += 1
        for stage in visit.stage.followers:
            follower = visit.open.visits.get(stage.name)
            for piece in follower.pieces if follower is not None else ():
                if piece.is_queued:
                    stage.queue.remove(piece)
                    piece.is_held_up = True
    visit.pieces.extend(pieces)
    for piece in pieces:
        wait(piece)


def is_needed(visit: Visit) -> bool:
    """Whether the outputs of a visit that is done would be made again if they were lost."""
    if not visit.stage.followers:
        return True
    followers = (visit.open.visits.get(stage.name) for stage in visit.stage.followers)
    return any(
        follower is None or any(not piece.is_running for piece in follower.pieces) for follower in followers
    )


def is_used_up(visit: Visit) -> bool:
    """Whether every stage that follows has done its part of the request."""
    visits = visit.open.visits
    return bool(visit.stage.followers) and all(
        stage.name in visits and visits[stage.name].is_done for stage in visit.stage.followers
    )
