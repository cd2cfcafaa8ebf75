"""How often the default policy resizes at constant load, and what that saves: one stage on two cores.

In virtual time. A row takes 10 b / c + 6 b + 4 ms: 20 ms on one core, so a load of 1 is 50 rows a second.
Poisson arrivals for a minute, an SLO of 160 ms, cold starts of 0.15 s. The table of docs/adr/0008.

    python bench/resizes.py
"""

from typing import Any

from _record import write
from rich.console import Console
from rich.table import Table

from steelyard.core.commands import ResizeReplica, StartReplica
from steelyard.core.types import Service, Stage, Variant
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.times import CoefficientTimes
from steelyard.testing.virtual_server import VirtualServer, poisson

LOADS = (0.2, 0.4, 0.65, 0.8, 1.0, 1.3, 1.6)
SEEDS = (1, 2, 3, 4, 5)
ONE_CORE_RPS, SECONDS, SLO_S = 50.0, 60.0, 0.16


def main() -> None:
    points = [_point(load) for load in LOADS]
    table = Table("load, cores", "cores", "resizes a minute", "starts", "violations")
    for point in points:
        table.add_row(*(f"{point[key]:.4g}" for key in ("load", "cores", "resizes", "starts", "violations")))
    Console().print(table)
    write("resizes", {"points": points}, seed=len(SEEDS))


def _point(load: float) -> dict[str, Any]:
    """Means over seeds, each of one minute."""
    variant = Variant("m", None, 8, 2, 0.15)
    services = {"ocr": Service("ocr", SLO_S, (Stage("read", (variant,)),))}
    times = {("ocr", "read"): CoefficientTimes(10.0, 6.0, 0.0, 4.0)}
    context = PolicyContext(services, times)
    point = {"load": load, "cores": 0.0, "resizes": 0.0, "starts": 0.0, "violations": 0.0}
    for seed in SEEDS:
        arrivals = {"ocr": poisson([(SECONDS, load * ONE_CORE_RPS)], seed=seed)}
        server = VirtualServer(
            services, times, lambda: make_policy("steelyard", context), arrivals, spread=0.05
        )
        run = server.run(SECONDS)
        point["cores"] += run.core_seconds(SECONDS) / SECONDS / len(SEEDS)
        point["resizes"] += run.count(ResizeReplica) / len(SEEDS)
        point["starts"] += run.count(StartReplica) / len(SEEDS)
        point["violations"] += run.violation_ratio("ocr", from_s=2.0) / len(SEEDS)
    return point


if __name__ == "__main__":
    main()
