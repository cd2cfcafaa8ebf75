"""Which stages take items, of which stage, and how many there are for each row of the request.

A stage's rows are the rows of the request, or *items* that another stage makes of each of its rows: `each`
names the output that has one element an item, `when` selects among them. A `when` alone selects rows of the
stage whose output it looks at: each has one item or none. Items are made by stages on the request's rows
alone, so that every item belongs to a row of the request: items of items are refused.

How many items there are is measured while serving; to plan without traffic `items` says it, by the output
that is counted. What a condition looks at may be there too: then its number is the share that goes on.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from steelyard.config.pipeline import REQUEST, condition_of, tensor_of, upstream
from steelyard.config.schema import ServiceSpec
from steelyard.config.source import Path, Source
from steelyard.core.types import Condition, Items


class Taken(NamedTuple):
    """The items that a stage takes: of stage `of`, one for each element of `each`, where `when` holds."""

    of: str
    each: str = ""
    when: Condition | None = None


class Rows(NamedTuple):
    """Planned rows of a stage for each row of the request, and of the items it takes, if it takes any."""

    fan_out: float
    items: Items | None


def taken_items(service: ServiceSpec, name: str) -> Taken | None:
    """The items that a stage takes; None if it takes the request's rows."""
    stage = service.pipeline[name]
    when = None if stage.when is None else condition_of(stage.when)
    if stage.each is not None:
        return Taken(*tensor_of(stage.each), when)
    if when is not None:
        return Taken(when.stage, when=when)
    if stage.fan_out is not None and stage.fan_out != int(stage.fan_out):
        return Taken(_followed(service, name))
    return None


def check_items(service: ServiceSpec, source: Source, path: Path) -> None:
    """Items are made by stages, on the request's rows, and selected by what their maker says of them.

    Raises:
        SpecError: they are not.
    """
    for name, stage in service.pipeline.items():
        at: Path = (*path, "pipeline", name)
        taken = taken_items(service, name)
        if taken is None:
            if stage.fan_out is not None:
                _check_one_level(service, _followed(service, name), source, (*at, "fan_out"))
            continue
        at = (*at, "each" if stage.each is not None else "when" if stage.when is not None else "fan_out")
        if stage.fan_out is not None and at[-1] == "when":
            message = f"goes with each; the share of rows for which {stage.when} holds is given by items"
            raise source.error((*at[:-1], "fan_out"), message)
        if taken.of == REQUEST:
            raise source.error(at, "want an output of a stage: nothing counts items of the request itself")
        if taken.when is not None and taken.when.stage != taken.of:
            message = f"want an output of {taken.of}, which makes the items, got {stage.when}"
            raise source.error((*at[:-1], "when"), message)
        _check_one_level(service, taken.of, source, at)
        if taken.when is not None:
            _check_share(service, taken.when, source, path)


def counted(service: ServiceSpec) -> tuple[str, ...]:
    """Outputs of which there may be a number: each element of them is taken, or they decide what is."""
    whens = (condition_of(stage.when) for stage in service.pipeline.values() if stage.when is not None)
    eaches = (stage.each for stage in service.pipeline.values() if stage.each is not None)
    return tuple(dict.fromkeys([*eaches, *(f"{when.stage}.{when.tensor}" for when in whens)]))


def _check_share(service: ServiceSpec, when: Condition, source: Source, path: Path) -> None:
    for variant, share in _shares(service, when).items():
        if share > 1:
            at = (*path, "items", f"{when.stage}.{when.tensor}", *(("mean", variant) if variant else ()))
            message = f"it is the share for which a condition holds: want at most 1, got {share:g}"
            raise source.error(at, message)


def _check_one_level(service: ServiceSpec, maker: str, source: Source, at: Path) -> None:
    before = taken_items(service, maker) if maker != REQUEST else None
    if before is not None:
        message = f"{maker} takes items of {before.of}, and items have none of their own"
        raise source.error(at, f"{message}: take those of {before.of}, or join them in a stage between")


def planned_rows(
    service: ServiceSpec,
    variants: Mapping[str, Sequence[str]],
    source: Source,
    path: Path,
    *,
    guess: float | None = None,
) -> dict[str, Rows]:
    """Planned rows of each stage for each row of the request, by name.

    Args:
        service: its references and items are known to be right.
        variants: names of each stage's variants, by stage in topological order.
        source: for errors.
        path: the service's path in the spec.
        guess: items a row where nothing says how many there are; None: that is an error.

    Raises:
        SpecError: nothing says how many items there are, or it is said twice; or a stage has more rows for a
            single request than may wait in it.
    """
    rows: dict[str, Rows] = {}
    for name in variants:
        stage, taken = service.pipeline[name], taken_items(service, name)
        items, fan_out = None, 1.0
        if taken is not None:
            items = _items(service, name, taken, variants[taken.of], source, path, guess)
            fan_out = rows[taken.of].fan_out * max(items.mean.values())
        elif stage.fan_out is not None:
            followed = rows.get(_followed(service, name), Rows(1.0, None))
            fan_out = stage.fan_out * followed.fan_out
        if fan_out > service.limits.queue_rows:
            message = f"want at most limits.queue_rows ({service.limits.queue_rows}) rows a request"
            raise source.error((*path, "pipeline", name), f"{message}, got {fan_out:g}")
        rows[name] = Rows(fan_out, items)
    return rows


def _followed(service: ServiceSpec, name: str) -> str:
    """The stage whose rows `fan_out` multiplies: that of the first input, or the request."""
    return next(iter(upstream(service.pipeline[name])), REQUEST)


def _items(
    service: ServiceSpec,
    name: str,
    taken: Taken,
    makers: Sequence[str],
    source: Source,
    path: Path,
    guess: float | None,
) -> Items:
    """How many items each row of the maker, of these variants, has for one stage that takes them."""
    stage, at = service.pipeline[name], (*path, "pipeline", name)
    fixed = guess if stage.each is not None else 1.0
    given = service.items.get(stage.each) if stage.each is not None else None
    if stage.fan_out is not None:
        if given is not None:
            message = f"goes without items of {stage.each}: they say the same, give one"
            raise source.error((*at, "fan_out"), message)
        fixed = stage.fan_out
    if given is None and fixed is None:
        message = f"nothing says how many {stage.each} has: give items: {{{stage.each}: 6}}, for example"
        raise source.error((*at, "each"), message)
    counts = _by_maker(makers, given.mean if given is not None else {"": fixed or 0.0})
    shares = _by_maker(makers, _shares(service, taken.when))
    means = {
        maker: counts.get(maker, counts[""]) * shares.get(maker, shares[""]) for maker in {**counts, **shares}
    }
    if not 0 < max(means.values()) < inf:
        where = (*at, "each" if stage.each is not None else "when")
        raise source.error(where, f"want more than 0 items a row, got {max(means.values()):g}")
    return Items(means, given.distribution if given is not None else "fixed")


def _shares(service: ServiceSpec, when: Condition | None) -> Mapping[str, float]:
    """The share of items for which a condition holds: all, unless `items` says something of its tensor."""
    found = service.items.get("" if when is None else f"{when.stage}.{when.tensor}")
    return {"": 1.0} if found is None else found.mean


def _by_maker(makers: Sequence[str], means: Mapping[str, float]) -> dict[str, float]:
    """Means by variant of the stage that makes the items, and under "" for every other one.

    One name stands for a variant on all its devices. Means by variants of a stage further up cannot be told
    apart here: the largest stands for all of them, so that plans err on the safe side.
    """
    own = {
        maker: means[name] for maker in makers for name in (maker, maker.partition("@")[0]) if name in means
    }
    return {**own, "": means.get("", max(means.values()))}
