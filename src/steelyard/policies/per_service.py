"""Several services under a policy that was written for one: each gets a share of the nodes by weight.

A share is whole cores (largest remainder, at least one each while there are enough), because such policies
count in whole cores, and of as few nodes as may be. What a service does not use stays idle: that is what a
fixed split means.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import floor, inf

import msgspec

from steelyard.core.plan import Decision, Grants, Plan, ServicePlan
from steelyard.core.snapshot import ClusterSnapshot
from steelyard.core.types import Service
from steelyard.policies.base import Policy, PolicyContext


def split_cores(cores: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole cores by weight; one each first, heaviest first where there are fewer cores than services."""
    order = sorted(weights, key=lambda name: (-weights[name], name))
    shares = {name: 1 if rank < cores else 0 for rank, name in enumerate(order)}
    left = cores - sum(shares.values())
    total = sum(weights.values())
    exact = {name: max(0.0, cores * weights[name] / total - shares[name]) for name in order}
    scale = left / sum(exact.values()) if sum(exact.values()) > 0 else 0.0
    for name in order:
        shares[name] += floor(exact[name] * scale + 1e-9)
    by_remainder = sorted(order, key=lambda name: -((exact[name] * scale) % 1.0))  # stable: heaviest first
    for name in by_remainder[: cores - sum(shares.values())]:
        shares[name] += 1
    return shares


def split_nodes(nodes: Sequence[int], weights: Mapping[str, float]) -> dict[str, list[int]]:
    """Whole cores of each node by weight of all nodes' cores; the heaviest takes the first nodes' first."""
    shares = split_cores(sum(nodes), weights)
    parts: dict[str, list[int]] = {name: [] for name in weights}
    for cores in nodes:
        left = cores
        for name in sorted(weights, key=lambda name: (-weights[name], name)):
            part = min(left, shares[name] - sum(parts[name]))
            parts[name].append(part)
            left -= part
    return parts


class PerService:
    """One instance of a policy for each service, on its share of the cores.

    It never reacts; `reacts` of what it is made of says whether that could use free cores at once.
    """

    def __init__(self, make: Callable[[PolicyContext], Policy], context: PolicyContext) -> None:
        self._services: dict[str, Service] = context.services
        self._policies = {
            name: make(
                PolicyContext(
                    {name: service},
                    {key: times for key, times in context.service_times.items() if key[0] == name},
                    context.options,
                    published=context.published,
                    future={key: rows for key, rows in context.future.items() if key == name},
                )
            )
            for name, service in context.services.items()
        }
        first = next(iter(self._policies.values()))
        self.name = first.name
        self.reacts = first.reacts
        self.solve_s = sum(policy.solve_s for policy in self._policies.values())

    def react(self, snapshot: ClusterSnapshot) -> Grants | None:  # noqa: ARG002
        """Nothing: a share is fixed."""
        return None

    def decide(self, snapshot: ClusterSnapshot) -> Decision:
        """The services' decisions, each on its share, as one plan."""
        plans: dict[str, ServicePlan] = {}
        reasons: list[str] = []
        runners_up: list[str] = []
        next_at_s = float("inf")
        seen = {view.service for view in snapshot.services}
        for name, policy in self._policies.items():
            if name not in seen:  # unloaded
                continue
            decision = policy.decide(self._share_of(snapshot, name))
            next_at_s = min(next_at_s, decision.next_at_s)
            if decision.plan is not None:
                plans.update(decision.plan.services)
            reasons.append(f"{name}: {decision.reason}")
            if decision.runner_up:
                runners_up.append(f"{name}: {decision.runner_up}")
        return Decision(Plan(plans) if plans else None, next_at_s, "; ".join(reasons), "; ".join(runners_up))

    def _share_of(self, snapshot: ClusterSnapshot, name: str) -> ClusterSnapshot:
        weights = {view.service: self._services[view.service].weight for view in snapshot.services}
        view = next(v for v in snapshot.services if v.service == name)
        limit = self._services[name].cores_max
        left = inf if limit is None else floor(limit + 1e-9)
        nodes = []
        share = self._memory_share(name, weights)
        parts = split_nodes([floor(node.cores + 1e-9) for node in snapshot.nodes], weights)[name]
        for node, part in zip(snapshot.nodes, parts, strict=True):
            cores = float(min(part, left))
            left -= cores
            held = sum(max(r.cores, r.cores_desired) for r in view.replicas if r.node == node.name)
            free = max(0.0, cores - held)
            nodes.append(
                msgspec.structs.replace(
                    node,
                    cores=cores,
                    cores_free=free,
                    fractional=False,
                    memory_bytes=floor(node.memory_bytes * share),
                )
            )
        return msgspec.structs.replace(snapshot, nodes=tuple(nodes), services=(view,))

    def _memory_share(self, name: str, seen: Collection[str]) -> float:
        """A service's part of the nodes' memory: as one replica of each stage has, with its first variant."""
        needs = {
            service: sum(stage.variants[0].memory_bytes for stage in self._services[service].stages)
            for service in seen
        }
        total = sum(needs.values())
        return needs[name] / total if needs[name] else 1.0
