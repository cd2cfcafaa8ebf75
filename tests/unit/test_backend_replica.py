"""A replica as the server sees it, against a worker's end of the doorbell that the test holds."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from steelyard.backend.base import BackendEvent
from steelyard.backend.patience import Patience
from steelyard.backend.replica import READ_MAX, LocalReplica, cores_of, is_fractional
from steelyard.core.commands import ResizeReplica, RunBatch, StartReplica
from steelyard.core.events import (
    BatchCompleted,
    ReplicaGone,
    ReplicaReady,
    ReplicaResized,
    ResizeRefused,
)
from steelyard.core.snapshot import CoreShare
from steelyard.worker import messages as m
from steelyard.worker import threads
from steelyard.worker.arena import Arena
from steelyard.worker.doorbell import Doorbell, pair

CORE = min(os.sched_getaffinity(0))
ONE = (CoreShare(CORE, 1.0),)
TWO = (CoreShare(CORE, 1.0), CoreShare(CORE + 1, 1.0))  # never enforced here: affinity is replaced or refused
START = StartReplica(1, "svc", "st", "local", ONE, ("v",), 0.0)


@pytest.fixture
def pid() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


class Stage:
    """A replica, the worker's end of its doorbell, and what was seen."""

    def __init__(self, batch_s_max: float) -> None:
        ours, its = pair()
        self.worker: Doorbell[m.ToWorker] = Doorbell(its, m.ToWorker)
        self.events: list[BackendEvent] = []
        self.kills = 0
        self.replica = LocalReplica(
            START,
            ours,
            None,
            self.events.append,
            self._kill,
            Patience(None, batch_s_max),
            loop=asyncio.get_running_loop(),
        )

    def _kill(self) -> None:
        self.kills += 1

    def become_ready(self, pid: int) -> None:
        self.replica.forked(pid)
        arena = Arena("replica-1", 1 << 16)
        self.worker.send(m.Ready(), fds=(arena.fd,))
        arena.close()

    async def seen(self, kind: type[BackendEvent]) -> Any:
        async with asyncio.timeout(10):
            while not (found := [event for event in self.events if isinstance(event, kind)]):
                await asyncio.sleep(0)
        return found[0]


def play(scenario: Callable[[Stage], Coroutine[Any, Any, None]], batch_s_max: float = 600.0) -> None:
    async def main() -> None:
        stage = Stage(batch_s_max)
        try:
            await scenario(stage)
        finally:
            stage.replica.close()
            stage.worker.close()

    asyncio.run(main())


def test_last_words_are_delivered_before_the_end(pid: int) -> None:
    async def scenario(stage: Stage) -> None:
        stage.worker.send(m.Done(5, 1.0, 2.0, ()))
        stage.worker.close()
        gone = stage.replica.ended(-9)  # before the loop has looked at the doorbell
        assert stage.events == [BatchCompleted(5, 1, 1.0, 2.0)]
        assert gone == ReplicaGone(1, expected=False, reason="killed by SIGKILL")

    play(scenario)


@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        (-6, "", "killed by SIGABRT"),
        (3, "", "ended with status 3"),
        (None, "", "its process could not be made"),
        (None, "no memory", "no memory"),
    ],
)
def test_the_end_in_words(status: int | None, said: str, reason: str) -> None:
    async def scenario(stage: Stage) -> None:
        assert stage.replica.ended(status, said).reason == reason

    play(scenario)


def test_what_the_worker_says_is_the_best_reason() -> None:
    async def scenario(stage: Stage) -> None:
        stage.worker.send(m.StartFailed("no such file: x.onnx"))
        assert stage.replica.ended(1).reason == "no such file: x.onnx"

    play(scenario)


def test_shrinking_narrows_the_width_first_and_growing_last(
    pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stage: Stage) -> None:
        told_when_placed: list[float] = []

        def set_affinity(_pid: int, core_ids: list[int]) -> int:
            told_when_placed.append(stage.replica._cores_told)
            return 1

        monkeypatch.setattr(threads, "set_affinity", set_affinity)
        stage.become_ready(pid)
        await stage.seen(ReplicaReady)
        stage.replica.resize(ResizeReplica(1, TWO))
        stage.replica.resize(ResizeReplica(1, ONE))
        # growing: one core was told while the affinity widened; shrinking: one again before it narrowed
        assert told_when_placed == [1.0, 1.0]
        assert stage.worker.receive() == ([m.SetCores(2.0)], [])
        assert stage.worker.receive() == ([m.SetCores(1.0)], [])

    play(scenario)


def test_a_refused_resize_leaves_everything_as_it_was(pid: int) -> None:
    async def scenario(stage: Stage) -> None:
        stage.become_ready(pid)
        await stage.seen(ReplicaReady)
        stage.replica.resize(ResizeReplica(1, (CoreShare(1023, 1.0), CoreShare(1022, 1.0))))
        refused = await stage.seen(ResizeRefused)
        assert (refused.shares, refused.reason) == (ONE, "Invalid argument")
        assert stage.replica.shares == ONE
        assert os.sched_getaffinity(pid) == {CORE}
        stage.events.clear()
        stage.replica.resize(ResizeReplica(1, (CoreShare(CORE, 0.5),)))  # no quotas here
        assert "cannot be enforced" in (await stage.seen(ResizeRefused)).reason

    play(scenario)


def test_a_parked_replica_is_told_nothing_and_wakes(pid: int) -> None:
    async def scenario(stage: Stage) -> None:
        stage.become_ready(pid)
        await stage.seen(ReplicaReady)
        for shares, cores in (((), 0.0), (ONE, 1.0)):
            stage.events.clear()
            stage.replica.resize(ResizeReplica(1, shares))
            assert (await stage.seen(ReplicaResized)).cores == cores
        stage.replica.load("marker")
        assert stage.worker.receive() == ([m.Load("marker")], [])  # nothing before it

    play(scenario)


def test_a_worker_that_does_not_take_its_orders_is_killed(pid: int) -> None:
    async def scenario(stage: Stage) -> None:
        stage.become_ready(pid)
        await stage.seen(ReplicaReady)
        for _ in range(3000):
            stage.replica.load("x" * 1000)
        await asyncio.sleep(0)
        assert stage.kills == 1
        assert "does not read" in stage.replica.ended(-9).reason

    play(scenario)


def test_two_halves_make_one_core_that_takes_a_quota() -> None:
    halves = (CoreShare(0, 0.5), CoreShare(1, 0.5))
    assert cores_of(halves) == 1.0
    assert is_fractional(halves)
    assert not is_fractional(TWO)
    assert cores_of(tuple(CoreShare(n, 0.1) for n in range(3))) == 0.3  # not 0.30000000000000004


def test_a_batch_that_does_not_end_ends_its_worker(pid: int) -> None:
    async def scenario(stage: Stage) -> None:
        stage.become_ready(pid)
        await stage.seen(ReplicaReady)
        stage.replica.run(RunBatch(1, 1, "st", "v", 1, (), 0.0), ())
        async with asyncio.timeout(10):
            while not stage.kills:
                await asyncio.sleep(0)
        gone = stage.replica.ended(-9)
        assert gone == ReplicaGone(1, False, "stuck: a batch did not end within 0.01 s", is_stuck=True)

    play(scenario, batch_s_max=0.01)


def test_a_batch_is_given_its_time_again_if_everything_stood_still(pid: int) -> None:
    async def scenario(stage: Stage) -> None:
        stage.become_ready(pid)
        await stage.seen(ReplicaReady)
        replica, now_s = stage.replica, asyncio.get_running_loop().time
        replica.run(RunBatch(1, 1, "st", "v", 1, (), 0.0), ())
        replica._overdue[1] = (now_s() - 0.5, 0.8)  # the timer is half a second late, and 0.4 s are the most
        replica._look_for_stuck()
        assert stage.kills == 0
        assert now_s() < replica._overdue[1][0] < now_s() + 0.8
        replica._overdue[1] = (now_s() - 0.05, 0.08)  # late by more than 0.04 s, but any timer is
        replica._look_for_stuck()
        assert stage.kills == 1
        assert replica.ended(-9).is_stuck

    play(scenario)


def test_a_batch_that_may_take_less_than_the_one_before_is_looked_for_sooner(pid: int) -> None:
    async def scenario(stage: Stage) -> None:
        stage.become_ready(pid)
        await stage.seen(ReplicaReady)
        stage.replica.run(RunBatch(1, 1, "st", "v", 1, (), 30.0), ())  # 20 times that
        stage.worker.send(m.Done(1, 1.0, 2.0, ()))
        await stage.seen(BatchCompleted)
        stage.replica.run(RunBatch(2, 1, "st", "v", 1, (), 0.0), ())
        async with asyncio.timeout(10):
            while not stage.kills:
                await asyncio.sleep(0)
        assert stage.replica.ended(-9).reason == "stuck: a batch did not end within 0.01 s"

    play(scenario, batch_s_max=0.01)


def test_a_batch_that_ended_while_nobody_looked_is_no_reason_to_end_its_worker(pid: int) -> None:
    async def scenario(stage: Stage) -> None:
        stage.become_ready(pid)
        await stage.seen(ReplicaReady)
        stage.replica.run(RunBatch(1, 1, "st", "v", 1, (), 0.0), ())
        stage.worker.send(m.Done(1, 1.0, 2.0, ()))
        stage.replica._look_for_stuck()  # as after a pause: the timer is due before the doorbell was read
        assert stage.kills == 0
        assert stage.events[-1] == BatchCompleted(1, 1, 1.0, 2.0)

    play(scenario, batch_s_max=0.0)


def test_what_was_read_is_said_with_the_next_batch() -> None:
    async def scenario(stage: Stage) -> None:
        for batch_id in (1, 2):
            stage.replica.release(batch_id)
        for batch_id in (3, 4):
            stage.replica.run(RunBatch(batch_id, 1, "st", "v", 1, (), 0.0), ())
        assert stage.worker.receive() == ([m.Run(3, "v", 1, (), read=(1, 2))], [])
        assert stage.worker.receive() == ([m.Run(4, "v", 1, ())], [])

    play(scenario)


def test_without_a_next_batch_a_worker_keeps_few_outputs_that_were_read() -> None:
    async def scenario(stage: Stage) -> None:
        for batch_id in range(READ_MAX + 1):
            stage.replica.release(batch_id)
        assert stage.worker.receive() == ([m.Free(tuple(range(READ_MAX)))], [])
        stage.replica.run(RunBatch(99, 1, "st", "v", 1, (), 0.0), ())
        assert stage.worker.receive() == ([m.Run(99, "v", 1, (), read=(READ_MAX,))], [])

    play(scenario)


def test_a_server_without_descriptors_gives_a_replica_up_at_once(
    pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario(stage: Stage) -> None:
        monkeypatch.setattr(os, "dup", refused)
        stage.become_ready(pid)
        async with asyncio.timeout(10):
            while not stage.kills:
                await asyncio.sleep(0)
        assert stage.events == []
        gone = stage.replica.ended(-9)
        assert gone == ReplicaGone(1, False, "its outputs cannot be read: Too many open files")

    play(scenario)


def test_what_cannot_be_lent_ends_the_borrower(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def second_is_refused(fd: int) -> int:
        if made:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(dup(fd))
        return made[0]

    async def scenario(stage: Stage) -> None:
        stage.become_ready(pid)
        await stage.seen(ReplicaReady)
        monkeypatch.setattr(os, "dup", second_is_refused)
        stage.replica.lend({"a": 0, "b": 0})
        assert (stage.kills, stage.replica.borrowed) == (1, set())
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(made[0])

    made: list[int] = []
    dup = os.dup
    play(scenario)
