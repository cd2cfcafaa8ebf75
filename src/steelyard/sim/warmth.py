"""A warm start: what the control plane is shown before time 0, so that the policy's own plan is up at 0.

It sees `WARM_S` seconds of windows with the largest rate of the trace's first `LOOK_S` seconds, evenly spread
and all of it answered. Everything later is the policy's doing.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from steelyard.core.snapshot import ServiceWindow, StageWindow
from steelyard.core.types import Service
from steelyard.sim.scenario import WINDOW_S
from steelyard.workload.trace import Counts, carry

WARM_S = 5
LOOK_S = 30
WINDOWS_PER_S = round(1 / WINDOW_S)


def warm_windows(
    services: Mapping[str, Service], rows_by_second: Mapping[str, Counts]
) -> Iterator[ServiceWindow]:
    """Windows `(-WARM_S, 0]` of all services, in the order of time."""
    spread = {name: _rows_by_window(rows_by_second[name]) for name in services}
    for index in range(WARM_S * WINDOWS_PER_S):
        from_s = index / WINDOWS_PER_S - WARM_S
        to_s = (index + 1) / WINDOWS_PER_S - WARM_S
        for name, service in services.items():
            rows = spread[name][index]
            stages = tuple(StageWindow(stage.name, 0, 0, None, 0) for stage in service.stages)
            yield ServiceWindow(name, from_s, to_s, rows, rows, rows, 0, 0, 0, 0, 0, stages)


def _rows_by_window(rows_by_second: Counts) -> list[int]:
    """Rows of each window at the largest rate to come, which each whole second holds in full."""
    rate_rps = int(rows_by_second[:LOOK_S].max(initial=0))
    windows: list[int] = carry(np.full(WINDOWS_PER_S, rate_rps / WINDOWS_PER_S)).tolist()
    return windows * WARM_S
