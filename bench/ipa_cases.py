"""IPA's five pipelines, as far as its published measurements go, and the loads that they are given.

Measured (`ipa-profiles.csv`, which carries no licence and is read where it lies): batches of YOLOv5n and
ResNet18 on two cores, YOLOv5m, YOLOv5x, ResNet152 for single rows, three speech recognisers on 1 to 8
cores, six summarisers on two cores, two translators on 2 to 16, language identification on 1 to 32 cores, one
question answerer on four, both in batches of 1 to 64. Of those only batches up to 8 are used: at the rates
that were offered larger ones did not fill. What is not measured is made from it:

- YOLOv5s and l: times between their neighbours by a power law in published operations (4.5, 16.5, 49.0, 109.1
  and 205.7 GFLOP); ResNet34, 50 and 101: ResNet18's on one core, by the rates a core of InfAdapter's table.
- Batches of a detector take what YOLOv5n's do, relative to single rows; a classifier's what ResNet18's do.
- Question answerers and sentiment classifiers of BERT's size take the same time; the distilled one 1/1.6
  (Sanh et al., DistilBERT, 2019).
- A 0.99 quantile that was not recorded is 1.3 times the mean, as those that were are.

A throughput recorded at saturation gives the service time, 1 / throughput; else the mean latency does. Cores
of a replica are the fewest measured ones that reach the pipeline's published threshold.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from surges import counts_of, filled, surges

from steelyard.core.types import Service, Stage, Variant
from steelyard.plan.ipa import IpaStage, IpaVariant
from steelyard.profile.tables import StageTimes
from steelyard.profile.types import DeclaredLatency
from steelyard.workload.trace import CountTrace, count_trace

PROFILES = Path(__file__).parents[2] / "shared" / "data" / "profiles"
GFLOP = {"yolov5n": 4.5, "yolov5s": 16.5, "yolov5m": 49.0, "yolov5l": 109.1, "yolov5x": 205.7}
RPS_A_CORE = {"resnet18": 24.45, "resnet34": 13.04, "resnet50": 10.32, "resnet101": 5.09}
"""By line through InfAdapter's capacities, requests a second."""
TAIL = 1.3
DISTILLED = 1.6
LOAD_S = 8.0
"""Until a replica is ready; not published, InfAdapter's measured 6.4 to 8.5 s for smaller models."""
STRETCH_S, DIVISOR = 600, 8

Sizes = dict[int, dict[int, tuple[float, float]]]
"""By cores and batch: service time and its 0.99 quantile, seconds."""


class Known(NamedTuple):
    """A variant: accuracy in [0, 1], and what was measured, or made, of its times."""

    name: str
    accuracy: float
    sizes: Sizes


class Pipeline(NamedTuple):
    """A published pipeline.

    Attributes:
        name: as published.
        stages: name and variants.
        slo_s: read off the published figures.
        core_weight: published cost weight over accuracy weight, the middle of their ranges.
        batch_max: published.
        threshold_rps: what a replica should carry.
    """

    name: str
    stages: tuple[tuple[str, tuple[Known, ...]], ...]
    slo_s: float
    core_weight: float
    batch_max: int
    threshold_rps: float

    def planned(self, *, rows_max: int, every_size: bool) -> tuple[IpaStage, ...]:
        """The stages as the program sees them: replicas of the base allocation, or of every measured size."""
        return tuple(
            _stage(name, known, self.threshold_rps, rows_max, every_size) for name, known in self.stages
        )

    def service(self, cores: float) -> Service:
        """The service; each variant on its base allocation, most accurate first."""
        stages: list[Stage] = []
        for name, known in self.stages:
            variants = tuple(
                Variant(
                    each.name,
                    each.accuracy,
                    max(each.sizes[_base(each, self.threshold_rps)]),
                    _base(each, self.threshold_rps),
                    LOAD_S,
                    0.05,
                )
                for each in sorted(known, key=lambda each: -each.accuracy)
            )
            stages.append(Stage(name, variants, (stages[-1].name,) if stages else ()))
        return Service(self.name, self.slo_s, tuple(stages), reply_s=0.0, cores_max=cores)

    def times(self) -> tuple[StageTimes, ...]:
        """Service times of all stages, on the base allocation."""
        found = []
        for name, known in self.stages:
            declared = {}
            for each in known:
                cores = _base(each, self.threshold_rps)
                points = tuple(
                    (rows, float(cores), 1000 * time_s, 1000 * tail_s)
                    for rows, (time_s, tail_s) in each.sizes[cores].items()
                )
                declared[each.name] = DeclaredLatency(table=points)
            found.append(StageTimes(self.name, name, declared=declared))
        return tuple(found)


def _base(known: Known, threshold_rps: float) -> int:
    """The fewest measured cores on which some batch reaches the threshold; else the most."""
    enough = [
        cores
        for cores, batches in sorted(known.sizes.items())
        if max(rows / time_s for rows, (time_s, _) in batches.items()) >= threshold_rps
    ]
    return enough[0] if enough else max(known.sizes)


def _stage(
    name: str, known: Sequence[Known], threshold_rps: float, rows_max: int, every_size: bool
) -> IpaStage:
    found: list[tuple[Known, int, list[int]]] = []
    for each in known:
        for cores in sorted(each.sizes) if every_size else [_base(each, threshold_rps)]:
            batches = [rows for rows in sorted(each.sizes[cores]) if rows <= rows_max]
            found.append((each, cores, batches))
    rows = max((batches for _, _, batches in found), key=len)
    variants = tuple(
        IpaVariant(
            each.name,
            each.accuracy,
            cores,
            tuple(each.sizes[cores][b][0] for b in batches),
            tuple(each.sizes[cores][b][1] for b in batches),
        )
        for each, cores, batches in found
    )
    return IpaStage(name, variants, tuple(rows))


class Measured:
    """The published measurements, by variant."""

    def __init__(self, folder: Path) -> None:
        with (folder / "ipa-profiles.csv").open() as file:
            self._rows = list(csv.DictReader(file))
        self._accuracies = yaml.safe_load((folder / "ipa-accuracies.yaml").read_text())

    def sizes(self, variant: str, *, notebook: str = "") -> Sizes:
        """All points of a variant: of several at one place, that with the highest load."""
        found: Sizes = {}
        loads: dict[tuple[int, int], float] = {}
        for row in self._rows:
            if row["model_variant"] != variant or not row["notebook"].startswith(notebook):
                continue
            mean, tail, most = (
                float(row[key] or 0)
                for key in ("model_latency_avg_s", "model_latency_p99_s", "throughput_max_rps")
            )
            cores, rows, load = int(row["cpu_request"]), int(row["max_batch_size"]), float(row["load_rps"])
            expected = float(row["expected_throughput_rps"] or 0)
            # a throughput below what was offered is what the replica can do
            time_s = rows / most if 0 < most < 0.9 * load else mean or (rows / expected if expected else 0.0)
            if time_s <= 0 or load < loads.get((cores, rows), 0.0):
                continue
            loads[cores, rows] = load
            found.setdefault(cores, {})[rows] = (time_s, max(tail, time_s) if tail else TAIL * time_s)
        return {cores: dict(sorted(batches.items())) for cores, batches in sorted(found.items())}

    def accuracy(self, pipeline: str, task: str, variant: str) -> float:
        """In [0, 1]; word error rates, stored negative, count from 1."""
        value = float(self._accuracies[pipeline][task][variant])
        return (100 + value if value < 0 else value) / 100

    def names(self, pipeline: str, task: str) -> list[str]:
        """The variants of a task that have an accuracy."""
        return list(self._accuracies[pipeline][task])


def pipelines(folder: Path = PROFILES) -> dict[str, Pipeline]:
    """The five, by name."""
    known = Measured(folder)
    speech = tuple(
        Known(name, known.accuracy("audio-qa", "audio", name), known.sizes(name, notebook="series-85"))
        for name in known.names("audio-qa", "audio")
    )
    sums = tuple(
        Known(name.partition("-")[2], known.accuracy("nlp", "nlp-sum", name), known.sizes(name))
        for name in known.names("nlp", "nlp-sum")
    )
    bert = _per_batch(known.sizes("deepset-xlm-roberta-base-squad2"))
    answers = tuple(
        Known(name, known.accuracy("audio-qa", "nlp-qa", name), bert)
        for name in known.names("audio-qa", "nlp-qa")
    )
    moods = tuple(
        Known(
            name,
            known.accuracy("audio-sent", "nlp-sent", name),
            _scaled(bert, 1 / DISTILLED) if "distil" in name.lower() else bert,
        )
        for name in known.names("audio-sent", "nlp-sent")
    )
    (language,) = known.names("nlp", "nlp-li")
    li = Known("language", known.accuracy("nlp", "nlp-li", language), _languages(known))
    trans = tuple(
        Known(name, known.accuracy("nlp", "nlp-trans", name), known.sizes(name))
        for name in known.names("nlp", "nlp-trans")
    )
    found = (
        Pipeline("video", _video(known), 6.89, 0.5, 8, 2.5),
        Pipeline("audio-qa", (("speech", speech), ("answer", answers)), 9.23, 0.02, 1, 1.0),
        Pipeline("audio-sent", (("speech", speech), ("mood", moods)), 9.42, 0.015, 1, 1.0),
        Pipeline("sum-qa", (("sum", sums), ("answer", answers)), 3.84, 0.038, 1, 3.0),
        Pipeline("nlp", (("language", (li,)), ("sum", sums), ("translate", trans)), 17.6, 0.007, 1, 4.0),
    )
    return {each.name: each for each in found}


def _per_batch(sizes: Sizes) -> Sizes:
    """Where a throughput equals the load, it says nothing: then the recorded quantile is the time."""
    return {c: {b: (tail_s, tail_s) for b, (_, tail_s) in batches.items()} for c, batches in sizes.items()}


def _scaled(sizes: Sizes, factor: float) -> Sizes:
    return {c: {b: (t * factor, p * factor) for b, (t, p) in batches.items()} for c, batches in sizes.items()}


def _languages(known: Measured) -> Sizes:
    return known.sizes("dinalzein-xlm-roberta-base-finetuned-language-...")


def _video(known: Measured) -> tuple[tuple[str, tuple[Known, ...]], ...]:
    """Detectors and classifiers; what is made, and from what, is said at the top."""
    nano, extra = known.sizes("yolov5n", notebook="series-70"), known.sizes("yolov5x")[4][1][0]
    medium = known.sizes("yolov5m", notebook="series-71")[1][1][0]
    small_s = _between("yolov5n", nano[1][1][0], "yolov5m", medium, "yolov5s")
    large_s = extra * (GFLOP["yolov5l"] / GFLOP["yolov5x"]) ** _power(
        "yolov5n", nano[1][1][0], "yolov5m", medium
    )
    grown = _growth(known.sizes("yolov5n", notebook="series-73")[2])
    singles = {
        "yolov5n": (1, nano[1][1][0]),
        "yolov5s": (1, small_s),
        "yolov5m": (1, medium),
        "yolov5l": (4, large_s),
        "yolov5x": (4, extra),
    }
    detect = tuple(
        Known(name, known.accuracy("video", "crop", name), _batched(cores, time_s, grown))
        for name, (cores, time_s) in singles.items()
    )
    first_s = known.sizes("resnet18", notebook="series-72")[1][1][0]
    times = {name: (1, first_s * RPS_A_CORE["resnet18"] / rps) for name, rps in RPS_A_CORE.items()}
    times["resnet152"] = (2, known.sizes("resnet152", notebook="series-72")[2][1][0])
    grown = _growth(known.sizes("resnet18", notebook="series-73")[2])
    classify = tuple(
        Known(name, known.accuracy("video", "classification", name), _batched(cores, time_s, grown))
        for name, (cores, time_s) in times.items()
    )
    return (("detect", detect), ("classify", classify))


def _power(low: str, low_s: float, high: str, high_s: float) -> float:
    return float(np.log(high_s / low_s) / np.log(GFLOP[high] / GFLOP[low]))


def _between(low: str, low_s: float, high: str, high_s: float, wanted: str) -> float:
    return float(low_s * (GFLOP[wanted] / GFLOP[low]) ** _power(low, low_s, high, high_s))


def _growth(batches: dict[int, tuple[float, float]]) -> dict[int, float]:
    """Mean latencies of batches of 1, 2, 4 and 8 over that of 1; 4 lies between 2 and 8."""
    one = batches[1][0]
    found = {rows: batches[rows][0] / one for rows in (1, 2, 8)}
    found[4] = float(np.sqrt(found[2] * found[8]))
    return dict(sorted(found.items()))


def _batched(cores: int, single_s: float, growth: dict[int, float]) -> Sizes:
    return {cores: {b: (single_s * grown, TAIL * single_s * grown) for b, grown in growth.items()}}


def loads(trace: Path) -> dict[str, CountTrace]:
    """Four stretches of 10 minutes of the Twitter series, divided by 8, by their character.

    `bursty` holds the steepest surge. Of the others, by the means of whole minutes: `steady low` has the
    least variation among stretches below the lower quartile of means, `steady high` among those above the
    ninth decile, `fluctuating` the largest changes from one minute to the next relative to its mean.
    """
    counts = counts_of(trace)
    minutes: NDArray[np.float64] = filled(counts)[: len(counts) // 60 * 60].reshape(-1, 60).mean(axis=1)
    missing = (counts[: len(minutes) * 60] == 0).reshape(-1, 60).any(axis=1)
    length = STRETCH_S // 60
    windows = np.lib.stride_tricks.sliding_window_view(minutes, length)
    whole = ~np.lib.stride_tricks.sliding_window_view(missing, length).any(axis=1)
    mean, spread = windows.mean(axis=1), windows.std(axis=1)
    moves = np.abs(np.diff(windows, axis=1)).mean(axis=1) / mean
    low, high = np.quantile(mean[whole], (0.25, 0.9))
    begins = {
        "bursty": surges(trace, 1)[0].from_s,
        "steady low": 60 * int(np.argmin(np.where(whole & (mean < low), spread / mean, np.inf))),
        "steady high": 60 * int(np.argmin(np.where(whole & (mean > high), spread / mean, np.inf))),
        "fluctuating": 60 * int(np.argmax(np.where(whole, moves, -np.inf))),
    }
    return {
        name: count_trace(counts[begin : begin + STRETCH_S]).scale(1 / DIVISOR)
        for name, begin in begins.items()
    }
