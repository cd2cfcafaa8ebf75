"""What a service's stages aim at follows what is observed: service times, and items as they are counted."""

import msgspec

from steelyard.core.snapshot import NodeView, ServiceView, ServiceWindow, StageWindow
from steelyard.core.types import Items, Service, Stage, Variant
from steelyard.policies.steelyard.standing import Ground, Standing
from steelyard.profile.times import CoefficientTimes

GROUND = Ground(NodeView("local", 4.0, 4.0), 4.0, 1.0, 0)
EACH = CoefficientTimes(10.0, 0.0, 0.0, 0.0)
"""10 ms a row on one core."""


def service() -> Service:
    variants = (Variant("m", None, 1, 1),)
    return Service(
        "pages",
        1.0,
        (
            Stage("crop", variants),
            Stage("read", variants, ("crop",), 2.0, items_of="crop", each="lines", items=Items({"": 2.0})),
        ),
    )


def view(counted: float | None) -> ServiceView:
    stages = (
        StageWindow("crop", 0, 0, None, 0),
        StageWindow("read", 0, 0, None, 0, fan_out=counted),
    )
    window = ServiceWindow("pages", 0.0, 0.1, 0, 0, 0, 0, 0, 0, 0, 0, stages)
    return ServiceView("pages", (window,), (), None, ())


def test_items_are_reckoned_with_as_they_are_counted() -> None:
    standing = Standing(service(), {"crop": EACH, "read": EACH}, ())
    standing.follow(view(None), GROUND)
    assert [layout.sizing.fan_out for layout in standing.layouts] == [1.0, 2.0]  # as planned
    assert standing.is_current(view(2.1))  # within a tenth
    assert not standing.is_current(view(8.0))
    standing.follow(view(8.0), GROUND)
    assert [layout.sizing.fan_out for layout in standing.layouts] == [1.0, 8.0]
    assert standing.is_current(view(8.0))


def test_without_items_nothing_is_counted() -> None:
    stages = tuple(msgspec.structs.replace(stage, items_of="", items=None) for stage in service().stages)
    standing = Standing(Service("pages", 1.0, stages), {"crop": EACH, "read": EACH}, ())
    standing.follow(view(8.0), GROUND)
    assert [layout.sizing.fan_out for layout in standing.layouts] == [1.0, 2.0]
