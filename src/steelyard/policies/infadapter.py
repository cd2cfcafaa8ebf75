"""InfAdapter (Salmani et al., EuroMLSys 2023): a set of variants, their cores and their shares, every 30 s.

Its program (`plan.infadapter`) is solved for the predicted load, exactly. More load than was planned for is
planned for at once; less must have been predicted by four decisions in a row. One replica a variant; what a
change needs is started before what it replaces is given up, as far as there are cores.

What differs from the release, and why:
- *The predictor* is the largest 1-s count of the last minute plus 10 %. The release has an LSTM that predicts
  the maximum of the next minute from those of the last ten, also plus 10 %; a network that was trained on one
  trace is nothing to ship, and the last window's maximum is the bar that predictors are held against here.
- *Capacities* come from the profile by a queueing formula (`plan.infadapter_capacity`) where the authors
  measure them; the line through five sizes and the fifth less are theirs.
- *Cores change in place*, where a pod is replaced; they count as loading all the same.
- *What it cannot carry*: all cores go to the variant that carries most, as released; there it is always the
  smallest.

`published` is its data plane: single rows in order of arrival, each request given to a variant by share when
it arrives, no deadlines, nothing dropped, everybody admitted. (The release takes turns by rounded quotas, and
refuses beyond 1.25 times a variant's capacity waiting.)

Options: `capacity` (`fitted`, as published; `measured`, four fifths of what the profile says of every size:
nothing is lost to the line), `headroom` (0.8, for `measured`), `mix` (true; false is the paper's baseline
MS+, the best single variant), `cost_weight` (0.05), `load_weight` (0.001). A service's `objective` replaces
the weights: then the whole front of (accuracy, cores) is found and the objective points at it.

One service of one stage; see `per_service` for several. Whole cores; where no node
has room for a mix, the best one of fewer cores.
"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from steelyard.core.errors import SpecError
from steelyard.core.plan import (
    Decision,
    Grants,
    Infeasible,
    Plan,
    ReplicaPlan,
    ServicePlan,
    StagePlan,
    StageRules,
    VariantShare,
)
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.core.types import Service, Stage
from steelyard.plan.accuracy import accuracies, pick
from steelyard.plan.infadapter import (
    Candidate,
    Mix,
    MixProblem,
    Portion,
    best_single,
    fitted,
    front,
    solve,
)
from steelyard.plan.infadapter_capacity import capacities_rps
from steelyard.policies.base import PolicyContext
from steelyard.policies.options import nearest_first, number, refuse_unknown
from steelyard.policies.sensing import wanted_replicas
from steelyard.policies.uniform import Site, site_of, whole_cores

TICK_S = 30.0
LOOK_S = 60
INFLATION = 1.1
CALM_DECISIONS = 4
CORES_MIN = 2
CAPACITIES = ("fitted", "measured")
OPTIONS = ("capacity", "headroom", "mix", "cost_weight", "load_weight")

PUBLISHED = StageRules(order="fifo", forming="hold", drop="none", admission="open", routing="assigned")


class InfAdapterPolicy:
    """One service; see `per_service` for several."""

    name = "infadapter"
    solve_s = 0.03
    reacts = False

    def __init__(self, context: PolicyContext) -> None:
        options = context.options
        refuse_unknown(self.name, options, OPTIONS)
        (self._service,) = context.services.values()
        self._stage = _only_stage(self._service)
        self._accuracies = accuracies(self.name, self._service.name, self._stage)
        self._mixes = _mixes(options)
        self._cost_weight = number(self.name, options, "cost_weight", 0.05, least=0)
        self._load_weight = number(self.name, options, "load_weight", 0.001, least=0)
        self._rules = PUBLISHED if context.published else StageRules()
        self._rps = _capacities(context, self._service, self._stage)
        self._planned_rps = -1.0
        self._calm = 0

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: replicas take longer than a window."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """Solve for a load that has grown, or that has been smaller for long enough."""
        site = site_of(self._service, snapshot, TICK_S)
        if isinstance(site, Decision):
            return site
        view = site.view
        rate_rps = INFLATION * max(view.arrival_rows_by_second[-LOOK_S:], default=0)
        if view.desired is not None and rate_rps <= self._planned_rps:
            self._calm += 1
            if self._calm < CALM_DECISIONS:
                waits = (
                    f"planned for {self._planned_rps:.0f}, {self._calm} of {CALM_DECISIONS} calm decisions"
                )
                return Decision(None, site.next_at_s, f"{rate_rps:.0f} requests a second expected, {waits}")
        self._planned_rps, self._calm = rate_rps, 0
        stage_plan, why = self._planned(self._problem(site, rate_rps), site)
        plan = Plan({self._service.name: ServicePlan(self._service.name, {self._stage.name: stage_plan})})
        return Decision(plan, site.next_at_s, f"{rate_rps:.0f} requests a second expected: {why}")

    def _planned(self, problem: MixProblem, site: Site) -> tuple[StagePlan, str]:
        """The best mix that has a place on the nodes, and why."""
        for cores in range(problem.cores_max, 0, -1):
            mix, why = self._chosen(replace(problem, cores_max=cores))
            used = [portion for portion in mix.portions if portion.share > 0]
            nodes = site.placed([[float(portion.cores) for portion in used]])
            if nodes is not None:
                return self._stage_plan(used, nodes[0]), why
        raise AssertionError(f"a single core has no place on {site.nodes}")

    def _problem(self, site: Site, rate_rps: float) -> MixProblem:
        view = site.view
        present: dict[str, int] = {}
        for replica in wanted_replicas(view, self._stage.name):
            name = replica.variants[0]
            present[name] = present.get(name, 0) + whole_cores(replica.cores)
        candidates = tuple(
            Candidate(
                variant.name,
                self._accuracies[variant.name],
                self._rps[variant.name][: site.size_max],
                variant.cold_start_s,
                present.get(variant.name, 0),
            )
            for variant in self._stage.variants
            if variant.name in self._rps
        )
        return MixProblem(candidates, rate_rps, site.cores, CORES_MIN, self._cost_weight, self._load_weight)

    def _chosen(self, problem: MixProblem) -> tuple[Mix, str]:
        """What is to run, and why."""
        objective = self._service.objective
        if not self._mixes:
            found = best_single(problem)
        elif objective is None:
            found = solve(problem)
        else:
            chosen = pick(front(problem), objective, cores_max=problem.cores_max)
            found = chosen or solve(problem)
        if isinstance(found, Infeasible):
            mix = _most(problem)
            return mix, f"{found.binding} are too many: all to {_words(mix)}"
        return found, f"{_words(found)}, accuracy {found.accuracy:.4f}"

    def _stage_plan(self, used: Sequence[Portion], nodes: Sequence[str]) -> StagePlan:
        total = sum((portion.share for portion in used), 0.0)
        return StagePlan(
            tuple(
                ReplicaPlan(float(p.cores), (p.variant,), node) for p, node in zip(used, nodes, strict=True)
            ),
            tuple(VariantShare(p.variant, p.share / total) for p in used),
            budget_s=self._service.slo_s,
            rules=self._rules,
        )


def _only_stage(service: Service) -> Stage:
    if len(service.stages) > 1:
        raise SpecError(
            f"policy infadapter: service {service.name} has {len(service.stages)} stages; it plans for one "
            "(for pipelines: ipa, loki, steelyard)"
        )
    return service.stages[0]


def _mixes(options: Mapping[str, object]) -> bool:
    """The option `mix`."""
    value = options.get("mix", True)
    if not isinstance(value, bool):
        raise SpecError(f"policy infadapter: option mix: want true or false, got {value!r}")
    return value


def _capacities(context: PolicyContext, service: Service, stage: Stage) -> dict[str, tuple[float, ...]]:
    """Requests a second by cores of each variant that runs on them, as `capacity` has it."""
    policy, options = InfAdapterPolicy.name, context.options
    kind = str(options.get("capacity", CAPACITIES[0]))
    if kind not in CAPACITIES:
        choices = ", ".join(nearest_first(kind, CAPACITIES))
        raise SpecError(f"policy {policy}: option capacity: no {kind!r}; there are: {choices}")
    headroom = number(policy, options, "headroom", 0.8, least=0.01, most=1.0)
    times = context.service_times[service.name, stage.name]
    slo_s = service.slo_s - service.reply_s
    found = {}
    for variant in stage.variants:
        if variant.device != "cpu":
            continue
        rps = capacities_rps(times, variant.name, variant.cores_max, slo_s=slo_s, quantile=service.quantile)
        found[variant.name] = fitted(rps) if kind == "fitted" else tuple(headroom * each for each in rps)
    if not found:
        raise SpecError(f"policy {policy}: service {service.name} has no variant that runs on cores")
    return found


def _most(problem: MixProblem) -> Mix:
    """All cores to the variant that carries most; of equals to the least accurate."""
    best = max(
        problem.candidates,
        key=lambda each: (max(each.rps[: problem.cores_max], default=0.0), -each.accuracy),
    )
    cores = min(problem.cores_max, len(best.rps))
    return Mix((Portion(best.name, cores, 1.0),), cores, best.accuracy, best.load_s, 0.0)


def _words(mix: Mix) -> str:
    """`resnet101 2 cores 13%, resnet50 6 cores 87%`."""
    return ", ".join(f"{p.variant} {p.cores} cores {p.share:.0%}" for p in mix.portions)
