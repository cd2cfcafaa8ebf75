"""What policies have in common that share a cluster's devices among services of one stage: families.

A device hosts one variant, or all of one family (`hosts`); where a node has no devices beside its cores,
`cores` (1) of them are one. So a service's replica is a device of some node, and what such a policy decides
is what each device hosts and which share of its family's rows it answers. A device takes a core of its node
beside itself, to be fed.

Demand is the exponentially weighted mean (centre of mass 1.6 s) of the last 20 s, and what one device answers
is b / l(b) for the largest batch with l(b) < SLO / 2: a row that comes just after a batch has begun can still
be in the next one. Accuracies are relative to the best of the family, so that families can be compared; every
family counts with at least `DEMAND_MIN_RPS`, so that none is without a device while there are enough.

It decides every `period_s`, and as soon as a family's demand is beyond what its devices carry, but not twice
within `REST_S`.
"""

from collections.abc import Mapping, Sequence
from math import log2
from typing import Literal, NamedTuple, Protocol, TypeVar

from steelyard.core.errors import SpecError
from steelyard.core.lanes import AGE_MAX_SLOS
from steelyard.core.plan import (
    Decision,
    Forming,
    Grants,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    StageRules,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, NodeView, ServiceView
from steelyard.core.types import Service, ServiceTimes, Stage, Variant
from steelyard.forecast.predictors import Ewma
from steelyard.plan.proteus import (
    CHANGE,
    Family,
    Hosted,
    Hosting,
    Key,
    ProteusProblem,
    Slot,
    assign,
    capacity_rps,
)
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import nearest_first
from steelyard.policies.sensing import rate_over, wanted_replicas
from steelyard.policies.steelyard.residents import resident
from steelyard.policies.uniform import whole_cores

LOOK_S = 1.0
REST_S = 2.0
MEMORY_S = 20
CENTRE_OF_MASS_S = 1.6
DEMAND_MIN_RPS = 0.5
CPU = "cpu"
Hosts = Literal["variants", "families"]
HOSTS: tuple[Hosts, ...] = ("variants", "families")
Word = TypeVar("Word", bound=str)
_DEMAND = Ewma(half_life_s=1.0 / log2(1.0 + 1.0 / CENTRE_OF_MASS_S))
BATCHING: tuple[Forming, ...] = ("adaptive", "aimd", "nexus", "full")


class Batch(NamedTuple):
    """The largest batch that a variant may have, and what one device of it answers."""

    rows: int
    rate_rps: float


class Chooser(Protocol):
    """What tells these policies apart: which variants the devices host."""

    def choose(self, problem: ProteusProblem) -> Hosting:
        """For the demand as it is now; the first time nothing is present."""
        ...


class FamilyPolicy:
    """A policy that shares devices among families.

    Args:
        name: as registered.
        context: services of one stage, whose variants have accuracies.
        chooser: what it hosts.
        headroom: demand is multiplied by it.
        period_s: between two decisions; inf: once.
        cores: of a replica on no other device than cores.
        batching: how a device forms its batches, where it works by its own rules.
        hosts: what a device hosts: a variant, or all variants of a family.
        change: accuracy of the whole demand that it may cost to leave all devices as they are.

    Raises:
        SpecError: a service has several stages, or a variant no accuracy.
    """

    solve_s = 0.3
    reacts = False

    def __init__(
        self,
        name: str,
        context: PolicyContext,
        chooser: Chooser,
        *,
        headroom: float,
        period_s: float,
        cores: int = 1,
        batching: Forming = "adaptive",
        hosts: Hosts = "variants",
        change: float = CHANGE,
    ) -> None:
        self.name = name
        self._services = context.services
        self._stages = {service.name: _only_stage(name, service) for service in context.services.values()}
        self._cores = cores
        self._batches = {
            service: batches(stage, context.service_times[service, stage.name], self._slo_s(service), cores)
            for service, stage in self._stages.items()
        }
        self._accuracy = {service: _relative(name, service, stage) for service, stage in self._stages.items()}
        self._chooser = chooser
        self._headroom = headroom
        self._period_s = period_s
        self._published = context.published
        self._batching = batching
        self._hosts = hosts
        self._change = change
        self._due_s = float("-inf")
        self._rested_s = float("-inf")
        self._limits_rps: dict[str, float] = {}
        self._room_bytes = 0

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: devices change in seconds."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Host anew, if it is time to or a family is beyond its limit."""
        now_s = snapshot.now_s
        demands = self._demands_rps(snapshot)
        over = [name for name, rate in demands.items() if rate > self._limits_rps.get(name, 0.0)]
        is_early = now_s < self._due_s - 1e-6
        if is_early and (not over or now_s < self._rested_s - 1e-6 or self._period_s == float("inf")):
            return Decision(None, now_s + LOOK_S, f"next plan at {self._due_s:g} s")
        slots = self._slots(snapshot)
        self._room_bytes = room_bytes_of(snapshot.nodes, len(slots))
        problem = self._problem(demands, slots)
        hosting = self._chooser.choose(problem)
        self._due_s, self._rested_s = now_s + self._period_s, now_s + REST_S
        carried = capacity_rps(problem, hosting.counts)
        self._limits_rps = {f.name: max(carried[f.name], f.demand_rps) for f in problem.families}
        why = f"{', '.join(over)} beyond capacity" if is_early else "period"
        lacking = sum(hosting.unserved_rps.values(), 0.0)
        reason = (
            f"{why}: {sum(demands.values()):.4g} rows/s on {len(slots)} devices at accuracy "
            f"{hosting.accuracy:.4f}" + (f", {lacking:.4g} rows/s beyond them" if lacking else "")
        )
        return Decision(self._plan(problem, hosting, slots), now_s + LOOK_S, reason)

    def _demands_rps(self, snapshot: ClusterSnapshot) -> dict[str, float]:
        demands = {}
        for view in snapshot.services:
            demands[view.service] = max(demand_rps(view, now_s=snapshot.now_s), DEMAND_MIN_RPS)
        return demands

    def _problem(self, demands: Mapping[str, float], slots: list[Slot]) -> ProteusProblem:
        devices: dict[str, int] = {}
        present: dict[Key, int] = {}
        for slot in slots:
            devices[slot.kind] = devices.get(slot.kind, 0) + 1
            if slot.present is not None:
                present[slot.present] = present.get(slot.present, 0) + 1
        families = tuple(
            Family(name, rate * self._headroom, self._hosted(name, devices)) for name, rate in demands.items()
        )
        is_whole = self._hosts == "families"
        return ProteusProblem(families, devices, present, self._change, hosts_families=is_whole)

    def _hosted(self, service: str, devices: Mapping[str, int]) -> tuple[Hosted, ...]:
        known, accuracy = self._batches[service], self._accuracy[service]
        return tuple(
            Hosted(variant.name, variant.device, accuracy[variant.name], known[variant.name].rate_rps)
            for variant in self._stages[service].variants
            if variant.name in known
            and variant.device in devices
            and variant.name in self._resident(service, variant.name, variant.device)
        )

    def _slots(self, snapshot: ClusterSnapshot) -> list[Slot]:
        """Every device of every node, and what it is meant to host now."""
        hosting: dict[tuple[str, str], list[Key]] = {}
        for view in snapshot.services:
            for replica in wanted_replicas(view, self._stages[view.service].name):
                there = hosting.setdefault((replica.node, replica.device), [])
                there.append((view.service, replica.variants[0]))
        return slots_of(snapshot.nodes, self._cores, hosting)

    def _plan(self, problem: ProteusProblem, hosting: Hosting, slots: list[Slot]) -> Plan:
        kinds = {key: one.kind for key, one in problem.keyed().items()}
        counts: dict[Key, int] = {}
        for (name, variant), count in hosting.counts.items():
            lead = (name, self._resident(name, variant, kinds[name, variant])[0])
            counts[lead] = counts.get(lead, 0) + count
        replicas: dict[str, list[ReplicaPlan]] = {family.name: [] for family in problem.families}
        for slot, key in zip(slots, assign(counts, kinds, slots), strict=True):
            if key is not None:
                cores = float(self._cores) if slot.kind == CPU else 1.0
                variants = self._resident(*key, slot.kind)
                replicas[key[0]].append(ReplicaPlan(cores, variants, slot.node, slot.kind))
        return Plan({name: self._service_plan(name, hosting, tuple(own)) for name, own in replicas.items()})

    def _resident(self, service: str, variant: str, kind: str) -> tuple[str, ...]:
        """What a device has that hosts a variant: that one, or its family in the order of accuracy.

        Where memory is known, as much of the family as a device's part of it holds.
        """
        if self._hosts == "variants":
            return (variant,)
        bytes_of = {one.name: one.memory_bytes for one in self._ordered(service) if one.device == kind}
        order = tuple(bytes_of)
        return resident(order, order[0], bytes_of, self._room_bytes) if self._room_bytes else order

    def _ordered(self, service: str) -> list[Variant]:
        """Variants that are fast enough, the most accurate first."""
        known, accuracy = self._batches[service], self._accuracy[service]
        fast = [variant for variant in self._stages[service].variants if variant.name in known]
        return sorted(fast, key=lambda variant: -accuracy[variant.name])

    def _service_plan(self, name: str, hosting: Hosting, replicas: tuple[ReplicaPlan, ...]) -> ServicePlan:
        stage, batches = self._stages[name], self._batches[name]
        ordered = [one.name for one in self._ordered(name)]
        flows = {one: hosting.flows_rps.get((name, one), 0.0) for one in ordered}
        total = sum(flows.values(), 0.0)
        hosted = self._usable(name, hosting, replicas)
        mix = tuple(VariantShare(one, flows[one] / total) for one in hosted) if total else ()
        rows = {one: batches[one].rows for one in hosted}
        first = hosted[0] if hosted else stage.variants[0].name
        plan = StagePlan(
            replicas,
            mix or (VariantShare(first, 1.0),),
            max(rows.values(), default=1),
            rules=self._rules(name),
            rows_max=rows,
        )
        return ServicePlan(name, {stage.name: plan})

    def _usable(self, name: str, hosting: Hosting, replicas: tuple[ReplicaPlan, ...]) -> list[str]:
        """What the devices of a family may answer with, the most accurate first.

        On each kind the most accurate variant that is planned there, and those below it: between two plans
        accuracy may give way, where it does least harm is for the plan to say.
        """
        there = {variant for replica in replicas for variant in replica.variants}
        planned: set[str] = set()
        usable = []
        for one in self._ordered(name):
            if hosting.counts.get((name, one.name), 0):
                planned.add(one.device)
            if one.name in there and one.device in planned:
                usable.append(one.name)
        return usable

    def _rules(self, service: str) -> StageRules:
        if self._hosts == "families":
            return StageRules(choice="fit")
        if not self._published:
            return StageRules()
        aged_s = AGE_MAX_SLOS * self._slo_s(service) if self._batching == "full" else None
        return StageRules(
            order="fifo",
            forming=self._batching,
            drop="none" if aged_s is None else "age",
            age_s_max=aged_s,
            admission="open",
            routing="assigned",
        )

    def _slo_s(self, service: str) -> float:
        return self._services[service].slo_s


def batches(stage: Stage, times: ServiceTimes, slo_s: float, cores: int) -> dict[str, Batch]:
    """By variant, the largest batch below half of the SLO, among powers of two and the variant's limit.

    Variants that are too slow for it are left out; if all are, each has single rows.
    """
    fitting: dict[str, Batch] = {}
    singles: dict[str, Batch] = {}
    for variant in stage.variants:
        size = float(cores) if variant.device == CPU else 1.0
        limit = variant.batch_rows_max
        for rows in sorted({1 << n for n in range(limit.bit_length())} | {limit}):
            time_s = times.service_time_s(variant.name, 0, rows, size)
            if rows == 1:
                singles[variant.name] = Batch(1, 1.0 / time_s)
            if time_s < slo_s / 2:
                fitting[variant.name] = Batch(rows, rows / time_s)
    return fitting or singles


def one_of(policy: str, options: Mapping[str, object], key: str, known: Sequence[Word]) -> Word:
    """An option that is one of several words; the first of them unless it says another.

    Raises:
        SpecError: it is none of them.
    """
    asked = options.get(key, known[0])
    for word in known:
        if asked == word:
            return word
    choices = ", ".join(nearest_first(str(asked), known))
    raise SpecError(f"policy {policy}: option {key}: no {asked!r}; there are: {choices}")


def slots_of(
    nodes: Sequence[NodeView], cores: int, hosting: Mapping[tuple[str, str], Sequence[Key]]
) -> list[Slot]:
    """Every device of the nodes, `cores` cores being one, too; `hosting` is by node and kind."""
    slots: list[Slot] = []
    for node in nodes:
        free = whole_cores(node.cores)
        counts: dict[str, int] = {}
        for kind, count in sorted(node.devices.items()):
            counts[kind] = min(count, free)
            free -= counts[kind]
        counts[CPU] = free // cores
        for kind, count in counts.items():
            present: list[Key | None] = [*hosting.get((node.name, kind), ())[:count]]
            slots += [Slot(node.name, kind, key) for key in present + [None] * (count - len(present))]
    return slots


def room_bytes_of(nodes: Sequence[NodeView], slots: int) -> int:
    """Memory for what one device hosts, an equal part; 0 where a node does not say how much it has."""
    if not slots or not all(node.memory_bytes for node in nodes):
        return 0
    return sum(node.memory_bytes for node in nodes) // slots


def demand_rps(view: ServiceView, *, now_s: float) -> float:
    """The mean of the last 20 s, the weight of a second falling with its age: centre of mass 1.6 s."""
    counts = view.arrival_rows_by_second[-MEMORY_S:]
    return _DEMAND.predict(counts) if counts else rate_over(view, LOOK_S, now_s=now_s)


def _only_stage(policy: str, service: Service) -> Stage:
    if len(service.stages) != 1:
        count = len(service.stages)
        raise SpecError(
            f"policy {policy}: service {service.name} has {count} stages; it is for services of one"
            " (loki and steelyard are for pipelines)"
        )
    return service.stages[0]


def _relative(policy: str, service: str, stage: Stage) -> dict[str, float]:
    """Accuracy of each variant over the best of the stage."""
    return relative_accuracies(policy, f"{service}.{stage.name}", stage.variants)


def relative_accuracies(policy: str, stage: str, variants: tuple[Variant, ...]) -> dict[str, float]:
    """Accuracy of each variant over the best one's; of an only variant 1, whether it is known or not.

    Raises:
        SpecError: one of several has no accuracy, or all have 0.
    """
    if len(variants) == 1:
        return {variants[0].name: 1.0}
    known = {variant.name: variant.accuracy for variant in variants}
    unknown = [name for name, accuracy in known.items() if accuracy is None]
    best = max((accuracy for accuracy in known.values() if accuracy is not None), default=0.0)
    if unknown or not best:
        which = f"variant {unknown[0]} of {stage} has no accuracy" if unknown else f"{stage} is never right"
        raise SpecError(f"policy {policy}: {which}; it chooses variants by accuracy")
    return {name: (accuracy or 0.0) / best for name, accuracy in known.items()}
