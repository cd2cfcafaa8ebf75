"""Loki (Ahmad et al., HPDC 2024): hardware first, then accuracy, along the paths of a tree of stages.

Every 10 s, and when demand is beyond what was planned for, the program of `plan.loki` chooses variants,
replicas and batches on the servers there are; every second, routing tables send rows to the most accurate
replicas that have room (`plan.loki_routing`). Demand is that of `families`. A server is `cores` (1) cores, or
one device where the variants are for a kind of device.

`published` brings its data plane: each request has its variants by the tables, an idle replica takes what
waits for it, up to the planned batch; a row whose batch would end beyond its stage's budget (twice the
planned batch) is rerouted to faster variants behind, where the whole path can still be in time, and dropped
otherwise.

Options: `period` (10s), `cores`, `headroom` (1.1, the authors use 1 to 1.2), `price` (none): what using all
servers costs in accuracy; with it there is one objective, without it the authors' two steps. Two baselines of
the authors' comparison: `variants: accurate` scales hardware alone (their stand-in for InferLine), and
`plans: tasks` plans each stage for itself, from what it is given now, with an equal part of the SLO
(Proteus).

What differs from the release: rows per item are the spec's, not measured; end-to-end deadlines are kept where
the release restarts a timer at each stage; below plan, routing leaves room for a fifth more; of plans that
are nearly equal the one that changes fewest servers is taken. One service, whose stages are a tree.
"""

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.core.plan import (
    Decision,
    Grants,
    PathShares,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    StageRules,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.core.types import Service, ServiceTimes, Stage
from steelyard.plan import loki, proteus
from steelyard.plan.loki import LokiPlan, LokiProblem, Option, Task
from steelyard.plan.loki_routing import Tables, mix_of, most_accurate_first
from steelyard.plan.proteus import Key, Slot
from steelyard.policies.base import PolicyContext
from steelyard.policies.families import CPU, LOOK_S, REST_S, demand_rps, relative_accuracies, slots_of
from steelyard.policies.options import duration_s, integer, nearest_first, number, refuse_unknown
from steelyard.policies.sensing import wanted_replicas
from steelyard.policies.uniform import Times

PERIOD_S = 10.0
HEADROOM = 1.1
GROWTH_MAX = 1.03
"""Demand over the planned demand at which it plans anew."""
ROUTING_MARGIN = 1.2
"""Below plan, accurate servers are filled as for so many times the demand: it may grow meanwhile."""
DEMAND_MIN_RPS = 0.5
TREE_NODES_MAX = 50
GAP = 1e-2
OPTIONS = ("period", "cores", "headroom", "price", "variants", "plans")
PUBLISHED = StageRules(
    order="fifo", forming="hold", drop="budget", admission="open", choice="table", reroutes=True
)
_KEPT = 1e-6


class _Settings(NamedTuple):
    """The options, read."""

    period_s: float
    cores: int
    headroom: float
    price: float | None
    variants: str
    plans: str


class LokiPolicy:
    """One service; see `per_service` for several."""

    name = "loki"
    solve_s = 0.5
    reacts = False

    def __init__(self, context: PolicyContext) -> None:
        self._settings = _settings(context.options)
        (self._service,) = context.services.values()
        self._kind = _only_kind(self._service)
        self._rules = PUBLISHED if context.published else StageRules()
        self._tasks = tasks_of(self._service, context.service_times, self._settings.cores)
        self._plan: LokiPlan | None = None
        self._tables: Tables = {}
        self._planned_rps = 0.0
        self._servers = 0
        self._due_s = float("-inf")
        self._rested_s = float("-inf")

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: routing is renewed every second."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Plan if it is time to; routing tables for the demand as it is now."""
        now_s = snapshot.now_s
        view = next(v for v in snapshot.services if v.service == self._service.name)
        rate_rps = max(demand_rps(view, now_s=now_s), DEMAND_MIN_RPS)
        slots = self._slots(snapshot, view)
        problem = self._problem(rate_rps, len(slots))
        is_due = now_s >= self._due_s - 1e-6 or len(slots) != self._servers
        is_over = rate_rps > self._planned_rps * GROWTH_MAX and now_s >= self._rested_s - 1e-6
        word = "routes for"
        if self._plan is None or is_due or is_over:
            self._plan = self._solved(problem)
            self._planned_rps, self._servers = rate_rps, len(slots)
            self._due_s, self._rested_s = now_s + self._settings.period_s, now_s + REST_S
            word = "plan for" if is_due else "beyond plan:"
        plan = self._plan
        routed_rps = max(rate_rps, min(self._planned_rps, ROUTING_MARGIN * rate_rps))
        self._tables = most_accurate_first(replace(problem, demand_rps=routed_rps), plan)
        reason = (
            f"{word} {rate_rps:.4g}/s: {plan.servers_used} of {len(slots)} servers at accuracy "
            f"{plan.accuracy:.4f}" + (f", {plan.unserved:.1%} beyond them" if plan.unserved else "")
        )
        return Decision(self._as_plan(problem, plan, slots), now_s + LOOK_S, reason)

    def _problem(self, rate_rps: float, servers: int) -> LokiProblem:
        settings, service = self._settings, self._service
        problem = LokiProblem(
            self._tasks,
            rate_rps,
            service.slo_s,
            servers,
            settings.headroom,
            loki.PRICE if settings.price is None else settings.price,
            service.path_accuracies,
            self._plan.servers if self._plan is not None else {},
        )
        if settings.variants == "accurate":
            problem = loki.accurate(problem)
        # Late is better than never: where nothing fits half of the SLO, plan with what is fastest.
        least_slo_s = 2.0 * loki.least_time_s(problem, problem.tasks[0])
        return replace(problem, slo_s=max(problem.slo_s, least_slo_s))

    def _solved(self, problem: LokiProblem) -> LokiPlan:
        if self._settings.plans == "tasks":
            return self._apart(problem)
        if self._settings.price is None and self._settings.variants == "all":
            return loki.published(problem, tree_nodes_max=TREE_NODES_MAX, gap=GAP)
        return loki.solve(problem, tree_nodes_max=TREE_NODES_MAX, gap=GAP)

    def _apart(self, problem: LokiProblem) -> LokiPlan:
        """Each task for what it is given now, servers by Proteus' program; nobody sees what others cause."""
        demands = self._given_rps(problem)
        budget_s = problem.slo_s / depth_of(problem)
        chosen = {
            (task.name, option.name): max(
                (size for size in option.time_s if 2.0 * size[1] <= budget_s), default=option.time_s[0]
            )
            for task in problem.tasks
            for option in task.options
        }
        families = tuple(
            proteus.Family(
                task.name,
                demands[task.name] * problem.headroom,
                tuple(
                    proteus.Hosted(option.name, CPU, option.accuracy, rows / time_s)
                    for option in task.options
                    for rows, time_s in (chosen[task.name, option.name],)
                ),
            )
            for task in problem.tasks
        )
        asked = proteus.ProteusProblem(families, {CPU: problem.servers})
        hosting = proteus.solve(asked, tree_nodes_max=TREE_NODES_MAX, gap=GAP)
        hosting = proteus.spread(asked, hosting)
        rows = {key: chosen[key][0] for key in hosting.counts}
        unserved = sum(hosting.unserved_rps.values(), 0.0) / max(_KEPT, asked.demand_rps)
        return LokiPlan(hosting.counts, rows, {}, hosting.accuracy, unserved)

    def _given_rps(self, problem: LokiProblem) -> dict[str, float]:
        """Rows a second that each task is given with the variants that answer before it now."""
        given: dict[str, float] = {}
        for task in problem.tasks:
            if not task.source:
                given[task.name] = problem.demand_rps
                continue
            source = next(one for one in problem.tasks if one.name == task.source)
            mix = mix_of(problem, self._tables, source.name) if self._tables else {}
            mix = mix or {source.options[0].name: 1.0}
            mean = sum((share * task.items_of(variant) for variant, share in mix.items()), 0.0)
            given[task.name] = given[source.name] * mean
        return given

    def _slots(self, snapshot: ClusterSnapshot, view: ServiceView) -> list[Slot]:
        hosting: dict[tuple[str, str], list[Key]] = {}
        for stage in self._service.stages:
            for replica in wanted_replicas(view, stage.name):
                there = hosting.setdefault((replica.node, replica.device), [])
                there.append((stage.name, replica.variants[0]))
        every = slots_of(snapshot.nodes, self._settings.cores, hosting)
        return [slot for slot in every if slot.kind == self._kind]

    def _as_plan(self, problem: LokiProblem, plan: LokiPlan, slots: list[Slot]) -> Plan:
        counts = self._with_every_stage(plan, len(slots))
        hosts = proteus.assign(counts, dict.fromkeys(counts, self._kind), slots)
        cores = float(self._settings.cores) if self._kind == CPU else 1.0
        replicas: dict[str, list[ReplicaPlan]] = {stage.name: [] for stage in self._service.stages}
        for slot, key in zip(slots, hosts, strict=True):
            if key is not None:
                replicas[key[0]].append(ReplicaPlan(cores, (key[1],), slot.node, slot.kind))
        stages = {
            stage.name: self._stage_plan(problem, plan, stage, tuple(replicas[stage.name]))
            for stage in self._service.stages
        }
        return Plan({self._service.name: ServicePlan(self._service.name, stages)})

    def _with_every_stage(self, plan: LokiPlan, servers: int) -> dict[Key, int]:
        """A stage that is planned to be given nothing has a replica still, while there are servers."""
        counts = dict(plan.servers)
        for stage in self._service.stages:
            has_one = any(name == stage.name for name, _ in counts)
            if not has_one and sum(counts.values()) < servers:
                counts[stage.name, stage.variants[0].name] = 1
        return counts

    def _stage_plan(
        self, problem: LokiProblem, plan: LokiPlan, stage: Stage, replicas: tuple[ReplicaPlan, ...]
    ) -> StagePlan:
        table = self._tables.get(stage.name, {})
        shares = mix_of(problem, self._tables, stage.name) if table else {}
        present = dict.fromkeys(replica.variants[0] for replica in replicas)
        shares = shares or dict.fromkeys(present or [stage.variants[0].name], 1.0 / max(1, len(present)))
        rows = {name: plan.rows.get((stage.name, name), 1) for name in present}
        is_apart = self._settings.plans == "tasks"
        paths = tuple(PathShares(path, _as_shares(stage, own)) for path, own in sorted(table.items()) if path)
        return StagePlan(
            replicas,
            _as_shares(stage, shares),
            max(rows.values(), default=1),
            rules=self._rules,
            rows_max=rows,
            paths=() if is_apart else paths,
        )


def tasks_of(service: Service, times: Times, cores: int) -> tuple[Task, ...]:
    """A service's stages as tasks: accuracy relative to the best of the stage, batches of powers of two.

    Raises:
        SpecError: the stages are no tree, or variants have no accuracies.
    """
    tasks: list[Task] = []
    for stage in service.stages:
        source = stage.items_of or (stage.after[0] if stage.after else "")
        if len({*stage.after, source} - {""}) > 1 or (tasks and not source):
            found = ", ".join(sorted({*stage.after, source} - {""})) or "none"
            raise SpecError(
                f"policy loki: stage {service.name}.{stage.name}: want one stage before it, there is {found}"
            )
        before = next((one for one in service.stages if one.name == source), None)
        planned = stage.fan_out / before.fan_out if before is not None else stage.fan_out
        items = stage.items.mean if stage.items is not None else {"": planned}
        accuracy = relative_accuracies("loki", f"{service.name}.{stage.name}", stage.variants)
        options = tuple(
            Option(
                variant.name,
                accuracy[variant.name],
                _times_of(
                    times[service.name, stage.name], variant.name, variant.batch_rows_max,
                    float(cores) if variant.device == CPU else 1.0,
                ),
            )
            for variant in stage.variants
        )  # fmt: skip
        tasks.append(Task(stage.name, options, source, dict(items)))
    return tuple(tasks)


def depth_of(problem: LokiProblem) -> int:
    """Tasks on the longest path."""
    depth: dict[str, int] = {}
    for task in problem.tasks:
        depth[task.name] = 1 + depth.get(task.source, 0)
    return max(depth.values())


def _times_of(
    times: ServiceTimes, variant: str, rows_max: int, cores: float
) -> tuple[tuple[int, float], ...]:
    sizes = sorted({1 << n for n in range(rows_max.bit_length())} | {rows_max})
    return tuple((rows, times.service_time_s(variant, 0, rows, cores)) for rows in sizes)


def _as_shares(stage: Stage, shares: Mapping[str, float]) -> tuple[VariantShare, ...]:
    """Shares that sum to 1, the most accurate variant first."""
    ordered = sorted(stage.variants, key=lambda variant: -(variant.accuracy or 0.0))
    kept = [(one.name, shares[one.name]) for one in ordered if shares.get(one.name, 0.0) > _KEPT]
    total = sum((share for _, share in kept), 0.0)
    return tuple(VariantShare(name, share / total) for name, share in kept)


def _only_kind(service: Service) -> str:
    kinds = {variant.device for stage in service.stages for variant in stage.variants}
    if len(kinds) > 1:
        found = ", ".join(sorted(kinds))
        raise SpecError(
            f"policy loki: service {service.name}: its servers are alike, variants are for {found}"
        )
    return next(iter(kinds))


def _settings(options: Mapping[str, object]) -> _Settings:
    refuse_unknown("loki", options, OPTIONS)
    for key, known in (("variants", ("all", "accurate")), ("plans", ("pipeline", "tasks"))):
        asked = str(options.get(key, known[0]))
        if asked not in known:
            choices = ", ".join(nearest_first(asked, known))
            raise SpecError(f"policy loki: option {key}: no {asked!r}; there are: {choices}")
    return _Settings(
        duration_s("loki", options, "period", PERIOD_S, least_s=1.0),
        integer("loki", options, "cores", 1, least=1),
        number("loki", options, "headroom", HEADROOM, least=1.0, most=10.0),
        number("loki", options, "price", 0.0, least=0.0, most=100.0) if "price" in options else None,
        str(options.get("variants", "all")),
        str(options.get("plans", "pipeline")),
    )
