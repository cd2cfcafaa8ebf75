"""Workers that die, hang, do not start or answer nonsense, a zygote that dies, a server that is killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steelyard.backend.cpu import usable_core_ids
from steelyard.backend.local import LocalBackend, LocalLimits
from steelyard.core.commands import LoadVariant, ReleaseOutputs, StopReplica
from steelyard.core.events import BatchCompleted, BatchFailed, ReplicaGone, ReplicaReady, VariantUnloaded
from steelyard.runtime.base import VariantSpec
from steelyard.testing.backend_contract import Rig, rows
from steelyard.testing.live import cgroups_of, wait_ended

pytestmark = pytest.mark.slow

MODEL = """
import asyncio, os, subprocess, sys, threading
import numpy as np
import steelyard

class Model:
    signature = {"inputs": {"x": ("FP32", [-1, 2])}, "outputs": {"y": ("FP32", [-1, 2])}}

    def setup(self, options):
        self.options = options
        if options.get("hang"):
            threading.Event().wait()
        if "child" in options:
            child = subprocess.Popen(["sleep", "1000"], start_new_session=bool(options["session"]))
            open(options["child"], "w").write(str(child.pid))

    def predict(self, batch):
        x = batch["x"]
        match int(x[0, 0]):
            case 0: raise steelyard.InputError("all zeros")
            case -6: raise asyncio.CancelledError("given up")
            case -1: threading.Event().wait()
            case -2: sys.exit("enough")
            case -3: os._exit(3)
            case -4: return {"y": np.zeros((len(x), 1 << 20), np.float32)}
            case -5: return {"y": x[1:]}
        return {"y": 2 * x}
"""
HANG, EXIT, CRASH, HUGE, FEWER, CANCELLED = (rows(-n) for n in (1, 2, 3, 4, 5, 6))
FAST = LocalLimits(stop_s_max=0.2, arena_bytes_max=1 << 20)
Scenario = Callable[[Rig, LocalBackend], Coroutine[Any, Any, None]]


def play(
    scenario: Scenario, folder: Path, limits: LocalLimits = FAST, in_thread: bool = False, **options: object
) -> None:
    path = folder / "model.py"
    path.write_text(MODEL)
    onnx = VariantSpec("broken", "onnx", str(folder / "missing.onnx"))
    spec = VariantSpec("double", "python", f"{path}:Model", batch_rows_max=4, options=options)

    async def main() -> None:
        stages = {("svc", "st"): (spec, onnx)}
        made: list[LocalBackend] = []

        def make(*arguments: Any) -> LocalBackend:
            arena, sink, loop = arguments
            made.append(LocalBackend(usable_core_ids(), stages, {}, arena, sink, loop=loop, limits=limits))
            return made[0]

        def make_in_thread(*arguments: Any) -> LocalBackend:
            with ThreadPoolExecutor(1) as thread:  # has ended when this returns
                return thread.submit(make, *arguments).result()

        rig = Rig(make_in_thread if in_thread else make)
        try:
            await scenario(rig, made[0])
        finally:
            await rig.close()

    asyncio.run(main())


def worker_pid(backend: LocalBackend, replica_id: int = 1) -> int:
    pid = backend.pid(replica_id)
    assert pid is not None
    return pid


def open_fds(pid: int) -> list[str]:
    """What a process's descriptors above standard error are open on."""
    return sorted(
        str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if int(fd.name) > 2 and fd.is_symlink()
    )


def test_a_worker_killed_in_mid_batch_is_gone_with_its_batch_and_its_memory(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(2)
        before = open_fds(os.getpid())
        await rig.ready(1)
        rig.run(5, 1, [rig.request(1, HANG)])
        assert "memfd:steelyard-replica-1" in Path("/proc/self/maps").read_text()
        os.kill(worker_pid(backend), signal.SIGKILL)
        gone = await rig.event(ReplicaGone, replica_id=1)
        assert (gone.expected, gone.reason) == (False, "killed by SIGKILL")
        assert not [event for event in rig.events if isinstance(event, BatchCompleted)]
        assert "memfd:steelyard-replica-1" not in Path("/proc/self/maps").read_text()
        assert open_fds(os.getpid()) == before
        assert np.array_equal(await rig.answer(6, 2, rows(1)), 2 * rows(1))  # the other one does not notice

    play(scenario, tmp_path)


def test_what_was_finished_before_the_end_is_delivered_before_it(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        rig.run(1, 1, [rig.request(1, rows(1))])
        rig.run(2, 1, [rig.request(2, CRASH)])  # sent behind it, so the first is answered before the crash
        gone = await rig.event(ReplicaGone, replica_id=1)
        assert (gone.expected, gone.reason) == (False, "ended with status 3")
        await rig.event(BatchCompleted, batch_id=1)

    play(scenario, tmp_path)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (EXIT, "SystemExit: enough (model.py, line 23, in predict"),
        (CANCELLED, "CancelledError: given up (model.py, line 21, in predict"),
        (HUGE, "output y has shape [1, 1048576]; [-1, 2] was promised"),
        (np.concatenate([FEWER, FEWER]), "variant double: output y has shape [1, 2] for 2 rows"),
    ],
)
def test_nonsense_fails_the_batch_and_not_the_worker(tmp_path: Path, x: Any, message: str) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        rig.run(1, 1, [rig.request(1, x)])
        assert message in (await rig.event(BatchFailed, batch_id=1)).message
        assert np.array_equal(await rig.answer(2, 1, rows(1)), 2 * rows(1))

    play(scenario, tmp_path)


def test_a_class_that_refuses_the_zeros_of_its_warm_up_serves_all_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        assert "not warmed up: variant double: all zeros" in capfd.readouterr().err
        rig.run(1, 1, [rig.request(1, rows(0))])
        failed = await rig.event(BatchFailed, batch_id=1)
        assert (failed.message, failed.is_input) == ("variant double: all zeros", True)
        assert np.array_equal(await rig.answer(2, 1, rows(1)), 2 * rows(1))

    play(scenario, tmp_path)


def test_a_variant_that_does_not_load_says_why(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        rig.start(1, ("broken",))
        gone = await rig.event(ReplicaGone, replica_id=1)
        assert not gone.expected
        assert "missing.onnx" in gone.reason
        assert "\n" not in gone.reason
        await rig.ready(2)
        backend.load(LoadVariant(2, "broken"))
        await rig.event(VariantUnloaded, replica_id=2, variant="broken")
        assert np.array_equal(await rig.answer(2, 2, rows(1)), 2 * rows(1))

    play(scenario, tmp_path)


def test_a_stage_nobody_deployed_and_cores_not_offered_are_refused(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        rig.start(1, stage="other")
        gone = await rig.event(ReplicaGone, replica_id=1)
        assert gone.reason == "no stage 'other' of service 'svc' is deployed"
        rig.core_id = 4096
        rig.start(2)
        gone = await rig.event(ReplicaGone, replica_id=2)
        assert gone.reason.startswith("cores [4096] are not among those offered")

    play(scenario, tmp_path)


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        rig.start(1)
        gone = await rig.event(ReplicaGone, replica_id=1)
        assert (gone.expected, gone.reason) == (False, "not ready after 1 s")

    play(scenario, tmp_path, LocalLimits(start_s_max=1.0), hang=True)


def test_a_batch_that_hangs_ends_its_worker(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        assert np.array_equal(await rig.answer(1, 1, rows(1)), 2 * rows(1))
        rig.run(2, 1, [rig.request(2, HANG)])
        gone = await rig.event(ReplicaGone, replica_id=1)
        assert (gone.expected, gone.reason) == (False, "stuck: a batch did not end within 2 s")

    play(scenario, tmp_path, LocalLimits(batch_s_max=2.0))


def test_a_worker_that_hangs_is_stopped_all_the_same(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        rig.run(1, 1, [rig.request(1, HANG)])
        rig.backend.stop(StopReplica(1))
        assert (await rig.event(ReplicaGone, replica_id=1)).expected

    play(scenario, tmp_path)


@pytest.mark.parametrize("session", [False, True])
def test_processes_a_user_class_started_end_with_its_worker(tmp_path: Path, session: bool) -> None:
    child = tmp_path / "child.pid"

    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        os.kill(worker_pid(backend), signal.SIGKILL)
        await rig.event(ReplicaGone, replica_id=1)
        if not session or backend.node().fractional:  # one with its own session is found by its cgroup
            assert wait_ended([int(child.read_text())]) == []

    play(scenario, tmp_path, child=str(child), session=session)


def test_the_terminal_and_the_service_manager_do_not_end_workers(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker_pid(backend), number)
            os.kill(backend.zygote_pid, number)
        groups = {os.getpgid(worker_pid(backend)), os.getpgid(backend.zygote_pid)}
        assert os.getpgid(0) not in groups  # to which a terminal sends Ctrl-C
        assert np.array_equal(await rig.answer(1, 1, rows(1)), 2 * rows(1))

    play(scenario, tmp_path)


def test_workers_niceness_counts_against_the_server(tmp_path: Path) -> None:
    """The kernel compares niceness within a session only (autogroups, sched(7)), so they share one."""

    def autogroup(pid: int | str) -> str:
        file = Path(f"/proc/{pid}/autogroup")
        return file.read_text() if file.exists() else ""

    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        pid = worker_pid(backend)
        assert os.getsid(pid) == os.getsid(0)
        assert autogroup(pid) == autogroup("self")
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)

    play(scenario, tmp_path)


def test_workers_inherit_nothing_but_their_own(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        read_end, write_end = os.pipe()
        os.set_inheritable(write_end, True)
        for replica_id in (1, 2, 3):
            await rig.ready(replica_id)
        held = open_fds(worker_pid(backend, 3))
        # A mapping holds a descriptor of its own: the front end's arena by that alone, its own arena twice.
        assert held[:3] == [
            "/memfd:steelyard-front-0 (deleted)",
            *["/memfd:steelyard-replica-3 (deleted)"] * 2,
        ]
        assert [name.split(":")[0] for name in held[3:]] == ["socket"]  # its doorbell
        os.close(read_end)
        os.close(write_end)

    play(scenario, tmp_path)


def test_the_zygote_has_one_thread_and_starts_leave_no_descriptor_behind(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        async def start_and_stop(replica_id: int) -> tuple[list[str], list[str]]:
            await rig.ready(replica_id)
            if replica_id % 2:
                os.kill(worker_pid(backend, replica_id), signal.SIGKILL)
            backend.stop(StopReplica(replica_id))
            await rig.event(ReplicaGone, replica_id=replica_id)
            return open_fds(os.getpid()), open_fds(backend.zygote_pid)

        first = await start_and_stop(1)
        assert [await start_and_stop(replica_id) for replica_id in range(2, 8)] == [first] * 6
        assert len(list(Path(f"/proc/{backend.zygote_pid}/task").iterdir())) == 1

    play(scenario, tmp_path)


def test_many_batches_leave_no_memory_behind(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        request = rig.request(1, np.ones((2000, 2), np.float32))  # 16 kB in and out

        async def resident_kb(batches: range) -> int:
            for batch_id in batches:
                rig.run(batch_id, 1, [request])
                await rig.event(BatchCompleted, batch_id=batch_id)
                backend.release(ReleaseOutputs(1, batch_id))
            status = Path(f"/proc/{worker_pid(backend)}/status").read_text()
            return int(status.partition("VmRSS:")[2].split()[0])

        before = await resident_kb(range(200))
        # 1500 batches of 16 kB outputs would be 24 MB if they stayed.
        assert await resident_kb(range(200, 1700)) < before + 4096

    play(scenario, tmp_path)


def test_a_dead_zygote_takes_its_workers_along_and_is_replaced(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        await rig.ready(2)
        pids, first = [worker_pid(backend, n) for n in (1, 2)], backend.zygote_pid
        os.kill(first, signal.SIGKILL)
        for replica_id in (1, 2):
            gone = await rig.event(ReplicaGone, replica_id=replica_id)
            assert (gone.expected, gone.reason) == (False, "the process that makes workers ended")
        assert wait_ended([*pids, first]) == []
        await rig.ready(3)
        assert backend.zygote_pid != first
        assert np.array_equal(await rig.answer(1, 3, rows(1)), 2 * rows(1))

    play(scenario, tmp_path)


def test_closing_does_not_wait_for_a_zygote_that_hangs(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        pids = [worker_pid(backend), backend.zygote_pid]
        os.kill(backend.zygote_pid, signal.SIGSTOP)
        await backend.close()
        assert (await rig.event(ReplicaGone, replica_id=1)).expected
        assert wait_ended(pids) == []

    play(scenario, tmp_path)


def test_a_zygote_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        seen: set[int] = set()
        for replica_id in range(1, 20):
            if backend.zygote_pid in seen:
                break
            seen.add(backend.zygote_pid)
            rig.start(replica_id)
            os.kill(backend.zygote_pid, signal.SIGKILL)
            gone = await rig.event(ReplicaGone, replica_id=replica_id)
            assert not gone.expected
        rig.start(99)
        gone = await rig.event(ReplicaGone, replica_id=99)
        assert gone.reason == "the process that makes workers died 6 times in 60 s"

    play(scenario, tmp_path)


def test_the_thread_that_made_the_backend_may_end(tmp_path: Path) -> None:
    """The kernel's parent-death signal is about threads; ours must be about processes."""

    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        await rig.ready(1)
        assert np.array_equal(await rig.answer(1, 1, rows(1)), 2 * rows(1))

    play(scenario, tmp_path, in_thread=True)


SERVER = """
import asyncio, json, os, signal, sys
from steelyard.backend.cpu import usable_core_ids
from steelyard.backend.local import LocalBackend
from steelyard.core.commands import StartReplica
from steelyard.core.events import ReplicaReady
from steelyard.core.snapshot import CoreShare
from steelyard.runtime.base import VariantSpec
from steelyard.worker.arena import Arena

async def main():
    queue = asyncio.Queue()
    spec = VariantSpec("double", "python", sys.argv[1] + ":Model", batch_rows_max=4)
    arena = Arena(sys.argv[2], 1 << 20)
    cores = usable_core_ids()
    backend = LocalBackend(cores, {("svc", "st"): (spec,)}, {}, arena, queue.put_nowait,
                           loop=asyncio.get_running_loop())
    for n in (1, 2):
        backend.start(StartReplica(n, "svc", "st", "local", (CoreShare(cores[0], 1.0),), ("double",), 0.0))
    for n in (1, 2):
        assert isinstance(await queue.get(), ReplicaReady)
    heir = os.fork() if sys.argv[3] == "heir" else 0  # a process that holds copies of all our sockets
    if sys.argv[3] == "heir" and heir == 0:
        signal.pause()
    workers = [backend.pid(1), backend.pid(2)]
    print(json.dumps({"zygote": backend.zygote_pid, "workers": workers, "heir": heir}), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("heir", ["alone", "heir"])
def test_a_killed_server_leaves_nothing_behind(tmp_path: Path, heir: str) -> None:
    model, script, arena = tmp_path / "model.py", tmp_path / "server.py", f"front-{os.getpid()}-{heir}"
    model.write_text(MODEL)
    script.write_text(SERVER)
    command = [sys.executable, str(script), str(model), arena, heir]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            pids = json.loads(server.stdout.readline())
            made = [pids["zygote"], *pids["workers"]]
            assert wait_ended(made, seconds_max=0.0) == sorted(made)
        finally:
            server.kill()
        server.wait()
        left = wait_ended(made)
        if pids["heir"]:
            os.kill(pids["heir"], signal.SIGKILL)
            assert wait_ended([pids["heir"]]) == []
        assert left == []
        assert mappings_of(arena) == []
        assert cgroups_of(server.pid) == []


def mappings_of(arena: str) -> list[str]:
    """Processes that still map or hold an arena."""
    holders = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"steelyard-{arena}" in (process / "maps").read_text():
                holders.append(process.name)
        except OSError:
            continue  # ended meanwhile
    return holders


def test_readiness_is_not_announced_after_a_stop(tmp_path: Path) -> None:
    async def scenario(rig: Rig, backend: LocalBackend) -> None:
        for replica_id in range(1, 6):
            rig.start(replica_id)
        for replica_id in range(1, 6):
            rig.backend.stop(StopReplica(replica_id))
        for replica_id in range(1, 6):
            assert (await rig.event(ReplicaGone, replica_id=replica_id)).expected
        assert not [event for event in rig.events if isinstance(event, ReplicaReady)]

    play(scenario, tmp_path)
