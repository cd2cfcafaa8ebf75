"""What a policy decides: for each stage its replicas, its variant mix and the data plane's rules.

A plan is a desired state, never a delta. The data plane's rules are data, so that a published policy brings
its own (`published`) and any policy can run on the shared ones (`StageRules()`, the defaults, are `ours`).
"""

from typing import Literal, NamedTuple

from steelyard.core.types import Frozen

Order = Literal["edf", "fifo"]
Forming = Literal["hold", "full", "timeout", "adaptive", "aimd", "nexus"]
Drop = Literal["none", "age", "infeasible", "early", "budget"]
Admission = Literal["open", "feasible"]
Routing = Literal["least_finish", "round_robin", "assigned"]
Choice = Literal["mix", "fit", "table"]

ASSIGNED_FORMING: tuple[Forming, ...] = ("adaptive", "aimd", "nexus")
"""Rules for a queue a replica: they imply the routing `assigned`, and drop by themselves."""


class StageRules(Frozen, frozen=True):
    """How one stage's data plane behaves; the defaults are Steelyard's own rules (docs/adr/0004).

    Attributes:
        order: `edf` earliest deadline first; `fifo` order of arrival.
        forming: `hold` an idle replica takes what is queued at once, or waits up to `StagePlan.hold_s_max`;
            `full` waits for exactly `batch_rows_max` rows, without limit (Themis 2024);
            `timeout` waits for `batch_rows_max` rows or `timeout_s` after the head's arrival (Themis 2025);
            `adaptive` (Proteus), `aimd` (Clipper) and `nexus` for a queue a replica (`lanes`): they imply the
            routing `assigned` and drop by themselves.
        timeout_s: for `timeout`, seconds.
        drop: `none` never; `age` at batch assembly when older than `age_s_max`; `infeasible` at dequeue when
            it cannot finish in time; `early` as `infeasible`, and a head that would shrink the batch is shed
            when serving it loses more rows than it saves; `budget` when its batch would end after `budget_s`
            from when it began to wait at the stage (without one, twice a planned batch of the variant: Loki).
        age_s_max: for `age`, seconds since arrival; required there.
        admission: `open` takes everything up to the queue's limit; `feasible` rejects what could not finish
            in time even if the grantable cores came now and starting replicas came when expected.
        routing: which idle replica takes a batch: `least_finish` the one expected to finish first;
            `round_robin` in turn; `assigned` none may choose: each piece is given to one replica when it
            begins to wait, by `StagePlan.mix` and the replicas' rates, and waits for it (Proteus,
            Nexus: a queue a device).
        choice: which resident variant runs a batch: `mix` the one that lags behind its share; `fit` the first
            of the mix, in its order, that lets what waits be served in time, else the fastest (accuracy is
            lowered before anything is dropped, and rises again by itself); `table` each request is given its
            variant when it begins to wait, by `StagePlan.paths`.
        reroutes: a request that would be dropped for its planned variants may take faster ones at the stages
            that follow, where they have room (Loki's opportunistic rerouting).
    """

    order: Order = "edf"
    forming: Forming = "hold"
    timeout_s: float = 0.0
    drop: Drop = "early"
    age_s_max: float | None = None
    admission: Admission = "feasible"
    routing: Routing = "least_finish"
    choice: Choice = "mix"
    reroutes: bool = False


class ReplicaPlan(Frozen, frozen=True):
    """One wanted replica: its cores (fractions only where the node enforces them) and resident variants.

    Without cores it is parked: it keeps its memory and comes back within a window. It starts with a core all
    the same, since loading takes one.
    """

    cores: float
    variants: tuple[str, ...]
    node: str = "local"
    device: str = "cpu"


class VariantShare(NamedTuple):
    """Share of a stage's rows that a variant answers; shares of a stage sum to 1."""

    variant: str
    share: float


class PathShares(NamedTuple):
    """Shares for requests that came by a path: variants of the stages before, in the pipeline's order."""

    path: tuple[str, ...]
    shares: tuple[VariantShare, ...]


class StagePlan(Frozen, frozen=True):
    """Desired state of one stage.

    Attributes:
        replicas: wanted replicas; the order carries no meaning.
        mix: variants and their shares; batches use the first resident one that has share left.
        batch_rows_max: rows in one batch, >= 1.
        hold_s_max: seconds an idle replica may wait for company; 0 never waits.
        budget_s: this stage's part of the SLO (its sub-deadline): for reports, and for `drop: budget`.
        rules: the data plane's strategies.
        covers_starts: while replicas of the stage start, the others keep their cores and stay, whatever the
            plan says of them: they carry the load over the cold start. False for a policy that moves cores
            within a window and knows which of them are needed meanwhile.
        rows_max: rows in one batch by variant, where it is not `batch_rows_max`.
        paths: for `choice: table`; a path that is missing takes `mix`.
    """

    replicas: tuple[ReplicaPlan, ...]
    mix: tuple[VariantShare, ...]
    batch_rows_max: int = 1
    hold_s_max: float = 0.0
    budget_s: float | None = None
    rules: StageRules = StageRules()
    covers_starts: bool = True
    rows_max: dict[str, int] = {}
    paths: tuple[PathShares, ...] = ()


class ServicePlan(Frozen, frozen=True):
    """Desired state of one service, by stage name."""

    service: str
    stages: dict[str, StagePlan]


class Plan(Frozen, frozen=True):
    """Desired state of the cluster, by service name; a service that is missing keeps what it has."""

    services: dict[str, ServicePlan]


class Infeasible(Frozen, frozen=True):
    """No plan meets the constraints: which one binds, and the nearest that would do."""

    service: str
    binding: str
    nearest_slo_s: float | None = None
    nearest_cores: float | None = None


class Decision(Frozen, frozen=True):
    """A policy's answer.

    Attributes:
        plan: the new desired state, or None to leave it as it is.
        next_at_s: when the policy wants to decide again; later than the snapshot's time.
        reason: why this plan, in one sentence with its figures.
        runner_up: the second-best plan and why it lost, empty if there was none.
    """

    plan: Plan | None
    next_at_s: float
    reason: str
    runner_up: str = ""


class GrantCores(Frozen, frozen=True, tag="grant_cores"):
    """Set the cores of a live replica, now."""

    replica_id: int
    cores: float


class GrantStart(Frozen, frozen=True, tag="grant_start"):
    """Start one more replica of a stage, now."""

    service: str
    stage: str
    replica: ReplicaPlan


class GrantCancel(Frozen, frozen=True, tag="grant_cancel"):
    """Give up a replica that is still starting: the burst it was meant for has ended."""

    replica_id: int


Grant = GrantCores | GrantStart | GrantCancel


class Grants(Frozen, frozen=True):
    """What `react` moves within one sensing window, and why."""

    grants: tuple[Grant, ...]
    reason: str
