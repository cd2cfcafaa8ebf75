"""`steelyard plan`: one decision of a policy, at a rate, on an empty cluster."""

import time
from collections.abc import Mapping
from itertools import product
from math import inf, isfinite, prod
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from steelyard.cli.groups import Group, groups_of
from steelyard.cli.output import JsonOption, check_json, say, write_json
from steelyard.cli.verdict import alternative, assess, within_reach
from steelyard.config.notices import notices
from steelyard.config.planning import Blueprint, blueprint
from steelyard.config.policy import asked_policy
from steelyard.config.source import nearest
from steelyard.control.ledger import CPU
from steelyard.control.machine import ControlMachine
from steelyard.core.accuracy import Accuracies
from steelyard.core.errors import SpecError, SteelyardError
from steelyard.core.events import NodeJoined, WindowReported
from steelyard.core.plan import ServicePlan
from steelyard.core.snapshot import ClusterSnapshot, ServiceWindow, StageWindow
from steelyard.core.types import Frozen, Service
from steelyard.plan.joint import sizes_text
from steelyard.policies.base import Policy, PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.sim.scenario import WINDOW_S
from steelyard.workload.synth import constant, counts_of

RATE_MAX_RPS = 1e6
CHOICES_MAX = 10_000
"""Combinations of variants over which an accuracy is averaged."""
HISTORY_S = 5
"""Seconds of sensing windows that the policy is shown."""
FUTURE_S = 60
WINDOWS_PER_S = round(1 / WINDOW_S)


class Planned(Frozen, frozen=True):
    """The JSON of `steelyard plan`.

    Attributes:
        cores: of the plan.
        cores_peak: with what a policy that reacts takes within a window when rows wait, where it must.
        latency_bound_ms: None where a queue would grow without bound.
        accuracy: None where that of a variant is not known.
        price_per_hour: of its cores, each its part of its node's price; None where one has none.
    """

    service: str
    policy: str
    feasible: bool
    cores: float
    cores_peak: float
    latency_bound_ms: float | None
    accuracy: float | None
    stages: dict[str, list[Group]]
    solve_ms: float
    reason: str
    price_per_hour: float | None = None


class NoPlanError(SteelyardError):
    """The policy was asked, and has no plan: a failed run, not bad input."""


class Question(NamedTuple):
    """What is asked: this policy, about this service, at so many rows a second."""

    policy: str
    options: Mapping[str, object]
    service: str
    rate_rps: float


def plan(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A spec file, or an ONNX file with --slo.")],
    rate: Annotated[float, typer.Option(help="Requests per second to plan for.")],
    policy: Annotated[
        str | None, typer.Option(help="A policy or configuration; default: the spec's.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="Which service, if there are several.")] = None,
    slo: Annotated[str | None, typer.Option(help="Latency objective of an ONNX file, such as 50ms.")] = None,
    profiles: Annotated[Path | None, typer.Option(metavar="DIR", help="Where profiles are stored.")] = None,
    json: JsonOption = None,
) -> int:
    """Show what a policy would give a service at a rate, and whether that holds its objective."""
    from steelyard.backend.cpu import usable_core_ids
    from steelyard.cli.serve import find_modules_beside, open_spec

    check_json(json, spec)
    loaded = open_spec(spec, slo)
    find_modules_beside(loaded.folder)
    if not (isfinite(rate) and 0 <= rate <= RATE_MAX_RPS):
        raise SpecError(f"--rate: want 0 to {RATE_MAX_RPS:g} requests a second, got {rate:g}")
    name = _service_named(service, tuple(loaded.spec.services))
    made = blueprint(loaded, cores_available=len(usable_core_ids()), profiles=profiles)
    chosen = asked_policy(loaded, policy, made.services, clairvoyant=True)
    for notice in notices(loaded.spec, "plan"):
        say(notice, err=True)
    asked = Question(chosen.name, chosen.options, name, rate)
    try:
        result = planned(made, asked, label=policy or loaded.spec.policy.name)
    except NoPlanError as error:
        say(str(error), err=True)
        return 1
    write_json(json, result)
    if json != "-":
        _show(result, made.services[name])
    return 0


def planned(made: Blueprint, asked: Question, *, label: str = "") -> Planned:
    """The policy's decision, and what it comes to.

    Args:
        made: services, service times and nodes.
        asked: the policy, already known to be one, and the rate.
        label: what to call the policy; its own name if empty.

    Raises:
        NoPlanError: the policy has no plan.
    """
    context = PolicyContext(
        made.services,
        made.service_times(),
        asked.options,
        future=_steady_future(made, asked),
    )
    deciding, watching = (make_policy(asked.policy, context) for _ in range(2))
    snapshot = steady_snapshot(made, asked.service, asked.rate_rps, watching)
    start_s = time.perf_counter()
    decision = deciding.decide(snapshot)
    solve_s = time.perf_counter() - start_s
    found = decision.plan.services.get(asked.service) if decision.plan else None
    if found is None:
        raise NoPlanError(f"policy {asked.policy} has no plan for {asked.service}: {decision.reason}")
    verdict = assess(made, found, asked.rate_rps)
    may_react = verdict.objection and verdict.fits and deciding.reacts
    reach = within_reach(made, found, asked.rate_rps) if may_react else None
    times = made.service_times()
    fan_outs = {stage.name: stage.fan_out for stage in made.services[asked.service].stages}
    stages = {
        name: list(groups_of(s, times[asked.service, name], asked.rate_rps * fan_outs[name]))
        for name, s in found.stages.items()
    }
    cores = sum(group.replicas * group.cores for listed in stages.values() for group in listed)
    bound_s, reasons = verdict.latency_bound_s, [decision.reason]
    if reach is not None:
        bound_s = reach.latency_s
        reasons.append(f"takes {reach.cores} cores within a window when rows wait: {sizes_text(reach)}")
    elif verdict.objection:
        # Nobody knows what other devices could do beside those that there are.
        would_do = [alternative(made, found, asked.rate_rps)] if _is_for_cpus(made, found) else []
        reasons = [verdict.objection, *would_do, f"decided: {decision.reason}"]
    return Planned(
        service=asked.service,
        policy=label or asked.policy,
        feasible=reach is not None or not verdict.objection,
        cores=cores,
        cores_peak=cores if reach is None else max(cores, float(reach.cores)),
        latency_bound_ms=None if bound_s == inf else round(bound_s * 1e3, 3),
        accuracy=_accuracy(made.services[asked.service], stages),
        stages=stages,
        solve_ms=round(solve_s * 1e3, 3),
        reason="; ".join(reasons),
        price_per_hour=_price_per_hour(made, found),
    )


def _is_for_cpus(made: Blueprint, plan: ServicePlan) -> bool:
    """Whether all variants in a plan are for cores and nothing beside them."""
    return all(
        variant.device == CPU
        for stage in made.services[plan.service].stages
        for variant in stage.variants
        if any(variant.name in replica.variants for replica in plan.stages[stage.name].replicas)
    )


def steady_snapshot(made: Blueprint, service: str, rate_rps: float, policy: Policy) -> ClusterSnapshot:
    """What the control machine asks a policy on an empty cluster at time 0: who saw what until now.

    `service` saw `HISTORY_S` seconds of rows, as even as whole numbers allow and all answered; the others saw
    none. A simulation that starts warm asks for its first plan in the same way.
    """
    machine = ControlMachine(made.services, policy, window_s=WINDOW_S)
    windows = HISTORY_S * WINDOWS_PER_S
    rows = counts_of(constant(windows, rate_rps=rate_rps * WINDOW_S), None).counts.tolist()
    for index, count in enumerate(rows):
        for name, known in made.services.items():
            window = _quiet_window(known, index - windows, count if name == service else 0)
            machine.handle(WindowReported(window), now_s=window.to_s)
    for node in made.nodes:
        joined = NodeJoined(
            node.name,
            tuple(range(node.cores)),
            fractional=node.fractional,
            devices=node.devices,
            memory_bytes=node.memory_bytes,
        )
        machine.handle(joined, now_s=0.0)
    return machine.snapshot()


def _quiet_window(service: Service, index: int, rows: int) -> ServiceWindow:
    """The window that begins `index` windows from now; its rows were all answered in time."""
    from_s, to_s = index / WINDOWS_PER_S, (index + 1) / WINDOWS_PER_S
    stages = tuple(StageWindow(stage.name, 0, 0, None, 0) for stage in service.stages)
    return ServiceWindow(service.name, from_s, to_s, rows, rows, rows, 0, 0, 0, 0, 0, stages)


def _steady_future(made: Blueprint, asked: Question) -> dict[str, tuple[int, ...]]:
    """For clairvoyants: the rate stays what it is."""
    rows = counts_of(constant(FUTURE_S, rate_rps=asked.rate_rps), None).counts.tolist()
    return {name: tuple(rows if name == asked.service else [0] * FUTURE_S) for name in made.services}


def _service_named(name: str | None, known: tuple[str, ...]) -> str:
    if name is None and len(known) == 1:
        return known[0]
    if name is None:
        raise SpecError(f"--service: there are several: want one of {', '.join(known)}")
    if name not in known:
        raise SpecError(f"--service: unknown service {name}{nearest(name, known)}")
    return name


def _price_per_hour(made: Blueprint, plan: ServicePlan) -> float | None:
    """Sum over replicas of node's price * replica's cores / node's cores; None if a price is not known."""
    cores = {node.name: node.cores for node in made.nodes}
    replicas = [each for stage in plan.stages.values() for each in stage.replicas if each.cores]
    if any(each.node not in made.prices for each in replicas):
        return None
    return round(sum((made.prices[each.node] * each.cores / cores[each.node] for each in replicas), 0.0), 6)


def _accuracy(service: Service, groups: Mapping[str, list[Group]]) -> float | None:
    """Mean over the rows, each stage's variants by their shares; None where that of a choice is not known."""
    accuracies = Accuracies(service)
    shares: list[dict[str, float]] = []
    for stage in service.stages:
        of_stage: dict[str, float] = {}
        for group in groups.get(stage.name, ()):
            of_stage[group.variant] = of_stage.get(group.variant, 0.0) + group.share
        shares.append({variant: share for variant, share in of_stage.items() if share > 0})
    if prod(map(len, shares)) > CHOICES_MAX:
        return None
    mean = 0.0
    for chosen in product(*(of_stage.items() for of_stage in shares)):
        names = {stage.name: variant for stage, (variant, _) in zip(service.stages, chosen, strict=True)}
        accuracy, _ = accuracies.of(names)
        if accuracy is None:
            return None
        mean += accuracy * prod(share for _, share in chosen)
    return mean if all(shares) else None


def _table(result: Planned) -> Table:
    """The stages' replicas, equal ones in one row."""
    table = Table(
        "stage", "variant", "replicas", "cores each", "rows a batch", "of the rows", box=SIMPLE_HEAD
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for name, groups in result.stages.items():
        for group in groups:
            is_parked = not group.cores
            if is_parked and not group.replicas:
                continue  # a further variant of those, which answer with none now
            table.add_row(
                name,
                group.variant,
                str(group.replicas) if group.replicas else "the same",
                "parked" if is_parked else f"{group.cores:g}",
                "" if is_parked else f"up to {group.batch}",
                "" if is_parked else f"{group.share:.0%}",
            )
    return table


def _show(result: Planned, service: Service) -> None:
    console = Console()
    one = result.cores == 1
    verdict = ("holds" if one else "hold") if result.feasible else f"{'does' if one else 'do'} not hold"
    bound = (
        "none, as a queue grows" if result.latency_bound_ms is None else f"{result.latency_bound_ms:.0f} ms"
    )
    peak = f", at most {result.cores_peak:g}," if result.cores_peak > result.cores else ""
    console.print(
        f"{result.service} by {result.policy}: {result.cores:g} core{'' if one else 's'}{peak} {verdict} the "
        f"SLO of {service.slo_s * 1e3:.0f} ms (bound at the {service.quantile:g} quantile: {bound})",
        highlight=False,
        soft_wrap=True,
    )
    if result.price_per_hour is not None:
        price = f"price: {result.price_per_hour:g} an hour, the part of the nodes' prices that its cores are"
        console.print(price, highlight=False, soft_wrap=True)
    if result.stages:
        console.print(_table(result))
    if any(not group.cores for groups in result.stages.values() for group in groups):
        console.print("parked: in memory without cores, which it is given when rows wait\n")
    console.print(result.reason, highlight=False, soft_wrap=True)
