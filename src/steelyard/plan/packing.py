"""Which node each replica goes to, when every one needs its cores on a single node.

First fit in falling order of size finds a placement nearly always; where it does not, a search over the same
order does, or gives up after `STEPS_MAX` steps. Equal replicas and equally free nodes are tried once.
"""

from collections.abc import Sequence

STEPS_MAX = 5_000
SEARCHED_MAX = 300
"""Replicas; more than so many are placed by first fit alone."""


def pack(sizes: Sequence[int], nodes: Sequence[int]) -> tuple[int, ...] | None:
    """The node of each replica, or None if none was found.

    Args:
        sizes: cores of each replica, >= 1.
        nodes: free cores of each node.
    """
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    falling = [sizes[index] for index in order]
    if sum(falling) > sum(nodes):
        return None
    placed = _first_fit(falling, nodes)
    if placed is None and len(falling) <= SEARCHED_MAX:
        placed = _Search(falling, nodes).run()
    if placed is None:
        return None
    at = [0] * len(sizes)
    for index, node in zip(order, placed, strict=True):
        at[index] = node
    return tuple(at)


def _first_fit(falling: Sequence[int], nodes: Sequence[int]) -> list[int] | None:
    free = list(nodes)
    placed: list[int] = []
    for size in falling:
        node = next((node for node, cores in enumerate(free) if cores >= size), None)
        if node is None:
            return None
        free[node] -= size
        placed.append(node)
    return placed


class _Search:
    """Depth first; a replica as large as the one before it goes to no earlier node."""

    def __init__(self, falling: Sequence[int], nodes: Sequence[int]) -> None:
        self._sizes = falling
        self._free = list(nodes)
        self._placed: list[int] = []
        self._steps = 0

    def run(self) -> list[int] | None:
        """The placement, or None."""
        return self._placed if self._from(0) else None

    def _from(self, index: int) -> bool:
        if index == len(self._sizes):
            return True
        self._steps += 1
        if self._steps > STEPS_MAX:
            return False
        size = self._sizes[index]
        first = self._placed[-1] if index and self._sizes[index - 1] == size else 0
        tried: set[int] = set()
        for node in range(first, len(self._free)):
            if self._free[node] < size or self._free[node] in tried:
                continue
            tried.add(self._free[node])
            self._free[node] -= size
            self._placed.append(node)
            if self._from(index + 1):
                return True
            self._placed.pop()
            self._free[node] += size
        return False
