"""The live driver on a virtual-time loop and the heap-clock driver produce the same commands, byte for byte.

Both are given the same arrivals, cancellations, replica losses and service times. Nothing else may matter: if
a driver decided anything, or stamped a time of its own, the sequences would part.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

from steelyard.backend.base import BackendEvent
from steelyard.backend.memory import MemoryBackend
from steelyard.core.commands import Command, RunBatch, StartReplica
from steelyard.core.events import (
    BatchCompleted,
    Event,
    ReplicaGone,
    ReplicaReady,
    ReplicaStarted,
    RequestCancelled,
    ServiceDraining,
    ServiceEvent,
    WindowClosed,
)
from steelyard.core.service import ServiceMachine
from steelyard.core.snapshot import CoreShare
from steelyard.core.types import Request, RequestId, Service, Stage, Variant
from steelyard.journal.codec import encode
from steelyard.journal.records import Record
from steelyard.profile.times import CoefficientTimes
from steelyard.serve.service_driver import MachinePump, ServiceDriver
from steelyard.testing.one_machine import GivenReplica, OneMachine
from steelyard.testing.virtual_clock import VirtualTimeLoop

SECONDS = 20.0
COLD_START_S = 0.5
WINDOW_S = 0.1
CORES = (1.0, 2.0, 1.0)
LOST_REPLICA, LOST_S = 2, 11.0
TIMES = CoefficientTimes(alpha_ms=30.0, beta_ms=4.0, gamma_ms=2.0, zeta_ms=3.0)
SERVICE = Service("ocr", 0.3, (Stage("read", (Variant("base", batch_rows_max=8, cores_max=2),)),))


class Load(NamedTuple):
    """What both drivers are given: requests, and (time, id) of clients that go away."""

    requests: tuple[Request, ...]
    cancels: tuple[tuple[float, RequestId], ...]


def make_load(seed: int) -> Load:
    """A Poisson stream with a surge above capacity between 6 and 10 s, mixed rows and two batch keys."""
    rng = np.random.default_rng(seed)
    requests: list[Request] = []
    now_s = COLD_START_S
    while True:
        now_s += float(rng.exponential(1 / (250 if 6 < now_s < 10 else 50)))
        if now_s > SECONDS:
            break
        requests.append(
            Request(
                id=RequestId(0, len(requests)),
                service="ocr",
                rows=int(rng.choice([1, 1, 1, 2, 12])),
                batch_key=str(rng.choice(["wide", "narrow"], p=[0.8, 0.2])),
                arrived_s=now_s,
                deadline_s=now_s + float(rng.choice([0.15, 0.3])),
            )
        )
    leaving = rng.choice(len(requests), size=len(requests) // 20, replace=False)
    cancels = [
        (requests[i].arrived_s + float(rng.exponential(0.05)), requests[i].id) for i in sorted(leaving)
    ]
    return Load(tuple(requests), tuple(sorted(cancels)))


def service_time_s(variant: str, bucket: int, rows: int, cores: float) -> float:
    """A time a little off the profile, so that the live correction has work to do."""
    return 1.07 * TIMES.service_time_s(variant, bucket, rows, cores)


def run_heap(load: Load) -> list[Record]:
    journal: list[Record] = []
    cancels: list[tuple[float, ServiceEvent]] = [(at_s, RequestCancelled(key)) for at_s, key in load.cancels]
    lost = (LOST_S, ReplicaGone(LOST_REPLICA, expected=False, reason="killed by SIGKILL"))
    OneMachine(
        ServiceMachine(SERVICE, {"read": TIMES}),
        [GivenReplica(cores, ("base",), COLD_START_S) for cores in CORES],
        load.requests,
        service_time_s,
        events=[*cancels, lost],
        window_s=WINDOW_S,
        journal=journal,
    ).run()
    return journal


def run_live(load: Load) -> list[Record]:
    journal: list[Record] = []

    def record(machine: str, now_s: float, event: Event, commands: Sequence[Command]) -> None:
        journal.append(Record(machine, len(journal), now_s, event, tuple(commands)))

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def sink(event: BackendEvent) -> None:
            assert isinstance(event, ReplicaReady | ReplicaGone | BatchCompleted)
            driver.handle(event)

        def time_of(batch: RunBatch, cores: float) -> float:
            return service_time_s(batch.variant, 0, batch.rows, cores)

        backend = MemoryBackend(range(8), sink, loop=loop, service_time_s=time_of, cold_start_s=COLD_START_S)
        machine = ServiceMachine(SERVICE, {"read": TIMES})
        pump = MachinePump("service/ocr", machine, clock=loop.time, call_at=loop.call_at, record=record)
        drained = asyncio.Event()
        driver = ServiceDriver(
            pump,
            backend,
            free=lambda request: None,
            report=lambda window: None,
            on_end=lambda request, end: None,
            on_drained=drained.set,
        )
        for replica_id, cores in enumerate(CORES, start=1):
            driver.handle(ReplicaStarted(replica_id, "read", "local", cores, ("base",), COLD_START_S))
            shares = tuple(CoreShare(replica_id * 2 + k, 1.0) for k in range(int(cores)))
            backend.start(StartReplica(replica_id, "ocr", "read", "local", shares, ("base",), COLD_START_S))
        for request in load.requests:
            loop.call_at(request.arrived_s, driver.submit, request, lambda end: None)
        for at_s, key in load.cancels:
            # Past `cancel`, which leaves out requests that have ended: the heap tells of every client.
            loop.call_at(at_s, driver.handle, RequestCancelled(key))
        loop.call_at(LOST_S, backend.lose, LOST_REPLICA)
        window_s = WINDOW_S
        while window_s < SECONDS:
            loop.call_at(window_s, driver.handle, WindowClosed())
            window_s += WINDOW_S
        await asyncio.sleep(SECONDS + 5)
        driver.handle(ServiceDraining())
        await drained.wait()
        await backend.close()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
    return journal


def stamped(journal: Sequence[Record]) -> list[tuple[float, list[bytes]]]:
    """Times and commands of a journal up to its last batch, without steps that commanded nothing."""
    return [
        (record.now_s, [encode(command) for command in record.commands])
        for record in journal
        if record.commands and record.now_s < SECONDS
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_commands_at_the_same_times(seed: int) -> None:
    load = make_load(seed)
    heap, live = stamped(run_heap(load)), stamped(run_live(load))
    for step, (ours, theirs) in enumerate(zip(heap, live, strict=False)):
        assert ours == theirs, f"step {step}"
    assert len(heap) == len(live)


def test_the_load_reaches_every_kind_of_end() -> None:
    """Parity on an easy load would prove little: this one is shed, rejected, cancelled, retried and split."""
    commands = [command for record in run_heap(make_load(1)) for command in record.commands]
    kinds = {type(command).__name__ for command in commands}
    assert {"RunBatch", "Complete", "Shed", "Reject", "Discard", "WakeAt", "ReportWindow"} <= kinds
    batches = [command for command in commands if isinstance(command, RunBatch)]
    assert any(part.row_start > 0 for batch in batches for part in batch.slices), "no request was split"
