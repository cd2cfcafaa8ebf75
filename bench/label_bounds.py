"""Accuracy bounds against labels, live: were answers that had to be so accurate so accurate?

The page pipeline with all its variants is asked for pages whose text is known, by more callers at once than
its cores can answer at full accuracy, so that whoever asks for nothing is read by what is quick. Each page
states one of `BOUNDS`, in turn, in an order drawn by the seed. The accuracies that the server goes by are
those of `bench/results/pages.json`, measured on other pages. For each bound: pages answered, refused and
dropped, the accuracy that answers said, and the share of lines that were right, with its 95 % interval by
pages.

Where it runs: callers, front end and workers on one machine; callers in this process, nice 0.

    python bench/label_bounds.py [--pages 240] [--callers 10] [--seed 1]
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from _record import RESULTS, write

from steelyard.client import Client, RejectedError, Retries, ShedError
from steelyard.demo.lines import find_font
from steelyard.demo.pages.draw import Page, draw_pages
from steelyard.demo.pages.models import DETECTORS, READERS, prepare_models
from steelyard.demo.pages.scores import right_lines
from steelyard.demo.pages.spec import SERVICE, pages_spec, write_spec
from steelyard.demo.pages.tour import DIFFICULTY, measured_times
from steelyard.demo.processes import serving
from steelyard.demo.spec import CORES
from steelyard.profiler.accuracies import wilson_95

BOUNDS = (None, 0.85, 0.92, 0.95)
"""Between those of the pairs: all but the worst two, the upper four, the best alone."""


class Read(NamedTuple):
    """How one page ended: `answered`, `refused` or `dropped`; what was said of it, and what was right."""

    bound: float | None
    outcome: str
    said: float = 0.0
    right: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=240)
    parser.add_argument("--callers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    measured = json.loads((RESULTS / "pages.json").read_text())
    rng = np.random.default_rng(options.seed)
    pages = draw_pages(options.pages, rng, font=find_font(), difficulty=DIFFICULTY)
    bounds = [BOUNDS[i % len(BOUNDS)] for i in rng.permutation(options.pages)]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        spec = folder / "pages.yaml"
        write_spec(
            spec,
            pages_spec(
                prepare_models(Path.home() / ".cache" / "steelyard" / "demo"),
                slo_ms=measured["slo_ms"],
                cores=CORES,
                detectors=tuple(DETECTORS),
                readers=tuple(READERS),
                accuracies={
                    (each["variants"]["detect"], each["variants"]["read"]): each["accuracy"]
                    for each in measured["accuracies"]
                },
                policies={},
            ),
        )
        profiles = ("--profiles", str(folder / "profiles"))
        measured_times(spec, folder, find_font(), profiles)
        with serving(spec, policy="steelyard", log=folder / "server.log", options=profiles) as server:
            reads = read_all(server.url, pages, bounds, callers=options.callers)
    rows = [row(bound, [each for each in reads if each.bound == bound]) for bound in BOUNDS]
    for each in rows:
        print(each)
    write(
        "label_bounds",
        {
            "slo_ms": measured["slo_ms"],
            "callers": options.callers,
            "pages": options.pages,
            "rows": rows,
            "placement": "callers, front end: nice 0, unpinned; workers: nice 5; one machine",
        },
        seed=options.seed,
    )


def read_all(url: str, pages: Sequence[Page], bounds: Sequence[float | None], *, callers: int) -> list[Read]:
    """Every page, with its bound; each caller sends its next page when its last one has ended."""
    client = Client(url, retries=Retries(attempts_max=1), connections_max=callers)

    def read(page: Page, bound: float | None) -> Read:
        try:
            answer = client.infer(SERVICE, {"page": page.image[np.newaxis]}, min_accuracy=bound)
        except RejectedError:
            return Read(bound, "refused")
        except ShedError:
            return Read(bound, "dropped")
        (text,) = answer.outputs["text"].ravel()
        assert answer.accuracy is not None
        return Read(bound, "answered", answer.accuracy, right_lines(text.decode(), page.text))

    with client, ThreadPoolExecutor(callers) as pool:
        return list(pool.map(read, pages, bounds))


def row(bound: float | None, reads: Sequence[Read]) -> dict[str, Any]:
    """What became of one bound's pages; accuracies are None where none was answered."""
    answered = [each for each in reads if each.outcome == "answered"]
    found: dict[str, Any] = {
        "bound": bound,
        "pages": len(reads),
        **{name: sum(each.outcome == name for each in reads) for name in ("answered", "refused", "dropped")},
        "below": sum(each.said < (bound or 0.0) for each in answered),
        "said": None,
        "right": None,
        "interval": None,
    }
    if answered:
        right = fmean(each.right for each in answered)
        found["said"] = fmean(each.said for each in answered)
        found["right"], found["interval"] = right, wilson_95(right, len(answered))
    return found


if __name__ == "__main__":
    main()
