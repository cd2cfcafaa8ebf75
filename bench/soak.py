"""A long run at 80 % of capacity: nothing of the server may grow, nothing may fail.

The server has one core (front end and worker on it), the generator the other one. Capacity is found first:
the highest Poisson rate whose p99 stays within the objective. Then, under 80 % of it, the server's whole
family of processes is looked at every second: memory (PSS), file descriptors, threads, processes, and
shared memory that is in use (blocks of its memory files: an arena that lost track of what it gave out would
fill up). Before that, the generator opens as many connections as it ever may: one that finds all of them busy
opens another, so their number, and some kilobytes for each, would creep up through the run with every stall
of the machine.

The test for growth: the run's first fifth does not count, for allocators fill their pools; the rest is cut
into `BLOCKS` blocks, whose means are fitted by a line (means of blocks, since neighbouring samples depend
on each other). Something grows if the whole 99 % confidence interval of its slope lies above zero *and* the
slope is more than is allowed: statistics alone would call a page an hour growth, a limit alone would call
noise so.

    python bench/soak.py [--minutes 10] [--model small] [--slo 50] [--dry]
"""

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _record
import numpy as np
from peers import tree
from peers.cell import Cell, Cores, Lengths, running
from peers.environments import cache_folder
from peers.generator import CONNECTIONS_MAX
from peers.models import NAMES, prepare
from peers.servers import CONTENDERS, STEELYARD

SHARE = 0.8
BLOCKS = 20
T_99 = 2.878
"""Student's t, two-sided 99 %, of `BLOCKS` - 2 degrees of freedom."""
WARM_UP = 0.2
EVERY_S = 1.0
FINDING = Lengths(window_s=4.0, saturation_s=2.0, runs_max=6)
LIMITS = {
    "memory MB": 0.25,
    "shared memory MB": 0.1,
    "file descriptors": 0.05,
    "threads": 0.05,
    "processes": 0.05,
}
"""Allowed a minute: 15 MB of memory or three descriptors an hour; ten minutes cannot tell less from noise."""

Sample = dict[str, float]


class Trend(NamedTuple):
    """A quantity over time; slopes a minute, with half the width of their 99 % interval."""

    what: str
    first: float
    last: float
    slope_per_minute: float
    interval_per_minute: float
    limit_per_minute: float

    @property
    def grows(self) -> bool:
        """Surely, and by more than is allowed."""
        surely = self.slope_per_minute - self.interval_per_minute > 0
        return surely and self.slope_per_minute > self.limit_per_minute


def look(root: int) -> Sample:
    """The family of processes below `root`, at this moment."""
    family = tree.family(root)
    descriptors, threads, files = 0, 0, dict[int, int]()
    for pid in family:
        with contextlib.suppress(OSError):  # it has ended
            links = list(Path(f"/proc/{pid}/fd").iterdir())
            descriptors += len(links)
            threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
            for link in links:
                if str(link.readlink()).startswith("/memfd:"):
                    status = link.stat()
                    files[status.st_ino] = status.st_blocks * 512
    return {
        "memory MB": tree.pss_bytes(root) / 1e6,
        "shared memory MB": sum(files.values()) / 1e6,
        "file descriptors": float(descriptors),
        "threads": float(threads),
        "processes": float(len(family)),
    }


def trend(what: str, at_s: Sequence[float], values: Sequence[float], limit_per_minute: float) -> Trend:
    """Least squares through block means; all samples are given, the first `WARM_UP` of the time is left out.

    Raises:
        ValueError: fewer than one sample a block.
    """
    minutes, samples = np.asarray(at_s) / 60, np.asarray(values, np.float64)
    counted = minutes >= minutes[0] + WARM_UP * (minutes[-1] - minutes[0])
    minutes, samples = minutes[counted], samples[counted]
    if len(samples) < BLOCKS:
        raise ValueError(f"want at least {BLOCKS} samples after the warm-up, got {len(samples)}")
    x = np.array([block.mean() for block in np.array_split(minutes, BLOCKS)])
    y = np.array([block.mean() for block in np.array_split(samples, BLOCKS)])
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    residuals = y - y.mean() - slope * (x - x.mean())
    error = float(np.sqrt((residuals**2).sum() / (BLOCKS - 2) / spread))
    return Trend(what, float(samples[0]), float(samples[-1]), slope, T_99 * error, limit_per_minute)


def soak(
    cell: Cell, rate_rps: float, seconds: float, limits: Mapping[str, float], *, every_s: float = EVERY_S
) -> tuple[dict[str, Any], list[Trend]]:
    """Offer a rate for so long; what the generator saw, and how everything of the server went."""
    found: dict[str, Any] = {}
    load = threading.Thread(target=lambda: found.update(cell.hold(rate_rps, seconds)))
    at_s: list[float] = []
    samples: list[Sample] = []
    begin_s = time.monotonic()
    load.start()
    while load.is_alive():
        at_s.append(time.monotonic() - begin_s)
        samples.append(look(cell.root))
        load.join(every_s)
    if not found:
        raise RuntimeError("the generator has ended early")
    during = sum(at < seconds for at in at_s)  # afterwards the generator closes its connections, and reckons
    trends = [
        trend(what, at_s[:during], [each[what] for each in samples[:during]], limit)
        for what, limit in limits.items()
    ]
    return found, trends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--model", choices=NAMES, default="small")
    parser.add_argument("--slo", type=float, default=50.0, help="ms")
    parser.add_argument("--dry", action="store_true", help="print only, store nothing")
    options = parser.parse_args()
    core_ids = sorted(os.sched_getaffinity(0))
    model = prepare(cache_folder() / "models")[options.model]
    setting = CONTENDERS[STEELYARD].settings[0 if model.gains else 1]
    slo_s, cores = options.slo / 1e3, Cores(core_ids[0], core_ids[-1])
    with running(STEELYARD, model, setting, Path(sys.executable), cores, FINDING, slo_s=slo_s) as cell:
        capacity_rps, _ = cell.search(cell.saturate(32, 2.0)["rps"], [slo_s]).bracket(slo_s)
        if capacity_rps is None:
            sys.exit(f"no rate keeps p99 within {options.slo:g} ms")
        cell.connect(CONNECTIONS_MAX)
        found, trends = soak(cell, SHARE * capacity_rps, options.minutes * 60, LIMITS)
    results = {
        "model": model.name,
        "slo_ms": options.slo,
        "share": SHARE,
        "capacity_rps": capacity_rps,
        "rate_rps": SHARE * capacity_rps,
        "minutes": options.minutes,
        "offered": found["offered"],
        "failed": found["offered"] - found["completed"],
        "errors": found["errors"],
        "p99_ms": found["p99_ms"],
        "void": found["void"],
        "trends": [{**each._asdict(), "grows": each.grows} for each in trends],
    }
    for each in trends:
        print(f"{each.what}: {each}{' GROWS' if each.grows else ''}")
    print({name: value for name, value in results.items() if name != "trends"})
    if not options.dry:
        _record.write("soak", results, seed=1)
    if results["failed"] or any(each.grows for each in trends):
        sys.exit("something grows or fails")


if __name__ == "__main__":
    main()
