"""A synthetic profile of nine families of models on three kinds of devices, for Proteus' setting.

Nothing here was measured. The authors' profile carries a licence for comparison only, so this one is made: in
its proportions, from published numbers of operations and one rule a device. A batch of b rows takes

    convolutional:  fixed + work x b / speed             no gain from batches, as in their profile
    transformer:    fixed + work x (1 + 0.02 (b - 1)) / speed      nearly flat on accelerators
                    fixed + work x (1 + 0.5 (b - 1)) / speed       on a CPU

with work in GFLOP of one input. Accuracies are relative to the best of the family, in published proportions
(for variants that the authors do not name: from public leaderboards, rounded). Speeds are such that what a
planner can reach on the 40 devices (20, 10, 10) is near what it can on their profile up to twice their peak
of 1,025 requests a second: 99.3 % at the peak (theirs 99.6), 97.6 % at 2,000 (96.7). At 3,000 theirs is
beyond capacity and this one is not.

    python bench/synthetic_families.py          # prints the table
"""

from typing import NamedTuple

import numpy as np

from steelyard.core.types import Service, Stage, Variant
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.sim.scenario import SimulatedNode

DEVICES = {"gtx1080ti": 10, "v100": 10}
CPUS = 20
NODE = SimulatedNode("cluster", CPUS + sum(DEVICES.values()), devices=DEVICES)
"""A device takes a core beside itself."""
BATCHES = (1, 2, 4, 8, 16)
STAGE = "answer"
SLO_S = 0.3
LOAD_S = 1.0
ZIPF = 1.0


class Device(NamedTuple):
    """Milliseconds of any batch, and of a GFLOP."""

    fixed_ms: float
    gflop_ms: float
    flatness: float


KINDS = {
    "cpu": Device(4.0, 18.0, 0.5),
    "gtx1080ti": Device(6.0, 1.1, 0.02),
    "v100": Device(5.0, 0.66, 0.02),
}

FAMILIES: dict[str, dict[str, tuple[float, float]]] = {
    "resnet": {
        "18": (1.8, 89.54),
        "34": (3.6, 94.0),
        "50": (4.1, 97.2),
        "101": (7.8, 98.8),
        "152": (11.5, 100.0),
    },
    "mobilenet": {
        "0.25": (0.04, 72.2),
        "0.5": (0.15, 88.97),
        "0.75": (0.33, 95.87),
        "1.0": (0.57, 100.0),
    },
    "yolov5": {
        "n": (4.5, 55.23),
        "s": (16.5, 73.8),
        "m": (49.0, 89.5),
        "l": (109.1, 96.6),
        "x": (205.7, 100.0),
    },
    "efficientnet": {
        "b0": (0.39, 91.46),
        "b1": (0.7, 93.83),
        "b3": (1.8, 96.8),
        "b5": (9.9, 99.17),
        "b7": (37.0, 100.0),
    },
    "bert": {
        "tiny": (0.1, 85.95),
        "mini": (1.0, 90.0),
        "small": (4.0, 93.0),
        "medium": (8.0, 95.5),
        "base": (22.0, 98.0),
        "large": (78.0, 100.0),
    },
    "densenet": {
        "121": (2.9, 96.49),
        "169": (3.4, 98.0),
        "201": (4.3, 98.9),
        "161": (7.8, 100.0),
    },
    "resnest": {
        "14": (2.8, 89.61),
        "26": (3.6, 94.0),
        "50": (5.4, 96.5),
        "101": (10.2, 98.5),
        "269": (22.6, 100.0),
    },
    "gpt2": {
        "distil": (22.0, 93.66),
        "base": (44.0, 96.0),
        "medium": (120.0, 98.0),
        "large": (270.0, 100.0),
    },
    "t5": {
        "small": (15.0, 83.18),
        "base": (55.0, 93.0),
        "large": (190.0, 99.69),
    },
}
"""By family (in the order of their traffic) and variant: GFLOP of one input, accuracy in percent."""
TRANSFORMERS = ("bert", "gpt2", "t5")


def latency_ms(family: str, variant: str, kind: str, rows: int) -> float:
    """Milliseconds of one batch."""
    device, (work, _) = KINDS[kind], FAMILIES[family][variant]
    growth = 1.0 + device.flatness * (rows - 1) if family in TRANSFORMERS else float(rows)
    return device.fixed_ms + work * device.gflop_ms * growth


def service(family: str, *, slo_s: float = SLO_S, load_s: float = LOAD_S) -> Service:
    """A family as a service; its variants by name and kind of device, the most accurate first.

    Args:
        family: one of them.
        slo_s: of every request.
        load_s: seconds that a device takes to load a variant, or several at once.
    """
    ordered = sorted(FAMILIES[family].items(), key=lambda item: -item[1][1])
    variants = tuple(
        Variant(
            f"{name}@{kind}",
            accuracy / 100.0,
            batch_rows_max=max(BATCHES),
            cold_start_s=load_s,
            load_s=load_s,
            device=kind,
        )
        for name, (_, accuracy) in ordered
        for kind in KINDS
    )
    return Service(family, slo_s, (Stage(STAGE, variants),), queue_rows_max=100_000, reply_s=0.0)


def times(family: str, *, spread: float = 0.0) -> StageTimes:
    """What is known of a family, and what comes true: exactly that, or with a log-normal factor on it."""
    declared = {
        f"{name}@{kind}": DeclaredLatency(
            table=tuple((rows, 1.0, latency_ms(family, name, kind, rows), None) for rows in BATCHES),
            spread=spread,
            distribution="lognormal" if spread else "fixed",
        )
        for name in FAMILIES[family]
        for kind in KINDS
    }
    return StageTimes(family, STAGE, declared=declared)


def shares() -> dict[str, float]:
    """Of the traffic, by Zipf's law over the families in their order."""
    weights = 1.0 / np.arange(1, len(FAMILIES) + 1) ** ZIPF
    return dict(zip(FAMILIES, (weights / weights.sum()).tolist(), strict=True))


def main() -> None:
    print(
        f"{'family':14}{'variant':>8}{'accuracy':>10}"
        + "".join(f"{kind + ' b1, b8 ms':>24}" for kind in KINDS)
    )
    for family, variants in FAMILIES.items():
        for name, (_, accuracy) in variants.items():
            cells = "".join(
                f"{latency_ms(family, name, kind, 1):14.1f}{latency_ms(family, name, kind, 8):10.1f}"
                for kind in KINDS
            )
            print(f"{family:14}{name:>8}{accuracy:10.2f}{cells}")


if __name__ == "__main__":
    main()
