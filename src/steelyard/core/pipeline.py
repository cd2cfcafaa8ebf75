"""How requests move through the stages of a service, and what runs again when outputs are lost.

A request visits each stage once, as soon as all stages that come before it there are done. Between two stages
it takes nothing but the outputs of the first, which stay with the replicas that made them:

1. A stage's outputs are needed by a request until every stage that follows has done its part of it. Those
   that belong to the answer (`Service.answers`) are needed until the request ends.
2. A batch in flight has taken its inputs. So outputs that are lost are made again only if they belong to the
   answer, or if a stage that follows has not begun with all of its pieces; what waits there is held up
   meanwhile.
3. What runs again needs its own inputs: stages before it whose outputs are gone run again first.
4. A stage that takes items has as many rows of a request as their maker has counted, over all batches of it.
   Without any, its part is done when it begins: nothing runs there, and there are no outputs. More than fit
   into its queue are shed (`overflows`): admission could only guess how many there would be.
5. Items that are made again may be others: more or fewer of them, or another variant's, which need not even
   come in the same order. A stage that takes them begins anew if nothing has run there. Otherwise rows of
   both makings would meet in one answer, and the request fails (`contradicted`).
"""

from collections.abc import Mapping

from steelyard.core.errors import SpecError
from steelyard.core.inputs import made_from, rows_at
from steelyard.core.plan import ServicePlan
from steelyard.core.stage import StageState
from steelyard.core.types import Service, ServiceTimes, Stage
from steelyard.core.work import OpenRequest, Piece, Visit


def make_stages(
    service: Service, service_times: Mapping[str, ServiceTimes], plan: ServicePlan | None
) -> dict[str, StageState]:
    """The stages of a service, linked, in its order.

    Raises:
        SpecError: there is no stage; two have one name; one has no service times or comes after a stage that
            is unknown or not before it; fan-outs, items or answers are not as `Stage` and `Service` say.
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
        if not stage.items_of and (stage.fan_out < 1 or stage.fan_out % 1):
            raise SpecError(f"{where} has a fan-out of {stage.fan_out:g}, want a whole number of at least 1")
        if stage.items_of and stage.fan_out <= 0:
            raise SpecError(f"{where} has a fan-out of {stage.fan_out:g}, want more than 0")
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
        _take_items(stage, state, where)
        state.read = [source for source in state.sources if any(i.stage == source.name for i in stage.inputs)]
        state.place = len(stages)
        state.slo_s = service.slo_s
        state.weigh({name: known.weight for name, known in service.classes.items()})
        stages[stage.name] = state
    for name in service.answers or (service.stages[-1].name,):
        if name not in stages:
            raise SpecError(
                f"service {service.name}: is answered by {name}, which is unknown; "
                f"known: {', '.join(sorted(known))}"
            )
        stages[name].is_answer = True
    for state in reversed(stages.values()):
        for follower in state.followers:
            state.remaining.precede(follower.remaining)
            state.behind += [s for s in (follower, *follower.behind) if s not in state.behind]
    return stages


def _take_items(stage: Stage, state: StageState, where: str) -> None:
    """Link a stage to the one whose items it takes, if it takes any.

    Raises:
        SpecError: it does not come after that one, or that one takes items itself.
    """
    if not stage.items_of:
        return
    maker = next((source for source in state.sources if source.name == stage.items_of), None)
    if maker is None:
        raise SpecError(f"{where} takes items of {stage.items_of}, which it is not after")
    if maker.maker is not None:
        raise SpecError(
            f"{where} takes items of {stage.items_of}, which takes items of {maker.maker.name} itself: "
            "want items of a stage that has the request's rows"
        )
    state.take_items_of(maker)


def enter(opened: OpenRequest, stages: list[StageState]) -> None:
    """Let a new request wait in the stages that take its own inputs."""
    request = opened.request
    for stage in stages:
        visit = Visit(opened, stage, request.rows * stage.rows_each, request.arrived_s)
        opened.visits[stage.name] = visit
        stage.begin(visit)


def advance(visit: Visit, finished_s: float, *, queue_s: float, service_s: float) -> list[Visit]:
    """A visit is done: let the request wait in the stages that had only this one to wait for.

    Args:
        visit: done, and `contradicted` by nothing that follows.
        finished_s: when its last piece was done.
        queue_s: seconds the request has waited until then, on the path of what was done last.
        service_s: seconds it was served, on the same path.

    Returns:
        The visits that are done with it: itself, and those behind it that have no items.
    """
    ended = [visit]
    opened = visit.open
    for stage in visit.stage.followers:
        follower = opened.visits.get(stage.name)
        if follower is None:
            if all(is_done_at(opened, source.name) for source in stage.sources):
                rows = rows_at(stage, opened)
                begun = Visit(opened, stage, rows, finished_s, queue_s, service_s)
                ended += _begin(begun)
        elif not follower.is_done:
            if stage.maker is visit.stage and follower.made_from != made_from(stage, opened):
                ended += _begin_anew(follower)
            for piece in [piece for piece in follower.pieces if piece.is_held_up]:
                wait(piece)
    return ended


def is_done_at(opened: OpenRequest, name: str) -> bool:
    """Whether a request is done at a stage."""
    visit = opened.visits.get(name)
    return visit is not None and visit.is_done


def contradicted(visit: Visit) -> str:
    """Which stage has worked on other items than those that a visit, which is done, has; empty if none has.

    Only for a visit whose stage makes items; rule 5.
    """
    opened = visit.open
    for stage in visit.stage.followers:
        if stage.maker is not visit.stage or not _has_run(opened, stage):
            continue
        if opened.visits[stage.name].made_from != made_from(stage, opened):
            return stage.name
    return ""


def overflows(visit: Visit) -> bool:
    """Whether the items that a visit has made are more than a stage that is to take them has room for."""
    return any(
        stage.queue.rows + rows_at(stage, visit.open) > stage.queue_rows_max
        for stage in visit.stage.followers
        if stage.maker is visit.stage and not _has_run(visit.open, stage)
    )


def _has_run(opened: OpenRequest, stage: StageState) -> bool:
    visit = opened.visits.get(stage.name)
    return visit is not None and (visit.is_done or visit.has_run)


def _begin(visit: Visit) -> list[Visit]:
    """Let a request wait at a stage; returns the visits that are done at once."""
    visit.open.visits[visit.stage.name] = visit
    if visit.stage.claims.by_id:
        visit.stage.claims.drop(visit.open.request.id)
    if visit.stage.maker is not None:
        visit.made_from = made_from(visit.stage, visit.open)
        if not visit.rows:
            return _pass_by(visit)
    visit.stage.begin(visit)
    return []


def _begin_anew(visit: Visit) -> list[Visit]:
    """A visit of which nothing has run has other items now; returns the visits that are done at once."""
    stage = visit.stage
    visit.rows = rows_at(stage, visit.open)
    visit.made_from = made_from(stage, visit.open)
    is_alone = any(piece.alone for piece in visit.pieces)
    visit.pieces.clear()
    if not visit.rows:
        return _pass_by(visit)
    piece = stage.whole(visit)
    piece.is_held_up = True
    if is_alone:
        piece.isolate()
    visit.pieces.append(piece)
    return []


def _pass_by(visit: Visit) -> list[Visit]:
    """A visit without rows is done."""
    visit.is_done = True
    visit.open.stages_left -= 1
    return advance(visit, visit.arrived_s, queue_s=visit.queue_s, service_s=visit.service_s)


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
            if follower is None:
                continue
            follower.spans = None
            for piece in follower.pieces:
                if piece.is_queued:
                    stage.queue.remove(piece)
                    piece.is_held_up = True
    visit.pieces.extend(pieces)
    for piece in pieces:
        wait(piece)


def is_needed(visit: Visit) -> bool:
    """Whether the outputs of a visit that is done would be made again if they were lost."""
    if visit.stage.is_answer:
        return True
    followers = (visit.open.visits.get(stage.name) for stage in visit.stage.followers)
    return any(
        follower is None or any(not piece.is_running for piece in follower.pieces) for follower in followers
    )


def is_used_up(visit: Visit) -> bool:
    """Whether nobody takes the outputs of a visit any more: every stage that follows has done its part."""
    return not visit.stage.is_answer and all(
        is_done_at(visit.open, stage.name) for stage in visit.stage.followers
    )
