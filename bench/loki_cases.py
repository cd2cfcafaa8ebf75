"""Loki's traffic pipeline: cars and faces in what a detector finds, on 20 equal servers.

Published (in the authors' repository UMass-LIDS/Loki, which has no licence for this part: it is read where
it lies): seconds of a batch of 1 to 64 for YOLOv5 n to x and EfficientNet b0 to b6 on a GTX 1080 Ti, and how
many cars and faces each detector finds in a frame. Accuracies are relative to the best, from official
tables (mAP 28.0 to 50.7; top-1 77.7 to 84.0), and of a path the product. Made, since no times are published
for it: the classifier of faces, VGG 11 to 19, 1 ms + 0.19 ms a GFLOP and face; a twentieth of the items.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from steelyard.core.types import Input, Items, Service, Stage, Variant
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency

PROFILES = Path(__file__).parents[2] / "shared" / "data" / "profiles"
SLO_S = 0.25
SERVERS = 20
LOAD_S = 1.0
NAME = "traffic"
BATCHES = (1, 2, 4, 8, 16, 32, 64)
DETECTORS = {"yolov5n": 28.0, "yolov5s": 37.4, "yolov5m": 45.4, "yolov5l": 49.0, "yolov5x": 50.7}
CLASSIFIERS = {"eb0": 77.7, "eb1": 79.1, "eb2": 80.1, "eb3": 81.6, "eb4": 82.9, "eb5": 83.6, "eb6": 84.0}
FACES = {"vgg11": (7.6, 94.6), "vgg13": (11.3, 96.4), "vgg16": (15.5, 98.2), "vgg19": (19.6, 100.0)}
LEAVES = ("cars", "faces")

Sizes = dict[int, float]
"""Seconds of a batch, by rows."""


def measured(profiles: Path = PROFILES) -> dict[str, Sizes]:
    """Mean seconds by model and batch."""
    sizes: dict[str, Sizes] = {}
    with (profiles / "loki-runtimes.csv").open() as file:
        for row in csv.DictReader(file):
            model = row["model"].partition("_")[0]
            sizes.setdefault(model, {})[int(row["batch_size"])] = float(row["avg_runtime"])
    return sizes


def fan_outs(profiles: Path = PROFILES) -> tuple[dict[str, float], dict[str, float]]:
    """Cars and faces in a frame, by detector."""
    cars, faces = {}, {}
    with (profiles / "loki-fan-out.csv").open() as file:
        for row in csv.DictReader(file):
            found = float(row["avg_mult_factor"])
            cars[row["model"]] = found * float(row["avg_car_branch_prob"])
            faces[row["model"]] = found * float(row["avg_face_branch_prob"])
    return cars, faces


def service(profiles: Path = PROFILES) -> Service:
    """The pipeline; variants are in the order of their accuracy, the best first."""
    cars, faces = fan_outs(profiles)
    frames = (Input("frames", "", "frames"),)
    stages = (
        Stage("detect", _variants(DETECTORS), inputs=frames),
        _items_stage("cars", _variants(CLASSIFIERS), cars),
        _items_stage("faces", _variants({name: accuracy for name, (_, accuracy) in FACES.items()}), faces),
    )
    return Service(NAME, SLO_S, stages, queue_rows_max=1_000_000, reply_s=0.0, answers=LEAVES)


def times(profiles: Path = PROFILES) -> tuple[StageTimes, ...]:
    """What is known of the stages, and what comes true, exactly, as in the authors' simulator."""
    sizes = measured(profiles)
    vgg = {
        name: {rows: 0.001 + 0.00019 * work * rows for rows in BATCHES} for name, (work, _) in FACES.items()
    }
    return (
        _times("detect", {name: sizes[name] for name in DETECTORS}),
        _times("cars", {name: sizes[name] for name in CLASSIFIERS}),
        _times("faces", vgg),
    )


def accuracy_of(variants: Mapping[str, str], leaf_weights: Mapping[str, float]) -> float:
    """Of one request: mean of its paths' products, by weight of the leaf stages that it reached."""
    total = weight = 0.0
    detector = _relative(DETECTORS)[variants["detect"]]
    vgg = {name: accuracy for name, (_, accuracy) in FACES.items()}
    for leaf, known in (("cars", _relative(CLASSIFIERS)), ("faces", _relative(vgg))):
        if variants.get(leaf):
            total += leaf_weights[leaf] * detector * known[variants[leaf]]
            weight += leaf_weights[leaf]
    return total / weight if weight else detector


def _items_stage(name: str, variants: tuple[Variant, ...], mean: dict[str, float]) -> Stage:
    return Stage(
        name,
        variants,
        after=("detect",),
        fan_out=mean["yolov5x"],
        items_of="detect",
        each=name,
        items=Items(mean),
        inputs=(Input("crop", "detect", name),),
    )


def _variants(percent: Mapping[str, float]) -> tuple[Variant, ...]:
    ordered = sorted(_relative(percent).items(), key=lambda item: -item[1])
    return tuple(
        Variant(name, accuracy, max(BATCHES), cold_start_s=LOAD_S, load_s=LOAD_S)
        for name, accuracy in ordered
    )


def _relative(percent: Mapping[str, float]) -> dict[str, float]:
    best = max(percent.values())
    return {name: value / best for name, value in percent.items()}


def _times(stage: str, sizes: Mapping[str, Sizes]) -> StageTimes:
    declared = {
        name: DeclaredLatency(
            table=tuple((rows, 1.0, 1e3 * time_s, None) for rows, time_s in sorted(known.items())),
            distribution="fixed",
            spread=0.0,
        )
        for name, known in sizes.items()
    }
    return StageTimes(NAME, stage, declared=declared)
