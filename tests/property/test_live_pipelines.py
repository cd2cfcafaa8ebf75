"""A pipeline with items, conditions, repeats and joins answers as numpy does, whatever happens to replicas.

The real machine, driver, wiring, gathering, counting and reading of answers, with replicas in memory that
compute with numpy; requests come in random sizes at random times, and replicas are lost and started again.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steelyard.backend.base import Sink
from steelyard.backend.memory import MemoryBackend
from steelyard.core.commands import Complete, RunBatch
from steelyard.core.types import Condition, Input, Service, Stage, Variant
from steelyard.runtime.base import Array, Signature, TensorSpec, Value
from steelyard.serve.base import ServedService
from steelyard.testing.pipelines import Answered, PipelineRig, Takers
from steelyard.testing.virtual_clock import VirtualTimeLoop
from steelyard.worker.arena import Arena

ONE = (Variant("only", batch_rows_max=4),)
LEGIBLE = Condition("crop", "score", ">", 0.5)
STAGES = (
    Stage("detect", ONE, inputs=(Input("x", "", "x"),)),
    Stage("crop", ONE, ("detect",), inputs=(Input("boxes", "detect", "boxes"),)),
    Stage(
        "orient", ONE, ("crop", "detect"), 2.0, "crop", "lines",
        inputs=(Input("line", "crop", "lines"), Input("boxes", "detect", "boxes"), Input("x", "", "x")),
    ),
    Stage(
        "turn", ONE, ("crop", "orient"), 2.0, "crop", "lines",
        inputs=(Input("line", "crop", "lines"), Input("angle", "orient", "angle")),
    ),
    Stage(
        "read", ONE, ("crop",), 1.0, "crop", "lines", LEGIBLE,
        inputs=(Input("line", "crop", "lines"), Input("flag", "crop", "flag")),
    ),
    Stage(
        "again", ONE, ("crop", "detect"), 0.5, "crop", "", Condition("crop", "flag", "!=", 0.0),
        inputs=(Input("lines", "crop", "lines"), Input("flag", "crop", "flag"), Input("x", "", "x")),
    ),
    Stage(
        "page", ONE, ("crop", "turn", "read", "again"),
        inputs=(
            Input("lines", "crop", "lines"), Input("turned", "turn", "turned"),
            Input("texts", "read", "text"), Input("picks", "again", "pick"), Input("x", "", "x"),
        ),
    ),
)  # fmt: skip
SERVICE = Service("ocr", 10.0, STAGES, reply_s=0.0, retries_max=100, answers=("crop", "read", "page"))
OUTPUTS = {
    "sums": ("page", "sums"), "parts": ("page", "parts"),
    "text": ("read", "text"), "lines": ("crop", "lines"),
}  # fmt: skip
SERVED = ServedService(
    SERVICE,
    Signature(
        (TensorSpec("x", "INT64", (-1, 3)),),
        tuple(TensorSpec(name, "INT64", (-1, 3) if name in ("text", "lines") else (-1,)) for name in OUTPUTS),
        batchable=True,
    ),
    outputs=OUTPUTS,
)
GIVES = {
    "turn": Signature((), (TensorSpec("turned", "INT64", (-1, 3)),), batchable=True),
    "read": Signature((), (TensorSpec("text", "INT64", (-1, 3)),), batchable=True),
    "again": Signature((), (TensorSpec("pick", "INT64", (-1,)),), batchable=True),
}


def run_stage(stage: str, batch: Mapping[str, Any]) -> dict[str, Value]:
    """What each stage does to a batch, row by row."""
    match stage:
        case "detect":
            return {"boxes": batch["x"] * 2}
        case "crop":
            counts = [int(row[0]) // 2 % 4 for row in batch["boxes"]]
            lines = [
                np.array([row + i for i in range(count)], np.int64).reshape(count, 3)
                for row, count in zip(batch["boxes"], counts, strict=True)
            ]
            scores = [np.arange(count) % 2 for count in counts]
            return {"lines": lines, "score": scores, "flag": batch["boxes"][:, 1] // 2 % 2}
        case "orient":
            return {"angle": (batch["line"] + batch["boxes"] + batch["x"]).sum(axis=1)}
        case "turn":
            return {"turned": batch["line"] * batch["angle"][:, np.newaxis]}
        case "read":
            return {"text": batch["line"] * 10 + batch["flag"][:, np.newaxis]}
        case "again":
            sums = [int(lines.sum()) for lines in batch["lines"]]
            return {"pick": np.array(sums, np.int64) + batch["flag"] + batch["x"][:, 2]}
        case _:
            names = ("lines", "turned", "texts", "picks")
            parts = [np.array([int(batch[name][i].sum()) for name in names]) for i in range(len(batch["x"]))]
            weights = np.array([1, 3, 5, 7])
            sums = np.array([int((part * weights).sum()) for part in parts]) + batch["x"][:, 1]
            return {"sums": sums, "parts": parts}


def expected(x: Array) -> dict[str, Array]:
    """The answer to one request, computed without the pipeline: row by row, item by item."""
    all_lines, all_texts, parts = [], [], []
    for row in x:
        boxes = row * 2
        lines = [boxes + i for i in range(int(row[0]) % 4)]
        flag = row[1] % 2
        texts = [line * 10 + flag for i, line in enumerate(lines) if i % 2 > 0.5]
        turned = [line * (line + boxes + row).sum() for line in lines]
        pick = sum(int(line.sum()) for line in lines) + flag + row[2] if flag else 0
        parts.append([sum(int(a.sum()) for a in some) for some in (lines, turned, texts)] + [int(pick)])
        all_lines += lines
        all_texts += texts
    return {
        "sums": (np.array(parts) * [1, 3, 5, 7]).sum(axis=1) + x[:, 1],
        "parts": np.array(parts).ravel(),
        "text": np.array(all_texts, np.int64).reshape(-1, 3),
        "lines": np.array(all_lines, np.int64).reshape(-1, 3),
    }


requests = st.lists(
    st.tuples(
        st.integers(0, 30),  # milliseconds after the last one
        st.lists(st.tuples(*[st.integers(0, 7)] * 3), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=12,
)
losses = st.lists(st.tuples(st.integers(0, 60), st.integers(0, len(STAGES) - 1)), max_size=6)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(requests, losses)
@example([(0, [(3, 1, 1)])], [(29, 1)])  # items are made again while the join is the last to run
def test_answers_are_those_of_numpy_and_nothing_is_kept(
    asked: list[tuple[int, list[tuple[int, int, int]]]], lost: list[tuple[int, int]]
) -> None:
    async def main() -> list[tuple[Array, Answered]]:
        made: list[MemoryBackend] = []

        def make(arena: Arena, sink: Sink, loop: asyncio.AbstractEventLoop, takers: Takers) -> MemoryBackend:
            def compute(command: RunBatch, inputs: Mapping[str, Value]) -> dict[str, Value]:
                return run_stage(command.stage, inputs)

            made.append(
                MemoryBackend(
                    (0,), sink, loop=loop, service_time_s=lambda command, _: 0.003 + 0.002 * command.rows,
                    cold_start_s=0.01, compute=compute, arena=arena, takers=takers,
                )
            )  # fmt: skip
            return made[0]

        rig = PipelineRig(SERVED, make, gives=GIVES)
        serving: dict[int, int] = {}
        for index, stage in enumerate(STAGES):
            serving[index] = index
            await rig.ready(index, stage.name)
        loop, start_s = rig.loop, rig.loop.time()
        for number, (at_ms, index) in enumerate(lost):

            def lose(number: int = number, index: int = index) -> None:
                rig.backend.lose(serving[index])  # type: ignore[attr-defined]
                serving[index] = 100 + number
                rig.start(serving[index], STAGES[index].name)

            loop.call_at(start_s + at_ms / 1000, lose)
        answers: list[asyncio.Task[tuple[Array, Answered]]] = []

        async def ask(x: Array) -> tuple[Array, Answered]:
            return x, await rig.ask({"x": x})

        for after_ms, rows in asked:
            await asyncio.sleep(after_ms / 1000)
            answers.append(asyncio.create_task(ask(np.array(rows, np.int64))))
        ended = list(await asyncio.gather(*answers))
        await rig.drain()
        assert made[0].bytes_used == 0
        await rig.close()
        return ended

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        ended = runner.run(main())
    for x, (end, outputs) in ended:
        assert isinstance(end, Complete), end
        for name, want in expected(x).items():
            np.testing.assert_array_equal(outputs[name], want, err_msg=name)
