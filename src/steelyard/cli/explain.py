"""`steelyard explain`: why each decision was taken, and why not the runner-up, from a journal."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.output import JsonOption, check_json, say, write_json
from steelyard.core.commands import RecordDecision
from steelyard.core.errors import JournalError
from steelyard.core.plan import Plan, StagePlan
from steelyard.core.types import Frozen
from steelyard.journal.codec import read
from steelyard.journal.records import Record
from steelyard.sim.decisions import run_of


class Explained(Frozen, frozen=True):
    """One decision, for people and machines.

    Attributes:
        t_s: from the journal's first record on; in a simulated run, from the start of its trace.
        services: the desired state it set, by service and stage; empty where it was left as it was.
        run: policy and seed of the simulated run, `themis, seed 3`; empty for a server's decision.
    """

    t_s: float
    kind: str
    policy: str
    reason: str
    runner_up: str
    services: dict[str, dict[str, list[dict[str, Any]]]]
    run: str = ""


def explain(
    journal: Annotated[
        Path,
        typer.Argument(help="A file of `serve --journal`, `serve --decisions` or `simulate --decisions`."),
    ],
    at: Annotated[
        float | None, typer.Option(min=0, help="Only the decision in force at this second.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Show why each decision was taken, and why the second-best plan was not."""
    check_json(json, journal)
    decisions = list(read_decisions(journal))
    if at is not None:
        in_force = {d.run: d for d in decisions if _wants_something(d) and d.t_s <= at}
        decisions = list(in_force.values())
        if not decisions:
            raise JournalError(f"{journal}: no decision was in force at {at:g} s")
    if json != "-":
        for run, decided in groupby(decisions, key=lambda decision: decision.run):
            if run:
                say(f"{run}:")
            for decision in decided:
                say("\n".join(lines_of(decision)))
        if not decisions:
            say(f"{journal}: no decision yet")
    write_json(json, {"decisions": decisions})


def read_decisions(journal: Path) -> Iterator[Explained]:
    """Every decision of a journal, in order.

    Raises:
        JournalError: the file cannot be read, or is not a journal.
    """
    start_s: float | None = None
    try:
        with journal.open("rb") as file:
            for line in read(_whole(file), name=str(journal)):
                if not isinstance(line, Record):
                    continue
                run = run_of(line.machine)
                start_s = line.now_s if start_s is None else start_s
                for command in line.commands:
                    if isinstance(command, RecordDecision):
                        yield _explained(command, 0.0 if run else start_s, run)
    except OSError as error:
        raise JournalError(f"{journal}: cannot read the journal: {error.strerror}") from None


def lines_of(decision: Explained) -> Iterator[str]:
    """A decision for the terminal: what and why, the desired state, and what it was preferred to."""
    yield f"{decision.t_s:9.3f} s  {decision.kind} by {decision.policy}: {decision.reason}"
    for service, stages in decision.services.items():
        for stage, groups in stages.items():
            replicas = " + ".join(_group_text(group) for group in groups) or "no replica"
            yield f"{'':13}{service}.{stage}: {replicas}"
    if decision.runner_up:
        yield f"{'':13}rather than: {decision.runner_up}"


def _wants_something(decision: Explained) -> bool:
    """Whether it may have changed what is desired: a tick that decided nothing leaves what was."""
    return decision.kind == "react" or (decision.kind == "decide" and bool(decision.services))


def _whole(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that have their end: the last one of a running server may not be written out yet."""
    return (line for line in lines if line.endswith(b"\n"))


def _explained(command: RecordDecision, start_s: float, run: str) -> Explained:
    plan = command.decision.plan if command.decision else None
    return Explained(
        t_s=round(command.at_s - start_s, 6),
        kind=command.kind,
        policy=command.policy,
        reason=command.reason,
        runner_up=command.runner_up,
        services=_allocations(plan) if plan else {},
        run=run,
    )


def _allocations(plan: Plan) -> dict[str, dict[str, list[dict[str, Any]]]]:
    return {
        service: {name: _groups(stage) for name, stage in planned.stages.items()}
        for service, planned in plan.services.items()
    }


def _groups(stage: StagePlan) -> list[dict[str, Any]]:
    """Equal replicas counted together, most cores first."""
    counted = Counter((replica.cores, replica.variants) for replica in stage.replicas)
    return [
        {"variants": list(variants), "replicas": count, "cores": cores, "batch": stage.batch_rows_max}
        for (cores, variants), count in sorted(counted.items(), key=lambda item: (-item[0][0], item[0][1]))
    ]


def _group_text(group: dict[str, Any]) -> str:
    count, cores = group["replicas"], group["cores"]
    has = f"of {cores:g} core{'' if cores == 1 else 's'}" if cores else "parked"
    replicas = f"{count} replica{'' if count == 1 else 's'} {has}"
    return f"{replicas} ({', '.join(group['variants'])}, batch {group['batch']})"
