"""What a stage's variants mean to the control plane: whether a replica is changed in place, and its memory.

A replica that lacks variants can load them while it serves with those it has, or be replaced by a new one. It
is changed in place where loading takes no longer than cold starts would, one variant after the other in both:
it takes no further cores, and nothing is served on fewer replicas meanwhile. A replica cannot change its
device.
"""

from collections.abc import Iterable, Sequence

from steelyard.core.types import Variant


class StageVariants:
    """The variants of one stage, by name; names that are not known count as nothing.

    Attributes:
        has_memory: somebody has said what a variant takes.
    """

    def __init__(self, variants: Iterable[Variant]) -> None:
        self._variants = {variant.name: variant for variant in variants}
        self.has_memory = any(variant.memory_bytes for variant in self._variants.values())

    def changes_in_place(self, resident: Sequence[str], wanted: Sequence[str]) -> bool:
        """Whether a replica with these variants is given those wanted, rather than replaced."""
        load_s = cold_start_s = 0.0
        for name in wanted:
            variant = self._variants.get(name)
            if variant is not None and name not in resident:
                load_s += variant.cold_start_s if variant.load_s is None else variant.load_s
                cold_start_s += variant.cold_start_s
        return load_s <= cold_start_s and self.device(resident) == self.device(wanted)

    def memory_bytes(self, variants: Iterable[str]) -> int:
        """Of a replica that has these resident: their sum."""
        return sum(self._variants[name].memory_bytes for name in set(variants) if name in self._variants)

    def device(self, variants: Iterable[str]) -> str:
        """The kind of device that a replica with these variants is on: all of them are for the same."""
        return next((self._variants[name].device for name in variants if name in self._variants), "cpu")
