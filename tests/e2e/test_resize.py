"""Real workers, a real ONNX model: bare ONNX Runtime's answers, and cores moved in place under load."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from steelyard.backend.base import Sink
from steelyard.backend.cpu import usable_core_ids
from steelyard.backend.local import LocalBackend, LocalLimits
from steelyard.backend.quota import Quotas, QuotaUnavailableError
from steelyard.core.commands import ReleaseOutputs, ResizeReplica, Slice, StartReplica
from steelyard.core.events import (
    BatchCompleted,
    BatchFailed,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ReplicaThrottled,
    ResizeRefused,
)
from steelyard.core.snapshot import CoreShare
from steelyard.runtime.base import Array, VariantSpec, WidthRule
from steelyard.testing.backend_contract import Rig
from steelyard.testing.live import WAIT_S_MAX
from steelyard.worker import threads
from steelyard.worker.arena import Arena

pytestmark = pytest.mark.slow
WIDTH = 256
RNG = np.random.default_rng(7)
BATCHES = count(1)


def write_mlp(path: Path, layers: int = 4) -> None:
    """x [-1, 2] -> y [-1, 2], through layers of 256."""
    sizes = [2, *[WIDTH] * layers, 2]
    nodes, weights, name = [], [], "x"
    for index, (rows, columns) in enumerate(pairwise(sizes)):
        weight = RNG.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(rows))
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        out = "y" if index == layers else f"h{index}"
        nodes.append(helper.make_node("MatMul", [name, f"w{index}"], [out + ("" if out == "y" else "_")]))
        if out != "y":
            nodes.append(helper.make_node("Relu", [out + "_"], [out]))
        name = out
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 2]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "mlp", value[:1], value[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "mlp.onnx"
    write_mlp(path)
    return path


Scenario = Callable[[Rig, LocalBackend], Coroutine[Any, Any, None]]


def play(
    scenario: Scenario,
    model: Path,
    widths: tuple[WidthRule, ...] = (),
    throttle_period_s: float = 0.5,
    lends: bool = False,
    needs_parts: bool = False,
) -> None:
    spec = VariantSpec("double", "onnx", str(model), batch_rows_max=64, cores_max=2)
    limits = LocalLimits(throttle_period_s=throttle_period_s, lends=lends, needs_parts=needs_parts)

    async def main() -> None:
        made: list[LocalBackend] = []

        def make(arena: Arena, sink: Sink, loop: asyncio.AbstractEventLoop) -> LocalBackend:
            stages = {("svc", "st"): (spec,)}
            rules = {("svc", "st", "double"): widths}
            made.append(LocalBackend(usable_core_ids(), stages, rules, arena, sink, loop=loop, limits=limits))
            return made[0]

        rig = Rig(make)
        try:
            await scenario(rig, made[0])
        finally:
            await rig.close()

    asyncio.run(main())


def bare(model: Path, x: Array) -> Array:
    """ONNX Runtime in this process, one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": x})
    return np.asarray(y)


def pid_of(backend: LocalBackend) -> int:
    pid = backend.pid(1)
    assert pid is not None
    return pid


def affinities(pid: int) -> list[set[int]]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended since
            found.append(os.sched_getaffinity(int(task.name)))
    return found


def shares(cores: float) -> tuple[CoreShare, ...]:
    ids = usable_core_ids()
    whole = tuple(CoreShare(core_id, 1.0) for core_id in ids[: int(cores)])
    return whole if cores == int(cores) else (*whole, CoreShare(ids[int(cores)], cores % 1))


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_alone_the_answer_is_bare_onnx_runtime_s_bit_for_bit(model: Path, rows: int) -> None:
    x = RNG.standard_normal((rows, 2), np.float32)

    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        assert np.array_equal(await rig.answer(1, 1, x), bare(model, x))

    play(scenario, model)


def test_batched_with_others_it_is_close(model: Path) -> None:
    xs = [RNG.standard_normal((rows, 2), np.float32) for rows in (1, 3, 8)]

    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        rig.run(1, 1, [rig.request(index, x) for index, x in enumerate(xs)])
        y = rig.output(await rig.event(BatchCompleted, batch_id=1))
        assert np.allclose(y, np.concatenate([bare(model, x) for x in xs]), rtol=1e-5)

    play(scenario, model)


def test_affinity_and_niceness_of_every_thread_follow(model: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        pid = pid_of(backend)
        tasks = Path(f"/proc/{pid}/task").iterdir()
        nice = {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks}
        assert nice == {min(19, os.getpriority(os.PRIO_PROCESS, 0) + threads.NICE_RUNNING)}
        for cores in (len(usable_core_ids()), 1):
            backend.resize(ResizeReplica(1, shares(cores)))
            wanted = {share.core_id for share in shares(cores)}
            assert all(mask == wanted for mask in affinities(pid))  # when the call returns
            assert (await rig.event(ReplicaResized, replica_id=1)).cores == cores
            await rig.answer(cores, 1, np.ones((8, 2), np.float32))  # threads made since inherit it
            assert all(mask == wanted for mask in affinities(pid))

    play(scenario, model)


@pytest.mark.parametrize("width", ["threads", "lanes"])
def test_resizes_under_load_lose_no_batch_and_change_no_answer(model: Path, width: Any) -> None:
    x = RNG.standard_normal((64, 2), np.float32)
    cores_max = min(2, len(usable_core_ids()))

    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        request, expected = rig.request(1, x), bare(model, x)
        slices = (Slice(request.id, 0, 64),)
        for batch_id in range(60):
            rig.run(batch_id, 1, [request], slices=slices)
            backend.resize(ResizeReplica(1, shares(1 + batch_id % cores_max)))
            done = await rig.event(BatchCompleted, batch_id=batch_id)
            assert np.allclose(rig.output(done), expected, rtol=1e-5, atol=1e-6)
            backend.release(ReleaseOutputs(1, batch_id))
            await rig.event(ReplicaResized, replica_id=1)
        assert not [event for event in rig.events if isinstance(event, BatchFailed | ResizeRefused)]

    play(scenario, model, (WidthRule(cores_max, 1, width),))


def cpu_s(pid: int) -> float:
    """CPU time of a process, its threads included: fields 14 and 15 of stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quota_in_force(backend: LocalBackend) -> str:
    quotas = backend._quotas
    assert isinstance(quotas, Quotas)
    file = "cpu.max" if quotas.version == 2 else "cpu.cfs_quota_us"
    return (quotas.path(1) / file).read_text().strip()


@pytest.mark.alone
def test_a_quarter_of_a_core_is_more_where_it_is_lent_and_nobody_else_wants_it(model: Path) -> None:
    x = RNG.standard_normal((64, 2), np.float32)

    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        if not backend.node().fractional:
            return  # what is said then is tested below
        backend.resize(ResizeReplica(1, shares(0.25)))
        assert (await rig.event(ReplicaResized, replica_id=1)).cores == 0.25
        async with asyncio.timeout(WAIT_S_MAX):  # until the machine has been left alone for a second
            while await share_used(rig, backend, x) <= 0.25 * 1.4:
                pass
        assert not [event for event in rig.events if isinstance(event, ReplicaThrottled)]

    play(scenario, model, lends=True)


async def share_used(rig: Rig, backend: LocalBackend, x: Array) -> float:
    """CPU time of the worker over wall time, while it runs one batch after the other for a second."""
    pid, request = pid_of(backend), rig.request(1, x)
    from_s, cpu_from_s = time.monotonic(), cpu_s(pid)
    while time.monotonic() < from_s + 1.0:
        batch_id = next(BATCHES)
        rig.run(batch_id, 1, [request])
        await rig.event(BatchCompleted, batch_id=batch_id)
        backend.release(ReleaseOutputs(1, batch_id))
    return (cpu_s(pid) - cpu_from_s) / (time.monotonic() - from_s)


@pytest.mark.alone
def test_a_quarter_of_a_core_is_a_quarter_of_the_time_where_quotas_work(model: Path) -> None:
    x = RNG.standard_normal((64, 2), np.float32)

    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        backend.resize(ResizeReplica(1, shares(0.25)))
        if not backend.node().fractional:
            refused = await rig.event(ResizeRefused, replica_id=1)
            assert refused.shares == shares(1)
            assert "fractions of a core unavailable" in refused.reason
            return
        assert (await rig.event(ReplicaResized, replica_id=1)).cores == 0.25
        # Slices are handed out at the edges of the second; noise can only lower it.
        async with asyncio.timeout(WAIT_S_MAX):  # until the machine has left it more than its quarter
            while not any(isinstance(event, ReplicaThrottled) for event in rig.events):
                assert await share_used(rig, backend, x) < 0.25 * 1.4
        assert (await rig.event(ReplicaThrottled, replica_id=1)).throttled_ratio > 0
        backend.resize(ResizeReplica(1, shares(1)))
        assert (await rig.event(ReplicaResized, replica_id=1)).cores == 1
        assert quota_in_force(backend) in ("-1", "max 10000")

    play(scenario, model, throttle_period_s=0.1)


@pytest.mark.parametrize(("lends", "needs"), [(True, True), (True, False), (False, True)])
def test_without_cgroups_stages_that_need_parts_of_cores_have_even_turns(
    monkeypatch: pytest.MonkeyPatch, model: Path, *, lends: bool, needs: bool
) -> None:
    """Only where they need them, and only where parts are lent: capped ones are a promise."""
    even = lends and needs

    def none(**_: object) -> NoReturn:
        raise QuotaUnavailableError("there is none")

    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        assert backend.node().fractional == even
        for number in (1, 2):
            backend.start(StartReplica(number, "svc", "st", "local", shares(0.5), ("double",), 0.0))
        if not even:
            reason = (await rig.event(ReplicaGone, replica_id=1)).reason
            assert "fractions of a core unavailable: there is none" in reason
            return
        assert backend.mechanism.endswith(
            "cores are shared by the kernel's even turns, whatever their weights: there is none"
        )
        for number in (1, 2):
            assert (await rig.event(ReplicaReady, replica_id=number)).cores == 0.5
            assert (await rig.answer(number, number, RNG.standard_normal((3, 2), np.float32))).shape == (3, 2)
        backend.resize(ResizeReplica(1, shares(1.0)))
        assert (await rig.event(ReplicaResized, replica_id=1)).cores == 1.0

    monkeypatch.setattr("steelyard.backend.local.Quotas", none)
    play(scenario, model, lends=lends, needs_parts=needs)


def test_a_replica_may_start_on_a_fraction(model: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        backend.start(StartReplica(1, "svc", "st", "local", shares(0.5), ("double",), 0.0))
        if backend.node().fractional:
            assert (await rig.event(ReplicaReady, replica_id=1)).cores == 0.5
            assert quota_in_force(backend).startswith("5000")
        else:
            assert "unavailable" in (await rig.event(ReplicaGone, replica_id=1)).reason

    play(scenario, model)
