"""Surges in a trace of counts a second: where they are, and slices that hold one each.

The rule: a second is an onset if the mean of the next 30 s is at least three times the mean of the last 60 s.
Of all onsets the steepest is taken, its slice of 660 s (the length used by Themis, arXiv 2407.14843; the
onset 180 s in) is closed to others, and so on: slices never overlap. Zeros of the series are seconds in which
the sample was not taken, not seconds without traffic: they are interpolated for the means, and a slice that
contains one is not taken, so that nothing made up is ever replayed.

The series is the public Twitter sample of August 2021 as counts a second (reconfigurable-ml-pipeline/
InfAdapter on GitHub, auto_tuner/dataset/twitter_trace), which is not shipped with this project.

    python bench/surges.py [TRACE] [--count 10]
"""

import argparse
import gzip
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TRACE = Path(__file__).parents[2] / "shared" / "data" / "traces" / "twitter-2021-08-days01-14.txt.gz"
SLICE_S, ONSET_AT_S = 660, 180
BEFORE_S, AFTER_S = 60, 30
GROWTH_MIN = 3.0

PAPERS = {"before": 50.0, "in 20 s": 171.0, "plateau": 220.0, "at the end": 50.0}
"""Raw requests a second of the slice in the papers: what it rises from, to within 20 s, stays at for 5 min,
and falls back to."""

Series = NDArray[np.float64]


class Slice(NamedTuple):
    """The seconds `[from_s, from_s + SLICE_S)` of a series; `growth` is the ratio that made it an onset."""

    from_s: int
    growth: float

    @property
    def onset_s(self) -> int:
        """The first second of the surge, on the series' clock."""
        return self.from_s + ONSET_AT_S

    @property
    def name(self) -> str:
        """As it is called in records."""
        return f"surge-{self.onset_s}"


@cache
def counts_of(path: Path) -> NDArray[np.int64]:
    """The series as it is stored, missing seconds being zeros; shape (seconds,)."""
    stored = path.read_bytes()
    lines = gzip.decompress(stored) if path.suffix == ".gz" else stored
    return np.array(lines.split(), dtype=np.int64)


def filled(counts: NDArray[np.int64]) -> Series:
    """The series with straight lines across missing seconds."""
    seconds, known = np.arange(len(counts)), counts > 0
    return np.interp(seconds, seconds[known], counts[known])


def surges(path: Path, count: int) -> list[Slice]:
    """The `count` steepest surges, steepest first.

    Raises:
        SystemExit: the series has fewer.
    """
    counts = counts_of(path)
    growth = _growth(counts)
    taken: list[Slice] = []
    for onset_s in np.argsort(-growth, kind="stable").tolist():
        if len(taken) == count or growth[onset_s] < GROWTH_MIN:
            break
        if all(abs(onset_s - other.onset_s) >= SLICE_S for other in taken):
            taken.append(Slice(onset_s - ONSET_AT_S, float(growth[onset_s])))
    if len(taken) < count:
        raise SystemExit(f"{path}: {len(taken)} surges of at least {GROWTH_MIN:g}x, want {count}")
    return taken


def like_the_papers(path: Path) -> Slice:
    """The slice whose four levels are nearest to the papers', by the sum of squared logarithms of ratios."""
    counts = counts_of(path)
    distance = np.zeros(len(counts))
    for name, level in levels(filled(counts)).items():
        distance += np.log(np.maximum(level, 1.0) / PAPERS[name]) ** 2
    growth = _growth(counts)
    distance[growth == 0] = np.inf  # leaves the series, or touches missing seconds
    onset_s = int(np.argmin(distance))
    return Slice(onset_s - ONSET_AT_S, float(growth[onset_s]))


def levels(series: Series) -> dict[str, Series]:
    """For every second as onset: the levels of `PAPERS`, requests a second, shape (seconds,) each.

    Before: the mean of 60 s. In 20 s: of the 5 s that end there. Plateau: of 5 min from there on. At the end:
    of the slice's last 60 s.
    """
    end_s = SLICE_S - ONSET_AT_S
    return {
        "before": _mean(series, -BEFORE_S, 0),
        "in 20 s": _mean(series, 15, 20),
        "plateau": _mean(series, 20, 320),
        "at the end": _mean(series, end_s - 60, end_s),
    }


def _growth(counts: NDArray[np.int64]) -> Series:
    """Mean of what follows over mean of what went before, by second; 0 where the slice is not whole."""
    series = filled(counts)
    growth = _mean(series, 0, AFTER_S) / np.maximum(_mean(series, -BEFORE_S, 0), 1e-9)
    missing = _mean((counts == 0).astype(np.float64), -ONSET_AT_S, SLICE_S - ONSET_AT_S)
    growth[missing > 0] = 0.0
    growth[:ONSET_AT_S] = 0.0
    growth[max(0, len(counts) - (SLICE_S - ONSET_AT_S) + 1) :] = 0.0
    return growth


def _mean(series: Series, first: int, last: int) -> Series:
    """By second t: the mean over `[t + first, t + last)`, as far as that lies within the series."""
    total = np.concatenate([[0.0], np.cumsum(series)])
    second = np.arange(len(series))
    begin, end = (np.clip(second + edge, 0, len(series)) for edge in (first, last))
    mean: Series = (total[end] - total[begin]) / np.maximum(end - begin, 1)
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path, nargs="?", default=TRACE)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    counts = counts_of(options.trace)
    found, similar = surges(options.trace, options.count), like_the_papers(options.trace)
    by_level = levels(filled(counts))
    print(f"{len(counts)} s, {np.mean(counts == 0):.1%} of them missing")
    print(
        "slice                 growth  "
        + "  ".join(f"{name:>10}" for name in PAPERS)
        + "   mean  least  most"
    )
    for slice_, mark in [*((each, "") for each in found), (similar, " most like the papers'")]:
        values = "  ".join(f"{by_level[name][slice_.onset_s]:10.1f}" for name in PAPERS)
        part = counts[slice_.from_s : slice_.from_s + SLICE_S]
        text = f"{part.mean():6.1f} {part.min():6d} {part.max():5d}{mark}"
        print(f"{slice_.from_s:8d}:{slice_.from_s + SLICE_S:<8d} {slice_.growth:9.2f}  {values} {text}")
    among = [rank for rank, each in enumerate(found, 1) if abs(each.onset_s - similar.onset_s) < SLICE_S]
    print(f"the slice most like the papers' is {f'number {among[0]}' if among else 'not among them'}")


if __name__ == "__main__":
    main()
