"""Keys of a spec that are checked but that a command does not act on: said, never silently ignored."""

from typing import Literal

from steelyard.config.schema import Spec

Command = Literal["serve", "plan", "simulate"]


def notices(spec: Spec, command: Command = "serve") -> tuple[str, ...]:
    """A line for each key that is set and has no effect yet; `serve` refuses nodes outright."""
    keys = [
        f"cluster.nodes[{index}].{key}"
        for index, node in enumerate(spec.cluster.nodes or ())
        for key in ("price_per_hour", "network")
        if command != "serve" and getattr(node, key)
    ]
    return tuple(f"{key} is checked, but {command} does not apply it yet" for key in keys)
