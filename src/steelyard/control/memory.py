"""What resident variants take of the nodes' memory, where both are known.

A replica is reckoned with all variants that it has or has been asked to load, each by `Variant.memory_bytes`.
A node that does not say how much memory it has takes everything; so does a variant of which nobody has said
what it takes.
"""

from collections.abc import Iterable, Mapping, Sequence

from steelyard.control.fleet import Fleet
from steelyard.control.replica import StageKey
from steelyard.control.variants import StageVariants
from steelyard.core.plan import ServicePlan


class Memory:
    """Bytes by node.

    Args:
        stages: what is known of each stage's variants.
    """

    def __init__(self, stages: Mapping[StageKey, StageVariants]) -> None:
        self._stages = stages
        self._bytes: dict[str, int] = {}
        self._counts = any(stage.has_memory for stage in stages.values())

    def join(self, node: str, memory_bytes: int) -> None:
        """A node has so much; 0: nobody knows."""
        self._bytes[node] = memory_bytes

    def capacity(self, node: str) -> int:
        """Bytes of a node; 0: nobody knows."""
        return self._bytes.get(node, 0)

    def of(self, key: StageKey, variants: Sequence[str]) -> int:
        """Bytes of a replica with these variants."""
        stage = self._stages.get(key) if self._counts else None
        return stage.memory_bytes(variants) if stage is not None else 0

    def objection(self, plans: Iterable[ServicePlan]) -> str | None:
        """Why these plans together do not fit a node's memory; None if they do."""
        wanted: dict[str, int] = {}
        for plan in plans if self._counts else ():
            for stage, stage_plan in plan.stages.items():
                for replica in stage_plan.replicas:
                    more = self.of((plan.service, stage), replica.variants)
                    wanted[replica.node] = wanted.get(replica.node, 0) + more
        for node, total in wanted.items():
            if 0 < self.capacity(node) < total:
                return f"{total:,} bytes wanted on node {node}, which has {self.capacity(node):,}"
        return None

    def has_room(self, fleet: Fleet, node: str, key: StageKey, variants: Sequence[str]) -> bool:
        """Whether these variants fit a node beside all that its replicas have or are to load."""
        capacity = self.capacity(node)
        wanted = self.of(key, variants) if capacity else 0
        return not wanted or self.held(fleet, node) + wanted <= capacity

    def held(self, fleet: Fleet, node: str) -> int:
        """Bytes that replicas have or are to load on a node."""
        on_node = (replica for replica in fleet if replica.node == node)
        return sum(self.of((r.service, r.stage), (*r.variants, *r.loading)) for r in on_node)
