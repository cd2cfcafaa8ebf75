"""What a spec says and a command does not act on: said, never silently ignored."""

from collections.abc import Iterator
from typing import Literal

from steelyard.config.items import counted
from steelyard.config.schema import Spec
from steelyard.config.source import nearest

Command = Literal["serve", "plan", "simulate"]


def notices(spec: Spec, command: Command = "serve") -> tuple[str, ...]:
    """A line for each key that is set and has no effect; `serve` refuses nodes outright."""
    unused = {"serve": (), "plan": ("network",), "simulate": ("price_per_hour", "network")}[command]
    keys = [
        f"cluster.nodes[{index}].{key}"
        for index, node in enumerate(spec.cluster.nodes or ())
        for key in unused
        if getattr(node, key)
    ]
    return (*(f"{key} is checked, but {command} does not apply it yet" for key in keys), *_uncounted(spec))


def _uncounted(spec: Spec) -> Iterator[str]:
    """Of numbers of items that nobody takes: most likely the name is wrong."""
    for name, service in spec.services.items():
        known = counted(service)
        for reference in service.items:
            if reference not in known:
                unused = "has no effect: no stage has it in each or when"
                yield f'services.{name}.items["{reference}"] {unused}{nearest(reference, known)}'
