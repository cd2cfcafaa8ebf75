"""The demos' client, a process of its own: renders what is to be read, sends it on time, reads the answers.

`python -m steelyard.demo.client JOB RESULT`: takes a `Job` as JSON, writes `started` to standard output when
the clock of the trace starts, and leaves a `Reading` as JSON. Answers are only kept during the run and
decoded after it, so that reading them makes no request late.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from steelyard.client.wire import Body, infer_body, read_outputs
from steelyard.core.types import Frozen
from steelyard.demo.lines import draw_lines
from steelyard.demo.pages.draw import draw_pages
from steelyard.demo.pages.scores import right_lines
from steelyard.demo.recogniser import read_characters, read_text
from steelyard.load.generator import Answer, LoadSettings, run, run_load
from steelyard.load.result import LoadResult
from steelyard.workload.trace import arrival_times

LINES, PAGES = 120, 48


class Job(Frozen, frozen=True):
    """What to send where.

    Attributes:
        url: the server's.
        service: the model name to call.
        counts: requests in each second.
        slo_ms: from when on an answer is late.
        seed: of what is drawn and of its arrivals.
        font: path of the font.
        task: read single lines, or whole pages.
        characters: for lines, the dictionary's path.
        difficulty: for pages, how they are spoilt.
    """

    url: str
    service: str
    counts: list[int]
    slo_ms: float
    seed: int
    font: str
    task: Literal["lines", "pages"] = "lines"
    characters: str = ""
    difficulty: str = "medium"


class Reading(Frozen, frozen=True):
    """What came back: the run, and how much of what was completed was read exactly (None without any)."""

    load: LoadResult
    accuracy: float | None


class Exam(NamedTuple):
    """Requests' bodies, and how right an answer is, in [0, 1]."""

    bodies: list[Body]
    score: Callable[[Answer], float]


def work(job: Job) -> Reading:
    """Do the job; the same job sends the same requests at the same times."""
    exam = EXAMS[job.task](job)
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
            exam.bodies,
            seconds=float(len(job.counts)),
            settings=settings,
            on_answer=answers.append,
        )
    )
    return Reading(load, accuracy([exam.score(answer) for answer in answers]))


def accuracy(scores: Sequence[float]) -> float | None:
    """Their mean; None without any."""
    return sum(scores) / len(scores) if scores else None


def _lines(job: Job) -> Exam:
    """A line is right if it is spelt exactly."""
    lines = draw_lines(LINES, np.random.default_rng(job.seed), font=Path(job.font))
    characters = read_characters(Path(job.characters))

    def score(answer: Answer) -> float:
        tokens = read_outputs(answer.content, answer.json_length)["tokens"]
        return float(read_text(tokens[0], characters) == lines[answer.payload].text)

    return Exam([infer_body({"x": line.tensor[np.newaxis]}) for line in lines], score)


def _pages(job: Job) -> Exam:
    """A page is as right as the share of its lines that are."""
    rng = np.random.default_rng(job.seed)
    pages = draw_pages(PAGES, rng, font=Path(job.font), difficulty=job.difficulty)

    def score(answer: Answer) -> float:
        text = read_outputs(answer.content, answer.json_length)["text"].ravel()[0]
        return right_lines(text.decode() if isinstance(text, bytes) else text, pages[answer.payload].text)

    return Exam([infer_body({"page": page.image[np.newaxis]}) for page in pages], score)


EXAMS: dict[str, Callable[[Job], Exam]] = {"lines": _lines, "pages": _pages}


def main(job: Path, result: Path) -> None:
    """Read the job, do it, write the result."""
    reading = work(msgspec.json.decode(job.read_bytes(), type=Job))
    result.write_bytes(msgspec.json.encode(reading))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
