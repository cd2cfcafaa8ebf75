"""Keys of a spec that are checked but that a command does not act on: said, never silently ignored."""

from collections.abc import Iterator
from typing import Literal

from steelyard.config.schema import Spec

Command = Literal["serve", "plan", "simulate"]


def notices(spec: Spec, command: Command = "serve") -> tuple[str, ...]:
    """A line for each key that is set and has no effect yet."""
    keys = [*_of_services(spec), *(_of_planning(spec) if command != "serve" else ())]
    return tuple(f"{key} is checked, but {command} does not apply it yet" for key in keys)


def _of_services(spec: Spec) -> Iterator[str]:
    for name, service in spec.services.items():
        for key, found in service.classes.items():
            if found.weight != 1:
                yield f"services.{name}.classes.{key}.weight"


def _of_planning(spec: Spec) -> Iterator[str]:
    """What `serve` refuses outright, but planning can do without."""
    for index, node in enumerate(spec.cluster.nodes or ()):
        for key in ("price_per_hour", "network"):
            if getattr(node, key):
                yield f"cluster.nodes[{index}].{key}"
