"""The demo's client, a process of its own: renders the lines, sends them on time, reads the answers.

`python -m steelyard.demo.client JOB RESULT`: takes a `Job` as JSON, writes `started` to standard output when
the clock of the trace starts, and leaves a `Reading` as JSON. Answers are only kept during the run and
decoded after it, so that reading them makes no request late.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np

from steelyard.core.types import Frozen
from steelyard.demo.lines import Line, draw_lines
from steelyard.demo.recogniser import read_characters, read_text
from steelyard.load.generator import Answer, LoadSettings, run, run_load
from steelyard.load.result import LoadResult
from steelyard.load.wire import infer_body, read_outputs
from steelyard.workload.trace import arrival_times

LINES = 120


class Job(Frozen, frozen=True):
    """What to send where; `counts` is requests a second, `characters` the dictionary's path."""

    url: str
    service: str
    counts: list[int]
    slo_ms: float
    seed: int
    font: str
    characters: str


class Reading(Frozen, frozen=True):
    """What came back: the run, and the share of completed lines that were read exactly (None without any)."""

    load: LoadResult
    accuracy: float | None


def work(job: Job) -> Reading:
    """Do the job; the same job sends the same lines at the same times."""
    lines = draw_lines(LINES, np.random.default_rng(job.seed), font=Path(job.font))
    bodies = [infer_body({"x": line.tensor[np.newaxis]}) for line in lines]
    arrivals_s = arrival_times(np.array(job.counts), np.random.default_rng(job.seed))
    answers: list[Answer] = []
    settings = LoadSettings(slo_s=job.slo_ms / 1e3, seed=job.seed)
    sys.stdout.write("started\n")
    sys.stdout.flush()
    load = run(
        run_load(
            job.url,
            job.service,
            arrivals_s,
            bodies,
            seconds=float(len(job.counts)),
            settings=settings,
            on_answer=answers.append,
        )
    )
    return Reading(load, accuracy(answers, lines, read_characters(Path(job.characters))))


def accuracy(answers: list[Answer], lines: list[Line], characters: list[str]) -> float | None:
    """Share of the answers that spell their line exactly."""
    if not answers:
        return None
    right = sum(
        read_text(read_outputs(answer.content, answer.json_length)["tokens"][0], characters)
        == lines[answer.payload].text
        for answer in answers
    )
    return right / len(answers)


def main(job: Path, result: Path) -> None:
    """Read the job, do it, write the result."""
    reading = work(msgspec.json.decode(job.read_bytes(), type=Job))
    result.write_bytes(msgspec.json.encode(reading))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
