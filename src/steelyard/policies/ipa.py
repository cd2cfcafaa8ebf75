"""IPA (Ghafouri et al., JSys 2024): a variant, a batch and so many replicas for each stage, every 10 s.

Its program is solved for the whole front of (accuracy, cores) (`plan.ipa`), of which the weights, or the
service's `objective`, choose a point: accuracy is the product of the stages' (PAS). A replica of a variant
always has the cores of its base allocation (`plan.ipa_base`); replicas and variants are what changes, and
what a change needs is started before what it replaces is given up, as far as there are cores.

What differs from the release, and why:
- *The predictor* is the largest 1-s count of the last 120 s, the release's own fall-back, where an LSTM
  predicts the maximum of the next 20 s from the same window.
- *The queue term* is (b - 1) / rate; the released one is a slip that relaxes the SLO.
- *The SLO* is the service's. The release makes one of 25 times the mean single-row latency.
- *One weight for all pipelines*, 1 for accuracy and 0.005 a core, where the authors tune theirs by pipeline
  and load. What the weights see is PAS itself.
- *What it cannot carry*: the cheapest plan, cut to the nodes. *Where no plan keeps the SLO* what is there
  stays.

`published` is its data plane: one queue a stage in order of arrival, batches of b or what is there after
(b - 1) / rate, replicas in turn, everybody admitted, dropped when 1.5 times as old as the SLO (the release's
limits are 1.5 to 2 of its SLOs). A row is judged by its own age; in the release a batch is by its oldest's,
also after it has run.

Where a service states measured `path_accuracies`, they count instead of the product, up to 4096 combinations.

Its baselines are options: `variants` (`any`; `lightest` is FA2-low, `heaviest` FA2-high: the least or the
most accurate of each stage, batches and replicas by the same program), `replicas` of each stage, a number or
by stage (RIM: fixed replicas, only variants and batches change). Others: `accuracy_weight` (1), `cost_weight`
(0.005), `batch_max`, `base_rate` (4, what one replica should carry), `sizes` (`base`; `all` lets each replica
have any power of two of cores), `look_back` (120s), `margin` (0, added to the prediction).

One service; see `per_service` for several. Branches are planned as if they came one after another. Whole
cores.
"""

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from msgspec.structs import replace

from steelyard.core.accuracy import Accuracies
from steelyard.core.errors import SpecError
from steelyard.core.plan import (
    Decision,
    Grants,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    StageRules,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot, ServiceView
from steelyard.core.types import Objective, Service, ServiceTimes, Stage, Variant
from steelyard.plan.accuracy import accuracies, pick
from steelyard.plan.ipa import (
    IpaFront,
    IpaPlanned,
    IpaPoint,
    IpaProblem,
    IpaStage,
    IpaVariant,
    front,
)
from steelyard.plan.ipa_base import LatencyS, base_cores, powers_of_two, shares_of_slo
from steelyard.plan.ipa_paths import COMBINATIONS_MAX
from steelyard.plan.themis import Choice
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import duration_s, integer, nearest_first, number, refuse_unknown
from steelyard.policies.sensing import wanted_replicas
from steelyard.policies.uniform import Site, site_of

TICK_S = 10.0
AGE_SLOS = 1.5
ACCURACY_MIN = 1e-6
"""An accuracy of 0 counts as this: a product must not vanish."""
VARIANTS = ("any", "lightest", "heaviest")
SIZES = ("base", "all")
OPTIONS = (
    "accuracy_weight",
    "base_rate",
    "batch_max",
    "cost_weight",
    "look_back",
    "margin",
    "replicas",
    "sizes",
    "variants",
)


class _Tables(NamedTuple):
    """A stage that is planned: the variants that may be used, least accurate first, and what they take."""

    stage: Stage
    variants: tuple[Variant, ...]
    accuracy: Mapping[str, float]
    times: ServiceTimes
    rows_max: int

    def latency_s(self, variant: Variant) -> LatencyS:
        """The 0.99 quantile of a variant's service time."""
        return lambda rows, cores: self.times.service_time_s_p99(variant.name, 0, rows, float(cores))


class IpaPolicy:
    """One service; see `per_service` for several."""

    name = "ipa"
    solve_s = 0.05
    reacts = False

    def __init__(self, context: PolicyContext) -> None:
        options = context.options
        refuse_unknown(self.name, options, OPTIONS)
        (self._service,) = context.services.values()
        self._published = context.published
        self._look_s = int(duration_s(self.name, options, "look_back", 120.0, least_s=1.0, most_s=120.0))
        self._margin = number(self.name, options, "margin", 0.0, least=0.0, most=10.0)
        self._base_rate_rps = number(self.name, options, "base_rate", 4.0, least=1e-6)
        self._every_size = _one_of(options, "sizes", SIZES) == "all"
        self._replicas = _replicas(options, self._service)
        self._tables = _tables(context, self._service)
        accuracy = number(self.name, options, "accuracy_weight", 1.0, least=0.0)
        cores = number(self.name, options, "cost_weight", 0.005, least=0.0)
        counted = prod(len(tables.variants) for tables in self._tables) <= COMBINATIONS_MAX
        self._paths = Accuracies(self._service) if self._service.path_accuracies and counted else None
        self._objective = self._service.objective or Objective(weights=(accuracy, cores, 0.0))

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: replicas take longer than a window."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Find the front for the predicted rate, and take the point that is asked for."""
        site = site_of(self._service, snapshot, TICK_S)
        if isinstance(site, Decision):
            return site
        view = site.view
        rate = (1 + self._margin) * max(view.arrival_rows_by_second[-self._look_s :], default=0)
        problem = self._problem(rate, site)
        found = front(problem, accuracy_of=self._accuracy_of if self._paths is not None else None)
        point = pick(self._points(found, view), self._objective, cores_max=site.cores)
        if point is None:
            return self._cut(problem, site)
        planned = self._fitted(found.plan(point), site)
        reason = f"rate {rate:g}: {_words(planned)}; accuracy {point.accuracy:.4f}, {point.cores} cores"
        others = [other for other in found.points if other.place == point.place - 1]
        runner_up = f"accuracy {others[0].accuracy:.4f} on {others[0].cores} cores" if others else ""
        return Decision(self._plan(planned, rate, site), site.next_at_s, reason, runner_up)

    def _accuracy_of(self, variants: Mapping[str, str]) -> float:
        """As measured end to end, where it was; else the product."""
        assert self._paths is not None
        return self._paths.of(variants)[0] or 0.0

    def _points(self, found: IpaFront, view: ServiceView) -> tuple[IpaPoint, ...]:
        """The points, with the replicas that would change their variant where the objective weighs those."""
        weights = self._objective.weights
        if weights is None or not weights[2] or view.desired is None:
            return found.points
        return tuple(p._replace(switches=_switches(found.plan(p), view)) for p in found.points)

    def _problem(self, rate: float, site: Site) -> IpaProblem:
        """The service as the program sees it."""
        service = self._service
        slo_s = service.slo_s - service.reply_s
        latencies = [[tables.latency_s(v) for v in tables.variants] for tables in self._tables]
        shares_s = shares_of_slo(latencies, slo_s)
        stages = tuple(
            self._stage(tables, share_s, site.size_max)
            for tables, share_s in zip(self._tables, shares_s, strict=True)
        )
        wait = "fill" if self._published else "tail"
        return IpaProblem(service.name, stages, rate, slo_s, service.quantile, site.cores, wait)

    def _stage(self, tables: _Tables, budget_s: float, cores_max: int) -> IpaStage:
        most = [min(v.cores_max, cores_max) for v in tables.variants]
        base = base_cores(
            [tables.latency_s(v) for v in tables.variants],
            [min(v.batch_rows_max, tables.rows_max) for v in tables.variants],
            most,
            rate_rps=self._base_rate_rps,
            budget_s=budget_s,
        )
        rows = powers_of_two(tables.rows_max)
        variants = tuple(
            _sized(tables, variant, size, rows)
            for variant, alone, limit in zip(tables.variants, base, most, strict=True)
            for size in (powers_of_two(limit) if self._every_size else (alone,))
        )
        stage = tables.stage
        return IpaStage(stage.name, variants, rows, float(stage.fan_out), self._replicas.get(stage.name))

    def _cut(self, problem: IpaProblem, site: Site) -> Decision:
        """The cheapest plan as far as it fits; without any, what is there, or else one replica a stage."""
        alike = tuple(
            replace(stage, variants=tuple(replace(v, accuracy=1.0) for v in stage.variants))
            for stage in problem.stages
        )
        cheapest = front(replace(problem, stages=alike, cores_max=None))
        if cheapest.points:
            planned = cheapest.plan(cheapest.points[0])
            word = f"{cheapest.points[0].cores} cores do not fit: "
        elif site.view.desired is not None:
            return Decision(None, site.next_at_s, f"rate {problem.rate_rps:g}: no plan keeps the SLO")
        else:
            planned = tuple(_alone(stage) for stage in problem.stages)
            word = "no plan keeps the SLO: "
        planned = self._fitted(planned, site)
        reason = f"rate {problem.rate_rps:g}: {word}{_words(planned)}"
        return Decision(self._plan(planned, problem.rate_rps, site), site.next_at_s, reason)

    def _needs(self, planned: tuple[IpaPlanned, ...]) -> list[int]:
        """Bytes of a replica, by stage."""
        known = {(s.name, v.name): v.memory_bytes for s in self._service.stages for v in s.variants}
        return [known[p.stage, p.variant] for p in planned]

    def _fitted(self, planned: tuple[IpaPlanned, ...], site: Site) -> tuple[IpaPlanned, ...]:
        """What is planned, as far as it fits the nodes."""
        choices = [Choice(p.replicas, p.cores, p.rows, 0) for p in planned]
        fitted = site.fitted(choices, needs=self._needs(planned))
        return tuple(
            p._replace(replicas=c.replicas, cores=c.cores) for p, c in zip(planned, fitted, strict=True)
        )

    def _plan(self, planned: tuple[IpaPlanned, ...], rate: float, site: Site) -> Plan:
        nodes = site.placed([[float(p.cores)] * p.replicas for p in planned], self._needs(planned))
        assert nodes is not None, f"{planned} do not fit {site.nodes}"
        stages = {
            p.stage: StagePlan(
                tuple(ReplicaPlan(float(p.cores), (p.variant,), node) for node in at),
                (VariantShare(p.variant, 1.0),),
                p.rows,
                budget_s=p.time_s,
                rules=self._rules(p.rows, rate),
            )
            for p, at in zip(planned, nodes, strict=True)
        }
        return Plan({self._service.name: ServicePlan(self._service.name, stages)})

    def _rules(self, rows: int, rate: float) -> StageRules:
        if not self._published:
            return StageRules()
        return StageRules(
            order="fifo",
            forming="timeout",
            timeout_s=(rows - 1) / rate if rate > 0 else 0.0,
            drop="age",
            age_s_max=AGE_SLOS * self._service.slo_s,
            admission="open",
            routing="round_robin",
        )


def _tables(context: PolicyContext, service: Service) -> tuple[_Tables, ...]:
    """All stages, with the variants that the option `variants` leaves."""
    policy, options = IpaPolicy.name, context.options
    which = _one_of(options, "variants", VARIANTS)
    limit = integer(policy, options, "batch_max", 1 << 16, least=1)
    found = []
    for stage in service.stages:
        known = accuracies(policy, service.name, stage)
        usable = [variant for variant in stage.variants if variant.device == "cpu"]
        if not usable:
            raise SpecError(f"policy {policy}: service {service.name}, stage {stage.name} runs on no cores")
        rising = sorted(usable, key=lambda variant: known[variant.name])
        chosen = {"any": rising, "lightest": rising[:1], "heaviest": rising[-1:]}[which]
        rows_max = min(limit, max(variant.batch_rows_max for variant in chosen))
        times = context.service_times[service.name, stage.name]
        found.append(_Tables(stage, tuple(chosen), known, times, rows_max))
    return tuple(found)


def _sized(tables: _Tables, variant: Variant, cores: int, rows: tuple[int, ...]) -> IpaVariant:
    """A variant on replicas of one size, for the batches that it takes."""
    taken = [b for b in rows if b <= variant.batch_rows_max]
    name, times, size = variant.name, tables.times, float(cores)
    return IpaVariant(
        name,
        max(tables.accuracy[name], ACCURACY_MIN),
        cores,
        tuple(times.service_time_s(name, 0, b, size) for b in taken),
        tuple(times.service_time_s_p99(name, 0, b, size) for b in taken),
    )


def _replicas(options: Mapping[str, object], service: Service) -> dict[str, int]:
    """The option `replicas`, by stage; empty where it is not given.

    Keys are `stage`, or `service.stage`; those of other services are not looked at.
    """
    if "replicas" not in options:
        return {}
    value = options["replicas"]
    names = [stage.name for stage in service.stages]
    by_stage = dict.fromkeys(names, value)
    if isinstance(value, Mapping):
        own = f"{service.name}."
        by_stage = {str(key).removeprefix(own): value[key] for key in value if _is_of(own, str(key))}
    refuse_unknown(f"{IpaPolicy.name}: replicas", by_stage, names)
    return {name: integer(IpaPolicy.name, by_stage, name, 1, least=1) for name in by_stage}


def _is_of(own: str, key: str) -> bool:
    """Whether a key `stage` or `service.stage` is of the service with the prefix `own`."""
    return "." not in key or key.startswith(own)


def _one_of(options: Mapping[str, object], key: str, known: tuple[str, ...]) -> str:
    """An option that is one of a few words, the first by default."""
    value = str(options.get(key, known[0]))
    if value not in known:
        choices = ", ".join(nearest_first(value, known))
        raise SpecError(f"policy {IpaPolicy.name}: option {key}: no {value!r}; there are: {choices}")
    return value


def _alone(stage: IpaStage) -> IpaPlanned:
    """One replica of the least accurate variant with single rows."""
    first = stage.variants[0]
    return IpaPlanned(stage.name, first.name, 1, 1, first.cores, first.service_s[0], first.accuracy)


def _switches(planned: tuple[IpaPlanned, ...], view: ServiceView) -> int:
    """Planned replicas of stages that run on other variants now."""
    return sum(
        p.replicas
        for p in planned
        if all(p.variant not in replica.variants for replica in wanted_replicas(view, p.stage))
    )


def _words(planned: tuple[IpaPlanned, ...]) -> str:
    """`2x4 cores yolov5n batch 1, ...`."""
    return ", ".join(f"{p.replicas}x{p.cores} cores {p.variant} batch {p.rows}" for p in planned)
