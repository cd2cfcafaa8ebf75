"""Pipelines of real workers: stages that are lost, hang, raise or miscount; borrowed arenas go back."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from steelyard.backend.base import Sink
from steelyard.backend.cpu import usable_core_ids
from steelyard.backend.local import LocalBackend, LocalLimits
from steelyard.core.commands import Complete, Fail, StopReplica
from steelyard.core.events import BatchCompleted, ReplicaGone
from steelyard.core.types import Condition, Input, Service, Stage, Variant
from steelyard.runtime.base import Array, Signature, TensorSpec, VariantSpec
from steelyard.serve.base import ServedService
from steelyard.testing.live import mapped_arenas, wait_until
from steelyard.testing.pipelines import Answered, PipelineRig, Takers
from steelyard.worker.arena import Arena

pytestmark = pytest.mark.slow

WIDTH = 3
MATRIX = np.arange(WIDTH * 2, dtype=np.float32).reshape(WIDTH, 2)
GLUE = """
import os, threading
import numpy as np

def crop(batch):
    lines, legible = [], []
    for row in batch["boxes"]:
        count = int(row[0])
        match count:
            case -1: raise ValueError("no such page")
            case -2: threading.Event().wait()
            case -3: return {"lines": [], "legible": []}
            case -4:
                lines.append(np.ones((2, 3), np.float32))
                legible.append(np.ones(1, np.float32))
                continue
            case -5: return {"lines": np.ones((len(batch["boxes"]), 3), np.float32), "legible": np.ones(1)}
            case -6: os._exit(3)
            case -7:
                lines.append(np.ones((1 << 17, 3), np.float32))
                legible.append(np.ones(1 << 17, np.float32))
                continue
        lines.append(np.array([row + i for i in range(count)], np.float32).reshape(count, 3))
        legible.append((np.arange(count) % 2).astype(np.float32))
    return {"lines": lines, "legible": legible}

def page(batch):
    return {"total": np.array([text.sum() for text in batch["texts"]], np.float32) + batch["x"][:, 0]}
"""
ONE = (Variant("only", batch_rows_max=4),)
STAGES = (
    Stage("detect", ONE, inputs=(Input("x", "", "x"),)),
    Stage("crop", ONE, ("detect",), inputs=(Input("boxes", "detect", "y"),)),
    Stage(
        "read", ONE, ("crop",), 1.0, "crop", "lines", Condition("crop", "legible", ">", 0.5),
        inputs=(Input("x", "crop", "lines"),),
    ),
    Stage("page", ONE, ("crop", "read"), inputs=(Input("texts", "read", "y"), Input("x", "", "x"))),
)  # fmt: skip
SLO_S = 60.0
SERVED = ServedService(
    Service("ocr", SLO_S, STAGES, reply_s=0.0, retries_max=3),
    Signature((TensorSpec("x", "FP32", (-1, WIDTH)),), (TensorSpec("total", "FP32", (-1,)),), batchable=True),
    outputs={"total": ("page", "total")},
)
LIMITS = LocalLimits(stop_s_max=0.5, batch_s_max=2.0, arena_bytes_max=1 << 20)
IDS = {stage.name: index for index, stage in enumerate(STAGES, start=1)}
Scenario = Callable[[PipelineRig, LocalBackend], Coroutine[Any, Any, None]]


def write_model(path: Path, matrix: Array) -> VariantSpec:
    """x [rows, WIDTH] times a matrix -> y."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return VariantSpec("only", "onnx", str(path), batch_rows_max=4)


def play(scenario: Scenario, folder: Path) -> None:
    glue = folder / "glue.py"
    glue.write_text(GLUE)
    specs = {
        "detect": write_model(folder / "detect.onnx", np.eye(WIDTH, dtype=np.float32)),
        "crop": VariantSpec("only", "python", f"{glue}:crop", batch_rows_max=4),
        "read": write_model(folder / "read.onnx", MATRIX),
        "page": VariantSpec("only", "python", f"{glue}:page", batch_rows_max=4),
    }

    async def main() -> None:
        made: list[LocalBackend] = []

        def make(arena: Arena, sink: Sink, loop: asyncio.AbstractEventLoop, takers: Takers) -> LocalBackend:
            stages = {("ocr", stage): (spec,) for stage, spec in specs.items()}
            made.append(
                LocalBackend(
                    usable_core_ids(), stages, {}, arena, sink, loop=loop, limits=LIMITS, takers=takers
                )
            )
            return made[0]

        rig = PipelineRig(SERVED, make)
        try:
            await asyncio.gather(*(rig.ready(replica_id, stage) for stage, replica_id in IDS.items()))
            await scenario(rig, made[0])
            await rig.drain()
        finally:
            await rig.close()

    asyncio.run(main())


def x_of(*counts: int) -> Array:
    """One row for each count: so many items, then 1 and 2."""
    return np.array([[count, 1, 2] for count in counts], np.float32)


def total_of(x: Array) -> Array:
    """What the pipeline answers: every second item of a row through the reader, added up."""
    return np.array(
        [sum(float(((row + i) @ MATRIX).sum()) for i in range(int(row[0])) if i % 2) + row[0] for row in x],
        np.float32,
    )


async def ask(rig: PipelineRig, *counts: int) -> Answered:
    return await rig.ask({"x": x_of(*counts)}, slo_s=SLO_S)


def check(answered: Answered, *counts: int) -> None:
    assert isinstance(answered.end, Complete), answered.end
    np.testing.assert_allclose(answered.outputs["total"], total_of(x_of(*counts)), rtol=1e-5)


async def all_right(rig: PipelineRig, requests: int) -> None:
    sizes = [[(n + i) % 6 for i in range(1 + n % 4)] for n in range(requests)]
    for counts, answered in zip(
        sizes, await asyncio.gather(*(ask(rig, *counts) for counts in sizes)), strict=True
    ):
        check(answered, *counts)


def pid_of(backend: LocalBackend, replica_id: int) -> int:
    pid = backend.pid(replica_id)
    assert pid is not None
    return pid


def borrowed(pid: int) -> set[str]:
    """Names of workers' arenas, not its own, that a process maps."""
    return {line.rpartition("memfd:steelyard-")[2].split()[0] for line in mapped_arenas(pid)}


def test_many_requests_of_different_item_counts_are_answered_as_numpy_does(tmp_path: Path) -> None:
    async def scenario(rig: PipelineRig, backend: LocalBackend) -> None:
        await all_right(rig, 60)
        batches = [event for event in rig.events if isinstance(event, BatchCompleted)]
        reads = [event for event in batches if event.replica_id == IDS["read"]]
        assert max(event.outputs[0].shape[0] for event in reads) > 1, "no items were batched together"

    play(scenario, tmp_path)


def test_rows_and_requests_without_items_pass_the_reader_by(tmp_path: Path) -> None:
    async def scenario(rig: PipelineRig, backend: LocalBackend) -> None:
        for counts in ((0,), (1,), (0, 0, 4), (1, 0)):
            check(await ask(rig, *counts), *counts)
        reads = [e for e in rig.events if isinstance(e, BatchCompleted) and e.replica_id == IDS["read"]]
        assert [event.outputs[0].shape[0] for event in reads] == [2]  # items 1 and 3 of the row of four

    play(scenario, tmp_path)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (-1, "ValueError: no such page"),
        (-3, "variant only: output lines has shape [0] for 1 rows"),
        (-4, "stage read runs when legible > 0.5: want 2 numbers of a row, got 1 of float32"),
        (-5, "stage read takes each element of output lines, which is one array for all rows"),
        # 2^17 items of three FP32 are 1.5 MiB; nothing else is kept by then.
        (-7, "output lines of 1572864 bytes does not fit: the worker's arena has 0 of 1048576 bytes in use"),
    ],
)
def test_a_stage_that_raises_or_miscounts_fails_its_request_and_no_other(
    tmp_path: Path, count: int, message: str
) -> None:
    async def scenario(rig: PipelineRig, backend: LocalBackend) -> None:
        # The bad one shares its batch with others: it fails alone in the end, they are answered.
        answers = await asyncio.gather(ask(rig, 2), ask(rig, count), ask(rig, 3, 1), ask(rig, 0))
        check(answers[0], 2)
        check(answers[2], 3, 1)
        check(answers[3], 0)
        # Alone and with nothing else kept, so that what the last message says of the arena is its own.
        failed = (await ask(rig, count)).end
        for end in (answers[1].end, failed):
            assert isinstance(end, Fail)
            assert end.reason == "model_error"
            assert "\n" not in end.message
        assert isinstance(failed, Fail)
        assert message in failed.message
        check(await ask(rig, 5), 5)

    play(scenario, tmp_path)


@pytest.mark.parametrize("count", [-2, -6], ids=["hangs", "crashes"])
def test_a_stage_that_hangs_or_crashes_takes_its_request_alone(tmp_path: Path, count: int) -> None:
    async def scenario(rig: PipelineRig, backend: LocalBackend) -> None:
        async def replace() -> None:
            for replica_id in range(10, 10 + rig.service.retries_max + 2):
                last = IDS["crop"] if replica_id == 10 else replica_id - 1
                await rig.event(ReplicaGone, replica_id=last)
                rig.start(replica_id, "crop")

        replacing = asyncio.create_task(replace())
        answers = await asyncio.gather(ask(rig, 2), ask(rig, count), ask(rig, 3, 1))
        check(answers[0], 2)
        check(answers[2], 3, 1)
        assert isinstance(answers[1].end, Fail)
        assert answers[1].end.reason == "worker_lost"
        assert ("stuck" if count == -2 else "ended with status 3") in answers[1].end.message
        check(await ask(rig, 5), 5)
        replacing.cancel()

    play(scenario, tmp_path)


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_a_worker_killed_under_load_costs_no_answer(tmp_path: Path, stage: str) -> None:
    async def scenario(rig: PipelineRig, backend: LocalBackend) -> None:
        await rig.ready(10, stage)
        load = asyncio.create_task(all_right(rig, 80))
        done = len(rig.events)
        while len(rig.events) < done + 20:  # some batches into it
            await asyncio.sleep(0)
        os.kill(pid_of(backend, IDS[stage]), signal.SIGKILL)
        await rig.event(ReplicaGone, replica_id=IDS[stage])
        await load
        await all_right(rig, 10)

    play(scenario, tmp_path)


def test_arenas_are_borrowed_when_they_are_needed_and_given_back_when_their_owner_ends(
    tmp_path: Path,
) -> None:
    async def scenario(rig: PipelineRig, backend: LocalBackend) -> None:
        page, read = (pid_of(backend, IDS[stage]) for stage in ("page", "read"))
        own = {stage: f"replica-{replica_id}" for stage, replica_id in IDS.items()}
        assert borrowed(read) == {"front-0", own["read"]}
        check(await ask(rig, 3), 3)
        assert borrowed(read) == {"front-0", own["read"], own["crop"]}
        assert borrowed(page) == {"front-0", own["page"], own["read"]}
        files = len(list(Path(f"/proc/{page}/fd").iterdir()))
        for replica_id in range(10, 14):  # come and go
            await rig.ready(replica_id, "read")
            backend.stop(StopReplica(IDS["read"] if replica_id == 10 else replica_id - 1))
            await rig.event(ReplicaGone, replica_id=IDS["read"] if replica_id == 10 else replica_id - 1)
            check(await ask(rig, 4), 4)
        wait_until(lambda: borrowed(page) == {"front-0", own["page"], "replica-13"}, "given back")
        assert len(list(Path(f"/proc/{page}/fd").iterdir())) == files

    play(scenario, tmp_path)
