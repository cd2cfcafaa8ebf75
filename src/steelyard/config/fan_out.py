"""How many rows each stage is given for each row of the request.

A stage with `each` or `fan_out` has a fixed count of rows for each row of the stage that it follows: the one
`each` names, else the one of its first input. Any other stage has one row for each row of the request: it
waits for everything before it, items included. Only fixed whole counts can be planned and simulated so far.
"""

from collections.abc import Sequence

from steelyard.config.pipeline import REQUEST, tensor_of, upstream
from steelyard.config.schema import ItemsSpec, ServiceSpec, StageSpec
from steelyard.config.source import Path, Source
from steelyard.config.units import shown

_SO_FAR = "plan and simulate know fixed whole counts so far"


def fan_outs(service: ServiceSpec, order: Sequence[str], source: Source, path: Path) -> dict[str, int]:
    """Rows of each stage for a row of the request, by name.

    Args:
        service: its references are known to be right.
        order: its stages, topologically.
        source: for errors.
        path: the service's path in the spec.

    Raises:
        SpecError: a count is missing, not fixed, not whole, or given twice; or a stage has more rows for a
            single request than may wait in it.
    """
    rows = {REQUEST: 1}
    for name in order:
        stage = service.pipeline[name]
        count = _count(service, name, source, path)
        rows[name] = 1 if count is None else count * rows[_origin(stage)]
        if rows[name] > service.limits.queue_rows:
            message = f"want at most limits.queue_rows ({service.limits.queue_rows}) rows a request"
            raise source.error((*path, "pipeline", name), f"{message}, got {rows[name]}")
    return {name: rows[name] for name in order}


def _count(service: ServiceSpec, name: str, source: Source, path: Path) -> int | None:
    """Rows for each row of the stage before it; None where it takes no items."""
    stage, at = service.pipeline[name], (*path, "pipeline", name)
    items = service.items.get(stage.each) if stage.each is not None else None
    if stage.fan_out is not None:
        if items is not None:
            raise source.error(
                (*at, "fan_out"), f"goes without items of {stage.each}: they say the same, give one"
            )
        return _whole(stage.fan_out, source, (*at, "fan_out"))
    if stage.each is None:
        return None
    if items is None:
        message = f"nothing says how many {stage.each} has: give items: {{{stage.each}: 6}}, for example"
        raise source.error((*at, "each"), message)
    return _whole(_fixed(items, source, (*path, "items", stage.each)), source, (*path, "items", stage.each))


def _fixed(items: ItemsSpec, source: Source, path: Path) -> float:
    if items.distribution != "fixed":
        raise source.error(
            path, f"{_SO_FAR}: give a plain number in place of a {items.distribution} distribution"
        )
    counts = set(items.mean.values())
    if len(counts) != 1:
        raise source.error(path, f"{_SO_FAR}: give one number for all variants, got {len(counts)}")
    return counts.pop()


def _whole(count: float, source: Source, path: Path) -> int:
    if count != int(count) or count < 1:
        raise source.error(path, f"{_SO_FAR}: want a whole number of at least 1, got {shown(count)}")
    return int(count)


def _origin(stage: StageSpec) -> str:
    if stage.each is not None:
        return tensor_of(stage.each)[0]
    return next(iter(upstream(stage)), REQUEST)
