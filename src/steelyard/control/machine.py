"""The control plane as one state machine: events in, commands out, time as an argument.

The rules that are not obvious:
- *The policy wishes, the machine checks.* A plan or a grant becomes part of the desired state only if it
  fits the cluster as it is at that moment (`validate`); otherwise it is recorded as `discarded` and nothing
  changes.
- *A grant outlives an older plan.* A plan that was asked for before a grant may not take back, without
  knowing of it, the cores that the grant gave: for such a service it is discarded, and the policy is asked
  again at once.
- *Nothing blocks.* One `Solve` is open at a time and given up after `solve_s_max`; a growth that does not
  fit and a start that failed wait for a later event while everything else goes on.
- *The desired state includes the grants.* `reconcile` alone turns it into commands, after every event that
  changed something, so that losing a replica and wanting one more are the same case.
"""

from collections.abc import Callable, Mapping
from typing import Any

from steelyard.control.desired import Desired, quantised, rules_of, units_by_node
from steelyard.control.fleet import Fleet
from steelyard.control.grants import Granting
from steelyard.control.ledger import Ledger, units_of
from steelyard.control.memory import Memory
from steelyard.control.news import News, ReplicaNews
from steelyard.control.reconcile import reconcile
from steelyard.control.replica import Replica
from steelyard.control.starts import Starts
from steelyard.control.validate import plan_objection
from steelyard.control.variants import StageVariants
from steelyard.control.view import Picture
from steelyard.core.commands import Command, OfferCapacity, Publish, RecordDecision, Solve, WakeAt
from steelyard.core.events import (
    ControlEvent,
    NodeJoined,
    ServiceLoaded,
    ServiceUnloaded,
    Solved,
    SolveFailed,
    WindowReported,
    Woken,
)
from steelyard.core.plan import Decision, Grants, ServicePlan
from steelyard.core.snapshot import ClusterSnapshot, NodeView
from steelyard.core.types import Service
from steelyard.policies.base import Policy

SOLVE_S_MAX = 10.0
"""Seconds after which an open `Solve` is given up."""
NEVER = float("inf")


class ControlMachine:
    """Desired state, core ledger and replicas of one cluster.

    Args:
        services: by name; constant.
        policy: its `react` is called inline; its `decide` only through `Solve`.
        window_s: length of a sensing window, seconds.
        policy_name: for records; the policy's own if omitted.
        solve_s_max: seconds after which an open `Solve` is given up.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        policy: Policy,
        *,
        window_s: float = 0.1,
        policy_name: str | None = None,
        solve_s_max: float = SOLVE_S_MAX,
    ) -> None:
        self._services = dict(services)
        self._policy = policy
        self._policy_name = policy.name if policy_name is None else policy_name
        self._window_s = window_s
        self._solve_s_max = solve_s_max
        self._now_s = float("-inf")
        stages = {
            (service.name, stage.name): StageVariants(stage.variants)
            for service in self._services.values()
            for stage in service.stages
        }
        self._ledger = Ledger()
        self._memory = Memory(stages)
        self._fleet = Fleet(stages=stages)
        self._desired = Desired()
        self._picture = Picture(
            self._services, self._desired, self._fleet, self._ledger, self._memory, window_s=window_s
        )
        self._next_id = 1
        self._starts = Starts(self._services)
        self._news = News(self._fleet, self._ledger, self._starts)
        self._reported: set[str] = set()
        self._published: dict[str, ServicePlan] = {}
        self._offered: dict[str, float] = {}
        self._offered_of: tuple[NodeView, ...] = ()
        self._offered_at = 0  # version of what is desired
        self._granted: set[str] = set()  # services, since the latest `Solve` was asked for
        self._solve_id = 0
        self._solve_asked_s: float | None = None
        self._next_solve_s = NEVER
        self._wake_s: float | None = None
        self._last_record: tuple[str, str, bool] | None = None
        self._dirty = False
        self._at_rest = False
        self._retry_s = NEVER  # of the next refused resize, failed start or failed load
        self._cause = ""
        self._handlers: dict[type, Callable[[Any], list[Command]]] = {
            NodeJoined: self._on_node_joined,
            ServiceUnloaded: self._on_unloaded,
            ServiceLoaded: self._on_loaded,
            WindowReported: self._on_window,
            Solved: self._on_solved,
            SolveFailed: self._on_solve_failed,
            Woken: self._on_woken,
            **dict.fromkeys(self._news.kinds, self._on_replica),
        }

    @property
    def desired(self) -> dict[str, ServicePlan]:
        """Plans by service, grants included."""
        return dict(self._desired.plans)

    @property
    def replicas(self) -> dict[int, Replica]:
        """Replicas by id, from `StartReplica` to `ReplicaGone`."""
        return {replica.replica_id: replica for replica in self._fleet}

    def ledger_copy(self) -> Ledger:
        """Who holds which cores, as a copy to look at."""
        return self._ledger.copy()

    def snapshot(self) -> ClusterSnapshot:
        """The cluster as a policy would see it now."""
        return self._picture.snapshot(now_s=self._now_s)

    def handle(self, event: ControlEvent, *, now_s: float) -> list[Command]:
        """Take one event; what is to be done, in the order in which it must be carried out.

        The only method that changes the machine. Its time is the largest `now_s` seen, in seconds.
        """
        self._now_s = max(self._now_s, now_s)
        commands = self._handlers[type(event)](event)
        if self._dirty or self._now_s >= self._retry_s:
            commands += self._reconcile()
        if self._solve_asked_s is not None:
            commands += self._give_up_solve(self._solve_asked_s)
        if self._solve_asked_s is None and self._now_s >= self._next_solve_s:
            commands += self._solve()
        nodes = self._picture.nodes  # looked at in any case: it settles whom each replica stands for now
        is_old = nodes is not self._offered_of or self._desired.version != self._offered_at
        if is_old and self._policy.reacts:
            commands += self._offers(nodes)
        commands += self._wake()
        return commands

    def validate(self) -> None:
        """Assert the laws that hold between events; for tests and debug runs."""
        self._ledger.check()
        for replica in self._fleet:
            held = self._ledger.cores(replica.replica_id)
            assert units_of(held) >= units_of(replica.cores_requested), f"{replica} holds {held} cores"
            assert replica.pending is None or replica.state in ("ready", "parked", "draining"), replica
        assert plan_objection(self._desired.plans, {}, self._services, self._ledger) is None
        assert self._memory.objection(self._desired.plans.values()) is None

    # Events

    def _on_node_joined(self, event: NodeJoined) -> list[Command]:
        self._ledger.join(event.node, event.core_ids, fractional=event.fractional, devices=event.devices)
        self._memory.join(event.node, event.memory_bytes)
        self._next_solve_s = self._now_s
        self._dirty = True
        return []

    def _on_unloaded(self, event: ServiceUnloaded) -> list[Command]:
        """Replicas that are there are drained by the next pass; the policy plans without the service."""
        self._picture.hidden.add(event.service)
        self._granted.discard(event.service)
        self._desired.empty(event.service)
        self._ask_again()
        return []

    def _on_loaded(self, event: ServiceLoaded) -> list[Command]:
        self._picture.hidden.discard(event.service)
        self._desired.drop(event.service)
        self._ask_again()
        return []

    def _ask_again(self) -> None:
        """What the policy is, or was, asked concerns other services than there are: it is asked anew."""
        self._solve_asked_s = None
        self._next_solve_s = self._now_s
        self._cause = "the services have changed"
        self._dirty = True

    def _on_window(self, event: WindowReported) -> list[Command]:
        service = event.window.service
        if service not in self._services:
            return []
        commands: list[Command] = []
        if service in self._reported:
            commands += self._tick()
        self._picture.sensed[service].add(event.window)
        self._reported.add(service)
        if len(self._reported) == len(self._services):
            commands += self._tick()
        return commands

    def _on_solved(self, event: Solved) -> list[Command]:
        if event.solve_id != self._solve_id or self._solve_asked_s is None:
            return self._record("discarded", event.decision, "answered after it was given up")
        self._solve_asked_s = None
        self._next_solve_s = max(self._now_s + self._window_s, event.decision.next_at_s)
        return self._accept(event.decision)

    def _on_solve_failed(self, event: SolveFailed) -> list[Command]:
        if event.solve_id != self._solve_id or self._solve_asked_s is None:
            return []
        self._solve_asked_s = None
        self._next_solve_s = self._now_s + 1.0
        return self._record("discarded", None, f"the policy failed: {event.message}")

    def _on_replica(self, event: ReplicaNews) -> list[Command]:
        came = self._news.take(event, is_at_rest=self._at_rest, now_s=self._now_s)
        self._dirty |= came.is_change
        if came.cause:
            self._cause = came.cause
        return self._record("react", None, came.text) if came.text else []

    def _on_woken(self, event: Woken) -> list[Command]:  # noqa: ARG002
        self._wake_s = None
        return []

    # Decisions

    def _tick(self) -> list[Command]:
        """A sensing window is complete: let the policy react."""
        self._reported.clear()
        if not self._desired.plans or not self._policy.reacts:
            return []
        try:
            grants = self._policy.react(self._picture.snapshot(now_s=self._now_s))
        except Exception as error:  # a policy's bug must not end the sensing of every service
            return self._record("discarded", None, f"react failed: {type(error).__name__}: {error}")
        return self._apply(grants) if grants is not None and grants.grants else []

    def _apply(self, grants: Grants) -> list[Command]:
        working = Granting(self._desired, self._fleet, self._services, self._ledger, self._memory)
        dropped = [why for why in map(working.take, grants.grants) if why is not None]
        plans = working.plans()
        for plan in plans:
            self._desired.put(plan)
            self._granted.add(plan.service)
        reason = "; ".join([grants.reason, *(f"dropped: {why}" for why in dropped)])
        if plans:
            self._dirty = True
            self._cause = "react"
            return self._record("react", None, reason)
        return self._record("discarded", None, reason) if dropped else []

    def _accept(self, decision: Decision) -> list[Command]:
        """Make a decision the desired state, if it still fits the world."""
        if decision.plan is None:
            return self._record("decide", decision, decision.reason, changed=False)
        present = self._desired.plans
        given = decision.plan.services.items()
        hidden = self._picture.hidden
        wanted = {n: plan for n, plan in given if present.get(n) != plan and n not in hidden}
        objection = None
        if wanted:
            objection = plan_objection(wanted, present, self._services, self._ledger)
            objection = objection or self._memory.objection({**present, **wanted}.values())
        if objection:
            return self._record("discarded", decision, objection)
        plans = [quantised(plan) for plan in wanted.values()]
        stale = [plan.service for plan in plans if self._takes_back(plan)]
        if stale:
            self._next_solve_s = self._now_s
            return self._record("discarded", decision, f"older than the grant to {', '.join(stale)}")
        changed = [plan for plan in plans if present.get(plan.service) != plan]
        for plan in changed:
            self._desired.put(plan)
        if changed:
            self._dirty = True
            self._cause = f"decision {self._solve_id}"
        return self._record("decide", decision, decision.reason, changed=bool(changed))

    def _takes_back(self, plan: ServicePlan) -> bool:
        """Whether a plan, asked for before a grant to its service, has fewer cores than granted."""
        if plan.service not in self._granted:
            return False
        return sum(units_by_node(plan).values()) < self._desired.units(plan.service)

    def _record(
        self, kind: Any, decision: Decision | None, reason: str, *, changed: bool = True
    ) -> list[Command]:
        """Write a decision down: each that changes something, and the first of an unchanged streak."""
        key = (kind, reason if kind == "discarded" else "", changed)
        if key == self._last_record and (kind == "discarded" or not changed):
            return []
        self._last_record = key
        runner_up = decision.runner_up if decision is not None else ""
        return [RecordDecision(self._now_s, kind, self._policy_name, decision, reason, runner_up)]

    # What follows from the state

    def _reconcile(self) -> list[Command]:
        self._dirty = False
        outcome = reconcile(
            self._desired.plans,
            self._fleet,
            self._ledger,
            now_s=self._now_s,
            next_id=self._next_id,
            cold_start_s=self._starts.cold_start_s,
            blocked=self._starts.blocked(now_s=self._now_s),
            memory=self._memory,
            unloadable=self._starts.unloadable(now_s=self._now_s),
            cause=self._cause,
        )
        self._next_id, self._at_rest = outcome.next_id, outcome.at_rest
        self._retry_s = self._news.next_retry_s(now_s=self._now_s)
        return [*self._publications(outcome.holding), *outcome.commands]

    def _publications(self, holding: frozenset[str]) -> list[Command]:
        """New rules of services; a service in transition keeps the old ones until its new replicas are up."""
        commands: list[Command] = []
        for name, plan in self._desired.plans.items():
            known = self._published.get(name)
            if known is plan or (known is not None and name in holding):
                continue
            self._published[name] = plan
            if known is None or rules_of(known) != rules_of(plan):
                commands.append(Publish(plan))
        return commands

    def _give_up_solve(self, asked_s: float) -> list[Command]:
        if self._now_s < asked_s + self._solve_s_max:
            return []
        self._solve_asked_s = None
        self._next_solve_s = self._now_s
        return self._record("discarded", None, f"no answer within {self._solve_s_max:g} s")

    def _solve(self) -> list[Command]:
        if not self._ledger.nodes or len(self._picture.hidden) == len(self._services):
            return []
        self._solve_id += 1
        self._solve_asked_s = self._now_s
        self._granted.clear()  # the snapshot shows what was granted so far
        return [Solve(self._solve_id, self.snapshot())]

    def _offers(self, nodes: tuple[NodeView, ...]) -> list[Command]:
        """Tell each service the cores it could be granted within a window, by a policy that reacts.

        They are the free cores of the nodes where it has replicas that could grow.
        """
        self._offered_of, self._offered_at = nodes, self._desired.version
        commands: list[Command] = []
        for name, service in self._services.items():
            offer = sum(n.cores_free for n in nodes if self._desired.may_grow_on(name, n.name))
            if service.cores_max is not None and name in self._desired.plans:
                offer = min(offer, max(0.0, service.cores_max - self._desired.cores(name)))
            if self._offered.get(name, 0.0) != offer:
                self._offered[name] = offer
                commands.append(OfferCapacity(name, offer))
        return commands

    def _wake(self) -> list[Command]:
        wake_s = self._retry_s
        if self._solve_asked_s is not None:
            wake_s = min(wake_s, self._solve_asked_s + self._solve_s_max)
        elif self._next_solve_s > self._now_s:
            wake_s = min(wake_s, self._next_solve_s)
        if wake_s == self._wake_s or wake_s == NEVER:
            return []
        self._wake_s = wake_s
        return [WakeAt(wake_s)]
