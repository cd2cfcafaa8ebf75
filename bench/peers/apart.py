"""Steelyard at saturation with its front end on the generator's core, beside ONNX Runtime alone.

The rule of this file: a share is a ratio of neighbours. The server idles while ONNX Runtime runs alone on its
core, and the two take turns, since this kind of machine changes its speed by a fifth from one minute to the
next. Requests of several rows are there because generator and front end share a core: what a request costs
them limits single rows before the worker's core is busy, and `busy` says whose work it was.
"""

import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from peers import bare, tree
from peers.cell import Cell, Cores
from peers.models import Model
from peers.store import Store
from peers.wire import ROWS

NAME = "steelyard, front end apart"
TURNS = 4
SLO_S = 2.0
"""Throughput is all that is asked for: nothing is refused for being late."""


class Way(NamedTuple):
    """How it is loaded.

    Attributes:
        rows: of a request.
        setting: of the server.
        callers: of the closed loop: rows for three batches, so that one waits while another runs.
    """

    rows: int
    setting: Mapping[str, Any]
    callers: int


def ways(model: Model, callers: int) -> list[Way]:
    """Single rows; and several, in batches as large as ONNX Runtime's best, where rows gain from company."""
    several = Way(ROWS, {"batch": max(bare.BATCHES), "wire": "oip_rows"}, 3 * max(bare.BATCHES) // ROWS)
    return [Way(1, {"batch": 64, "wire": "oip"}, 3 * callers), *([several] if model.gains else [])]


def turns(cell: Cell, way: Way, cores: Cores, batch: int, seconds: float) -> dict[str, Any]:
    """Medians over turns: the share of ONNX Runtime alone in batches of `batch`, and whose work it took."""
    cell.saturate(way.callers, seconds)  # warms up
    found = [_turn(cell, way, cores, batch, seconds) for _ in range(TURNS)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _turn(cell: Cell, way: Way, cores: Cores, batch: int, seconds: float) -> dict[str, float]:
    (alone,) = bare.measure(cell.model, cores.server, seconds, (batch,)).values()
    workers = tree.confined(cell.root, cores.server)
    families = {"server": [cell.root], "worker": workers, "generator": [cell.load.pid]}
    before = {name: sum(map(tree.cpu_s, roots)) for name, roots in families.items()}
    start_s = time.perf_counter()
    found = cell.load.ask(do="closed", connections=way.callers, seconds=seconds)
    took_s = time.perf_counter() - start_s
    busy = {name: (sum(map(tree.cpu_s, roots)) - before[name]) / took_s for name, roots in families.items()}
    cell.settle()
    rate = found["answered"] * way.rows / seconds
    return {
        "share": rate / alone,
        "rows_per_s": rate,
        "worker_busy": busy["worker"],
        "front_end_busy": busy["server"] - busy["worker"],
        "generator_busy": busy["generator"],
    }


def summary(store: Store, model: str) -> list[dict[str, Any]]:
    """One row a build and way: medians over rounds."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for key, line in store.found(server=NAME, model=model):
        found.setdefault((key.code, line["rows"]), []).append(line["found"])
    return [
        {"is_compiled": code.endswith("compiled"), "rows": rows}
        | {name: round(statistics.median(each[name] for each in lines), 3) for name in lines[0]}
        for (code, rows), lines in found.items()
    ]
